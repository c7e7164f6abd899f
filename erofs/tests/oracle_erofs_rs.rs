//! Images that this crate writes, read by an independent reader: the `erofs-rs` crate.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt;

use erofs::{Content, InodeId, Tree};
use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use erofs_rs::types::{DirentFileType, Inode as ForeignInode};
use proptest::prelude::*;
use support::{Sample, recipes};

struct Comparison<'a> {
    sample: &'a Sample,
    foreign: &'a EroFS<SliceImage<'a>>,
    nids: HashMap<InodeId, u64>,
    links: HashMap<InodeId, u32>,
}

impl Comparison<'_> {
    fn inode(&mut self, id: InodeId, foreign: ForeignInode) {
        let inode = &self.sample.tree[id];
        assert_eq!(*self.nids.entry(id).or_insert(foreign.id()), foreign.id(), "hard links");
        assert_eq!(foreign.permissions().mode() & 0o7777, u32::from(inode.permissions));
        assert_eq!((foreign.uid(), foreign.gid()), (inode.uid, inode.gid));
        let mtime = (inode.mtime.seconds, inode.mtime.nanoseconds);
        assert_eq!(foreign.modified_unix(), mtime);
        assert_eq!(foreign.nlink(), self.links[&id]);
        let expected: BTreeMap<_, _> =
            inode.xattrs.iter().map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec())).collect();
        assert_eq!(self.foreign.xattrs_inode(foreign).unwrap(), expected);
        match &inode.content {
            Content::Directory(_) => assert!(foreign.is_dir()),
            Content::Regular(_) => {
                let expected = &self.sample.contents[&id];
                let file = self.foreign.open_inode_file(foreign).unwrap();
                assert_eq!(file.size(), expected.len() as u64);
                let mut found = vec![0; expected.len()];
                let mut done = 0;
                while done < found.len() {
                    match file.read_at(&mut found[done..], done as u64).unwrap() {
                        0 => panic!("the file ends at {done}"),
                        n => done += n,
                    }
                }
                assert!(found == *expected, "data of inode {}", foreign.id());
            }
            Content::Symlink(target) => {
                let found = self.foreign.read_link_inode(foreign).unwrap();
                assert_eq!(found.as_bytes(), &**target);
            }
            Content::CharDevice(number) | Content::BlockDevice(number) => {
                assert_eq!(foreign.device(), Some((number.major, number.minor)));
            }
            Content::Fifo | Content::Socket => assert_eq!(foreign.data_size(), 0),
        }
    }
}

fn entry_type(content: &Content) -> DirentFileType {
    match content {
        Content::Directory(_) => DirentFileType::Directory,
        Content::Regular(_) => DirentFileType::RegularFile,
        Content::Symlink(_) => DirentFileType::Symlink,
        Content::CharDevice(_) => DirentFileType::CharacterDevice,
        Content::BlockDevice(_) => DirentFileType::BlockDevice,
        Content::Fifo => DirentFileType::Fifo,
        Content::Socket => DirentFileType::Socket,
    }
}

/// Paths to inodes, and the link count that each inode should have.
fn index(tree: &Tree) -> (BTreeMap<Vec<u8>, InodeId>, HashMap<InodeId, u32>) {
    let mut paths = BTreeMap::new();
    let mut links = HashMap::from([(Tree::ROOT, 2)]);
    let mut pending = vec![(Vec::new(), Tree::ROOT)];
    while let Some((path, dir)) = pending.pop() {
        for (name, &id) in tree[dir].entries().unwrap() {
            let path = [&path[..], b"/", name].concat();
            if tree[id].entries().is_some() {
                *links.get_mut(&dir).unwrap() += 1;
                links.insert(id, 2);
                pending.push((path.clone(), id));
            } else {
                *links.entry(id).or_default() += 1;
            }
            paths.insert(path, id);
        }
    }
    (paths, links)
}

fn compare(sample: &Sample) {
    let devices = sample.devices.iter().map(|bytes| SliceImage::new(bytes)).collect();
    let foreign = EroFS::new_with_devices(SliceImage::new(&sample.image), devices).unwrap();
    let (mut paths, links) = index(&sample.tree);
    let mut comparison = Comparison { sample, foreign: &foreign, nids: HashMap::new(), links };
    let root = foreign.get_inode(foreign.super_block().root_inode_id()).unwrap();
    comparison.inode(Tree::ROOT, root);
    for entry in foreign.walk_dir("/").unwrap() {
        let entry = entry.unwrap();
        if matches!(entry.dir_entry.file_name(), b"." | b"..") {
            continue;
        }
        let path = entry.dir_entry.path();
        let id = paths.remove(path.as_bytes()).unwrap_or_else(|| panic!("{path:?} is extra"));
        assert_eq!(entry.dir_entry.file_type(), entry_type(&sample.tree[id].content));
        comparison.inode(id, entry.inode);
    }
    assert!(paths.is_empty(), "erofs-rs does not find {paths:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn an_independent_reader_sees_the_tree(recipe in recipes(true)) {
        compare(&recipe.build());
    }
}
