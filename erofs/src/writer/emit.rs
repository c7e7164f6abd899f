//! The third pass: the bytes, in the order of their places.

use zerocopy::IntoBytes;
use zerocopy::little_endian::{I64, U16, U32, U64};

use super::census::Census;
use super::layout::{Layout, Placed, extent_chunk_bits};
use super::stream::Output;
use super::xattr::XattrPlan;
use super::{Sink, WriterOptions, directory, round_up};
use crate::error::Result;
use crate::format::{
    CHUNK_INDEXES, ChunkIndex, CompactInode, Compat, DEVICE_SLOT_SIZE, DEVICE_TABLE_OFFSET,
    DataLayout, DeviceSlot, ExtendedInode, FileType, IN_PACKED, Incompat, MAGIC, NULL_BLOCK,
    SUPERBLOCK_OFFSET, SuperBlock, superblock_checksum, superblock_checksum_range,
};
use crate::tree::{BlockAddress, Content, FileData, Inode, InodeId, Tree};

/// Metadata goes to the sink in pieces of about this length.
const PIECE: usize = 1 << 20;

/// Everything that the metadata follows from.
pub(super) struct Metadata<'a> {
    pub(super) tree: &'a Tree,
    pub(super) census: &'a Census,
    pub(super) xattrs: &'a XattrPlan,
    pub(super) layout: &'a Layout,
}

/// Collects metadata into pieces and fills gaps with zeros.
struct Pieces<'o, S: Sink> {
    output: &'o mut Output<S>,
    bytes: Vec<u8>,
}

impl<S: Sink> Pieces<'_, S> {
    fn position(&self) -> u64 {
        self.output.position() + self.bytes.len() as u64
    }

    /// Fills with zeros up to `position`.
    fn seek(&mut self, position: u64) {
        let gap = position.checked_sub(self.position()).expect("places are handed out in order");
        let gap = usize::try_from(gap).expect("gaps are shorter than a block or a table");
        self.bytes.resize(self.bytes.len() + gap, 0);
    }

    fn align(&mut self, unit: u64) {
        self.seek(round_up(self.position(), unit));
    }

    fn flush_over(&mut self, limit: usize) -> Result<()> {
        if self.bytes.len() > limit {
            self.output.append(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

impl Metadata<'_> {
    pub(super) fn write<S: Sink>(&self, output: &mut Output<S>) -> Result<()> {
        let layout = self.layout;
        let block_size = layout.block_size.bytes();
        let mut pieces = Pieces { output, bytes: Vec::with_capacity(PIECE + PIECE / 8) };
        for (&id, placed) in self.census.order.iter().zip(&layout.inodes) {
            if placed.own_blocks {
                debug_assert_eq!(pieces.position(), u64::from(placed.u) * block_size);
                self.blocks(id, placed, &mut pieces)?;
                pieces.align(block_size);
                pieces.flush_over(PIECE)?;
            }
        }
        pieces.seek(layout.xattr_start);
        pieces.bytes.extend_from_slice(&self.xattrs.table);
        pieces.seek(layout.prefix_start);
        pieces.bytes.extend_from_slice(&self.xattrs.prefix_table());
        for (position, (&id, placed)) in self.census.order.iter().zip(&layout.inodes).enumerate() {
            pieces.seek(layout.meta_start + layout.nid(id) * crate::format::SLOT);
            self.inode(position, id, placed, &mut pieces)?;
            pieces.flush_over(PIECE)?;
        }
        pieces.seek(layout.length);
        pieces.flush_over(0)
    }

    /// The part of an inode's own data that lies in blocks.
    fn blocks<S: Sink>(
        &self,
        id: InodeId,
        placed: &Placed,
        pieces: &mut Pieces<'_, S>,
    ) -> Result<()> {
        let in_blocks = placed.size - u64::from(placed.tail);
        match &self.tree[id].content {
            Content::Directory(_) => self.directory(id, 0..in_blocks, pieces),
            Content::Symlink(bytes) | Content::Regular(FileData::Bytes(bytes)) => {
                let bytes = &bytes[..length(in_blocks)];
                if bytes.len() < PIECE / 4 {
                    pieces.bytes.extend_from_slice(bytes);
                    return Ok(());
                }
                pieces.flush_over(0)?;
                pieces.output.append(bytes)
            }
            other => unreachable!("{other:?} has no data of its own"),
        }
    }

    /// The blocks of a directory whose data offsets lie in `range`.
    fn directory<S: Sink>(
        &self,
        id: InodeId,
        range: std::ops::Range<u64>,
        pieces: &mut Pieces<'_, S>,
    ) -> Result<()> {
        let Some(names) = self.tree[id].entries() else { return Ok(()) };
        let block_size = self.layout.block_size.bytes();
        let target = |id: InodeId| -> (u64, FileType) {
            (self.layout.nid(id), directory::file_type(&self.tree[id].content))
        };
        let start = pieces.position();
        let mut offset = 0;
        let mut result = Ok(());
        let entries = directory::entries(names, id, self.census.parent(id));
        directory::pack(entries, block_size, |block, _| {
            if range.contains(&offset) && result.is_ok() {
                pieces.seek(start + (offset - range.start));
                directory::encode(block, target, &mut pieces.bytes);
                result = pieces.flush_over(PIECE);
            }
            offset += block_size;
        });
        result
    }

    fn inode<S: Sink>(
        &self,
        position: usize,
        id: InodeId,
        placed: &Placed,
        pieces: &mut Pieces<'_, S>,
    ) -> Result<()> {
        let inode = &self.tree[id];
        let number = u32::try_from(position + 1).expect("inodes have 32-bit indexes");
        self.core(number, id, placed, &mut pieces.bytes);
        let body_end = pieces.position() + u64::from(placed.body);
        self.xattrs.encode_body(position, &inode.xattrs, &mut pieces.bytes);
        pieces.seek(body_end);
        match &inode.content {
            Content::Directory(_) if placed.tail > 0 => {
                let tail = placed.size - u64::from(placed.tail);
                self.directory(id, tail..placed.size, pieces)?;
            }
            Content::Symlink(bytes)
            | Content::Regular(
                FileData::Bytes(bytes) | FileData::ExtentAndTail { tail: bytes, .. },
            ) => {
                let tail = &bytes[bytes.len() - usize::from(placed.tail)..];
                pieces.bytes.extend_from_slice(tail);
            }
            Content::Regular(FileData::Packed { offset, .. })
                if placed.layout == DataLayout::CompressedFull =>
            {
                pieces.align(size_of::<u64>() as u64);
                pieces.bytes.extend_from_slice(&(offset | IN_PACKED).to_le_bytes());
            }
            Content::Regular(data) if placed.layout == DataLayout::ChunkBased => {
                let indexes = placed.u & CHUNK_INDEXES != 0;
                pieces.align(if indexes { size_of::<ChunkIndex>() as u64 } else { 4 });
                self.chunk_table(data, indexes, &mut pieces.bytes);
            }
            _ => {}
        }
        Ok(())
    }

    fn chunk_table(&self, data: &FileData, indexes: bool, out: &mut Vec<u8>) {
        let mut entry = |address: Option<BlockAddress>| {
            let (device, block) = address.map_or((0, NULL_BLOCK), |a| (a.device, a.block));
            if indexes {
                let (device, start) = (U16::new(device), U32::new(block));
                let index = ChunkIndex { start_high: U16::ZERO, device, start };
                out.extend_from_slice(index.as_bytes());
            } else {
                out.extend_from_slice(&block.to_le_bytes());
            }
        };
        match data {
            FileData::Chunks { chunks, .. } => chunks.iter().copied().for_each(entry),
            FileData::Extent { start, size } => {
                let block_bits = self.layout.block_size.bits();
                let bits = extent_chunk_bits(*size, self.layout.block_size.bytes());
                let step = 1u64 << (bits - block_bits);
                for index in 0..size.div_ceil(1 << bits) {
                    let block = u64::from(start.block) + index * step;
                    let block = u32::try_from(block).expect("the run lies inside its device");
                    entry(Some(BlockAddress { block, ..*start }));
                }
            }
            other => unreachable!("{other:?} has no chunk table"),
        }
    }

    fn core(&self, number: u32, id: InodeId, placed: &Placed, out: &mut Vec<u8>) {
        let inode = &self.tree[id];
        let format = U16::new(u16::from(placed.extended) | (placed.layout as u16) << 1);
        let icount = match placed.body {
            0 => 0,
            body => u16::try_from((body - 12) / 4 + 1).expect("the body's length has been checked"),
        };
        let xattr_icount = U16::new(icount);
        let mode = U16::new(type_bits(&inode.content) | inode.permissions);
        let links = self.census.links[id.0 as usize];
        let u = U32::new(self.u(inode, placed));
        let ino = U32::new(number);
        if placed.extended {
            let inode = ExtendedInode {
                format,
                xattr_icount,
                mode,
                start_high: U16::ZERO,
                size: U64::new(placed.size),
                u,
                ino,
                uid: U32::new(inode.uid),
                gid: U32::new(inode.gid),
                mtime: I64::new(inode.mtime.seconds),
                mtime_nsec: U32::new(inode.mtime.nanoseconds),
                nlink: U32::new(links),
                reserved: [0; 16],
            };
            out.extend_from_slice(inode.as_bytes());
            return;
        }
        let short = |value: u32| U16::new(u16::try_from(value).expect("compact inodes fit"));
        let inode = CompactInode {
            format,
            xattr_icount,
            mode,
            nlink: short(links),
            size: U32::new(u32::try_from(placed.size).expect("compact inodes fit")),
            mtime: U32::ZERO,
            u,
            ino,
            uid: short(inode.uid),
            gid: short(inode.gid),
            reserved: U32::ZERO,
        };
        out.extend_from_slice(inode.as_bytes());
    }

    fn u(&self, inode: &Inode, placed: &Placed) -> u32 {
        match &inode.content {
            Content::Regular(FileData::ExtentAndTail { start, .. }) if start.device > 0 => {
                placed.u + self.layout.unified[usize::from(start.device) - 1]
            }
            _ => placed.u,
        }
    }
}

/// The reserved bytes at the start: superblock, device slots, checksum.
pub(super) fn header(
    options: &WriterOptions,
    layout: &Layout,
    xattrs: &XattrPlan,
    packed: Option<InodeId>,
    inodes: u64,
    uuid: [u8; 16],
) -> Vec<u8> {
    let mut compat = Compat::MTIME;
    compat.set(Compat::SB_CHKSUM, options.has_checksum());
    let mut incompat = Incompat::empty();
    incompat.set(Incompat::CHUNKED_FILE, layout.has_chunks);
    incompat.set(Incompat::DEVICE_TABLE, !options.devices.is_empty());
    incompat.set(Incompat::XATTR_PREFIXES, xattrs.prefix_count() > 0);
    incompat.set(Incompat::FRAGMENTS, packed.is_some());
    let mut volume_name = [0; 16];
    volume_name[..options.label.len()].copy_from_slice(options.label.as_bytes());
    let devices = u16::try_from(options.devices.len()).expect("options have been checked");
    let device_table = u16::try_from(DEVICE_TABLE_OFFSET / DEVICE_SLOT_SIZE).expect("9");
    let prefix_start = u32::try_from(layout.prefix_start / 4);
    let root_nid = u16::try_from(layout.nid(Tree::ROOT)).expect("the root is placed first");
    let superblock = SuperBlock {
        magic: U32::new(MAGIC),
        checksum: U32::ZERO,
        feature_compat: U32::new(compat.bits()),
        blkszbits: options.block_size.bits(),
        sb_extslots: 0,
        rootnid_2b: U16::new(root_nid),
        inos: U64::new(inodes),
        epoch: I64::new(layout.epoch.seconds),
        fixed_nsec: U32::new(layout.epoch.nanoseconds),
        blocks: U32::new(layout.block(layout.length)),
        meta_blkaddr: U32::new(layout.block(layout.meta_start)),
        xattr_blkaddr: U32::new(match xattrs.shared_count() {
            0 => 0,
            _ => layout.block(layout.xattr_start),
        }),
        uuid,
        volume_name,
        feature_incompat: U32::new(incompat.bits()),
        available_compr_algs: U16::ZERO,
        extra_devices: U16::new(devices),
        devt_slotoff: U16::new(if devices > 0 { device_table } else { 0 }),
        dirblkbits: 0,
        xattr_prefix_count: xattrs.prefix_count(),
        xattr_prefix_start: U32::new(match xattrs.prefix_count() {
            0 => 0,
            _ => prefix_start.expect("the layout has checked the prefix table's position"),
        }),
        packed_nid: U64::new(packed.map_or(0, |id| layout.nid(id))),
        xattr_filter_reserved: 0,
        ishare_xattr_prefix_id: 0,
        reserved1: [0; 2],
        build_time: U32::ZERO,
        rootnid_8b: U64::ZERO,
        reserved2: [0; 8],
    };
    let mut header = vec![0; length(SUPERBLOCK_OFFSET)];
    header.extend_from_slice(superblock.as_bytes());
    for (device, &uniaddr) in options.devices.iter().zip(&layout.unified) {
        let mut tag = [0; 64];
        tag[..device.tag.len()].copy_from_slice(&device.tag);
        let slot = DeviceSlot {
            tag,
            blocks: U32::new(device.blocks),
            uniaddr: U32::new(uniaddr),
            high: [U16::ZERO; 2],
            reserved: [0; 52],
        };
        header.extend_from_slice(slot.as_bytes());
    }
    header.resize(length(options.header_length()), 0);
    if options.has_checksum() {
        let range = superblock_checksum_range(options.block_size.bytes());
        let checksum = superblock_checksum(&header[length(range.start)..length(range.end)]);
        let at = length(SUPERBLOCK_OFFSET) + std::mem::offset_of!(SuperBlock, checksum);
        header[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
    }
    header
}

/// The type nibble of `mode`.
fn type_bits(content: &Content) -> u16 {
    match content {
        Content::Directory(_) => 0o040_000,
        Content::Regular(_) => 0o100_000,
        Content::Symlink(_) => 0o120_000,
        Content::CharDevice(_) => 0o020_000,
        Content::BlockDevice(_) => 0o060_000,
        Content::Fifo => 0o010_000,
        Content::Socket => 0o140_000,
    }
}

fn length(value: u64) -> usize {
    usize::try_from(value).expect("lengths of what is in memory")
}
