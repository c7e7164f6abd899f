//! Tree to image to tree: what this crate writes, it reads back equal, and its checker finds nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use erofs::{Content, FileData, Image, Inode, InodeId, InodeView, Nid, Tree, Xattr};
use proptest::prelude::*;
use support::{Sample, recipes};

fn open(sample: &Sample) -> Image<Vec<u8>> {
    Image::open_with_devices(sample.image.clone(), sample.devices.clone()).unwrap()
}

/// The image's own view beside the loaded tree beside the written one.
struct Comparison<'s> {
    sample: &'s Sample,
    image: &'s Image<Vec<u8>>,
    loaded: &'s Tree,
    pairs: HashMap<InodeId, (InodeId, Nid)>,
    links: HashMap<InodeId, (u32, u32)>,
}

impl Comparison<'_> {
    fn inode(&mut self, id: InodeId, loaded: InodeId, view: &InodeView) {
        let pair = *self.pairs.entry(id).or_insert((loaded, view.nid));
        assert_eq!(pair, (loaded, view.nid), "{id:?}: hard links stay hard links");
        let (written, read) = (&self.sample.tree[id], &self.loaded[loaded]);
        assert_eq!(attributes(written), attributes(read), "{id:?}");
        let links = self.links.entry(id).or_insert((0, view.nlink));
        links.0 += 1;
        match (&written.content, &read.content) {
            (Content::Directory(written), Content::Directory(read)) => {
                assert!(written.keys().eq(read.keys()), "{id:?}: names");
                let entries = self.image.read_dir(view).unwrap();
                assert!(
                    entries.iter().map(|entry| &entry.name).eq(written.keys()),
                    "{id:?}: names"
                );
                for ((entry, &child), &loaded) in
                    entries.iter().zip(written.values()).zip(read.values())
                {
                    let child_view = self.image.inode(entry.nid).unwrap();
                    assert_eq!(entry.file_type, child_view.file_type);
                    if self.sample.tree[child].entries().is_some() {
                        self.links.get_mut(&id).unwrap().0 += 1;
                        // A directory's own `.` is its second name.
                        self.links.insert(child, (1, child_view.nlink));
                    }
                    self.inode(child, loaded, &child_view);
                }
            }
            (Content::Regular(written), Content::Regular(read)) => {
                assert_eq!(written.size(), read.size(), "{id:?}: size");
                let mut found = Vec::new();
                self.image.reader(view).read_to_end(&mut found).unwrap();
                assert!(found == self.sample.contents[&id], "{id:?}: data");
                if let FileData::Bytes(bytes) = read {
                    assert!(**bytes == found[..], "{id:?}: loaded data");
                }
            }
            (written, read) => assert_eq!(written, read, "{id:?}"),
        }
    }
}

fn attributes(inode: &Inode) -> (u16, u32, u32, erofs::Timestamp, Vec<&Xattr>) {
    let mut xattrs: Vec<_> = inode.xattrs.iter().collect();
    xattrs.sort();
    (inode.permissions, inode.uid, inode.gid, inode.mtime, xattrs)
}

/// Empties every file and copies its bytes into the tree.
fn with_contents_in_memory(sample: &Sample) -> Tree {
    let mut tree = sample.tree.clone();
    for (&id, bytes) in &sample.contents {
        tree[id].content = Content::Regular(FileData::Bytes(bytes[..].into()));
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn tree_to_image_to_tree(recipe in recipes(true)) {
        let sample = recipe.build();
        let image = open(&sample);
        let report = erofs::check(&image);
        prop_assert!(report.findings.is_empty(), "{:?}", report.findings);
        prop_assert_eq!(report.counts.inodes, sample.summary.inodes);
        let loaded = image.load_tree().unwrap();
        let root = image.inode(image.root()).unwrap();
        let mut comparison = Comparison {
            sample: &sample,
            image: &image,
            loaded: &loaded,
            pairs: HashMap::new(),
            links: HashMap::from([(Tree::ROOT, (1, root.nlink))]),
        };
        comparison.inode(Tree::ROOT, Tree::ROOT, &root);
        for (id, (counted, stored)) in comparison.links {
            prop_assert_eq!(counted, stored, "links of {:?}", id);
        }
    }

    /// The superblock says what the options said.
    #[test]
    fn options_to_superblock(recipe in recipes(true), uuid in any::<[u8; 16]>(), label in "[a-z]{0,15}") {
        let sample = recipe.build();
        let options = erofs::WriterOptions { label: label.clone(), ..sample.options.clone() };
        let tree = with_contents_in_memory(&sample);
        let writer = erofs::ImageWriter::new(Vec::new(), options).unwrap();
        let (bytes, summary) = writer.finish(&tree, uuid).unwrap();
        let image = Image::open_with_devices(bytes, sample.devices.clone()).unwrap();
        prop_assert_eq!(image.uuid(), uuid);
        prop_assert_eq!(image.label(), label.as_bytes());
        prop_assert_eq!(image.block_size(), sample.options.block_size.bytes());
        prop_assert_eq!(image.length(), summary.length);
        prop_assert_eq!(image.devices().len(), sample.devices.len());
        let report = erofs::check(&image);
        prop_assert!(report.findings.is_empty(), "{:?}", report.findings);
    }

    /// Same tree and data, same bytes, whatever the order of inodes and xattrs in memory.
    #[test]
    fn same_input_same_bytes(recipe in recipes(true)) {
        let sample = recipe.build();
        prop_assert!(sample.image == recipe.build().image);
        let tree = with_contents_in_memory(&sample);
        let write = |tree: &Tree| {
            let writer = erofs::ImageWriter::new(Vec::new(), sample.options.clone()).unwrap();
            writer.finish(tree, [1; 16]).unwrap().0
        };
        prop_assert!(write(&tree) == write(&reversed(&tree)));
    }
}

/// The same tree with its inodes in another order.
fn reversed(tree: &Tree) -> Tree {
    let count = u32::try_from(tree.len()).unwrap();
    let place = |id: InodeId| if id == Tree::ROOT { id } else { InodeId(count - id.0) };
    let mut other = Tree::new();
    for index in 0..count {
        let mut inode = tree[if index == 0 { Tree::ROOT } else { place(InodeId(index)) }].clone();
        inode.xattrs.reverse();
        if let Some(names) = inode.entries_mut() {
            let moved: BTreeMap<_, _> =
                names.iter().map(|(name, &id)| (name.clone(), place(id))).collect();
            *names = moved;
        }
        match index {
            0 => other[Tree::ROOT] = inode,
            _ => assert_eq!(other.add(inode), InodeId(index)),
        }
    }
    other
}
