//! Views of CIMs against what the CIM's own reader says.

#![allow(clippy::unwrap_used, reason = "a test")]

use cimfs::{
    DirectorySet, FileFlags, FileTime, FileView, Guid, Image, ImageWriter, MemorySet, Metadata,
    Name, ReadAt as _, WritableSet, WriterOptions,
};
use layer::cim_view::{CimView, FileKind, file_kind, view_of, write_cim_view};
use layer::windows::encode_wtf8;
use layer::{Cancel, ErrorKind};

fn metadata(flags: FileFlags) -> Metadata {
    let time = |seconds| FileTime::from_unix(seconds, 123_456_700).unwrap();
    Metadata {
        flags,
        creation_time: time(1),
        last_write_time: time(2),
        change_time: time(3),
        last_access_time: time(4),
        ..Metadata::default()
    }
}

/// A reparse buffer of a symbolic link or mount point without a substitute name.
fn reparse(tag: u32, target: &str) -> Vec<u8> {
    let units: Vec<u8> = target.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let fixed = if tag == cimfs::format::TAG_SYMLINK { 12 } else { 8 };
    let length = u16::try_from(fixed + units.len()).unwrap();
    let mut buffer = tag.to_le_bytes().to_vec();
    buffer.extend(u32::from(length).to_le_bytes());
    buffer.extend([0, 0, 0, 0, 0, 0]);
    buffer.extend(u16::try_from(units.len()).unwrap().to_le_bytes());
    buffer.resize(8 + fixed, 0);
    buffer.extend(units);
    buffer
}

fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn fill<S: WritableSet>(writer: &mut ImageWriter<S>) {
    let plain = metadata(FileFlags::ARCHIVE);
    for directory in ["Files", "Files/empty", "Files/Windows", "Files/Windows/System32"] {
        writer.add_directory(&directory.into(), &plain).unwrap();
    }
    for (name, length) in
        [("none", 0), ("one", 1), ("511", 511), ("512", 512), ("4095", 4095), ("4096", 4096)]
            .into_iter()
            .chain([("4097", 4097), ("large", 1 << 20), ("odd", 100_001)])
    {
        let data = bytes(length, u32::try_from(length).unwrap());
        writer.add_file(&format!("Files/Windows/{name}").as_str().into(), &plain, &data).unwrap();
    }
    writer.add_file(&"Files/same".into(), &plain, &bytes(100_001, 100_001)).unwrap();
    writer.add_link(&"Files/link".into(), &"Files/Windows/odd".into()).unwrap();
    writer.add_file(&"Files/Ünïcödé 語 😀".into(), &plain, b"text").unwrap();
    let hidden = FileFlags::READ_ONLY | FileFlags::HIDDEN | FileFlags::SYSTEM;
    writer.add_file(&"Files/hidden".into(), &metadata(hidden), b"read only").unwrap();
    let eas = b"\0\0\0\0\0\x01\x02\0N\0xy".to_vec();
    let eas = Metadata { eas, ..plain.clone() };
    writer.add_file(&"Files/eas".into(), &eas, b"").unwrap();
    for (name, size) in [("sparse", 1 << 30), ("small sparse", 100)] {
        let path = format!("Files/{name}");
        writer.add_sparse_file(&path.as_str().into(), &metadata(FileFlags::SPARSE), size).unwrap();
    }
    let symlink = reparse(cimfs::format::TAG_SYMLINK, r"..\Files\Windows\one");
    let symlink = Metadata { reparse: symlink, ..plain.clone() };
    writer.add_file(&"Files/symlink".into(), &symlink, b"").unwrap();
    let junction = reparse(cimfs::format::TAG_MOUNT_POINT, r"C:\Users");
    let junction = Metadata { reparse: junction, ..plain.clone() };
    writer.add_directory(&"Files/junction".into(), &junction).unwrap();
    writer.add_directory(&"Files/not empty".into(), &junction).unwrap();
    writer.add_file(&"Files/not empty/x".into(), &plain, b"").unwrap();
    let socket = Metadata { reparse: reparse(0x8000_0023, ""), ..plain.clone() };
    writer.add_file(&"Files/socket".into(), &socket, b"").unwrap();
    for (file, stream, data) in [
        ("Files/same", "Zone.Identifier", bytes(20, 5)),
        ("Files/same", "large", bytes(70_000, 6)),
        ("Files/same", "ntfs_acl", bytes(3, 7)),
        ("Files/Windows", "of a directory", bytes(5000, 8)),
    ] {
        writer.begin_stream(&file.into(), &Name::from(stream), data.len() as u64).unwrap();
        writer.write_data(&data).unwrap();
        writer.end().unwrap();
    }
}

fn sample(options: WriterOptions) -> MemorySet {
    let set = MemorySet::new();
    let guid = Guid::for_content(b"sample");
    let mut writer = ImageWriter::create(set.clone(), "a.cim", guid, options).unwrap();
    fill(&mut writer);
    writer.commit().unwrap();
    set
}

type View = erofs::Image<Vec<u8>>;

fn view(set: &MemorySet, name: &str) -> layer::Result<(View, layer::cim_view::ViewSummary)> {
    let image = Image::open(set, name).unwrap();
    let (bytes, summary) = write_cim_view(&image, [7; 16], || Ok(Vec::new()), &Cancel::default())?;
    let regions = 0..u16::try_from(image.region_count()).unwrap();
    let regions = regions.map(|index| set.bytes(image.region_name(index).unwrap()).unwrap());
    let view = erofs::Image::open_with_devices(bytes, regions.collect()).unwrap();
    let report = erofs::check(&view);
    assert!(report.is_sound(), "{:?}", report.findings);
    Ok((view, summary))
}

fn whole(image: &Image<cimfs::MemoryFile>, file: &FileView) -> Vec<u8> {
    let mut data = Vec::new();
    std::io::Read::read_to_end(&mut image.open_stream(&file.data()).unwrap(), &mut data).unwrap();
    data
}

/// Every name of the image is in the view, with the same bytes, and nothing else is.
fn assert_agrees(set: &MemorySet, name: &str, view: &View) {
    let image = Image::open(set, name).unwrap();
    let mut names = 0;
    let mut ids = std::collections::HashMap::new();
    for entry in image.walk() {
        let entry = entry.unwrap();
        names += 1;
        let path: Vec<u8> = entry.path().names().iter().fold(Vec::new(), |mut path, name| {
            path.push(b'/');
            path.extend(encode_wtf8(name.units().iter().copied()));
            path
        });
        let shown = path.escape_ascii();
        let inode = view.resolve(if path.is_empty() { b"/" } else { &path }, false).unwrap();
        let file = entry.file;
        assert_eq!(*ids.entry(file.id).or_insert(inode.nid), inode.nid, "{shown}");
        let (seconds, nanoseconds) = file.last_write_time().to_unix();
        assert_eq!(inode.mtime, erofs::Timestamp { seconds, nanoseconds }, "{shown}");
        let xattrs = view.xattrs(&inode).unwrap();
        let kind = file_kind(&image, &file).unwrap();
        let namespace = if matches!(kind, FileKind::Symlink(_)) { "trusted" } else { "user" };
        let get = |name: &str| -> Option<&[u8]> {
            let name = format!("{namespace}.{name}");
            xattrs.iter().find(|x| *x.name == *name.as_bytes()).map(|x| &*x.value)
        };
        assert_eq!(get("ntfs_attrib"), Some(&file.attributes().to_le_bytes()[..]), "{shown}");
        let security = image.security_descriptor(&file).unwrap();
        assert_eq!(get("ntfs_acl"), security.as_deref(), "{shown}");
        let buffer = image.reparse_buffer(&file).unwrap();
        assert_eq!(get("ntfs_reparse_data"), buffer.as_deref(), "{shown}");
        let eas = Some(image.ea_buffer(&file).unwrap()).filter(|eas| !eas.is_empty());
        assert_eq!(get("ntfs_ea"), eas.as_deref(), "{shown}");
        match kind {
            FileKind::Directory => assert!(inode.is_dir(), "{shown}"),
            FileKind::Symlink(target) => {
                assert_eq!(view.read_link(&inode).unwrap(), target, "{shown}");
            }
            FileKind::Regular => {
                assert_eq!(inode.size, if file.is_dir() { 0 } else { file.size() }, "{shown}");
                // What is sparse is too long to be looked at byte for byte.
                if inode.size < 1 << 24 && !file.is_dir() {
                    let mut data = Vec::new();
                    std::io::Read::read_to_end(&mut view.reader(&inode), &mut data).unwrap();
                    assert!(data == whole(&image, &file), "{shown}");
                }
            }
        }
    }
    let tree = view.load_tree().unwrap();
    let count = |id: u32| tree[erofs::InodeId(id)].entries().map_or(0, |entries| entries.len());
    let in_view: usize = (0..u32::try_from(tree.len()).unwrap()).map(count).sum();
    assert_eq!(in_view + 1, names);
}

#[test]
fn a_view_shows_what_the_image_holds() {
    for large_data_from in [512, 4096, 50_000, u64::MAX] {
        let options = WriterOptions { large_data_from, ..WriterOptions::default() };
        let set = sample(options);
        let (view, summary) = view(&set, "a.cim").unwrap();
        assert_agrees(&set, "a.cim", &view);
        // Data that is not aligned at all is copied, however large.
        assert_eq!(summary.pointed > 1 << 20, large_data_from <= 50_000, "{summary:?}");
        assert_eq!(summary.block_size, erofs::BlockSize::B4096);
        // Small files are read where they are, but for those at the very end of a region.
        if large_data_from == 4096 {
            assert!(view.resolve(b"/Files/Windows/511", false).unwrap().is_packed());
            assert!(summary.copied < 8192, "{summary:?}");
        }
    }
}

#[test]
fn streams_and_metadata_are_extended_attributes() {
    let (view, _) = view(&sample(WriterOptions::default()), "a.cim").unwrap();
    let get = |path: &str, name: &str| -> Option<Vec<u8>> {
        let inode = view.resolve(path.as_bytes(), false).unwrap();
        let xattrs = view.xattrs(&inode).unwrap();
        let found = xattrs.iter().find(|xattr| *xattr.name == *name.as_bytes());
        found.map(|xattr| xattr.value.to_vec())
    };
    assert_eq!(get("/Files/same", "user.Zone.Identifier"), Some(bytes(20, 5)));
    assert_eq!(get("/Files/Windows", "user.of a directory"), Some(bytes(5000, 8)));
    assert_eq!(get("/Files/same", "user.large"), None);
    let list = get("/Files/same", "user.ntfs.streams.list").unwrap();
    let list: Vec<&[u8]> = list.split(|byte| *byte == 0).collect();
    assert_eq!(list, [&b"large"[..], b"ntfs_acl", b"Zone.Identifier"]);
    // Metadata comes before a stream that would hide it.
    assert_ne!(get("/Files/same", "user.ntfs_acl"), Some(bytes(3, 7)));
    let times = get("/Files/same", "user.ntfs_times").unwrap();
    let times: Vec<i64> = times
        .chunks_exact(8)
        .map(|time| FileTime(u64::from_le_bytes(time.try_into().unwrap())).to_unix().0)
        .collect();
    assert_eq!(times, [1, 2, 4, 3]);
    let permissions = |path: &str| view.resolve(path.as_bytes(), false).unwrap().permissions;
    let modes = ["/Files", "/Files/same", "/Files/hidden", "/Files/symlink"].map(permissions);
    assert_eq!(modes, [0o755, 0o644, 0o444, 0o777]);
}

#[test]
fn a_fork_is_one_view() {
    let set = sample(WriterOptions::default());
    let guid = Guid::for_content(b"fork");
    let mut writer =
        ImageWriter::fork(set.clone(), "a.cim", "b.cim", guid, WriterOptions::default()).unwrap();
    let plain = metadata(FileFlags::empty());
    writer.add_file(&"Files/Windows/new".into(), &plain, &bytes(10_000, 9)).unwrap();
    writer.add_file(&"Files/Windows/odd".into(), &plain, b"replaced").unwrap();
    writer.remove(&"Files/not empty".into()).unwrap();
    writer.commit().unwrap();
    let (view, _) = view(&set, "b.cim").unwrap();
    assert_agrees(&set, "b.cim", &view);
    assert!(view.devices().len() > 3);
    assert!(view.resolve(b"/Files/not empty", false).is_err());
}

/// Makes `path` an executable in the layout of memory: pieces of the file lie apart from each other in the data of
/// another file. The descriptor is the data of a third one.
fn with_executable(shift: u32, pieces: &[(u32, u32)]) -> MemorySet {
    let set = MemorySet::new();
    let options = WriterOptions::default();
    let mut writer =
        ImageWriter::create(set.clone(), "a.cim", Guid::for_content(b"pe"), options).unwrap();
    let plain = metadata(FileFlags::empty());
    writer.add_file(&"expanded".into(), &plain, &bytes(4 << 20, 1)).unwrap();
    writer.add_file(&"descriptor".into(), &plain, &vec![1; 24 + 8 * pieces.len()]).unwrap();
    writer.add_file(&"program.exe".into(), &plain, b"x").unwrap();
    writer.commit().unwrap();

    let image = Image::open(&set, "a.cim").unwrap();
    let find = |path: &str| image.resolve(&path.into(), cimfs::Case::Exact).unwrap();
    let [expanded, descriptor, program] = ["expanded", "descriptor", "program.exe"].map(find);
    let data = expanded.entry.default_stream.offset.checked_add(shift.into()).unwrap();
    let length: u32 = 3 << 20;
    let mut table = u64::to_le_bytes(u64::from(data.region()) << 48 | data.byte()).to_vec();
    table.extend(u64::from(length).to_le_bytes());
    table.extend((4_u32 << 20).to_le_bytes());
    table.extend(u16::try_from(pieces.len()).unwrap().to_le_bytes());
    table.extend([0, 0]);
    for (offset, delta) in pieces {
        table.extend(offset.to_le_bytes());
        table.extend(delta.to_le_bytes());
    }
    let patch = |at: cimfs::RegionOffset, new: &[u8]| {
        let name = image.region_name(at.region()).unwrap();
        let mut bytes = set.bytes(name).unwrap();
        let start = usize::try_from(at.byte()).unwrap();
        bytes[start..start + new.len()].copy_from_slice(new);
        set.insert(name, bytes);
    };
    let at = descriptor.entry.default_stream.offset;
    patch(at, &table);
    let mut stream = u64::to_le_bytes(u64::from(at.region()) << 48 | at.byte()).to_vec();
    stream.extend((u64::from(length) | 2 << 48).to_le_bytes());
    patch(program.position.checked_add(0x28).unwrap(), &stream);
    set
}

#[test]
fn executables_are_pointed_at_in_small_blocks() {
    // Sections as a linker lays them out: headers, then what begins in the next page of memory.
    let set = with_executable(0, &[(0x400, 0xC00), (0x20_0600, 0xE00)]);
    let (view, summary) = view(&set, "a.cim").unwrap();
    assert_agrees(&set, "a.cim", &view);
    assert_eq!(summary.block_size, erofs::BlockSize::B512);
    assert!(summary.copied < 1000, "{summary:?}");
}

#[test]
fn executables_in_whole_pages_and_crooked_ones() {
    for (shift, pieces, copied) in [
        (0, &[(0x1000, 0x1000), (0x2_0000, 0x3000)][..], false),
        // Nothing of it begins with a block.
        (8, &[(0x1000, 0x1000)], true),
        (0, &[(0x1001, 0x1000)], true),
    ] {
        let set = with_executable(shift, pieces);
        let (view, summary) = view(&set, "a.cim").unwrap();
        assert_agrees(&set, "a.cim", &view);
        assert_eq!(summary.copied > 3 << 20, copied, "{summary:?}");
    }
}

#[test]
fn names_without_room_on_linux_are_told() {
    let set = MemorySet::new();
    let options = WriterOptions::default();
    let mut writer =
        ImageWriter::create(set.clone(), "a.cim", Guid::for_content(b"long"), options).unwrap();
    let long = "語".repeat(86);
    writer.add_file(&long.as_str().into(), &Metadata::default(), b"").unwrap();
    writer.commit().unwrap();
    let error = view(&set, "a.cim").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("258 bytes"), "{error}");
}

/// Whatever a byte of the metadata is, there is a view or an error, and a view holds up to the checker.
#[test]
fn hostile_images_have_a_sound_view_or_none() {
    let set = sample(WriterOptions::default());
    let image = Image::open(&set, "a.cim").unwrap();
    let metadata = image.region_name(0).unwrap().to_owned();
    let bytes = set.bytes(&metadata).unwrap();
    let mut views = 0;
    // Behind the header; the upcase table, which views do not look at, comes first.
    for at in (40 + 131_072..bytes.len()).step_by(13) {
        for value in [0, 0xFF, bytes[at] ^ 0x10] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            set.insert(metadata.as_str(), damaged);
            let Ok(image) = Image::open(&set, "a.cim") else { continue };
            let made = write_cim_view(&image, [7; 16], || Ok(Vec::new()), &Cancel::default());
            let Ok((made, _)) = made else { continue };
            let regions = (0..3).map(|index| set.bytes(image.region_name(index).unwrap()).unwrap());
            let made = erofs::Image::open_with_devices(made, regions.collect()).unwrap();
            let report = erofs::check(&made);
            assert!(report.is_sound(), "byte {at} = {value}: {:?}", report.findings);
            views += 1;
        }
    }
    assert!(views > 50, "{views} views");
}

#[test]
fn views_are_found_again_until_the_image_changes() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache/views");
    let set = DirectorySet::new(directory.path());
    let guid = Guid::for_content(b"cached");
    let mut writer =
        ImageWriter::create(set.clone(), "a.cim", guid, WriterOptions::default()).unwrap();
    fill(&mut writer);
    writer.commit().unwrap();
    let path = directory.path().join("a.cim");
    let find = || -> CimView { view_of(&path, &cache, &Cancel::default()).unwrap() };

    let first = find();
    assert!(first.made.is_some());
    assert_eq!(first.devices.len(), 3);
    assert!(first.devices.iter().all(|device| device.is_file()));
    let written = std::fs::read(&first.path).unwrap();
    let second = find();
    assert_eq!((second.made, &second.path), (None, &first.path));

    // Deleted, and cut by somebody: made again, the same.
    std::fs::remove_file(&first.path).unwrap();
    assert!(find().made.is_some());
    assert!(std::fs::read(&first.path).unwrap() == written);
    std::fs::write(&first.path, &written[..written.len() - 4096]).unwrap();
    assert!(find().made.is_some());
    assert!(std::fs::read(&first.path).unwrap() == written);

    // Other files of the same names and lengths have another view.
    let region = std::fs::File::options().write(true).open(&first.devices[0]).unwrap();
    region.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let other = find();
    assert!(other.made.is_some());
    assert_ne!(other.path, first.path);
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 2);
    assert!(set.path().is_dir() && region.size().unwrap() > 0);
}
