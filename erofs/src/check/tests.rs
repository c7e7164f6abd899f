use std::collections::BTreeSet;
use std::mem::offset_of;

use super::*;
use crate::format::{CompactInode, DataLayout, Dirent, ExtendedInode, SuperBlock, XattrHeader};
use crate::testing::{Patch, sample, seal, worked_example};
use crate::{
    BlockAddress, Content, DeviceInfo, FileData, ImageWriter, Inode, InodeView, Tree, WriterOptions,
};

fn codes<R: ReadAt>(image: &Image<R>) -> BTreeSet<Code> {
    check(image).findings.iter().map(|finding| finding.code).collect()
}

/// The sample image, ready to be damaged.
struct Damaged {
    bytes: Vec<u8>,
}

impl Damaged {
    fn new() -> Self {
        Self { bytes: sample(WriterOptions::default()).1 }
    }

    fn view(&self, path: &str) -> InodeView {
        Image::open(&self.bytes[..]).unwrap().resolve(path.as_bytes(), false).unwrap()
    }

    fn patch(mut self, patch: Patch) -> Self {
        self.bytes = patch.apply(self.bytes);
        self
    }

    /// Changes a field of a path's inode.
    fn inode16(self, path: &str, field: usize, value: u16) -> Self {
        let position = self.view(path).position;
        self.patch(Patch::u16(position + field as u64, value))
    }

    fn inode32(self, path: &str, field: usize, value: u32) -> Self {
        let position = self.view(path).position;
        self.patch(Patch::u32(position + field as u64, value))
    }

    fn superblock(self, field: usize, bytes: &[u8]) -> Self {
        self.patch(Patch::bytes(1024 + field as u64, bytes))
    }

    /// Where the directory of a path has its bytes; directories of the sample are inline or one extent.
    fn names(&self, path: &str) -> u64 {
        let image = Image::open(&self.bytes[..]).unwrap();
        let extent = image.extents(&self.view(path)).next().unwrap().unwrap();
        match extent.source {
            ExtentSource::Inline { position } | ExtentSource::Blocks { position, .. } => position,
            ExtentSource::Hole => panic!("a directory in a hole"),
        }
    }

    /// Position of a byte string in a directory's data.
    fn in_names(&self, path: &str, needle: &[u8]) -> u64 {
        let start = self.names(path);
        let from = usize::try_from(start).unwrap();
        let at = self.bytes[from..].windows(needle.len()).position(|window| window == needle);
        start + at.unwrap() as u64
    }

    /// Position of the entry of a name in a directory's first block.
    fn entry(&self, path: &str, name: &str) -> u64 {
        let start = self.names(path);
        let image = Image::open(&self.bytes[..]).unwrap();
        let mut block = Vec::new();
        image.directory_block(&self.view(path), 0, &mut block).unwrap();
        let entries = parse_block(&block).unwrap();
        let index = entries.iter().position(|entry| entry.name == name.as_bytes()).unwrap();
        start + (index * size_of::<Dirent>()) as u64
    }

    fn codes(self) -> BTreeSet<Code> {
        codes(&Image::open(seal(self.bytes)).unwrap())
    }
}

use crate::ExtentSource;
use crate::reader::parse_block;

/// An image over one extra device of `device_blocks` blocks, with one file on it.
fn over_device(size: u64, device_blocks: u32) -> Vec<u8> {
    let devices = vec![DeviceInfo { tag: b"tag".to_vec(), blocks: device_blocks }];
    let options = WriterOptions { devices, ..WriterOptions::default() };
    let mut tree = Tree::new();
    let start = BlockAddress { device: 1, block: 0 };
    let content = Content::Regular(FileData::Extent { start, size });
    let id = tree.add(Inode { content, ..Inode::directory() });
    tree[Tree::ROOT].entries_mut().unwrap().insert((*b"f").into(), id);
    ImageWriter::new(Vec::new(), options).unwrap().finish(&tree, [1; 16]).unwrap().0
}

#[test]
fn sound_images_have_no_findings() {
    let (tree, bytes) = sample(WriterOptions::default());
    let report = check(&Image::open(bytes).unwrap());
    assert_eq!(report.findings, []);
    assert!(report.is_sound());
    assert_eq!(report.counts.inodes, tree.len() as u64);
    assert_eq!(report.counts.names, tree.len() as u64);
    assert_eq!(report.counts.directories, 6);
    assert_eq!(report.counts.xattrs, 304);
    for bits in [9, 12] {
        assert_eq!(check(&Image::open(worked_example(bits)).unwrap()).findings, []);
    }
    let image = Image::open_with_devices(over_device(5000, 2), vec![vec![0; 8192]]).unwrap();
    assert_eq!(check(&image).findings, []);
}

/// Every code has damage that provokes it; the list is complete by the last assertion.
#[test]
fn every_finding_can_be_provoked() {
    let mut seen = BTreeSet::new();
    let mut expect = |codes: BTreeSet<Code>, code: Code| {
        assert!(codes.contains(&code), "{code} is not in {codes:?}");
        seen.insert(code);
    };
    let new = Damaged::new;

    let unsealed = new().superblock(offset_of!(SuperBlock, epoch), &[1]);
    expect(codes(&Image::open(unsealed.bytes).unwrap()), Code::Checksum);
    expect(new().superblock(offset_of!(SuperBlock, inos), &[1]).codes(), Code::InodeCount);
    expect(new().superblock(offset_of!(SuperBlock, blocks), &[1]).codes(), Code::BlockCount);
    expect(new().superblock(offset_of!(SuperBlock, volume_name), &[b'x'; 16]).codes(), Code::Label);
    expect(new().superblock(offset_of!(SuperBlock, reserved2), &[1]).codes(), Code::Reserved);
    let nanoseconds = offset_of!(SuperBlock, fixed_nsec);
    expect(new().superblock(nanoseconds, &[255; 4]).codes(), Code::Nanoseconds);
    let mut longer = new();
    longer.bytes.extend([0; 100]);
    expect(longer.codes(), Code::Padding);
    let flags = offset_of!(SuperBlock, feature_incompat);
    expect(new().superblock(flags, &[0; 4]).codes(), Code::FeatureFlag);

    let compact_mtime = offset_of!(CompactInode, mtime);
    assert!(!new().view("a").extended);
    expect(new().inode32("a", compact_mtime, 5).codes(), Code::WideField);
    let nlink = offset_of!(CompactInode, nlink);
    expect(new().inode16("a", nlink, 3).codes(), Code::LinkCount);
    expect(new().inode16("deep", nlink, 2).codes(), Code::LinkCount);
    expect(new().inode16("a", offset_of!(CompactInode, mode), 0).codes(), Code::Inode);
    expect(new().inode32("fifo", offset_of!(CompactInode, size), 9).codes(), Code::SpecialSize);
    let compressed = (DataLayout::CompressedCompact as u16) << 1;
    expect(new().inode16("a", 0, compressed).codes(), Code::Compressed);
    expect(new().inode32("big", offset_of!(CompactInode, u), 1 << 30).codes(), Code::DataRange);
    let size = offset_of!(CompactInode, size);
    expect(new().inode32("a", size, 4096).codes(), Code::InlineTail);
    expect(new().inode32("a", size, 4095).codes(), Code::InlineTail);
    expect(new().inode32("sparse", size, u32::MAX).codes(), Code::ChunkTable);
    expect(new().inode32("sparse", offset_of!(CompactInode, u), 0x80).codes(), Code::ChunkTable);
    expect(new().inode32("link", size, 0).codes(), Code::SymlinkTarget);
    let target = new().view("link").head_end();
    expect(new().patch(Patch::u8(target + 1, 0)).codes(), Code::SymlinkTarget);

    // A symbolic link whose target has moved to the next block, with an inode at the end of the first.
    let mut moved = worked_example(12);
    moved.copy_within(4224..4256, 8160);
    moved.extend([0; 4096]);
    moved[8192..8198].copy_from_slice(b"target");
    moved[8164..8166].copy_from_slice(&0o120_777_u16.to_le_bytes());
    moved[1024 + 0x24] = 3;
    let nid = (8160_u64 - 4096) / 32;
    moved[4184..4192].copy_from_slice(&nid.to_le_bytes());
    moved[4194] = 7;
    expect(codes(&Image::open(seal(moved)).unwrap()), Code::SymlinkPosition);

    let entry = new().entry("", "chr");
    expect(new().patch(Patch::bytes(entry, &[0; 8])).codes(), Code::NidZero);
    expect(new().patch(Patch::u8(entry + 10, 1)).codes(), Code::EntryType);
    let names = new().names("");
    expect(new().patch(Patch::u16(names + 8, 13)).codes(), Code::Directory);
    let swapped = new().in_names("many", b"name003name004");
    expect(new().patch(Patch::bytes(swapped, b"name004name003")).codes(), Code::DirectoryOrder);
    expect(new().patch(Patch::u8(swapped + 6, b'/')).codes(), Code::DirectoryName);
    let dots = new().entry("deep/er", "..");
    expect(new().patch(Patch::u8(dots, 1)).codes(), Code::DirectoryDots);
    let deep = new().entry("", "deep");
    let dir_nid = new().view("dir").nid.0;
    let twice = new().patch(Patch::bytes(deep, &dir_nid.to_le_bytes()));
    expect(twice.codes(), Code::DirectoryTwice);
    let itself = new().patch(Patch::bytes(deep, &new().view("").nid.0.to_le_bytes()));
    expect(itself.codes(), Code::DirectoryTwice);
    let many = new();
    let first_block = usize::try_from(many.names("many")).unwrap();
    let block = &many.bytes[first_block..first_block + 4096];
    assert_eq!(block[4095], 0, "the sample's first block of names has fill");
    expect(many.patch(Patch::u8(first_block as u64 + 4095, 1)).codes(), Code::DirectoryFill);

    let root = offset_of!(SuperBlock, rootnid_2b);
    let file = u16::try_from(new().view("a").nid.0).unwrap().to_le_bytes();
    expect(new().superblock(root, &file).codes(), Code::Root);

    let body = new().view("acl").position + 32;
    let first = body + size_of::<XattrHeader>() as u64;
    let entry_of = |rest: &[u8]| {
        let from = usize::try_from(first).unwrap();
        let bytes = new().bytes;
        first + bytes[from..].windows(rest.len()).position(|w| w == rest).unwrap() as u64 - 4
    };
    let second = entry_of(b"secnd");
    expect(new().patch(Patch::u8(second, 255)).codes(), Code::Xattr);
    expect(new().patch(Patch::u8(second + 1, 9)).codes(), Code::XattrIndex);
    expect(new().patch(Patch::bytes(second + 4, b"first")).codes(), Code::XattrDuplicate);
    let filter = Patch::bytes(body, &[255; 4]);
    let with_filter = new().patch(filter).superblock(offset_of!(SuperBlock, feature_compat), &[7]);
    expect(with_filter.codes(), Code::XattrFilter);
    let acl = entry_of(&[2, 0, 0, 0, 1, 0, 6, 0]);
    expect(new().patch(Patch::u8(acl + 4, 3)).codes(), Code::Acl);
    expect(new().inode16("acl", offset_of!(CompactInode, mode), 0o100_600).codes(), Code::AclMask);
    let bytes = new().bytes;
    let opaque = bytes.windows(15).position(|w| w == b"overlay.opaquey").unwrap();
    expect(new().patch(Patch::u8(opaque as u64 + 14, b'n')).codes(), Code::OverlayOpaque);

    let chr = new().entry("", "chr");
    let inside = new().view("a").nid.0;
    let next = new().view("acl").position;
    // A second inode in the middle of the xattr body of /acl.
    let mut overlap = new();
    let at = usize::try_from(next + 64).unwrap();
    let inode = usize::try_from(overlap.view("chr").position).unwrap();
    overlap.bytes.copy_within(inode..inode + 32, at);
    let nid = overlap.view("acl").nid.0 + 2;
    expect(overlap.patch(Patch::bytes(chr, &nid.to_le_bytes())).codes(), Code::MetadataOverlap);
    assert_ne!(inside, nid);
    let image = new();
    let metadata_block = u32::try_from(image.view("").position / 4096).unwrap();
    let covering = image.inode32("big", offset_of!(CompactInode, u), metadata_block - 1);
    expect(covering.codes(), Code::DataOverlap);

    let one_block = || vec![vec![0; 4096]];
    let image = over_device(100, 1);
    let slot = 1152 + 0x44;
    let mapped = Patch::u32(slot, 0).apply(image.clone());
    expect(codes(&Image::open_with_devices(seal(mapped), one_block()).unwrap()), Code::DeviceRange);
    let stolen = Patch::u32(slot, 1).apply(image.clone());
    expect(codes(&Image::open_with_devices(seal(stolen), one_block()).unwrap()), Code::DeviceRange);
    let short = Image::open_with_devices(image.clone(), vec![vec![0; 4000]]).unwrap();
    expect(codes(&short), Code::DeviceShort);
    expect(codes(&short), Code::PartialBlock);
    expect(codes(&Image::open(image.clone()).unwrap()), Code::DeviceMissing);
    // One index: the device id is behind the two high bytes of the address.
    let opened = Image::open(&image[..]).unwrap();
    let file = opened.resolve(b"f", false).unwrap();
    let table = opened.chunk_table(&file).unwrap().position;
    let foreign = Patch::u16(table + 2, 2).apply(image.clone());
    expect(codes(&Image::open_with_devices(seal(foreign), one_block()).unwrap()), Code::DeviceId);

    // Hundreds of directories that all claim the same large table of names.
    let mut greedy = new();
    let many = greedy.view("many");
    let length = greedy.bytes.len() as u64;
    assert!(many.size * 40 > length);
    let core = greedy.bytes[usize::try_from(many.position).unwrap()..][..32].to_vec();
    let image = Image::open(greedy.bytes.clone()).unwrap();
    let children = image.read_dir(&many).unwrap();
    for child in &children {
        let child = image.inode(child.nid).unwrap();
        greedy = greedy.patch(Patch::bytes(child.position, &core));
    }
    expect(greedy.codes(), Code::Limit);

    let broken = Broken(sample(WriterOptions::default()).1);
    expect(codes(&Image::open(broken).unwrap()), Code::Io);

    let missing: Vec<_> = Code::ALL.iter().filter(|code| !seen.contains(code)).collect();
    assert!(missing.is_empty(), "no damage for {missing:?}");
}

/// Fails every read of the data blocks behind the first two pages.
struct Broken(Vec<u8>);

impl ReadAt for Broken {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        match offset {
            8192.. => Err(std::io::Error::other("bad sector")),
            _ => self.0.read_at(buf, offset),
        }
    }

    fn size(&self) -> std::io::Result<u64> {
        self.0.size()
    }
}

#[test]
fn findings_are_capped_and_counted() {
    let image = Image::open(sample(WriterOptions::default()).1).unwrap();
    let mut report = check(&image);
    let mut checker = Checker {
        image: &image,
        report: Report::default(),
        regions: Regions::default(),
        links: HashMap::new(),
        shared: HashMap::new(),
        metadata_left: 0,
        missing_device_told: false,
        chunk_flag_told: false,
        compressed: None,
    };
    for _ in 0..MAX_FINDINGS + 3 {
        checker.find(Code::Label, Place::default(), "again");
    }
    report.findings = checker.report.findings;
    assert_eq!((report.findings.len(), checker.report.omitted), (MAX_FINDINGS, 3));
}

#[test]
fn findings_read_well() {
    let damaged = Damaged::new().inode16("deep/er/end", offset_of!(CompactInode, nlink), 2);
    let nid = damaged.view("deep/er/end").nid;
    let image = Image::open(seal(damaged.bytes)).unwrap();
    let report = check(&image);
    assert_eq!(report.findings.len(), 1);
    assert_eq!(
        report.findings[0].to_string(),
        format!("error: link-count: /deep/er/end: link count 2, found 1 (inode {nid})")
    );
    assert_eq!(size_of::<ExtendedInode>(), 64);
}
