//! Placement rules and the worked example, on images in memory.

use sha2::{Digest, Sha256};

use super::*;
use crate::tree::{Content, Inode, InodeId};

fn add(tree: &mut Tree, dir: InodeId, name: &[u8], inode: Inode) -> InodeId {
    let id = tree.add(inode);
    tree[dir].entries_mut().unwrap().insert(name.into(), id);
    id
}

fn regular(bytes: &[u8]) -> Inode {
    Inode {
        permissions: 0o644,
        content: Content::Regular(FileData::Bytes(bytes.into())),
        ..Inode::directory()
    }
}

fn write(tree: &Tree, options: WriterOptions) -> Result<(Vec<u8>, ImageSummary)> {
    ImageWriter::new(Vec::new(), options)?.finish(tree, [0; 16])
}

#[test]
fn worked_example_is_byte_exact() {
    let mut tree = Tree::new();
    add(&mut tree, Tree::ROOT, b"hi", regular(b"hello\n"));
    let cases = [
        (
            BlockSize::B4096,
            8192,
            "82f61ffe2c4fcdce53d20b099cdfb51f38135b332fcc82cc184ae5442c6a9c17",
        ),
        (BlockSize::B512, 4096, "b96076af73aeb67452abb9c9fa87493ad47790ef0f626387f4c29459259dc1fb"),
    ];
    for (block_size, length, digest) in cases {
        let options = WriterOptions { block_size, checksum: Some(true), ..Default::default() };
        let (image, summary) = write(&tree, options).unwrap();
        assert_eq!(image.len(), length);
        assert_eq!(summary.length, length as u64);
        assert_eq!((summary.inodes, summary.compact_inodes), (2, 2));
        let found: String = Sha256::digest(&image).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, digest, "{block_size:?}");
    }
}
