use super::*;
use crate::format::{FileType, SuperBlock};
use crate::testing::{Patch, worked_example};
use crate::{Content, FileData};
use std::io::Read;
use std::mem::offset_of;

#[test]
fn the_worked_example_reads_at_both_block_sizes() {
    for block_bits in [9, 12] {
        let bytes = worked_example(block_bits);
        let image = Image::open(&bytes[..]).unwrap();
        image.verify_checksum().unwrap();
        assert_eq!(image.block_size(), 1 << block_bits);
        assert_eq!(image.root(), Nid(1));
        let root = image.inode(image.root()).unwrap();
        assert_eq!((root.mode(), root.nlink, root.size), (0o040_755, 2, 41));
        let names = image.read_dir(&root).unwrap();
        assert_eq!(names.len(), 1);
        assert_eq!((&*names[0].name, names[0].nid), (&b"hi"[..], Nid(4)));
        assert_eq!(names[0].file_type, FileType::Regular);
        assert_eq!(image.lookup(&root, b".").unwrap().unwrap().nid, Nid(1));
        assert!(image.lookup(&root, b"ho").unwrap().is_none());
        let hi = image.resolve(b"/./hi", true).unwrap();
        let mut text = String::new();
        image.reader(&hi).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
        let mut two = [0; 2];
        assert_eq!(image.read_at(&hi, &mut two, 5).unwrap(), 1);
        let extents: Vec<_> = image.extents(&hi).map(Result::unwrap).collect();
        let source = ExtentSource::Inline { position: hi.position + 32 };
        assert_eq!(extents, [Extent { offset: 0, length: 6, source }]);
        let tree = image.load_tree().unwrap();
        let id = tree.lookup([&b"hi"[..]]).unwrap();
        assert_eq!(tree[id].content, Content::Regular(FileData::Bytes((*b"hello\n").into())));
    }
}

#[test]
fn foreign_and_short_files_are_not_erofs() {
    for bytes in [vec![], vec![0; 1151], vec![0; 4096]] {
        assert_eq!(Image::open(bytes).unwrap_err().kind(), ErrorKind::NotErofs);
    }
}

#[test]
fn features_that_are_not_read_are_refused_by_name() {
    let feature = offset_of!(SuperBlock, feature_incompat) as u64 + 1024;
    let refuse = |patch: Patch, name: &str| {
        let error = Image::open(patch.apply(worked_example(12))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    };
    refuse(Patch::u32(feature, 0x100), "metabox");
    refuse(Patch::u32(feature, 0x4000), "0x4000");
    refuse(Patch::u8(1024 + offset_of!(SuperBlock, dirblkbits) as u64, 1), "directory blocks");
    refuse(Patch::u8(1024 + offset_of!(SuperBlock, blkszbits) as u64, 17), "2^17");
    // What old mkfs leaves behind is no reason to refuse.
    Image::open(Patch::u32(feature, 0x77).apply(worked_example(12))).unwrap().load_tree().unwrap();
}

#[test]
fn compressed_data_is_refused_and_its_neighbours_are_read() {
    let bytes = Patch::u16(4224, 3 << 1).apply(worked_example(12));
    let image = Image::open(bytes).unwrap();
    let hi = image.resolve(b"hi", true).unwrap();
    assert!(hi.is_compressed());
    let error = image.read_at(&hi, &mut [0; 6], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("compressed"), "{error}");
    let error = image.load_tree().unwrap_err();
    assert!(error.to_string().starts_with("/hi: compressed"), "{error}");
    assert_eq!(image.read_dir(&image.inode(Nid(1)).unwrap()).unwrap().len(), 1);
}

#[test]
fn wild_positions_are_errors() {
    let image = Image::open(worked_example(12)).unwrap();
    for nid in [u64::MAX, 1 << 63, u64::MAX >> 1, 1 << 59, 4096, 128] {
        assert!(image.inode(Nid(nid)).is_err(), "nid {nid}");
    }
}

#[test]
fn a_cut_image_never_reads_past_its_end() {
    let whole = worked_example(12);
    for length in (0..whole.len()).step_by(16) {
        if let Ok(image) = Image::open(&whole[..length]) {
            let loaded = image.load_tree();
            assert_eq!(loaded.is_ok(), length >= 4224 + 32 + 6, "length {length}");
        }
    }
}

#[test]
fn flat_data_nowhere_is_a_hole() {
    // `hi` becomes a plain file of 10,000 bytes without blocks.
    let bytes = Patch::u16(4224, 0).apply(Patch::u32(4224 + 8, 10_000).apply(worked_example(12)));
    let image = Image::open(bytes).unwrap();
    let hi = image.resolve(b"hi", true).unwrap();
    let extents: Vec<_> = image.extents(&hi).map(Result::unwrap).collect();
    assert_eq!(extents, [Extent { offset: 0, length: 10_000, source: ExtentSource::Hole }]);
    let mut buf = [1; 100];
    assert_eq!(image.read_at(&hi, &mut buf, 9_950).unwrap(), 50);
    assert_eq!(buf[..50], [0; 50]);
    let tree = image.load_tree().unwrap();
    let id = tree.lookup([&b"hi"[..]]).unwrap();
    let chunks = [None].into();
    let hole = FileData::Chunks { size: 10_000, chunk_bits: 14, chunks };
    assert_eq!(tree[id].content, Content::Regular(hole));
}

#[test]
fn links_are_followed_inside_the_image_only() {
    let link = |target: &str| Content::Symlink(target.as_bytes().into());
    let bytes = |text: &str| Content::Regular(FileData::Bytes(text.as_bytes().into()));
    let tree = crate::testing::tree_of(&[
        ("etc/passwd", bytes("inside"), &[]),
        ("up", link("../../../etc/passwd"), &[]),
        ("absolute", link("/etc/../etc/passwd"), &[]),
        ("etc/dir", link("/etc"), &[]),
        ("loop", link("loop"), &[]),
        ("dangling", link("nowhere"), &[]),
    ]);
    let image = Image::open(crate::testing::image_of(&tree, 1)).unwrap();
    let passwd = image.resolve(b"etc/passwd", true).unwrap();
    for path in ["up", "absolute", "/etc/dir/dir/../etc/dir/passwd", "..//etc/./passwd"] {
        assert_eq!(image.resolve(path.as_bytes(), true).unwrap(), passwd, "{path}");
    }
    assert_eq!(image.resolve(b"up", false).unwrap().file_type, FileType::Symlink);
    for path in ["loop", "dangling", "etc/passwd/x", "none"] {
        let error = image.resolve(path.as_bytes(), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{path}");
    }
}

#[test]
fn fifty_thousand_nested_directories_need_no_stack() {
    let mut tree = crate::Tree::new();
    let mut here = crate::Tree::ROOT;
    for _ in 0..50_000 {
        let next = tree.add(crate::Inode::directory());
        tree[here].entries_mut().unwrap().insert((*b"d").into(), next);
        here = next;
    }
    let image = Image::open(crate::testing::image_of(&tree, 1)).unwrap();
    assert_eq!(image.load_tree().unwrap().len(), 50_001);
    assert_eq!(crate::check(&image).findings, []);
    crate::dump(&image, &mut std::io::sink()).unwrap();
    assert_eq!(crate::merge(&[&image]).unwrap().tree.len(), 50_001);
    assert_eq!(crate::diff(&image, &image).unwrap(), []);
}
