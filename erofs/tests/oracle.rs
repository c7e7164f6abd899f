//! Images that this crate writes, judged by erofs-utils (1.5 and newer).

mod support;

use std::path::Path;
use std::process::Command;

use erofs::{
    BlockSize, Content, DeviceInfo, FileData, ImageWriter, Inode, InodeId, Timestamp, Tree,
    WriterOptions,
};
use proptest::prelude::*;
use support::{noise, recipes};

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
