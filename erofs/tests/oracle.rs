//! Images that this crate writes, judged by readers that know nothing of it: erofs-utils (1.5 and newer)
//! and the crate `erofs-rs`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use erofs::{
    BlockSize, Content, DeviceInfo, FileData, ImageWriter, Inode, InodeId, Timestamp, Tree,
    WriterOptions,
};
use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use proptest::prelude::*;
use support::{Sample, noise, recipes};

fn run(tool: &str, arguments: &[&str], image: &Path) -> String {
    let output = Command::new(tool).args(arguments).arg(image).output().unwrap_or_else(|error| {
        panic!("{tool} does not run ({error}); install the package erofs-utils")
    });
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{tool} {arguments:?}: {}: {text}", output.status);
    text
}

fn add(tree: &mut Tree, dir: InodeId, name: &str, inode: Inode) -> InodeId {
    let id = tree.add(inode);
    tree[dir].entries_mut().unwrap().insert(name.as_bytes().into(), id);
    id
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    /// fsck.erofs walks the tree, reads all data and finds nothing.
    #[test]
    fn fsck_erofs_accepts_random_trees(mut recipe in recipes(false)) {
        // erofs-utils 1.5 knows neither other block sizes nor long prefixes.
        recipe.block_size = BlockSize::B4096;
        recipe.long_xattr_prefixes = false;
        let sample = recipe.build();
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image.erofs");
        std::fs::write(&image, &sample.image).unwrap();
        run("fsck.erofs", &["--extract"], &image);
    }

    /// erofs-rs sees the same tree at both block sizes, over devices, with long prefixes.
    #[test]
    fn erofs_rs_reads_random_trees(recipe in recipes(true)) {
        compare_with_erofs_rs(&recipe.build());
    }
}

#[test]
fn dump_erofs_reads_superblock_and_inodes() {
    let mut tree = Tree::new();
    let mtime = Timestamp { seconds: 1_735_689_600, nanoseconds: 0 };
    tree[Tree::ROOT].mtime = mtime;
    let data = FileData::Bytes(noise(1, 10_000).into());
    let dir = add(&mut tree, Tree::ROOT, "usr", Inode { mtime, ..Inode::directory() });
    let file = Inode {
        mtime: Timestamp { seconds: 1_000_000_000, nanoseconds: 5 },
        uid: 70_000,
        permissions: 0o4755,
        content: Content::Regular(data),
        ..Inode::directory()
    };
    let file = add(&mut tree, dir, "file", file);
    tree[dir].entries_mut().unwrap().insert(b"link".as_slice().into(), file);
    let options = WriterOptions { label: "plywood".into(), ..Default::default() };
    let writer = ImageWriter::new(Vec::new(), options).unwrap();
    let (bytes, summary) = writer.finish(&tree, *b"\x11\x22\x33\x44aaaabbbbcccc").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image.erofs");
    std::fs::write(&image, bytes).unwrap();

    let shown = run("dump.erofs", &["-s"], &image);
    let field = |name: &str| {
        let line = shown.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in {shown}")).rsplit(": ").next().unwrap().trim()
    };
    assert_eq!(field("Filesystem blocks"), (summary.length / 4096).to_string());
    assert_eq!(field("Filesystem inode count"), "3");
    assert!(field("Filesystem UUID").starts_with("11223344-6161-"));

    let shown = run("dump.erofs", &["--path=/usr/link"], &image);
    for part in ["Size: 10000", "Links: 2", "Uid: 70000", "Access: 0755", "2001-09-09"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

/// A device is outside what fsck.erofs 1.5 reads for flat inodes; chunks on it are enough here.
#[test]
fn fsck_erofs_accepts_extra_devices() {
    let directory = tempfile::tempdir().unwrap();
    let device = directory.path().join("device");
    std::fs::write(&device, noise(4, 20 * 4096)).unwrap();
    let options = WriterOptions {
        devices: vec![DeviceInfo { tag: b"blob".to_vec(), blocks: 20 }],
        ..Default::default()
    };
    let mut tree = Tree::new();
    let start = erofs::BlockAddress { device: 1, block: 4 };
    let content = Content::Regular(FileData::Extent { start, size: 30_001 });
    add(&mut tree, Tree::ROOT, "file", Inode { content, ..Inode::directory() });
    let writer = ImageWriter::new(Vec::new(), options).unwrap();
    let (bytes, _) = writer.finish(&tree, [5; 16]).unwrap();
    let image = directory.path().join("image.erofs");
    std::fs::write(&image, bytes).unwrap();
    let device = format!("--device={}", device.display());
    run("fsck.erofs", &[&device, "--extract"], &image);
}

/// Paths to inodes, with the link count that they should have.
fn paths(tree: &Tree) -> BTreeMap<Vec<u8>, (InodeId, u32)> {
    let mut paths = BTreeMap::new();
    let mut pending = vec![(Vec::new(), Tree::ROOT)];
    let mut links: BTreeMap<InodeId, u32> = BTreeMap::from([(Tree::ROOT, 2)]);
    while let Some((path, dir)) = pending.pop() {
        for (name, &id) in tree[dir].entries().unwrap() {
            let path = [&path[..], b"/", name].concat();
            if tree[id].entries().is_some() {
                *links.entry(id).or_default() += 2;
                *links.get_mut(&dir).unwrap() += 1;
                pending.push((path.clone(), id));
            } else {
                *links.entry(id).or_default() += 1;
            }
            paths.insert(path, id);
        }
    }
    paths.into_iter().map(|(path, id)| (path, (id, links[&id]))).collect()
}

fn compare_with_erofs_rs(sample: &Sample) {
    let devices = sample.devices.iter().map(|bytes| SliceImage::new(bytes)).collect();
    let image = EroFS::new_with_devices(SliceImage::new(&sample.image), devices).unwrap();
    let mut expected = paths(&sample.tree);
    for entry in image.walk_dir("/").unwrap() {
        let entry = entry.unwrap();
        let path = entry.dir_entry.path();
        let shown = path.as_bytes().escape_ascii().to_string();
        let (id, links) = expected.remove(path.as_bytes()).expect(&shown);
        let (inode, found) = (&sample.tree[id], entry.inode);
        assert_eq!(found.permissions().mode() & 0o7777, inode.permissions.into(), "{shown}");
        assert_eq!((found.uid(), found.gid()), (inode.uid, inode.gid), "{shown}");
        let mtime = (inode.mtime.seconds, inode.mtime.nanoseconds);
        assert_eq!(found.modified_unix(), mtime, "{shown}");
        assert_eq!(found.nlink(), links, "{shown}: links");
        let xattrs: BTreeMap<_, _> =
            inode.xattrs.iter().map(|x| (x.name.to_vec(), x.value.to_vec())).collect();
        assert_eq!(image.xattrs_inode(found).unwrap(), xattrs, "{shown}: xattrs");
        match &inode.content {
            Content::Directory(_) => assert!(found.is_dir(), "{shown}"),
            Content::Regular(_) => {
                let mut bytes = Vec::new();
                image.open_inode_file(found).unwrap().read_to_end(&mut bytes).unwrap();
                assert!(bytes == sample.contents[&id], "{shown}: data");
            }
            Content::Symlink(target) => {
                let found = image.read_link_inode(found).unwrap();
                assert_eq!(found.as_bytes(), &**target, "{shown}");
            }
            Content::CharDevice(number) | Content::BlockDevice(number) => {
                assert_eq!(found.device(), Some((number.major, number.minor)), "{shown}");
            }
            Content::Fifo | Content::Socket => {
                assert!(!found.is_dir() && !found.is_file() && !found.is_symlink(), "{shown}");
            }
        }
    }
    assert!(expected.is_empty(), "not found: {:?}", expected.keys());
}
