//! Tree to image to tree: what the writer wrote is what the reader reads, and the checker finds nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::collections::HashMap;
use std::io::Read;

use erofs::{Content, FileData, Image, InodeId, Nid, Tree, check, diff};
use proptest::prelude::*;
use support::{Sample, recipes};

fn open(sample: &Sample) -> Image<&[u8]> {
    let devices = sample.devices.iter().map(Vec::as_slice).collect();
    Image::open_with_devices(sample.image.as_slice(), devices).unwrap()
}

/// Compares what is read with what was written, name by name; data by its bytes.
fn compare(sample: &Sample, image: &Image<&[u8]>, read: &Tree) {
    let mut same: HashMap<InodeId, InodeId> = HashMap::new();
    let mut pending = vec![(Tree::ROOT, Tree::ROOT, image.root())];
    while let Some((written_id, read_id, nid)) = pending.pop() {
        assert_eq!(*same.entry(read_id).or_insert(written_id), written_id, "hard links");
        let (written, read_inode) = (&sample.tree[written_id], &read[read_id]);
        let view = image.inode(nid).unwrap();
        let mut xattrs = written.xattrs.clone();
        xattrs.sort();
        let mut read_xattrs = read_inode.xattrs.clone();
        read_xattrs.sort();
        assert_eq!(read_xattrs, xattrs);
        assert_eq!(read_inode.permissions, written.permissions);
        assert_eq!((read_inode.uid, read_inode.gid), (written.uid, written.gid));
        assert_eq!(read_inode.mtime, written.mtime);
        match (&written.content, &read_inode.content) {
            (Content::Directory(names), Content::Directory(found)) => {
                assert!(names.keys().eq(found.keys()));
                for (name, child) in names {
                    let entry = image.lookup(&view, name).unwrap().unwrap();
                    pending.push((*child, found[name], entry.nid));
                }
            }
            (Content::Regular(data), Content::Regular(found)) => {
                assert_eq!(found.size(), data.size());
                let mut bytes = Vec::new();
                image.reader(&view).read_to_end(&mut bytes).unwrap();
                assert!(bytes == sample.contents[&written_id], "data of {nid}");
                if let FileData::Bytes(found) = found {
                    assert!(**found == bytes[..]);
                }
            }
            (written, read) => assert_eq!(read, written),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_written_is_read(recipe in recipes(true)) {
        let sample = recipe.build();
        let image = open(&sample);
        let report = check(&image);
        prop_assert_eq!(&report.findings, &[]);
        prop_assert_eq!(report.counts.inodes, sample.summary.inodes);
        let tree = image.load_tree().unwrap();
        compare(&sample, &image, &tree);
        prop_assert_eq!(diff(&image, &image).unwrap(), []);
    }

    #[test]
    fn paths_resolve_to_what_they_name(recipe in recipes(false)) {
        let sample = recipe.build();
        let image = open(&sample);
        let mut pending = vec![(Vec::new(), Tree::ROOT)];
        let mut seen: HashMap<InodeId, Nid> = HashMap::new();
        while let Some((path, id)) = pending.pop() {
            let view = image.resolve(&path, false).unwrap();
            prop_assert_eq!(*seen.entry(id).or_insert(view.nid), view.nid);
            for (name, child) in sample.tree[id].entries().into_iter().flatten() {
                pending.push(([&path[..], b"/", name].concat(), *child));
            }
        }
    }
}
