//! Images back to tars, differences, directories, and trees of every shape there and back.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;

use erofs::{
    Content, DeviceNumber, FileData, Image, ImageWriter, Inode, InodeId, ReadAt, Timestamp, Tree,
    WriterOptions, Xattr,
};
use layer::{Cancel, Digest, LayerTar, diff_tar, write_layer_tar};
use proptest::prelude::*;
use support::{Header, Tar, list, make, noise};

fn exported(image: &[u8]) -> (Vec<u8>, LayerTar) {
    let mut tar = Vec::new();
    let report = write_layer_tar(&Image::open(image).unwrap(), &mut tar, &Cancel::new()).unwrap();
    assert_eq!((report.diff_id, report.size), (Digest::of(&tar), tar.len() as u64));
    (tar, report)
}

/// Behind the header, where the UUID is, which is that of the tar.
fn body(image: &[u8]) -> &[u8] {
    &image[4096..]
}

fn many_things() -> Tar {
    let big = noise(100_000, 5);
    Tar::new()
        .add(Header::new(b"./", b'5', 0).mode(0o1777).owner(1, 1).mtime(4), b"")
        .file(b"z", &noise(9000, 1))
        .pax(&[(b"mtime", b"1.000000001"), (b"SCHILY.xattr.user.a%3Db", b"v\n")])
        .file(b"a", &big)
        .hard_link(b"d/h", b"a")
        .file(b"d/.wh.gone", b"")
        .file(b"d/.wh..wh..opq", b"")
        .pax(&[(b"SCHILY.xattr.trusted.overlay.redirect", b"/x"), (b"uid", b"4000000000")])
        .file(b"d/small", b"s")
        .hard_link(b"d/small2", b"d/small")
        .symlink(b"l", b"d")
        .hard_link(b"l2", b"l")
        .add(Header::new(b"c", b'3', 0).device(1, 3), b"")
        .add(Header::new(b"p", b'6', 0).mode(0o4711), b"")
        .file(b"\xff", b"")
        .pax(&[(b"GNU.sparse.map", b"4096,5,900000,3"), (b"GNU.sparse.size", b"1000000")])
        .file(b"sparse", b"abcdefgh")
        .pax(&[(b"path", &b"long/name/".repeat(40))])
        .dir(b"x")
}

#[test]
fn tar_to_image_to_tar_to_image() {
    let first = make(&many_things().end()).unwrap();
    let (tar, report) = exported(&first.bytes);
    assert_eq!(report.sockets, 0);
    let second = make(&tar).unwrap();
    assert_eq!(list(&second.bytes), list(&first.bytes));
    assert!(body(&second.bytes) == body(&first.bytes), "the same image");
    assert!(exported(&second.bytes).0 == tar, "the same tar");

    // Data that nothing uses any more is gone after the first round.
    let wasteful = make(&many_things().file(b"z", b"again").end()).unwrap();
    let (tar, _) = exported(&wasteful.bytes);
    let second = make(&tar).unwrap();
    assert_eq!(list(&second.bytes), list(&wasteful.bytes));
    assert!(second.bytes.len() < wasteful.bytes.len());
    assert!(exported(&second.bytes).0 == tar, "the same tar");
}

#[test]
fn gnu_tar_reads_what_is_written() {
    let (tar, report) = exported(&make(&many_things().end()).unwrap().bytes);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layer.tar");
    std::fs::write(&path, &tar).unwrap();
    let run = std::process::Command::new("tar").arg("-tvf").arg(&path).output().unwrap();
    let listing = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(listing.lines().count() as u64, report.entries, "{listing}");
    for line in ["d/h link to a", "l -> d", " 1000000 ", " sparse", "d/.wh.gone"] {
        assert!(listing.contains(line), "{line} in {listing}");
    }
}

#[test]
fn sockets_are_left_out() {
    let mut tree = Tree::new();
    let socket = tree.add(Inode { content: Content::Socket, ..Inode::directory() });
    tree[Tree::ROOT].entries_mut().unwrap().insert(b"s".as_slice().into(), socket);
    let (tar, report) = exported(&written(&tree));
    assert_eq!((report.entries, report.sockets), (1, 1));
    assert_eq!(list(&make(&tar).unwrap().bytes).len(), 1);
}

fn written(tree: &Tree) -> Vec<u8> {
    let writer = ImageWriter::new(Vec::new(), WriterOptions::default()).unwrap();
    writer.finish(tree, [1; 16]).unwrap().0
}

/// What a container sees of two layers, the upper one last.
fn stacked(lower: &[u8], upper: &[u8]) -> support::Listing {
    let images = [Image::open(lower).unwrap(), Image::open(upper).unwrap()];
    let merged = erofs::merge(&[&images[0], &images[1]]).unwrap();
    let options = WriterOptions {
        block_size: merged.block_size,
        devices: merged.device_infos(),
        ..WriterOptions::default()
    };
    let writer = ImageWriter::new(Vec::new(), options).unwrap();
    let (bytes, _) = writer.finish(&merged.tree, [1; 16]).unwrap();
    let devices: Vec<Box<dyn ReadAt>> = merged
        .devices
        .iter()
        .map(|device| Box::new([lower, upper][device.layer].to_vec()) as Box<dyn ReadAt>)
        .collect();
    let image = Image::open_with_devices(Box::new(bytes) as Box<dyn ReadAt>, devices).unwrap();
    support::list_image(&image)
}

#[test]
fn difference_of_two_trees() {
    let data = noise(10_000, 1);
    let mut changed = data.clone();
    changed[9_999] ^= 1;
    let lower = Tar::new()
        .dir(b"same")
        .file(b"same/file", &data)
        .file(b"gone", b"")
        .dir(b"gone-dir")
        .file(b"gone-dir/f", b"")
        .file(b"content", &data)
        .file(b"mode", b"m")
        .file(b"becomes-dir", b"")
        .dir(b"becomes-file")
        .file(b"becomes-file/f", b"")
        .file(b"linked", b"l")
        .symlink(b"link", b"a")
        .file(b"deep/er/unchanged", b"u");
    let upper = Tar::new()
        .dir(b"same")
        .file(b"same/file", &data)
        .file(b"content", &changed)
        .add(Header::new(b"mode", b'0', 1).mode(0o600), b"m")
        .dir(b"becomes-dir")
        .file(b"becomes-dir/new", b"n")
        .file(b"becomes-file", b"f")
        .file(b"linked", b"l")
        .hard_link(b"new-name", b"linked")
        .symlink(b"link", b"b")
        .file(b"deep/er/unchanged", b"u")
        .file(b"deep/er/added", b"a");
    let lower = make(&lower.end()).unwrap().bytes;
    let upper = make(&upper.end()).unwrap().bytes;
    let difference = |lower: Option<&[u8]>, upper: &[u8]| {
        let lower = lower.map(|lower| Image::open(lower).unwrap());
        let upper = Image::open(upper).unwrap();
        let mut tar = Vec::new();
        diff_tar(lower.as_ref(), &upper, &mut tar, &Cancel::new()).unwrap();
        make(&tar).unwrap().bytes
    };
    let layer = difference(Some(&lower), &upper);
    assert_eq!(stacked(&lower, &layer), list(&upper));
    let names: Vec<String> = list(&layer).into_keys().collect();
    assert_eq!(
        names,
        [
            "/",
            "/becomes-dir",
            "/becomes-dir/new",
            "/becomes-file",
            "/content",
            "/deep",
            "/deep/er",
            "/deep/er/added",
            "/gone",
            "/gone-dir",
            "/link",
            "/linked",
            "/mode",
            "/new-name",
        ]
    );
    let back = difference(Some(&upper), &lower);
    assert_eq!(stacked(&upper, &back), list(&lower));
    assert_eq!(list(&difference(None, &upper)), list(&upper));
    assert!(list(&difference(Some(&upper), &upper)).len() == 1, "nothing but the root");
}

/// A tree out of a list of steps: parent, name, kind.
#[derive(Debug, Clone)]
struct Step {
    parent: usize,
    name: Vec<u8>,
    kind: u8,
    length: usize,
    time: (i64, u32),
    owner: u32,
    xattr: Option<(Vec<u8>, Vec<u8>)>,
}

fn step() -> impl Strategy<Value = Step> {
    let name = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..6),
        proptest::collection::vec(b'a'..b'd', 1..3),
        proptest::collection::vec(b'n'..b'p', 240..256),
    ];
    let name = name.prop_map(|mut name| {
        name.iter_mut().filter(|byte| matches!(byte, 0 | b'/')).for_each(|byte| *byte = b'_');
        if name.starts_with(b".") {
            name[0] = b'-';
        }
        name
    });
    let xattr = proptest::option::of((
        proptest::collection::vec(1..=255_u8, 1..20),
        proptest::collection::vec(any::<u8>(), 0..300),
    ));
    let time = (prop_oneof![-5_i64..5, any::<i32>().prop_map(i64::from), Just(1 << 40)], 0..3_u32);
    (0..30_usize, name, 0..10_u8, 0..20_000_usize, time, any::<u32>(), xattr).prop_map(
        |(parent, name, kind, length, time, owner, xattr)| Step {
            parent,
            name,
            kind,
            length,
            time: (time.0, time.1 * 333_333_333),
            owner,
            xattr,
        },
    )
}

fn grown(steps: &[Step]) -> Tree {
    let mut tree = Tree::new();
    let mut directories = vec![Tree::ROOT];
    let mut others: Vec<InodeId> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let parent = directories[step.parent % directories.len()];
        if tree[parent].entries().unwrap().contains_key(step.name.as_slice()) {
            continue;
        }
        let content = match step.kind {
            0..=2 => Content::Directory(BTreeMap::new()),
            3..=5 => Content::Regular(FileData::Bytes(noise(step.length, index as u64).into())),
            6 => Content::Symlink(noise(step.length % 300 + 1, 3).iter().map(|b| b | 1).collect()),
            7 => Content::BlockDevice(DeviceNumber { major: 7, minor: step.owner >> 12 }),
            8 => Content::Fifo,
            _ if others.is_empty() => Content::Fifo,
            _ => {
                let id = others[step.length % others.len()];
                let name = step.name.clone().into();
                tree[parent].entries_mut().unwrap().insert(name, id);
                continue;
            }
        };
        let mut inode = Inode {
            permissions: u16::try_from(step.owner & 0o7777).unwrap(),
            uid: step.owner,
            gid: step.owner / 3,
            mtime: Timestamp { seconds: step.time.0, nanoseconds: step.time.1 },
            xattrs: Vec::new(),
            content,
        };
        if let Some((name, value)) = &step.xattr {
            let name = [b"user.", name.as_slice()].concat().into();
            inode.xattrs = vec![Xattr { name, value: value.as_slice().into() }];
        }
        let is_directory = inode.entries().is_some();
        let id = tree.add(inode);
        if is_directory { &mut directories } else { &mut others }.push(id);
        tree[parent].entries_mut().unwrap().insert(step.name.clone().into(), id);
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn tree_to_tar_to_image_to_tree(steps in proptest::collection::vec(step(), 0..40)) {
        let image = written(&grown(&steps));
        let (tar, _) = exported(&image);
        let again = make(&tar).unwrap();
        prop_assert_eq!(list(&again.bytes), list(&image));
        prop_assert!(exported(&again.bytes).0 == tar);
    }

    #[test]
    fn difference_makes_one_tree_of_another(
        lower in proptest::collection::vec(step(), 0..25),
        upper in proptest::collection::vec(step(), 0..25),
        shared in proptest::collection::vec(step(), 0..25),
    ) {
        let lower = written(&grown(&[shared.clone(), lower].concat()));
        let upper = written(&grown(&[shared, upper].concat()));
        let mut tar = Vec::new();
        let images = [Image::open(lower.as_slice()).unwrap(), Image::open(upper.as_slice()).unwrap()];
        diff_tar(Some(&images[0]), &images[1], &mut tar, &Cancel::new()).unwrap();
        let layer = make(&tar).unwrap().bytes;
        prop_assert_eq!(stacked(&lower, &layer), list(&upper));
    }

    /// Whatever the bytes, there is an error or an image, and no panic.
    #[test]
    fn random_changes_of_a_tar(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut tar = many_things().end();
        for (index, byte) in changes {
            let at = index.index(tar.len());
            tar[at] = byte;
        }
        if let Ok(made) = make(&tar) {
            list(&made.bytes);
        }
    }
}

#[test]
fn a_damaged_image_is_no_endless_tar() {
    // A directory that names itself below itself.
    let mut tree = Tree::new();
    let inner = tree.add(Inode::directory());
    tree[Tree::ROOT].entries_mut().unwrap().insert(b"inner".as_slice().into(), inner);
    let file = tree.add(Inode { content: Content::Fifo, ..Inode::directory() });
    tree[inner].entries_mut().unwrap().insert(b"loop".as_slice().into(), file);
    let mut image = written(&tree);
    let entry = image.windows(4).rposition(|bytes| bytes == b"loop").unwrap();
    let open = Image::open(image.as_slice()).unwrap();
    let root = open.inode(open.root()).unwrap();
    let inner = open.lookup(&root, b"inner").unwrap().unwrap().nid;
    let child = open.lookup(&open.inode(inner).unwrap(), b"loop").unwrap().unwrap().nid;
    let slot = image[..entry].windows(8).rposition(|bytes| bytes == child.0.to_le_bytes()).unwrap();
    image[slot..slot + 8].copy_from_slice(&inner.0.to_le_bytes());
    image[slot + 10] = 2;
    let mut tar = Vec::new();
    let error = write_layer_tar(&Image::open(image.as_slice()).unwrap(), &mut tar, &Cancel::new());
    assert_eq!(error.unwrap_err().kind(), layer::ErrorKind::Corrupt);
}
