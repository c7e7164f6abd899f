//! Trees of every shape, out of lists of random steps.

use std::collections::BTreeMap;

use erofs::{
    Content, DeviceNumber, FileData, ImageWriter, Inode, InodeId, Timestamp, Tree, WriterOptions,
    Xattr,
};
use proptest::prelude::*;

use super::noise;

/// A tree out of a list of steps: parent, name, kind.
#[derive(Debug, Clone)]
pub struct Step {
    parent: usize,
    name: Vec<u8>,
    kind: u8,
    length: usize,
    time: (i64, u32),
    owner: u32,
    xattr: Option<(Vec<u8>, Vec<u8>)>,
}

pub fn step() -> impl Strategy<Value = Step> {
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

pub fn grown(steps: &[Step]) -> Tree {
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

/// The tree as an image.
pub fn written(tree: &Tree) -> Vec<u8> {
    let writer = ImageWriter::new(Vec::new(), WriterOptions::default()).unwrap();
    writer.finish(tree, [1; 16]).unwrap().0
}

/// The same as a layer over others: some of it deletes, some hides what is below.
pub fn as_layer(mut tree: Tree) -> Tree {
    let index = |index| InodeId(u32::try_from(index).unwrap());
    for id in (1..tree.len()).map(index) {
        let inode = &mut tree[id];
        match inode.content {
            Content::Fifo | Content::BlockDevice(_) if inode.uid.is_multiple_of(2) => {
                *inode = Inode {
                    permissions: 0,
                    content: Content::CharDevice(DeviceNumber::WHITEOUT),
                    ..Inode::directory()
                };
            }
            Content::Directory(_) if inode.uid.is_multiple_of(3) => {
                inode.set_xattr(b"trusted.overlay.opaque", b"y");
            }
            _ => {}
        }
    }
    tree
}
