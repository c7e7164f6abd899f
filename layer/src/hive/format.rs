//! Records of a hive file, little-endian. Offsets of cells count from the end of the base block.
//!
//! Sources, by the letters in the comments: **S**, the Windows registry file format specification of M. Suhanov
//! (rev. 88e878d); **O**, observed in real hives; **K**, Project Zero's description of the kernel's handling ("The
//! Windows Registry Adventure", parts 6 and 7).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Size of the base block, and what sizes of bins are multiples of.
pub(super) const BLOCK: usize = 4096;
/// Size of the header of a bin.
pub(super) const BIN_HEADER: usize = size_of::<BinHeader>();
/// No cell.
pub(super) const NIL: u32 = 0xFFFF_FFFF;
/// The longest data in one cell, and the bytes that a full segment of big data carries (S, O).
pub(super) const SEGMENT: usize = 16_344;
/// Content of the cell of every segment, a last one of a single byte too: some readers derive the length of
/// segments from the size of their cells (O).
pub(super) const SEGMENT_CELL: usize = SEGMENT + 4;
/// Entries of a leaf as offreg writes it: one that still fits a bin of 4096 bytes (O).
pub(super) const LEAF: usize = 507;
/// Files of this minor version and below have no big data (S, K).
pub(super) const LAST_MINOR_WITHOUT_BIG_DATA: u32 = 3;
/// Bit of a stored size: the data is in the field for its offset (S).
pub(super) const INLINE: u32 = 0x8000_0000;

/// Units of the name of a key.
pub(super) const MAX_KEY_NAME: usize = 255;
/// Units of the name of a value.
pub(super) const MAX_VALUE_NAME: usize = 16_383;
/// Keys below each other, the root not counted.
pub(super) const MAX_DEPTH: usize = 512;
/// Bytes of a hive that is read: ours.
pub(super) const MAX_FILE: usize = 512 << 20;
/// Keys of a hive that is read: ours, and a hundred times those of a real one.
pub(super) const MAX_KEYS: usize = 4 << 20;
/// Values of a hive that is read: ours.
pub(super) const MAX_VALUES: usize = 16 << 20;
/// Bytes of all bins: bit 31 of an offset tells stable from volatile storage (K).
pub(super) const MAX_BINS: usize = (1 << 31) - BLOCK;

/// `Base block flags`: keys have layer marks, the hive is a differencing one (S, O).
pub(super) const LAYERED: u32 = 0x2;
/// File type of a primary file.
pub(super) const PRIMARY: u32 = 0;
/// File type of a log with entries, as Windows 8.1 and later write it (S).
pub(super) const LOG_WITH_ENTRIES: u32 = 6;

/// `KeyNode::flags`.
pub(super) mod key_flag {
    /// In memory only.
    pub(in super::super) const VOLATILE: u16 = 0x0001;
    /// The mount point of another hive; in memory only.
    pub(in super::super) const HIVE_EXIT: u16 = 0x0002;
    /// The root. Missing in what offreg wrote and no kernel loaded, so never asked for (O).
    pub(in super::super) const HIVE_ENTRY: u16 = 0x0004;
    /// Cannot be deleted; on roots.
    pub(in super::super) const NO_DELETE: u16 = 0x0008;
    /// A symbolic link.
    pub(in super::super) const LINK: u16 = 0x0010;
    /// The name has one byte a unit.
    pub(in super::super) const LATIN1: u16 = 0x0020;
    /// The number of values is a handle.
    pub(in super::super) const PREDEFINED: u16 = 0x0040;
    /// Registry virtualisation: source, target, store.
    pub(in super::super) const VIRTUAL: u16 = 0x0380;
}

/// `KeyNode::layer`: what the low bits say (S, O, K).
pub(super) const LAYER_SEMANTICS: u8 = 0x03;
/// `KeyNode::layer`: the class name is that of the key below (S, O).
pub(super) const LAYER_INHERIT_CLASS: u8 = 0x80;

/// `ValueNode::flags`: the name has one byte a unit.
pub(super) const VALUE_LATIN1: u16 = 0x1;
/// `ValueNode::flags`: the value is deleted; in differencing hives only (S, O).
pub(super) const VALUE_TOMBSTONE: u16 = 0x2;

/// The start of a hive, of which logs hold copies (S). What is not named is zero when written.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct BaseBlock {
    pub(super) signature: [u8; 4],
    pub(super) sequence: U32,
    pub(super) second_sequence: U32,
    pub(super) written: U64,
    pub(super) major: U32,
    pub(super) minor: U32,
    pub(super) file_type: U32,
    pub(super) format: U32,
    pub(super) root: U32,
    pub(super) bins_size: U32,
    pub(super) clustering: U32,
    pub(super) file_name: [u8; 64],
    pub(super) guids: [u8; 32],
    pub(super) flags: U32,
    pub(super) unused: [u8; 360],
    pub(super) checksum: U32,
}

const _: () = assert!(size_of::<BaseBlock>() == 512);
const _: () = assert!(std::mem::offset_of!(BaseBlock, root) == 36);
const _: () = assert!(std::mem::offset_of!(BaseBlock, flags) == 144);
const _: () = assert!(std::mem::offset_of!(BaseBlock, checksum) == 508);

impl BaseBlock {
    pub(super) const SIGNATURE: [u8; 4] = *b"regf";

    /// The XOR of all words before the field; two results stand for "none" and are replaced (S).
    pub(super) fn computed_checksum(&self) -> u32 {
        let words = self.as_bytes().as_chunks::<4>().0;
        let sum = words[..127].iter().fold(0, |sum, word| sum ^ u32::from_le_bytes(*word));
        match sum {
            0 => 1,
            0xFFFF_FFFF => 0xFFFF_FFFE,
            sum => sum,
        }
    }

    pub(super) fn checksum_is_right(&self) -> bool {
        self.checksum.get() == self.computed_checksum()
    }
}

/// The start of a bin (S).
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct BinHeader {
    pub(super) signature: [u8; 4],
    pub(super) offset: U32,
    pub(super) size: U32,
    pub(super) reserved: [u8; 8],
    pub(super) written: U64,
    pub(super) spare: U32,
}

const _: () = assert!(size_of::<BinHeader>() == 32);

impl BinHeader {
    pub(super) const SIGNATURE: [u8; 4] = *b"hbin";
}

/// A key; its name follows (S).
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct KeyNode {
    pub(super) signature: [u8; 2],
    pub(super) flags: U16,
    pub(super) written: U64,
    /// Who opened the key since when; not carried over.
    pub(super) access: u8,
    /// Layer marks; anything unless the base block says [`LAYERED`] (S, O).
    pub(super) layer: u8,
    pub(super) spare: [u8; 2],
    pub(super) parent: U32,
    pub(super) subkeys: U32,
    /// Counts and lists of volatile keys are left-overs of memory in real files (O).
    pub(super) volatile_subkeys: U32,
    pub(super) subkey_list: U32,
    pub(super) volatile_list: U32,
    pub(super) values: U32,
    pub(super) value_list: U32,
    pub(super) security: U32,
    pub(super) class: U32,
    /// This and the other "longest" fields are upper bounds, in bytes of UTF-16 (S, O).
    pub(super) longest_subkey: U16,
    /// WOW64 flags in the low half, virtualisation's in the high one (S).
    pub(super) virtualization: u8,
    pub(super) debug: u8,
    pub(super) longest_class: U32,
    pub(super) longest_value_name: U32,
    pub(super) largest_value: U32,
    pub(super) work: U32,
    pub(super) name_length: U16,
    pub(super) class_length: U16,
}

const _: () = assert!(size_of::<KeyNode>() == 76);
const _: () = assert!(std::mem::offset_of!(KeyNode, security) == 44);

impl KeyNode {
    pub(super) const SIGNATURE: [u8; 2] = *b"nk";
}

/// A value; its name follows (S).
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ValueNode {
    pub(super) signature: [u8; 2],
    pub(super) name_length: U16,
    pub(super) size: U32,
    /// Offset of the data's cell, or with [`INLINE`] the data.
    pub(super) data: U32,
    pub(super) kind: U32,
    pub(super) flags: U16,
    /// Garbage in real files (O).
    pub(super) spare: U16,
}

const _: () = assert!(size_of::<ValueNode>() == 20);

impl ValueNode {
    pub(super) const SIGNATURE: [u8; 2] = *b"vk";
}

/// A security descriptor, one of a ring; its bytes follow (S).
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct SecurityNode {
    pub(super) signature: [u8; 2],
    pub(super) reserved: U16,
    pub(super) next: U32,
    pub(super) previous: U32,
    /// Keys that use it.
    pub(super) references: U32,
    pub(super) size: U32,
}

const _: () = assert!(size_of::<SecurityNode>() == 20);

impl SecurityNode {
    pub(super) const SIGNATURE: [u8; 2] = *b"sk";
}

/// Data in segments (S).
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct BigData {
    pub(super) signature: [u8; 2],
    pub(super) segments: U16,
    pub(super) list: U32,
}

const _: () = assert!(size_of::<BigData>() == 8);

impl BigData {
    pub(super) const SIGNATURE: [u8; 2] = *b"db";
}

/// The start of every list of subkeys (S).
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ListHeader {
    pub(super) signature: [u8; 2],
    pub(super) count: U16,
}
