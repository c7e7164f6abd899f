//! Writes small inputs for fuzz targets to begin with: `fuzz-seeds CORPUS`, a directory with one for each target.
//!
//! The seeds are small so that a fuzzer gets through many of them; each holds something that the others lack.

#[allow(dead_code, reason = "the target reads what is written here")]
#[path = "fuzz_targets/cim_image/container.rs"]
mod container;

use std::path::Path;
use std::{env, fs};

use cimfs::{FileFlags, FileTime, Guid, MemorySet, Metadata, Name, StreamFraming};
use container::Container;

use erofs::{
    BlockAddress, BlockSize, Content, DeviceInfo, DeviceNumber, FileData, Image, ImageWriter,
    Inode, InodeId, Tree, WriterOptions,
};
use layer::hive::{Hive, Key, Layer, Semantics, Value};
use layer::windows::{ReparsePoint, SecurityDescriptor, write_eas};
use layer::{Cancel, write_layer_tar};
use uvm::plan9::message::Request;
use uvm::plan9::wire::{Data, List};

fn main() {
    let corpus = env::args_os().nth(1).expect("the corpus's directory is named");
    let directory = Path::new(&corpus).join("erofs_image");
    fs::create_dir_all(&directory).expect("the seeds' directory can be made");
    let small = WriterOptions { block_size: BlockSize::B512, ..WriterOptions::default() };
    let large = WriterOptions::default();
    let prefixes = WriterOptions { long_xattr_prefixes: true, ..small.clone() };
    let on_device = WriterOptions {
        devices: vec![DeviceInfo { tag: b"device".to_vec(), blocks: 8 }],
        ..small.clone()
    };
    for (name, options, fill) in [
        ("empty", small.clone(), empty as fn(&mut Tree)),
        ("kinds", small.clone(), kinds),
        ("kinds-4096", large, kinds),
        ("names", small, names),
        ("prefixes", prefixes, kinds),
        ("device", on_device, device),
    ] {
        let mut tree = Tree::new();
        fill(&mut tree);
        let writer = ImageWriter::new(Vec::new(), options.clone()).expect("valid options");
        let (image, _) = writer.finish(&tree, [7; 16]).expect("a valid tree");
        if options.devices.is_empty() {
            let image = Image::open(image.as_slice()).expect("what was written opens");
            let mut tar = Vec::new();
            write_layer_tar(&image, &mut tar, &Cancel::new()).expect("a tar of the same tree");
            let tars = directory.with_file_name("layer_tar");
            fs::create_dir_all(&tars).expect("the seeds' directory can be made");
            fs::write(tars.join(name), tar).expect("a seed can be written");
        }
        // See the target: the first byte tells the device's share.
        let mut bytes = vec![0];
        bytes.extend(&image);
        if !options.devices.is_empty() {
            let device = [0xAB; 8 * 512];
            assert_eq!(image.len(), device.len(), "half of the bytes are the device");
            bytes[0] = 128;
            bytes.extend(device);
        }
        fs::write(directory.join(name), bytes).expect("a seed can be written");
    }
    hives(&directory.with_file_name("hive"));
    windows_layers(&directory.with_file_name("windows_tar"));
    requests(&directory.with_file_name("service"));
    cims(&directory.with_file_name("cim_image"));
    specifications(&directory.with_file_name("spec_json"));
    messages(&directory.with_file_name("bridge"));
    plan9(&directory.with_file_name("plan9"));
    qmp(&directory.with_file_name("qmp_answers"));
}

/// Frames with a message each, and all of them in a row.
fn messages(directory: &Path) {
    use bridge::{Kind, MAX_TO_GUEST, Method, write_message};
    fs::create_dir_all(directory).expect("the seeds' directory can be made");
    let mut all = Vec::new();
    for (name, kind, method, body) in [
        (
            "negotiated",
            Kind::Response,
            Method::NEGOTIATE_PROTOCOL,
            r#"{"Result":0,"ActivityId":"a","Version":4,"Capabilities":{"SupportedSchemaVersions":[{"Major":2,"Minor":1}],"RuntimeOsType":"Linux","GuestDefinedCapabilities":{"SignalProcessSupported":true}}}"#,
        ),
        (
            "refused",
            Kind::Response,
            Method::NEGOTIATE_PROTOCOL,
            r#"{"Result":-2147467259,"ErrorMessage":"no","ErrorRecords":[{"Result":-1,"Message":"m","ModuleName":"gcs","FileName":"f","Line":1}]}"#,
        ),
        (
            "ended",
            Kind::Notification,
            Method::CREATE,
            r#"{"ContainerId":"c","ActivityId":"a","Type":"UnexpectedExit","Operation":"None","Result":0}"#,
        ),
        (
            "create",
            Kind::Request,
            Method::CREATE,
            r#"{"ContainerId":"c","ActivityId":"a","ContainerConfig":"{\"SchemaVersion\":{\"Major\":2,\"Minor\":1},\"OciBundlePath\":\"/b\",\"OciSpecification\":{\"x\":[1,2.5,null]},\"ScratchDirPath\":\"/s\"}"}"#,
        ),
        (
            "execute",
            Kind::Request,
            Method::EXECUTE_PROCESS,
            r#"{"ContainerId":"c","ActivityId":"a","Settings":{"ProcessParameters":"{\"CommandArgs\":[\"sh\"],\"Environment\":{\"A\":\"b\"},\"CreateInUtilityVM\":true}","VsockStdioRelaySettings":{"StdOut":1073741825}}}"#,
        ),
        (
            "disk",
            Kind::Request,
            Method::MODIFY_SETTINGS,
            r#"{"ContainerId":"c","ActivityId":"a","Request":{"RequestType":"Add","ResourceType":"MappedVirtualDisk","Settings":{"MountPath":"/m","Lun":2,"VerityInfo":{"Ext4SizeInBytes":4096,"RootDigest":"ab"}}}}"#,
        ),
        (
            "layers",
            Kind::Request,
            Method::MODIFY_SETTINGS,
            r#"{"ContainerId":"c","ActivityId":"a","Request":{"ResourceType":"CombinedLayers","Settings":{"ContainerRootPath":"/r","Layers":[{"Path":"/a"},{"Id":"i","Path":"/b"}],"ScratchPath":"/s"}}}"#,
        ),
        (
            "properties",
            Kind::Response,
            Method::GET_PROPERTIES,
            r#"{"Result":0,"Properties":"{\"ProcessList\":[{\"ProcessId\":7}],\"LCOWMetrics\":{}}"}"#,
        ),
    ] {
        let mut frame = Vec::new();
        // The id is that of a client's first call.
        write_message(&mut frame, kind, method, 1, body.as_bytes(), MAX_TO_GUEST)
            .expect("a small message");
        all.extend_from_slice(&frame);
        fs::write(directory.join(name), frame).expect("a seed can be written");
    }
    fs::write(directory.join("all"), all).expect("a seed can be written");
}

/// Images with something of everything that the writer can store, and forks of them.
fn cims(directory: &Path) {
    fs::create_dir_all(directory).expect("the seeds' directory can be made");
    let plain = cimfs::WriterOptions::default();
    let counted = StreamFraming::Counted;
    for (name, options) in [
        ("plain", plain.clone()),
        ("version-1", cimfs::WriterOptions { version: 1, ..plain.clone() }),
        (
            "long-entries",
            cimfs::WriterOptions { version: 3, entry_size: Some(104), ..plain.clone() },
        ),
        ("counted", cimfs::WriterOptions { stream_framing: counted, ..plain.clone() }),
        ("all-large", cimfs::WriterOptions { large_data_from: 1, ..plain }),
    ] {
        let set = MemorySet::new();
        let guid = |text: &str| Guid::for_content(text.as_bytes());
        let mut writer =
            cimfs::ImageWriter::create(set.clone(), "a.cim", guid("a"), options.clone())
                .expect("an empty set takes an image");
        windows(&mut writer).expect("what the writer can store");
        writer.commit().expect("memory takes an image");
        let mut fork = cimfs::ImageWriter::fork(set.clone(), "a.cim", "b.cim", guid("b"), options)
            .expect("a fork of what was written");
        fork.remove(&"d/link".into()).expect("it is there");
        fork.add_file(&"d/new".into(), &Metadata::default(), b"new").expect("a file fits");
        fork.commit().expect("memory takes a fork");
        for (kind, image) in [("", "a.cim"), ("-fork", "b.cim")] {
            let bytes = Container::of(&set, image).bytes().expect("seeds are small");
            fs::write(directory.join(format!("{name}{kind}")), bytes)
                .expect("a seed can be written");
        }
    }
}

fn windows(writer: &mut cimfs::ImageWriter<MemorySet>) -> cimfs::Result<()> {
    let time = FileTime::from_unix(1, 500).expect("after 1601");
    let plain = Metadata { last_write_time: time, ..Metadata::default() };
    let eas = b"\x10\0\0\0\x80\x03\x02\0ABC\0xy\0\0\0\0\0\0\0\x01\0\0N\0".to_vec();
    let odd = Metadata { flags: FileFlags::HIDDEN, eas, ..plain.clone() };
    let reparse = vec![3, 0, 0, 0xA0, 12, 0, 0, 0, 0, 0, 2, 0, 4, 0, 0, 0, b'x', 0, 0, 0];
    writer.add_directory(&"d".into(), &plain)?;
    writer.add_directory(&"d/e".into(), &Metadata { reparse, ..plain.clone() })?;
    writer.add_file(&"d/file".into(), &odd, b"data")?;
    writer.add_file(&"large".into(), &plain, &[7; 4100])?;
    writer.add_link(&"d/link".into(), &"d/file".into())?;
    writer.add_sparse_file(&"zeros".into(), &plain, 5000)?;
    writer.add_file(&"ä\u{1F600}".into(), &plain, b"")?;
    for (path, name, bytes) in
        [("d/file", "s", &b"stream"[..]), ("d", "t", b""), ("d/file", "u", b"x")]
    {
        writer.begin_stream(&path.into(), &Name::from(name), bytes.len() as u64)?;
        writer.write_data(bytes)?;
        writer.end()?;
    }
    Ok(())
}

/// Tars of Windows layers, and bytes for the codecs.
fn windows_layers(directory: &Path) {
    fs::create_dir_all(directory).expect("the seeds' directory can be made");
    let set = cimfs::MemorySet::new();
    let guid = cimfs::Guid::for_content(b"seed");
    let options = cimfs::WriterOptions::default();
    let mut writer =
        cimfs::ImageWriter::create(set.clone(), "a", guid, options).expect("an empty set");
    let plain = cimfs::Metadata::default();
    let security = SecurityDescriptor::from_sddl("O:BAG:SYD:P(A;OICI;FA;;;BA)S:(ML;;NW;;;LW)")
        .and_then(|descriptor| descriptor.write())
        .expect("a descriptor");
    let target: Vec<u16> = r"C:\x".encode_utf16().collect();
    let point = ReparsePoint::mount_point(&target).write().expect("a short target");
    let eas = write_eas([(&b"EA"[..], &b"value"[..])]).expect("short attributes");
    let odd = cimfs::Metadata {
        security: security.clone(),
        eas: eas.clone(),
        flags: cimfs::FileFlags::ARCHIVE,
        ..plain.clone()
    };
    let fill = (|| {
        writer.add_directory(&"Files".into(), &plain)?;
        writer.add_file(&"Files/f".into(), &odd, b"data")?;
        writer.begin_stream(&"Files/f".into(), &"s".into(), 1)?;
        writer.write_data(b"x")?;
        writer.end()?;
        writer.add_link(&"Files/l".into(), &"Files/f".into())?;
        writer.add_sparse_file(&"Files/sparse".into(), &plain, 1 << 16)?;
        let junction = cimfs::Metadata { reparse: point.clone(), ..plain.clone() };
        writer.add_directory(&"Files/j".into(), &junction)?;
        let other = b"\x17\0\0\x80\x04\0\0\0abcd".to_vec();
        writer.add_file(
            &"Files/o".into(),
            &cimfs::Metadata { reparse: other, ..odd.clone() },
            b"",
        )?;
        writer.commit()
    })();
    fill.expect("memory can be written");
    let mut tar = Vec::new();
    layer::write_windows_layer_tar(&set, "a", None, &mut tar, &Cancel::new())
        .expect("a tar of the image");
    fs::write(directory.join("layer"), &tar).expect("a seed can be written");
    // The same in front of a whiteout and changes of a hive.
    for (seed, name) in [("whiteout", &b"Files/.wh.d"[..]), ("delta", b"Hives/System_Delta")] {
        let mut changed = tar.clone();
        let end = changed.len() - 1024;
        let mut header = changed[..512].to_vec();
        header[..100].fill(0);
        header[..name.len()].copy_from_slice(name);
        header[156] = b'0';
        header[124..135].copy_from_slice(b"00000000000");
        let mut body = Vec::new();
        if seed == "delta" {
            let mut hive = layer::hive::Hive::new(layer::hive::Key::new("R", vec![0; 20].into()));
            hive.set_layered(true);
            body = hive.write().expect("a small hive");
            header[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
            body.resize(body.len().next_multiple_of(512), 0);
        }
        changed.splice(end..end, [header, body].concat());
        // The target makes the checksum right.
        fs::write(directory.join(seed), &changed).expect("a seed can be written");
    }
    for (name, bytes) in [("security", security), ("reparse", point), ("eas", eas)] {
        fs::write(directory.join(name), bytes).expect("a seed can be written");
    }
    let text = "O:BAG:SYD:AI(A;OICI;FA;;;BA)(OA;;CR;00112233-4455-6677-8899-aabbccddeeff;;SY)";
    fs::write(directory.join("sddl"), text).expect("a seed can be written");
    fs::write(directory.join("time"), "-11644473600.0000001").expect("a seed can be written");
}

/// A conversation as QEMU has it, its end said twice.
fn qmp(directory: &Path) {
    std::fs::create_dir_all(directory).expect("a place for seeds");
    let lines = [
        r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}"#,
        r#"{"return": {}, "id": 0}"#,
        r#"{"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}, "id": 0}"#,
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "DEVICE_DELETED", "data": {"device": "d", "path": "/p"}}"#,
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#,
    ];
    std::fs::write(directory.join("conversation"), lines.join("\r\n") + "\r\n").expect("a seed");
}

/// A hive, and a delta that does something to every part of it.
fn hives(directory: &Path) {
    let key = |name: &str, mark: Option<(Semantics, bool)>| {
        let mut key = Key::new(name, Hive::DEFAULT_SECURITY.into());
        if let Some((semantics, inherits_class)) = mark {
            key.layer = Layer { semantics, inherits_class };
        }
        key
    };
    let mut base = Hive::new(key("ROOT", None));
    let mut a = key("a", None);
    a.class = b"c\0".as_slice().into();
    a.values = vec![Value::new("", 1, vec![1]), Value::new("v", 3, vec![2; 20])];
    let a = base.add_key(base.root(), a).expect("a new name");
    for name in ["x", "é", "日"] {
        base.add_key(a, key(name, None)).expect("a new name");
        base.add_key(base.root(), key(name, None)).expect("a new name");
    }
    let small = base.write().expect("a valid hive");
    base.values_mut(a).push(Value::new("big", 3, vec![3; 16_400]));
    let big = base.write().expect("a valid hive");
    let mut delta = Hive::new(key("ROOT", None));
    delta.set_layered(true);
    let mut a = key("A", Some((Semantics::Merge, true)));
    a.values = vec![Value::tombstone("V"), Value::new("new", 4, vec![4; 4])];
    let a = delta.add_key(delta.root(), a).expect("a new name");
    for (name, semantics) in [
        ("X", Semantics::Tombstone),
        ("é", Semantics::SupersedeTree),
        ("日", Semantics::SupersedeLocal),
    ] {
        for parent in [a, delta.root()] {
            delta.add_key(parent, key(name, Some((semantics, false)))).expect("a new name");
        }
    }
    let delta = delta.write().expect("a valid hive");
    fs::create_dir_all(directory).expect("the seeds' directory can be made");
    for (name, parts) in [
        ("small", [&[1][..], &small, &delta]),
        ("big", [&[u8::try_from(big.len() / 4096 - 1).expect("few blocks")], &big, &delta]),
        ("alone", [&[9], &delta, &[]]),
    ] {
        fs::write(directory.join(name), parts.concat()).expect("a seed can be written");
    }
}

/// Short lives of snapshots; what the bytes mean is in the target's `request.rs`.
fn requests(directory: &Path) {
    const PREPARE_A: &[u8] = &[0, 0, 0, 0];
    const COMMIT_A_AS_B: &[u8] = &[8, 1, 0, 0, 0];
    const PREPARE_C_ON_B: &[u8] = &[0, 2, 1, 1, 1, 0];
    const COMMIT_C_AS_D: &[u8] = &[8, 3, 2, 0, 1, 3];
    const REBASE_A_AS_E_ON_B: &[u8] = &[8, 4, 0, 1, 1, 0];
    const VIEW_F_OF_B: &[u8] = &[5, 5, 1, 1, 2, 0, 3];
    const MOUNTS_C: &[u8] = &[7, 2];
    const UPDATE_C: &[u8] = &[15, 1, 2, 1, 0, 3, 3, 0, 4];
    const LIST_ACTIVE: &[u8] = &[17, 1, 1];
    const REMOVE_B: &[u8] = &[12, 1];
    const STAT_A: &[u8] = &[14, 0];
    const USAGE_C: &[u8] = &[19, 2];
    const CLEAN_UP: &[u8] = &[20];
    const APPLY_TO_C: &[u8] = &[24, 1, 0, 5, 0, 0, 0, 2];
    const DIFF_B_AND_C: &[u8] = &[25, 0, 0, 1, 0, 0, 1, 1, 2];
    const ACTIVATE_A: &[u8] = &[26, 0, 0, 4, 0, 0, 0, 0, 0, 0];
    const STAT_A_AS_BYTES: &[u8] = &[27, 5, 3, 0x12, 1, b'a'];
    let everything = [
        PREPARE_A,
        STAT_A,
        COMMIT_A_AS_B,
        PREPARE_C_ON_B,
        MOUNTS_C,
        USAGE_C,
        UPDATE_C,
        APPLY_TO_C,
        DIFF_B_AND_C,
        PREPARE_A,
        STAT_A_AS_BYTES,
        REBASE_A_AS_E_ON_B,
        VIEW_F_OF_B,
        LIST_ACTIVE,
        ACTIVATE_A,
        REMOVE_B,
        COMMIT_C_AS_D,
        CLEAN_UP,
    ]
    .repeat(2);
    fs::create_dir_all(directory).expect("the seeds' directory can be made");
    for (name, requests) in [
        // No input is longer than the longest seed for quite a while.
        ("everything", &everything[..]),
        ("chain", &[PREPARE_A, COMMIT_A_AS_B, PREPARE_C_ON_B, MOUNTS_C, COMMIT_C_AS_D][..]),
        ("rebase", &[PREPARE_A, COMMIT_A_AS_B, PREPARE_A, REBASE_A_AS_E_ON_B, VIEW_F_OF_B]),
        ("labels", &[PREPARE_A, COMMIT_A_AS_B, PREPARE_C_ON_B, UPDATE_C, LIST_ACTIVE]),
        (
            "refused",
            &[
                PREPARE_A,
                PREPARE_A,
                PREPARE_C_ON_B,
                COMMIT_A_AS_B,
                COMMIT_A_AS_B,
                VIEW_F_OF_B,
                REMOVE_B,
            ],
        ),
    ] {
        fs::write(directory.join(name), requests.concat()).expect("a seed can be written");
    }
}

/// Specifications in which `@` stands for a directory with a directory `d` and a file `f`, and a mount by its lines.
fn specifications(directory: &Path) {
    fs::create_dir_all(directory).expect("the seeds' directory can be made");
    for (name, text) in [
        (
            "root",
            r#"{"root":{"path":"@/d","readonly":true},"mounts":[{"destination":"/p","type":"proc"},{"destination":"/a","type":"bind","source":"@/d","options":["Ro"]},{"destination":"/b","type":"bind","source":"@/f"},{"destination":"/c","type":"bind","source":"sandbox://x"},{"destination":"/h","type":"bind","source":"hugepages://2M/x"}]}"#,
        ),
        (
            "disks",
            r#"{"root":{"path":"@/d"},"mounts":[{"destination":"/a","type":"virtual-disk","source":"@/f"},{"destination":"blockdev:///b","type":"automanage-virtual-disk","source":"@/f"},{"destination":"/c","type":"extensible-virtual-disk","source":"evd://x/y"}]}"#,
        ),
        (
            "layers",
            r#"{"windows":{"layerFolders":["@/d","@/d"],"network":{"networkNamespace":"n"},"devices":[{"id":"1","idType":"v"}]}}"#,
        ),
        (
            "limits",
            r#"{"annotations":{"io.microsoft.virtualmachine.computetopology.memory.sizeinmb":"512","io.microsoft.lcow.shm.size-kb":"5","io.microsoft.virtualmachine.lcow.privileged":"true"},"hooks":{},"linux":{"cgroupsPath":"/x","resources":{"cpu":{"period":0,"quota":0},"pids":{"limit":1}},"seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}}}"#,
        ),
        (
            "lcow",
            "lcow-partitioned-layer\n\n\nscratch=/s\nparent-partitioned-layers=[{\"Path\":\"/d\",\"Partition\":2}]",
        ),
        (
            "block",
            "BlockCIM\nC:\n\nblockCIMType=file\nmergedCIMPath=C:\\m\\m.cim\nparentCimPaths=[\"C:\\\\b\\\\1.cim\",\"C:/b/0.cim\"]",
        ),
        ("cimfs", "CimFS\nC:\n\nparentLayerPaths=[\"a\"]\nparentCimPaths=[\"b\"]"),
    ] {
        fs::write(directory.join(name), text).expect("a seed can be written");
    }
}

fn add(tree: &mut Tree, dir: InodeId, name: &str, content: Content) -> InodeId {
    let id = tree.add(Inode { content, ..Inode::directory() });
    let entries = tree[dir].entries_mut().expect("a directory");
    entries.insert(name.as_bytes().into(), id);
    id
}

fn bytes(bytes: &[u8]) -> Content {
    Content::Regular(FileData::Bytes(bytes.into()))
}

fn empty(_: &mut Tree) {}

fn kinds(tree: &mut Tree) {
    let root = Tree::ROOT;
    let a = add(tree, root, "a", bytes(b"hello"));
    tree[a].uid = 100_000;
    tree[a].set_xattr(b"user.mine", b"value");
    add(tree, root, "big", bytes(&[3; 1300]));
    let hole = FileData::Chunks { size: 4096, chunk_bits: 12, chunks: [None].into() };
    add(tree, root, "hole", Content::Regular(hole));
    let b = add(tree, root, "b", Inode::directory().content);
    tree[b].set_xattr(b"trusted.overlay.opaque", b"y");
    let deep = add(tree, b, "c", Inode::directory().content);
    tree[deep].entries_mut().expect("a directory").insert((*b"link").into(), a);
    add(tree, b, "to", Content::Symlink((*b"../a").into()));
    add(tree, root, "gone", Content::CharDevice(DeviceNumber::WHITEOUT));
    add(tree, root, "pipe", Content::Fifo);
    for number in 0..4 {
        let id = add(tree, deep, &format!("shared{number}"), bytes(b""));
        tree[id].set_xattr(b"trusted.overlay.origin", b"");
        tree[id].set_xattr(b"security.same", b"a longer value, which is shared");
    }
}

fn names(tree: &mut Tree) {
    for number in 0..60 {
        add(tree, Tree::ROOT, &format!("a-name-of-some-length-{number}"), bytes(b""));
    }
}

fn device(tree: &mut Tree) {
    let start = BlockAddress { device: 1, block: 0 };
    add(tree, Tree::ROOT, "run", Content::Regular(FileData::Extent { start, size: 1000 }));
    let tail = [1; 10].into();
    let data = FileData::ExtentAndTail { start, size: 522, tail };
    add(tree, Tree::ROOT, "tail", Content::Regular(data));
    let chunks = [Some(start), None, Some(start)].into();
    let data = FileData::Chunks { size: 1500, chunk_bits: 9, chunks };
    add(tree, Tree::ROOT, "chunks", Content::Regular(data));
}

/// Messages of a guest that does a little of everything, in the target's form.
fn plan9(directory: &Path) {
    fs::create_dir_all(directory).expect("the seeds' directory can be made");
    let walk = |new_fid, names: &[&'static [u8]]| Request::Walk {
        fid: 0,
        new_fid,
        names: List::new(names).expect("few names"),
    };
    let requests = [
        walk(1, &[b"d", b"e"]),
        walk(2, &[b"f"]),
        walk(3, &[b"l"]),
        walk(4, &[b"d", b".."]),
        walk(5, &[]),
        Request::Getattr { fid: 2, mask: 0x7ff },
        Request::Lopen { fid: 2, flags: 2 },
        Request::Write { fid: 2, offset: 1, data: Data(b"data") },
        Request::Read { fid: 2, offset: 0, count: 100 },
        Request::Readlink { fid: 3 },
        Request::Lopen { fid: 4, flags: 0 },
        Request::Readdir { fid: 4, offset: 0, count: 200 },
        Request::Lcreate { fid: 1, name: b"new", flags: 0o202, mode: 0o644, gid: 0 },
        Request::Lock { fid: 2, kind: 1, flags: 0, start: 0, length: 0, process: 1, client: b"c" },
        Request::Mkdir { directory: 5, name: b"d2", mode: 0o755, gid: 0 },
        Request::Symlink { directory: 5, name: b"s", target: b"..", gid: 0 },
        Request::Mknod { directory: 5, name: b"p", mode: 0o010_600, major: 0, minor: 0, gid: 0 },
        Request::Link { directory: 5, fid: 2, name: b"h" },
        Request::Renameat { old_directory: 5, old_name: b"d", new_directory: 5, new_name: b"d3" },
        Request::Unlinkat { directory: 5, name: b"f", flags: 0 },
        Request::Setattr {
            fid: 2,
            valid: 0x1ff,
            mode: 0o600,
            uid: 0,
            gid: 0,
            size: 3,
            atime: 1,
            atime_nsec: 2,
            mtime: 3,
            mtime_nsec: 4,
        },
        Request::Xattrcreate { fid: 5, name: b"user.a", size: 1, flags: 0 },
        Request::Write { fid: 5, offset: 0, data: Data(b"1") },
        Request::Clunk { fid: 5 },
        Request::Xattrwalk { fid: 0, new_fid: 6, name: b"" },
        Request::Statfs { fid: 0 },
        Request::Fsync { fid: 2, data_only: 1 },
        Request::Remove { fid: 3 },
    ];
    for how in 0..4 {
        let mut bytes = vec![how];
        let mut message = Vec::new();
        for request in &requests {
            request.write(0, &mut message);
            let body = &message[7..];
            bytes.extend([message[4], u8::try_from(body.len()).expect("a short message")]);
            bytes.extend_from_slice(body);
        }
        fs::write(directory.join(format!("everything-{how}")), bytes)
            .expect("a seed can be written");
    }
}
