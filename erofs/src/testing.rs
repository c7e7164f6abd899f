//! Hand-made images for this crate's own tests.

use zerocopy::IntoBytes;

use crate::format::{self, CompactInode, Compat, Dirent, MAGIC, SuperBlock};

/// A change to an image's bytes.
pub(crate) struct Patch {
    offset: usize,
    bytes: Vec<u8>,
}

impl Patch {
    pub(crate) fn bytes(offset: u64, bytes: &[u8]) -> Self {
        Self { offset: usize::try_from(offset).unwrap(), bytes: bytes.to_vec() }
    }

    pub(crate) fn u8(offset: u64, value: u8) -> Self {
        Self::bytes(offset, &[value])
    }

    pub(crate) fn u16(offset: u64, value: u16) -> Self {
        Self::bytes(offset, &value.to_le_bytes())
    }

    pub(crate) fn u32(offset: u64, value: u32) -> Self {
        Self::bytes(offset, &value.to_le_bytes())
    }

    pub(crate) fn apply(self, mut image: Vec<u8>) -> Vec<u8> {
        image[self.offset..self.offset + self.bytes.len()].copy_from_slice(&self.bytes);
        image
    }
}

/// Puts the right checksum into an image that says it has one.
pub(crate) fn seal(mut image: Vec<u8>) -> Vec<u8> {
    let range = format::superblock_checksum_range(1 << image[1024 + 12]);
    image[1028..1032].fill(0);
    let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
    let checksum = format::superblock_checksum(&image[range]);
    image[1028..1032].copy_from_slice(&checksum.to_le_bytes());
    image
}

fn inode(format: u16, mode: u16, nlink: u16, size: u32, ino: u32) -> CompactInode {
    CompactInode {
        format: format.into(),
        xattr_icount: 0.into(),
        mode: mode.into(),
        nlink: nlink.into(),
        size: size.into(),
        mtime: 0.into(),
        u: format::NULL_BLOCK.into(),
        ino: ino.into(),
        uid: 0.into(),
        gid: 0.into(),
        reserved: 0.into(),
    }
}

/// A root directory with one file `hi` ("hello\n"), byte for byte the example in `docs/format/erofs.md`.
/// At 4096: root at 4128 (names at 4160), `hi` at 4224. At 512: 1568 and 1664.
pub(crate) fn worked_example(block_bits: u8) -> Vec<u8> {
    let (length, blocks, meta_blkaddr) = if block_bits == 9 { (4096, 8, 3) } else { (8192, 2, 1) };
    let mut image = vec![0; length];
    let mut superblock: SuperBlock = zerocopy::FromZeros::new_zeroed();
    superblock.magic = MAGIC.into();
    superblock.feature_compat = (Compat::SB_CHKSUM | Compat::MTIME).bits().into();
    superblock.blkszbits = block_bits;
    superblock.rootnid_2b = 1.into();
    superblock.inos = 2.into();
    superblock.blocks = blocks.into();
    superblock.meta_blkaddr = meta_blkaddr.into();
    image[1024..1152].copy_from_slice(superblock.as_bytes());

    let mut put = |position: usize, bytes: &[u8]| {
        image[position..position + bytes.len()].copy_from_slice(bytes);
    };
    let base = usize::try_from(meta_blkaddr).unwrap() << block_bits;
    put(base + 32, inode(4, 0o040_755, 2, 41, 1).as_bytes());
    let entry = |nid: u64, name_offset: u16, file_type: u8| Dirent {
        nid: nid.into(),
        name_offset: name_offset.into(),
        file_type,
        reserved: 0,
    };
    put(base + 64, [entry(1, 36, 2), entry(1, 37, 2), entry(4, 39, 1)].as_bytes());
    put(base + 100, b"...hi");
    put(base + 128, inode(4, 0o100_644, 1, 6, 2).as_bytes());
    put(base + 160, b"hello\n");
    seal(image)
}

#[test]
fn the_worked_example_has_its_known_checksums() {
    for (bits, checksum) in [(12, 0x4504_D2F2_u32), (9, 0x382D_D06A)] {
        assert_eq!(worked_example(bits)[1028..1032], checksum.to_le_bytes());
    }
}

/// A tree with every kind of thing in it, and its image at 4096.
///
/// `/a` (= `/dir/x`), `/acl`, `/big` (5,000 bytes in blocks), `/chr`, `/deep/…`, `/dir`, `/link`, `/many`
/// (a directory of two blocks), `/opaque`, `/sparse` (chunks with a hole), `/taken`; `shared` xattrs on several.
pub(crate) fn sample(options: crate::WriterOptions) -> (crate::Tree, Vec<u8>) {
    use crate::{Content, DeviceNumber, FileData, ImageWriter, Inode, InodeId, Tree};
    let mut tree = Tree::new();
    let mut writer = ImageWriter::new(Vec::new(), options).unwrap();
    let add = |tree: &mut Tree, dir: InodeId, name: &str, content: Content| {
        let id = tree.add(Inode { content, permissions: 0o644, ..Inode::directory() });
        tree[dir].entries_mut().unwrap().insert(name.as_bytes().into(), id);
        id
    };
    let regular = |bytes: &[u8]| Content::Regular(FileData::Bytes(bytes.into()));
    let directory = || Inode::directory().content;
    let root = Tree::ROOT;
    let a = add(&mut tree, root, "a", regular(b"hello\n"));
    let acl = add(&mut tree, root, "acl", regular(b"acl"));
    let entry = |tag: u16, bits: u16, id: u32| {
        [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let value = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 6, none),
        entry(2, 6, 1000),
        entry(4, 4, none),
        entry(0x10, 4, none),
        entry(0x20, 4, none),
    ];
    tree[acl].set_xattr(b"system.posix_acl_access", &value.concat());
    tree[acl].set_xattr(b"user.first", b"1");
    tree[acl].set_xattr(b"user.secnd", b"2");
    writer.begin_file(5000).unwrap();
    writer.write_data(&[7; 5000]).unwrap();
    let data = writer.end_file().unwrap();
    add(&mut tree, root, "big", Content::Regular(data));
    writer.begin_sparse_file(1 << 20, &[(0, 10), (1 << 19, 5000)]).unwrap();
    writer.write_data(&[9; 5010]).unwrap();
    let data = writer.end_file().unwrap();
    add(&mut tree, root, "sparse", Content::Regular(data));
    add(&mut tree, root, "chr", Content::CharDevice(DeviceNumber { major: 1, minor: 3 }));
    add(&mut tree, root, "taken", Content::CharDevice(DeviceNumber::WHITEOUT));
    add(&mut tree, root, "fifo", Content::Fifo);
    add(&mut tree, root, "link", Content::Symlink((*b"dir/x").into()));
    let dir = add(&mut tree, root, "dir", directory());
    tree[dir].entries_mut().unwrap().insert((*b"x").into(), a);
    let deep = add(&mut tree, root, "deep", directory());
    let deeper = add(&mut tree, deep, "er", directory());
    add(&mut tree, deeper, "end", regular(b""));
    let opaque = add(&mut tree, root, "opaque", directory());
    tree[opaque].set_xattr(b"trusted.overlay.opaque", b"y");
    let many = add(&mut tree, root, "many", directory());
    for number in 0..300 {
        let id = add(&mut tree, many, &format!("name{number:03}"), regular(b"some"));
        tree[id].set_xattr(b"user.shared", b"a value that many inodes have");
    }
    let (image, _) = writer.finish(&tree, [0x5A; 16]).unwrap();
    (tree, image)
}

/// A path, what it is, and its xattrs.
pub(crate) type Item<'a> = (&'a str, crate::Content, &'a [(&'a str, &'a str)]);

/// A tree from paths; missing parents are made. Paths end in `/` for directories.
pub(crate) fn tree_of(items: &[Item<'_>]) -> crate::Tree {
    use crate::{Content, Inode, Tree};
    let mut tree = Tree::new();
    for (path, content, xattrs) in items {
        let mut here = Tree::ROOT;
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        for (index, name) in names.iter().enumerate() {
            let known = tree[here].entries().unwrap().get(name.as_bytes()).copied();
            let child = known.unwrap_or_else(|| {
                let last = index + 1 == names.len() && !matches!(content, Content::Directory(_));
                let mut inode = Inode::directory();
                if last {
                    inode.permissions = 0o644;
                    inode.content = content.clone();
                }
                tree.add(inode)
            });
            tree[here].entries_mut().unwrap().insert(name.as_bytes().into(), child);
            here = child;
        }
        for (name, value) in *xattrs {
            tree[here].set_xattr(name.as_bytes(), value.as_bytes());
        }
    }
    tree
}

/// The image of a tree that holds all its data itself.
pub(crate) fn image_of(tree: &crate::Tree, uuid: u8) -> Vec<u8> {
    let writer = crate::ImageWriter::new(Vec::new(), crate::WriterOptions::default()).unwrap();
    writer.finish(tree, [uuid; 16]).unwrap().0
}
