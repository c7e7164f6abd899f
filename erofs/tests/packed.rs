//! Small files in a packed file on an extra device.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Read as _;

use erofs::{
    BlockAddress, Code, Content, DeviceInfo, ErrorKind, FileData, Image, ImageWriter, Inode,
    InodeId, Tree, WriterOptions, Xattr, check, dump,
};

const BLOCK: usize = 4096;

fn device() -> Vec<u8> {
    (0..5 * BLOCK).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn regular(data: FileData) -> Inode {
    Inode { permissions: 0o644, content: Content::Regular(data), ..Inode::directory() }
}

/// The packed file: blocks 3 and 1 of the device, as chunks of one block each.
fn with_packed() -> Tree {
    let mut tree = Tree::new();
    let chunk = |block| Some(BlockAddress { device: 1, block });
    let chunks = [chunk(3), chunk(1)].into();
    let size = 2 * BLOCK as u64;
    let packed = tree.add(regular(FileData::Chunks { size, chunk_bits: 12, chunks }));
    tree.set_packed(packed);
    tree
}

fn add(tree: &mut Tree, name: &str, inode: Inode) -> InodeId {
    let id = tree.add(inode);
    tree[Tree::ROOT].entries_mut().unwrap().insert(name.as_bytes().into(), id);
    id
}

fn write(tree: &Tree) -> erofs::Result<Vec<u8>> {
    let devices = vec![DeviceInfo { tag: b"device".to_vec(), blocks: 5 }];
    let options = WriterOptions { devices, ..WriterOptions::default() };
    Ok(ImageWriter::new(Vec::new(), options)?.finish(tree, [1; 16])?.0)
}

#[test]
fn files_begin_at_any_byte_of_the_packed_file() {
    let mut tree = with_packed();
    let files = [("across", 4000, 200), ("all", 0, 8192), ("end", 8191, 1), ("start", 1, 700)];
    for (name, offset, size) in files {
        let id = add(&mut tree, name, regular(FileData::Packed { offset, size }));
        // What is behind the inode begins at a multiple of 8 whatever is before it.
        tree[id].xattrs = vec![Xattr { name: (*b"user.a").into(), value: name.as_bytes().into() }];
    }
    let bytes = write(&tree).unwrap();
    let device = device();
    let packed = [&device[3 * BLOCK..4 * BLOCK], &device[BLOCK..2 * BLOCK]].concat();
    let image = Image::open_with_devices(bytes.clone(), vec![device.clone()]).unwrap();
    let report = check(&image);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    for (name, offset, size) in files {
        let inode = image.resolve(name.as_bytes(), false).unwrap();
        assert!(inode.is_packed() && !inode.is_compressed());
        let mut found = Vec::new();
        image.reader(&inode).read_to_end(&mut found).unwrap();
        let offset = usize::try_from(offset).unwrap();
        assert_eq!(found, packed[offset..][..usize::try_from(size).unwrap()], "{name}");
    }
    let loaded = image.load_tree().unwrap();
    let content = |name: &str| &loaded[loaded.lookup([name.as_bytes()]).unwrap()].content;
    assert_eq!(*content("across"), Content::Regular(FileData::Packed { offset: 4000, size: 200 }));
    assert_eq!(write(&loaded).unwrap(), bytes);
    let mut text = Vec::new();
    dump(&image, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let line = "size=200 layout=packed data=0+96@1:16288,96+104@1:4096";
    assert!(text.contains(line), "{text}");
}

#[test]
fn what_is_outside_the_packed_file_is_refused() {
    let refused = |change: &dyn Fn(&mut Tree), what: &str| {
        let mut tree = with_packed();
        change(&mut tree);
        let error = write(&tree).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(what), "{error}");
    };
    for (offset, size) in [(8192, 1), (8000, 193), (u64::MAX, 1), (0, 0)] {
        let data = FileData::Packed { offset, size };
        let change = |tree: &mut Tree| _ = add(tree, "a", regular(data.clone()));
        refused(&change, "of a packed file of 8192");
    }
    let named = |tree: &mut Tree| {
        let packed = tree.packed().unwrap();
        tree[Tree::ROOT].entries_mut().unwrap().insert((*b"a").into(), packed);
    };
    refused(&named, "names the packed file");
    let bytes = |tree: &mut Tree| {
        let id = tree.add(regular(FileData::Bytes((*b"text").into())));
        tree.set_packed(id);
    };
    refused(&bytes, "no data in blocks");
    refused(&|tree| tree.set_packed(InodeId(77)), "no data in blocks");
}

#[test]
fn a_wild_offset_is_an_error() {
    let mut tree = with_packed();
    add(&mut tree, "a", regular(FileData::Packed { offset: 4000, size: 200 }));
    let bytes = write(&tree).unwrap();
    let stored = (4000_u64 | 1 << 63).to_le_bytes();
    let at = bytes.windows(8).position(|window| window == stored).unwrap();
    for offset in [8000, u64::MAX >> 1] {
        let mut damaged = bytes.clone();
        damaged[at..at + 8].copy_from_slice(&(offset | 1_u64 << 63).to_le_bytes());
        let image = Image::open_with_devices(damaged, vec![device()]).unwrap();
        let inode = image.resolve(b"a", false).unwrap();
        let error = image.read_at(&inode, &mut [0; 10], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(!check(&image).is_sound());
    }
    // Without the bit it is compressed data, whose form is not known here.
    let mut compressed = bytes;
    compressed[at + 7] &= 0x7F;
    let image = Image::open_with_devices(compressed, vec![device()]).unwrap();
    let inode = image.resolve(b"a", false).unwrap();
    assert!(inode.is_compressed());
    assert_eq!(image.load_tree().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn files_that_share_all_of_the_packed_file_do_not_keep_the_checker_busy() {
    let mut tree = Tree::new();
    // No two neighbours continue each other.
    let chunks = (0..8192).map(|index| Some(BlockAddress { device: 1, block: index % 2 * 3 }));
    let size = 8192 * BLOCK as u64;
    let data = FileData::Chunks { size, chunk_bits: 12, chunks: chunks.collect() };
    let packed = tree.add(regular(data));
    tree.set_packed(packed);
    for number in 0..3000 {
        let data = FileData::Packed { offset: 0, size };
        add(&mut tree, &format!("{number}"), regular(data));
    }
    let image = Image::open_with_devices(write(&tree).unwrap(), vec![device()]).unwrap();
    let report = check(&image);
    assert!(report.findings.iter().any(|finding| finding.code == Code::Limit));
    assert!(report.counts.data_bytes < 100 * size, "{}", report.counts.data_bytes);
}
