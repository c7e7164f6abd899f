//! The second pass: a place for everything. After it, every address is known and nothing can be refused.

use super::census::Census;
use super::directory::{self, DirectorySize};
use super::xattr::{BODY_MAX, XattrPlan};
use super::{BlockSize, WriterOptions, round_up};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    CHUNK_INDEXES, ChunkIndex, CompactInode, DataLayout, ExtendedInode, NULL_BLOCK, PAGE, SLOT,
    XattrHeader,
};
use crate::tree::{BlockAddress, Content, DeviceNumber, FileData, Inode, InodeId, Timestamp, Tree};

/// How one inode is stored.
#[derive(Debug)]
pub(super) struct Placed {
    /// Length of the data in bytes.
    pub(super) size: u64,
    /// Length of the xattr body with its padding.
    pub(super) body: u32,
    /// Start block, chunk format or device number. For [`FileData::ExtentAndTail`] on an extra device
    /// it is relative to that device: unified addresses are known only at the end.
    pub(super) u: u32,
    /// Bytes behind the head; the data before them is in blocks.
    pub(super) tail: u16,
    pub(super) layout: DataLayout,
    pub(super) extended: bool,
    /// The data comes with the metadata and its blocks lie between streamed data and inodes.
    pub(super) own_blocks: bool,
}

/// Addresses of everything, in bytes from the start of the image unless said.
#[derive(Debug)]
pub(super) struct Layout {
    /// By position in [`Census::order`].
    pub(super) inodes: Vec<Placed>,
    /// Nid by inode; 0 for unreachable ones.
    pub(super) nids: Vec<u64>,
    pub(super) epoch: Timestamp,
    /// Where shared xattrs begin: the start of a block.
    pub(super) xattr_start: u64,
    pub(super) prefix_start: u64,
    /// Where nid 0 would lie: the start of a block.
    pub(super) meta_start: u64,
    /// Length of the image, a multiple of [`PAGE`].
    pub(super) length: u64,
    /// First block of each extra device in the unified address space.
    pub(super) unified: Vec<u32>,
    pub(super) has_chunks: bool,
    pub(super) block_size: BlockSize,
}

impl Layout {
    /// `position` is where metadata begins: the end of streamed data, at a block's start.
    pub(super) fn new(
        tree: &Tree,
        census: &Census,
        xattrs: &XattrPlan,
        options: &WriterOptions,
        position: u64,
    ) -> Result<Self> {
        let block_size = options.block_size.bytes();
        let epoch = most_frequent_time(tree, census);
        let prefix_offset = xattrs.table.len() as u64;
        let inodes_offset = prefix_offset + xattrs.prefix_table().len() as u64;
        // From here on offsets count from the end of the own blocks, whose number is not known yet; that
        // end is a block's start, which is all that the rules for tails need.
        let meta_offset = inodes_offset - inodes_offset % block_size;
        // Slot 0 is skipped: libc hides directory entries with inode number 0.
        let mut cursor = Cursor {
            next: inodes_offset.max(meta_offset + SLOT),
            own_blocks: position / block_size,
            block_size,
        };
        let mut placed = Vec::with_capacity(census.order.len());
        let mut nids = vec![0; tree.len()];
        for (position, &id) in census.order.iter().enumerate() {
            let inode = &tree[id];
            let body = xattrs.body_length(position, &inode.xattrs);
            let (at, inode) = cursor
                .place(census, epoch, id, inode, body)
                .map_err(|(kind, message)| census.error(tree, id, kind, &message))?;
            nids[id.0 as usize] = (at - meta_offset) / SLOT;
            placed.push(inode);
        }
        let xattr_start = cursor.own_blocks * block_size;
        // fsck.erofs 1.5 reads an xattr header behind every inode, also behind the last one without any.
        let length = round_up(xattr_start + cursor.next + size_of::<XattrHeader>() as u64, PAGE);
        let prefix_start = xattr_start + prefix_offset;
        if length / block_size >= u64::from(NULL_BLOCK)
            || (xattrs.prefix_count() > 0 && prefix_start / 4 > u64::from(u32::MAX))
        {
            return Err(too_large(length));
        }
        Ok(Self {
            has_chunks: placed.iter().any(|inode| inode.layout == DataLayout::ChunkBased),
            inodes: placed,
            nids,
            epoch,
            xattr_start,
            prefix_start,
            meta_start: xattr_start + meta_offset,
            length,
            unified: unified_addresses(options, length)?,
            block_size: options.block_size,
        })
    }

    pub(super) fn nid(&self, id: InodeId) -> u64 {
        self.nids[id.0 as usize]
    }

    /// Number of the block that begins at `offset`.
    pub(super) fn block(&self, offset: u64) -> u32 {
        u32::try_from(offset >> self.block_size.bits()).expect("inside the image's 2^32 blocks")
    }

    pub(super) fn compact_inodes(&self) -> u64 {
        self.inodes.iter().filter(|inode| !inode.extended).count() as u64
    }
}

/// The next free place for an inode, and the next free block for data that comes with the metadata.
struct Cursor {
    next: u64,
    own_blocks: u64,
    block_size: u64,
}

type Refusal = (ErrorKind, String);

impl Cursor {
    fn place(
        &mut self,
        census: &Census,
        epoch: Timestamp,
        id: InodeId,
        inode: &Inode,
        body: u64,
    ) -> Result<(u64, Placed), Refusal> {
        let shape = Shape::of(census, id, inode, self.block_size);
        let links = census.links[id.0 as usize];
        let extended = needs_extended(inode, shape.size, links, epoch);
        let head = core_length(extended) + body;
        let mut placed = Placed {
            size: shape.size,
            body: 0,
            u: 0,
            tail: 0,
            layout: DataLayout::FlatPlain,
            extended,
            own_blocks: false,
        };
        let mut body = body;
        let at = match shape.place {
            Place::Fixed(u) => {
                placed.u = u;
                self.take(head, 0)
            }
            Place::Chunks { format, entry, count } => {
                placed.u = format;
                placed.layout = DataLayout::ChunkBased;
                let at = round_up(self.next, SLOT);
                let table = round_up(at + head, entry);
                self.next = table + count * entry;
                at
            }
            Place::Packed => {
                placed.layout = DataLayout::CompressedFull;
                let at = round_up(self.next, SLOT);
                self.next = round_up(at + head, size_of::<u64>() as u64) + size_of::<u64>() as u64;
                at
            }
            Place::Link if head + shape.size <= self.block_size => {
                // Kernels before 6.12 want inode, xattrs and target in one block.
                placed.inline(shape.size);
                placed.u = NULL_BLOCK;
                self.take(0, head + shape.size)
            }
            Place::Link => {
                placed.u = self.allot(shape.size)?;
                placed.own_blocks = true;
                self.take(head, 0)
            }
            Place::Own | Place::Tailed(_) => {
                let tail = shape.size % self.block_size;
                let inline = self.inline_place(head, tail);
                let may_spill = matches!(shape.place, Place::Own);
                match inline {
                    Some((at, padding)) if tail > 0 && !(may_spill && self.wasteful(at, tail)) => {
                        body += padding;
                        self.next = at + head + padding + tail;
                        placed.inline(tail);
                        placed.u = match shape.place {
                            Place::Tailed(start) => start,
                            _ if shape.size == tail => NULL_BLOCK,
                            _ => {
                                placed.own_blocks = true;
                                self.allot(shape.size - tail)?
                            }
                        };
                        at
                    }
                    _ if may_spill => {
                        if shape.size > 0 {
                            placed.own_blocks = true;
                            placed.u = self.allot(shape.size)?;
                        }
                        self.take(head, 0)
                    }
                    _ => {
                        return Err((
                            ErrorKind::TooLarge,
                            format!("{body} bytes of xattrs leave no place for the inline tail"),
                        ));
                    }
                }
            }
        };
        if body > BODY_MAX {
            return Err((
                ErrorKind::TooLarge,
                format!("{body} bytes of xattrs, at most {BODY_MAX} fit one inode"),
            ));
        }
        placed.body = u32::try_from(body).expect("at most 262,148");
        Ok((at, placed))
    }

    /// A place for `free` bytes anywhere, or `whole` bytes inside one block.
    fn take(&mut self, free: u64, whole: u64) -> u64 {
        let mut at = round_up(self.next, SLOT);
        if at % self.block_size + whole > self.block_size {
            at = round_up(at, self.block_size);
        }
        self.next = at + free + whole;
        at
    }

    /// Where a head can start so that the tail behind it stays inside a block, and by how much the xattr
    /// body must grow for that. A head that is no multiple of 32 may leave no place for a long tail.
    fn inline_place(&self, head: u64, tail: u64) -> Option<(u64, u64)> {
        let mut padding = 0;
        if head % SLOT + tail > self.block_size {
            padding = round_up(head, SLOT) - head;
            if head + padding > BODY_MAX {
                return None;
            }
        }
        let at = round_up(self.next, SLOT);
        let tail_at = (at + head + padding) % self.block_size;
        let at = match tail_at + tail > self.block_size {
            true => at + round_up(self.block_size - tail_at, SLOT),
            false => at,
        };
        Some((at, padding))
    }

    /// Whether moving an inode on to `at` loses more than a data block for its tail would.
    fn wasteful(&self, at: u64, tail: u64) -> bool {
        at - round_up(self.next, SLOT) > self.block_size - tail
    }

    fn allot(&mut self, size: u64) -> Result<u32, Refusal> {
        let start = u32::try_from(self.own_blocks).ok();
        self.own_blocks += size.div_ceil(self.block_size);
        start.filter(|_| self.own_blocks < u64::from(NULL_BLOCK)).ok_or_else(|| {
            (ErrorKind::TooLarge, "its data begins beyond the 2^32 blocks of an image".to_owned())
        })
    }
}

impl Placed {
    fn inline(&mut self, tail: u64) {
        self.layout = DataLayout::FlatInline;
        self.tail = u16::try_from(tail).expect("shorter than a block");
    }
}

/// What the place of an inode depends on, xattrs aside.
struct Shape {
    size: u64,
    place: Place,
}

enum Place {
    /// No data that comes with the metadata; the value of `u`.
    Fixed(u32),
    /// Data that comes with the metadata: whole blocks, and a tail inline or in one more block.
    Own,
    /// A symbolic link's target.
    Link,
    /// Blocks elsewhere from this one on, and a tail that must be inline.
    Tailed(u32),
    /// A chunk table.
    Chunks { format: u32, entry: u64, count: u64 },
    /// An offset in the packed file.
    Packed,
}

impl Shape {
    fn of(census: &Census, id: InodeId, inode: &Inode, block_size: u64) -> Self {
        let (size, place) = match &inode.content {
            Content::Directory(names) => {
                let entries = directory::entries(names, id, census.parent(id));
                let DirectorySize { blocks_before, last } = directory::size(entries, block_size);
                (blocks_before * block_size + last, Place::Own)
            }
            Content::Symlink(target) => (target.len() as u64, Place::Link),
            Content::CharDevice(number) | Content::BlockDevice(number) => {
                (0, Place::Fixed(encode_device(*number)))
            }
            Content::Fifo | Content::Socket => (0, Place::Fixed(0)),
            Content::Regular(data) => (data.size(), Place::of_file(data, block_size)),
        };
        Self { size, place }
    }
}

impl Place {
    fn of_file(data: &FileData, block_size: u64) -> Self {
        match data {
            _ if data.size() == 0 => Self::Fixed(0),
            FileData::Bytes(_) => Self::Own,
            FileData::Packed { .. } => Self::Packed,
            FileData::ExtentAndTail { start, .. } => Self::Tailed(start.block),
            FileData::Extent { start: BlockAddress { device: 0, block }, .. } => {
                Self::Fixed(*block)
            }
            FileData::Extent { size, .. } => {
                let bits = extent_chunk_bits(*size, block_size);
                Self::chunks(bits, true, size.div_ceil(1 << bits), block_size)
            }
            FileData::Chunks { chunk_bits, chunks, .. } => {
                let external = chunks.iter().flatten().any(|address| address.device != 0);
                Self::chunks(*chunk_bits, external, chunks.len() as u64, block_size)
            }
        }
    }

    fn chunks(chunk_bits: u8, indexes: bool, count: u64, block_size: u64) -> Self {
        let value = u32::from(chunk_bits) - block_size.trailing_zeros();
        if indexes {
            let entry = size_of::<ChunkIndex>() as u64;
            Self::Chunks { format: value | CHUNK_INDEXES, entry, count }
        } else {
            Self::Chunks { format: value, entry: 4, count }
        }
    }
}

/// Chunk size for a contiguous run on an extra device: all of it in one chunk, up to the largest.
pub(super) fn extent_chunk_bits(size: u64, block_size: u64) -> u8 {
    let block_bits = block_size.trailing_zeros();
    let bits = (u64::BITS - (size - 1).leading_zeros())
        .clamp(block_bits, block_bits + u32::from(super::stream::CHUNK_BITS_OVER_BLOCK_MAX));
    u8::try_from(bits).expect("at most 43")
}

fn core_length(extended: bool) -> u64 {
    let length = if extended { size_of::<ExtendedInode>() } else { size_of::<CompactInode>() };
    length as u64
}

fn needs_extended(inode: &Inode, size: u64, links: u32, epoch: Timestamp) -> bool {
    inode.mtime != epoch
        || u16::try_from(inode.uid).is_err()
        || u16::try_from(inode.gid).is_err()
        || u16::try_from(links).is_err()
        || u32::try_from(size).is_err()
}

/// The time that most inodes have, the earliest of several: those inodes can be compact.
fn most_frequent_time(tree: &Tree, census: &Census) -> Timestamp {
    let mut times: Vec<Timestamp> = census.order.iter().map(|&id| tree[id].mtime).collect();
    times.sort_unstable();
    let runs = times.chunk_by(|a, b| a == b);
    // Of several the last is taken, so the earliest must come last.
    runs.rev().max_by_key(|run| run.len()).map_or_else(Timestamp::default, |run| run[0])
}

/// Minor's low 8 bits, 12 bits of major, minor's high 12 bits.
fn encode_device(DeviceNumber { major, minor }: DeviceNumber) -> u32 {
    (minor & 0xFF) | (major << 8) | ((minor & 0xF_FF00) << 12)
}

/// Devices follow the image in one address space, one after the other, so that a forgotten `device=` is an
/// error and not another file's bytes.
fn unified_addresses(options: &WriterOptions, length: u64) -> Result<Vec<u32>> {
    let mut next = length >> options.block_size.bits();
    let mut addresses = Vec::with_capacity(options.devices.len());
    for device in &options.devices {
        let address = u32::try_from(next).ok();
        next += u64::from(device.blocks);
        let address = address.filter(|_| next < u64::from(NULL_BLOCK));
        addresses.push(address.ok_or_else(|| {
            Error::new(
                ErrorKind::TooLarge,
                "image and extra devices together exceed 2^32 blocks".to_owned(),
            )
        })?);
    }
    Ok(addresses)
}

fn too_large(length: u64) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("an image of {length} bytes exceeds what its 32-bit addresses reach"),
    )
}
