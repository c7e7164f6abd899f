//! Writes small images to begin with: `cargo run --example seeds [DIRECTORY]`.
//!
//! The seeds are small so that a fuzzer gets through many of them; each holds something that the others lack.

use std::path::{Path, PathBuf};
use std::{env, fs};

use erofs::{
    BlockAddress, BlockSize, Content, DeviceInfo, DeviceNumber, FileData, Image, ImageWriter,
    Inode, InodeId, Tree, WriterOptions,
};
use layer::{Cancel, write_layer_tar};

fn main() {
    let directory = env::args_os().nth(1).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/erofs_image"),
        PathBuf::from,
    );
    fs::create_dir_all(&directory).expect("the seeds' directory can be made");
    let small = WriterOptions { block_size: BlockSize::B512, ..WriterOptions::default() };
    let large = WriterOptions::default();
    let prefixes = WriterOptions { long_xattr_prefixes: true, ..small.clone() };
    let on_device = WriterOptions {
        devices: vec![DeviceInfo { tag: b"device".to_vec(), blocks: 8 }],
        ..small.clone()
    };
    for (name, options, fill) in [
        ("empty", small.clone(), empty as fn(&mut Tree)),
        ("kinds", small.clone(), kinds),
        ("kinds-4096", large, kinds),
        ("names", small, names),
        ("prefixes", prefixes, kinds),
        ("device", on_device, device),
    ] {
        let mut tree = Tree::new();
        fill(&mut tree);
        let writer = ImageWriter::new(Vec::new(), options.clone()).expect("valid options");
        let (image, _) = writer.finish(&tree, [7; 16]).expect("a valid tree");
        if options.devices.is_empty() {
            let image = Image::open(image.as_slice()).expect("what was written opens");
            let mut tar = Vec::new();
            write_layer_tar(&image, &mut tar, &Cancel::new()).expect("a tar of the same tree");
            let tars = directory.with_file_name("layer_tar");
            fs::create_dir_all(&tars).expect("the seeds' directory can be made");
            fs::write(tars.join(name), tar).expect("a seed can be written");
        }
        // See the target: the first byte tells the device's share.
        let mut bytes = vec![0];
        bytes.extend(&image);
        if !options.devices.is_empty() {
            let device = [0xAB; 8 * 512];
            assert_eq!(image.len(), device.len(), "half of the bytes are the device");
            bytes[0] = 128;
            bytes.extend(device);
        }
        fs::write(directory.join(name), bytes).expect("a seed can be written");
    }
}

fn add(tree: &mut Tree, dir: InodeId, name: &str, content: Content) -> InodeId {
    let id = tree.add(Inode { content, ..Inode::directory() });
    let entries = tree[dir].entries_mut().expect("a directory");
    entries.insert(name.as_bytes().into(), id);
    id
}

fn bytes(bytes: &[u8]) -> Content {
    Content::Regular(FileData::Bytes(bytes.into()))
}

fn empty(_: &mut Tree) {}

fn kinds(tree: &mut Tree) {
    let root = Tree::ROOT;
    let a = add(tree, root, "a", bytes(b"hello"));
    tree[a].uid = 100_000;
    tree[a].set_xattr(b"user.mine", b"value");
    add(tree, root, "big", bytes(&[3; 1300]));
    let hole = FileData::Chunks { size: 4096, chunk_bits: 12, chunks: [None].into() };
    add(tree, root, "hole", Content::Regular(hole));
    let b = add(tree, root, "b", Inode::directory().content);
    tree[b].set_xattr(b"trusted.overlay.opaque", b"y");
    let deep = add(tree, b, "c", Inode::directory().content);
    tree[deep].entries_mut().expect("a directory").insert((*b"link").into(), a);
    add(tree, b, "to", Content::Symlink((*b"../a").into()));
    add(tree, root, "gone", Content::CharDevice(DeviceNumber::WHITEOUT));
    add(tree, root, "pipe", Content::Fifo);
    for number in 0..4 {
        let id = add(tree, deep, &format!("shared{number}"), bytes(b""));
        tree[id].set_xattr(b"trusted.overlay.origin", b"");
        tree[id].set_xattr(b"security.same", b"a longer value, which is shared");
    }
}

fn names(tree: &mut Tree) {
    for number in 0..60 {
        add(tree, Tree::ROOT, &format!("a-name-of-some-length-{number}"), bytes(b""));
    }
}

fn device(tree: &mut Tree) {
    let start = BlockAddress { device: 1, block: 0 };
    add(tree, Tree::ROOT, "run", Content::Regular(FileData::Extent { start, size: 1000 }));
    let tail = [1; 10].into();
    let data = FileData::ExtentAndTail { start, size: 522, tail };
    add(tree, Tree::ROOT, "tail", Content::Regular(data));
    let chunks = [Some(start), None, Some(start)].into();
    let data = FileData::Chunks { size: 1500, chunk_bits: 9, chunks };
    add(tree, Tree::ROOT, "chunks", Content::Regular(data));
}
