//! Small images damaged in every byte: nothing may panic, hang or grow without bound.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{self, Read};
use std::time::{Duration, Instant};

use erofs::{
    BlockAddress, BlockSize, Content, DeviceInfo, DeviceNumber, FileData, Image, ImageWriter,
    Inode, InodeId, Tree, WriterOptions, check, diff, dump, merge,
};

fn add(tree: &mut Tree, dir: InodeId, name: &str, content: Content) -> InodeId {
    let id = tree.add(Inode { content, ..Inode::directory() });
    tree[dir].entries_mut().unwrap().insert(name.as_bytes().into(), id);
    id
}

/// A small image with as many kinds of structure as possible, over one device.
fn image() -> (Vec<u8>, Vec<u8>) {
    let options = WriterOptions {
        block_size: BlockSize::B512,
        devices: vec![DeviceInfo { tag: b"device".to_vec(), blocks: 8 }],
        long_xattr_prefixes: true,
        checksum: Some(false),
        ..WriterOptions::default()
    };
    let mut tree = Tree::new();
    let root = Tree::ROOT;
    let a = add(&mut tree, root, "a", Content::Regular(FileData::Bytes((*b"hello").into())));
    tree[a].uid = 100_000;
    tree[a].set_xattr(b"user.mine", b"value");
    let start = BlockAddress { device: 1, block: 1 };
    let chunks = [Some(start), None, Some(start)].into();
    let data = FileData::Chunks { size: 1500, chunk_bits: 9, chunks };
    add(&mut tree, root, "chunks", Content::Regular(data));
    let data = FileData::ExtentAndTail { start, size: 522, tail: [1; 10].into() };
    add(&mut tree, root, "tail", Content::Regular(data));
    add(&mut tree, root, "plain", Content::Regular(FileData::Bytes([5; 700].into())));
    let dir = add(&mut tree, root, "dir", Inode::directory().content);
    tree[dir].set_xattr(b"trusted.overlay.opaque", b"y");
    tree[dir].entries_mut().unwrap().insert((*b"link").into(), a);
    add(&mut tree, dir, "to", Content::Symlink((*b"../a").into()));
    add(&mut tree, dir, "gone", Content::CharDevice(DeviceNumber::WHITEOUT));
    for number in 0..25 {
        let id = add(&mut tree, dir, &format!("a-longer-name-{number}"), Content::Fifo);
        tree[id].set_xattr(b"trusted.overlay.origin", b"");
    }
    let writer = ImageWriter::new(Vec::new(), options).unwrap();
    (writer.finish(&tree, [7; 16]).unwrap().0, vec![0xAB; 4096])
}

/// Does everything with an image that can be done, and does not care what comes of it.
fn exercise(primary: &[u8], device: &[u8]) {
    for devices in [vec![], vec![device]] {
        let Ok(image) = Image::open_with_devices(primary, devices) else { continue };
        let report = check(&image);
        dump(&image, &mut io::sink()).unwrap();
        let tree = image.load_tree();
        if report.is_sound() && report.findings.is_empty() {
            tree.as_ref().unwrap();
        }
        let _ = merge(&[&image, &image]);
        for path in [&b"/dir/to"[..], b"chunks", b"tail", b"plain"] {
            let Ok(view) = image.resolve(path, true) else { continue };
            let _ = image.extents(&view).take(1000).count();
            let _ = io::copy(&mut image.reader(&view).take(1 << 16), &mut io::sink());
        }
        if tree.is_ok() && report.counts.data_bytes < 1 << 20 {
            let _ = diff(&image, &image);
        }
    }
}

/// In long runs of one byte (fill, data) one stands for all.
fn is_fill(image: &[u8], offset: usize) -> bool {
    image[offset - 12..offset].iter().all(|byte| *byte == image[offset])
}

#[test]
fn damage_in_any_byte_is_survived() {
    let (image, device) = image();
    exercise(&image, &device);
    assert!(check(&Image::open_with_devices(&image[..], vec![&device[..]]).unwrap()).is_sound());
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut mutations = 0;
    let mut damaged = image.clone();
    // Bytes before the superblock are never read.
    for offset in 1024..image.len() {
        let flips: &[u8] = if image[offset] != 0 { &[0x01, 0x80, 0xFF] } else { &[0x01, 0xFF] };
        if is_fill(&image, offset) {
            continue;
        }
        for flip in flips {
            damaged[offset] ^= flip;
            let before = Instant::now();
            exercise(&damaged, &device);
            slowest = slowest.max(before.elapsed());
            damaged[offset] = image[offset];
            mutations += 1;
        }
    }
    for offset in (1024..image.len() - 8).step_by(4).filter(|offset| !is_fill(&image, *offset)) {
        for word in [0_u32, u32::MAX] {
            damaged[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
            exercise(&damaged, &device);
            damaged[offset..offset + 4].copy_from_slice(&image[offset..offset + 4]);
            mutations += 1;
        }
    }
    println!("{mutations} mutations in {:?}, the slowest {slowest:?}", started.elapsed());
    assert!(mutations > 3000);
    assert!(slowest < Duration::from_secs(5), "one took {slowest:?}");
}

#[test]
fn every_truncation_is_survived() {
    let (image, device) = image();
    for length in (0..image.len()).step_by(8) {
        exercise(&image[..length], &device);
        exercise(&image, &device[..length.min(device.len())]);
    }
}
