//! The on-disk vocabulary: structures, flags and limits. All integers are little-endian.
//!
//! Sources: the kernel's `fs/erofs/erofs_fs.h` (layout and names), and behaviour observed on Linux 6.1 to
//! 7.3 where a comment says *observed*. `docs/format/erofs.md` is the prose form.

use std::fmt;

use bitflags::bitflags;
use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `magic` of the superblock.
pub const MAGIC: u32 = 0xE0F5_E1E2;
/// Byte offset of the superblock. The bytes before it are free for anything and never read.
pub const SUPERBLOCK_OFFSET: u64 = 1024;
/// Inodes lie on multiples of this; a nid counts such slots.
pub const SLOT: u64 = 32;
/// Images are padded to this, whatever the block size: Linux 7.3 reads metadata in whole pages (*observed*).
pub const PAGE: u64 = 4096;
/// Byte offset of the device table that we write: directly behind the superblock.
pub const DEVICE_TABLE_OFFSET: u64 = 1152;
/// `devt_slotoff` counts in this unit, which is also the size of a slot.
pub const DEVICE_SLOT_SIZE: u64 = 128;
/// A block address that means "nowhere": a hole in a chunk table.
pub const NULL_BLOCK: u32 = 0xFFFF_FFFF;
/// Longest name in a directory.
pub const NAME_MAX: usize = 255;
/// Longest symbolic link target that kernels return whole.
pub const SYMLINK_MAX: usize = 4095;
/// Longest volume name that kernels before 6.15 accept (*observed*: 16 bytes are EUCLEAN there).
pub const LABEL_MAX: usize = 15;
/// Largest value of an extended attribute; the field is 16 bits wide.
pub const XATTR_VALUE_MAX: usize = 65_535;

bitflags! {
    /// `feature_compat`: kernels ignore bits they do not know.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Compat: u32 {
        /// The superblock's checksum is valid.
        const SB_CHKSUM = 0x1;
        /// Times are modification times.
        const MTIME = 0x2;
        /// Name filters in xattr headers are valid.
        const XATTR_FILTER = 0x4;
        /// Shared xattrs lie in the metabox inode.
        const SHARED_EA_IN_METABOX = 0x8;
        /// The prefix table lies in the primary although a packed or metabox inode exists.
        const PLAIN_XATTR_PFX = 0x10;
        /// Fingerprints for page-cache sharing (Linux 7.0).
        const ISHARE_XATTRS = 0x20;
        const _ = !0;
    }
}

bitflags! {
    /// `feature_incompat`: kernels refuse bits they do not know.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Incompat: u32 {
        /// LZ4 data; also a harmless leftover of old mkfs on plain images.
        const LZ4_0PADDING = 0x1;
        /// Compression configurations, big pclusters.
        const COMPR_CFGS = 0x2;
        /// Chunk-based inodes.
        const CHUNKED_FILE = 0x4;
        /// Extra devices, or a second compression head.
        const DEVICE_TABLE = 0x8;
        /// Inline compressed tails.
        const ZTAILPACKING = 0x10;
        /// Fragments in the packed inode, deduplication.
        const FRAGMENTS = 0x20;
        /// Long xattr name prefixes (Linux 6.4).
        const XATTR_PREFIXES = 0x40;
        /// 48-bit block addresses (Linux 6.15).
        const BIT48 = 0x80;
        /// Metadata inside an inode (Linux 6.17).
        const METABOX = 0x100;
        const _ = !0;
    }
}

/// The superblock, at byte 1024.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SuperBlock {
    /// [`MAGIC`].
    pub magic: U32,
    /// CRC-32C without final inversion over the rest of block 0; see [`superblock_checksum_range`].
    pub checksum: U32,
    /// [`Compat`].
    pub feature_compat: U32,
    /// log2 of the block size.
    pub blkszbits: u8,
    /// Number of 16-byte slots behind these 128 bytes.
    pub sb_extslots: u8,
    /// Root nid; with [`Incompat::BIT48`] and `rootnid_8b` set, bits 32..47 of `blocks`.
    pub rootnid_2b: U16,
    /// Number of inodes; only statfs shows it.
    pub inos: U64,
    /// Seconds of every compact inode's mtime (signed).
    pub epoch: I64,
    /// Nanoseconds of every compact inode's mtime.
    pub fixed_nsec: U32,
    /// Blocks of the primary; only statfs shows it.
    pub blocks: U32,
    /// Block where nid 0 would lie.
    pub meta_blkaddr: U32,
    /// Block that shared xattr ids count from.
    pub xattr_blkaddr: U32,
    /// UUID of the image.
    pub uuid: [u8; 16],
    /// Label, zero filled.
    pub volume_name: [u8; 16],
    /// [`Incompat`].
    pub feature_incompat: U32,
    /// Compression algorithms, or LZ4's maximum distance; 0 in plain images.
    pub available_compr_algs: U16,
    /// Number of device slots; used only with [`Incompat::DEVICE_TABLE`].
    pub extra_devices: U16,
    /// Device table's position in units of 128 bytes.
    pub devt_slotoff: U16,
    /// log2 of directory block size over block size; must be 0.
    pub dirblkbits: u8,
    /// Number of long xattr prefixes.
    pub xattr_prefix_count: u8,
    /// Prefix table's position in units of 4 bytes.
    pub xattr_prefix_start: U32,
    /// The packed inode, with [`Incompat::FRAGMENTS`].
    pub packed_nid: U64,
    /// Not 0: the name filter is switched off.
    pub xattr_filter_reserved: u8,
    /// Index of the page-cache sharing prefix.
    pub ishare_xattr_prefix_id: u8,
    /// 0.
    pub reserved1: [u8; 2],
    /// Seconds from `epoch` to the build, informative.
    pub build_time: U32,
    /// Root nid with [`Incompat::BIT48`].
    pub rootnid_8b: U64,
    /// 0.
    pub reserved2: [u8; 8],
}
const _: () = assert!(size_of::<SuperBlock>() == 128);
const _: () = assert!(std::mem::offset_of!(SuperBlock, feature_incompat) == 0x50);
const _: () = assert!(std::mem::offset_of!(SuperBlock, rootnid_8b) == 0x70);

/// One extra device.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DeviceSlot {
    /// Free text: a digest or a name.
    pub tag: [u8; 64],
    /// Length in blocks.
    pub blocks: U32,
    /// First block in the unified address space; 0: not mapped.
    pub uniaddr: U32,
    /// High halves of the two with 48-bit addresses (Linux 7.1).
    pub high: [U16; 2],
    /// 0.
    pub reserved: [u8; 52],
}
const _: () = assert!(size_of::<DeviceSlot>() as u64 == DEVICE_SLOT_SIZE);

/// The short inode: 32-bit size, 16-bit owner and link count, the image's common time.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CompactInode {
    /// Version (bit 0), [`DataLayout`] (bits 1..3).
    pub format: U16,
    /// 0, or 1 + (xattr body length - 12) / 4.
    pub xattr_icount: U16,
    /// Type and permissions.
    pub mode: U16,
    /// Link count.
    pub nlink: U16,
    /// Length in bytes.
    pub size: U32,
    /// Must be 0: Linux 6.15 and newer add it to the epoch, flag or no flag (*observed*).
    pub mtime: U32,
    /// Start block, chunk format or device number.
    pub u: U32,
    /// Running number, never read.
    pub ino: U32,
    /// Owner.
    pub uid: U16,
    /// Group.
    pub gid: U16,
    /// 0.
    pub reserved: U32,
}
const _: () = assert!(size_of::<CompactInode>() == 32);

/// The long inode.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ExtendedInode {
    /// As in [`CompactInode`], with bit 0 set.
    pub format: U16,
    /// As in [`CompactInode`].
    pub xattr_icount: U16,
    /// Type and permissions.
    pub mode: U16,
    /// High half of the start block; must be 0 without 48-bit addresses.
    pub start_high: U16,
    /// Length in bytes; the kernel takes it as signed.
    pub size: U64,
    /// As in [`CompactInode`].
    pub u: U32,
    /// Running number, never read.
    pub ino: U32,
    /// Owner.
    pub uid: U32,
    /// Group.
    pub gid: U32,
    /// Modification time, seconds.
    pub mtime: I64,
    /// Modification time, nanoseconds.
    pub mtime_nsec: U32,
    /// Link count.
    pub nlink: U32,
    /// 0.
    pub reserved: [u8; 16],
}
const _: () = assert!(size_of::<ExtendedInode>() == 64);

/// How an inode's data is laid out: `format` bits 1..3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum DataLayout {
    /// Consecutive blocks.
    FlatPlain = 0,
    /// Compressed, full indexes: not read here.
    CompressedFull = 1,
    /// Consecutive blocks, the rest behind the inode.
    FlatInline = 2,
    /// Compressed, compact indexes: not read here.
    CompressedCompact = 3,
    /// A table of chunks.
    ChunkBased = 4,
}

/// One word for it; both compressed layouts are `compressed`.
impl fmt::Display for DataLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FlatPlain => "plain",
            Self::FlatInline => "inline",
            Self::ChunkBased => "chunks",
            Self::CompressedFull | Self::CompressedCompact => "compressed",
        })
    }
}

/// In the 8 bytes behind the head of an inode of layout [`DataLayout::CompressedFull`] or
/// [`DataLayout::CompressedCompact`], which begin at a multiple of 8: the whole file is in the packed inode, from the
/// offset in the other 63 bits on. With [`Incompat::FRAGMENTS`].
pub const IN_PACKED: u64 = 1 << 63;

/// Chunk format (in `u`): log2 of chunk size over block size.
pub const CHUNK_BITS_MASK: u32 = 0x1F;
/// Chunk format: 8-byte indexes instead of a 4-byte block map.
pub const CHUNK_INDEXES: u32 = 0x20;
/// Chunk format: 48-bit addresses in the indexes.
pub const CHUNK_48BIT: u32 = 0x40;

/// An entry of a chunk table with indexes. Without, an entry is just the start block.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ChunkIndex {
    /// High bits of the start with 48-bit addresses, else 0.
    pub start_high: U16,
    /// 0: the unified address space; n: extra device n.
    pub device: U16,
    /// Start block; [`NULL_BLOCK`] is a hole.
    pub start: U32,
}
const _: () = assert!(size_of::<ChunkIndex>() == 8);

/// A directory entry; the names follow the last entry of the block.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Dirent {
    /// Inode.
    pub nid: U64,
    /// Offset of the name in the block.
    pub name_offset: U16,
    /// [`FileType`] as a byte.
    pub file_type: u8,
    /// 0.
    pub reserved: u8,
}
const _: () = assert!(size_of::<Dirent>() == 12);

/// The type in a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say it")]
pub enum FileType {
    Unknown = 0,
    Regular = 1,
    Directory = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Socket = 6,
    Symlink = 7,
}

/// Header of an inode's xattr body; shared ids (u32 each), then inline entries follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct XattrHeader {
    /// Inverted Bloom filter of names with [`Compat::XATTR_FILTER`], else 0.
    pub name_filter: U32,
    /// Number of shared ids.
    pub shared_count: u8,
    /// 0.
    pub reserved: [u8; 7],
}
const _: () = assert!(size_of::<XattrHeader>() == 12);

/// Header of an xattr entry; name without its prefix, then value follow, padded with zeros to 4.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct XattrEntry {
    /// Length of the name without prefix.
    pub name_len: u8,
    /// Prefix: see [`XATTR_PREFIXES`]; 0x80 + n: long prefix n.
    pub name_index: u8,
    /// Length of the value.
    pub value_len: U16,
}
const _: () = assert!(size_of::<XattrEntry>() == 4);

/// Bit of `name_index` that refers to the long prefix table.
pub const XATTR_LONG_PREFIX: u8 = 0x80;

/// Name prefixes by `name_index`. For the two ACL names the stored rest is empty.
pub const XATTR_PREFIXES: [(u8, &[u8]); 6] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (5, b"lustre."),
    (6, b"security."),
];

/// The bytes that the superblock's checksum covers, as offsets from the start of the image.
///
/// *Observed*: for blocks above 1024 bytes to the end of block 0; else one block's length from byte 1024.
pub fn superblock_checksum_range(block_size: u64) -> std::ops::Range<u64> {
    if block_size > SUPERBLOCK_OFFSET {
        SUPERBLOCK_OFFSET..block_size
    } else {
        SUPERBLOCK_OFFSET..SUPERBLOCK_OFFSET + block_size
    }
}

/// CRC-32C (Castagnoli) started with all ones and **not** inverted at the end.
pub fn superblock_checksum(covered: &[u8]) -> u32 {
    !crc32c::crc32c(covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_matches_known_vectors() {
        assert_eq!(superblock_checksum(b"123456789"), 0x1CF9_6D7C);
        assert_eq!(superblock_checksum(&[0xe2, 0xe1, 0xf5, 0xe0, 0, 0, 0, 0]), 0x5045_B54A);
    }
}
