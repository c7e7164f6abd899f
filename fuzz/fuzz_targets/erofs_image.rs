//! Any bytes as an EROFS image: opened, loaded, checked, dumped, merged, compared, and its data read.

#![no_main]

use std::io::{self, Read};

use erofs::{Image, Tree, check, diff, dump, merge};
use libfuzzer_sys::fuzz_target;

/// Bytes of file data read in all: holes and shared blocks make any size legal.
const DATA: u64 = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    // The first byte decides where the image ends and an extra device begins.
    let Some((split, bytes)) = bytes.split_first() else { return };
    run(bytes, Vec::new());
    if *split > 0 {
        let at = (bytes.len() * usize::from(*split)) >> 8;
        run(&bytes[..at], vec![&bytes[at..]]);
    }
});

fn run(primary: &[u8], devices: Vec<&[u8]>) {
    let Ok(image) = Image::open_with_devices(primary, devices) else { return };
    let _ = image.verify_checksum();
    let _ = check(&image);
    dump(&image, &mut io::sink()).expect("a sink takes everything");
    let _ = merge(&[&image, &image]);
    let _ = image.resolve(b"/a/../b/c", true);
    if let Ok(tree) = image.load_tree() {
        read(&image, &tree);
        // Bounded like the reads: what differs nowhere is read to its end.
        let bytes: u64 = sizes(&image).iter().fold(0, |sum, size| sum.saturating_add(*size));
        if bytes < DATA {
            assert_eq!(diff(&image, &image).unwrap_or_default(), [], "an image is equal to itself");
        }
    }
}

fn sizes(image: &Image<&[u8]>) -> Vec<u64> {
    walk(image).iter().map(|view| view.size).collect()
}

fn walk(image: &Image<&[u8]>) -> Vec<erofs::InodeView> {
    // Only called for images whose tree loads: there are no cycles.
    let mut found = Vec::new();
    let mut pending = vec![image.root()];
    while let Some(nid) = pending.pop() {
        let Ok(view) = image.inode(nid) else { continue };
        if view.is_dir() {
            pending.extend(image.read_dir(&view).unwrap_or_default().iter().map(|e| e.nid));
        }
        found.push(view);
    }
    found
}

fn read(image: &Image<&[u8]>, tree: &Tree) {
    let mut left = DATA;
    let views = walk(image);
    assert!(views.len() >= tree.len(), "every inode of the tree has a name");
    for view in views {
        let _ = image.xattrs(&view);
        for extent in image.extents(&view).take(1000).flatten() {
            assert!(extent.length > 0 && extent.end() <= view.size);
        }
        let read = io::copy(&mut image.reader(&view).take(left), &mut io::sink());
        left -= read.unwrap_or(0).min(left);
    }
}
