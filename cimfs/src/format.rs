//! The on-disk vocabulary: structures, flags and limits. All integers are little-endian.
//!
//! Microsoft has not published the format. What is here was stated by code and documents that Microsoft's
//! people published, above all a reader in Go for version 1 (hcsshim, branch `cim`, 2019), its update to
//! version 2 (hcsshim pull request 1152, 2021) and today's header code (`pkg/cimfs`), and by the
//! reference of the Win32 functions. Each comment says how well a fact is known:
//!
//! * *stated*: said without doubt by Microsoft's own code or documentation; nobody is known to have
//!   measured it on an image;
//! * *in use*: the same, and today's hcsshim relies on it on real images;
//! * *single source*: from one credible source or a tight consequence of stated facts;
//! * *inferred*: our conclusion, unverified on Windows;
//! * *unknown*.
//!
//! `docs/format/cim.md` is the prose form. No structure has a checksum that anybody knows of.

use std::fmt;

use bitflags::bitflags;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of all three kinds of files (*in use*).
pub const MAGIC: [u8; 8] = *b"cimfile0";
/// [`CommonHeader::file_type`] of the filesystem file, the `.cim` (*stated*, checked by no public code).
pub const FILE_TYPE_IMAGE: u8 = 0;
/// [`CommonHeader::file_type`] of a region file (*stated*, checked by no public code).
pub const FILE_TYPE_REGION: u8 = 1;
/// [`CommonHeader::file_type`] of an object-ID file (*stated*, checked by no public code).
pub const FILE_TYPE_OBJECT_ID: u8 = 2;
/// Entries of a full file table: file 1 is slot 0 of table 0, file 1025 is slot 0 of table 1 (*stated*).
pub const FILES_PER_TABLE: u32 = 1024;
/// Code units that the upcase table folds: all of the basic multilingual plane (*stated*).
pub const UPCASE_UNITS: usize = 0x1_0000;
/// Bytes of the upcase table, which has no count in front (*stated*).
pub const UPCASE_LENGTH: u64 = 2 * UPCASE_UNITS as u64;
/// Alignment of file data in a region of type [`REGION_DATA`] (*stated*).
pub const PAGE: u64 = 4096;
/// Alignment of everything else: small data (*stated*), metadata (*single source*).
pub const OBJECT_ALIGNMENT: u64 = 8;
/// Longest name in UTF-16 code units (*stated*).
pub const NAME_MAX: usize = 255;
/// Longest path in UTF-16 code units (*stated*).
pub const PATH_MAX: usize = 32_767;
/// Longest security descriptor, reparse buffer and list of extended attributes: their lengths have 16 bits.
pub const BLOB_MAX: usize = 0xFFFF;
/// Longest name of an extended attribute in bytes (*stated*).
pub const EA_NAME_MAX: usize = 254;
/// Most regions that an image and its parents can have together: an index has 16 bits (*stated*).
pub const REGIONS_MAX: usize = 0x1_0000;
/// First byte behind the 48 bits of an offset or length.
pub const LENGTH_LIMIT: u64 = 1 << 48;
/// [`RegionHeader::kind`] of metadata (*stated*).
pub const REGION_METADATA: u8 = 0;
/// [`RegionHeader::kind`] of page-aligned data. The order metadata, data, small data was intended, but the
/// only source gives all three the number 0 by a slip of its language: *inferred*, unverified on Windows.
pub const REGION_DATA: u8 = 1;
/// [`RegionHeader::kind`] of small data; see [`REGION_DATA`].
pub const REGION_SMALL_DATA: u8 = 2;
/// Length of a version 1 file entry (*stated*).
pub const ENTRY_SIZE_V1: u16 = 88;
/// Length of a file entry since version 2 as far as it is known (*stated*). Longer ones have been planned
/// for; what they hold is *unknown* and ignored.
pub const ENTRY_SIZE_V2: u16 = 96;
/// The security descriptor that writers give files without one: 20 bytes, no owner, a NULL DACL (*in use*).
/// A file without any puts an image into a "weird state", say the sources.
pub const NULL_DACL: [u8; 20] = [1, 0, 0x04, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Where something lies: bits 0..47 are a byte offset from the start of a region file, its header
/// included, bits 48..63 the index of the region (*stated*).
///
/// Indexes count the regions of the first parent's set, then the next parent's, and the image's own last,
/// so an image can be forked without a change to its metadata (*stated*). 0 means that there is nothing; a
/// byte offset of 0 in another region means nothing at all and is wrong (*stated*).
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct RegionOffset(U64);

impl RegionOffset {
    /// Nothing.
    pub const NULL: Self = Self(U64::new(0));

    /// The offset of a byte of a region, or `None` from 2^48 on.
    pub fn new(region: u16, byte: u64) -> Option<Self> {
        (byte < LENGTH_LIMIT).then(|| Self(U64::new(u64::from(region) << 48 | byte)))
    }

    /// Index of the region.
    pub fn region(self) -> u16 {
        let [.., low, high] = self.0.to_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Offset in the region's file, header included.
    pub fn byte(self) -> u64 {
        self.0.get() & (LENGTH_LIMIT - 1)
    }

    /// Whether it points at nothing.
    pub fn is_null(self) -> bool {
        self.0.get() == 0
    }

    /// The place `bytes` further on in the same region, or `None` from 2^48 on.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        Self::new(self.region(), self.byte().checked_add(bytes)?)
    }
}

impl fmt::Display for RegionOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "region {}, byte {:#x}", self.region(), self.byte())
    }
}

impl fmt::Debug for RegionOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:#x}", self.region(), self.byte())
    }
}

/// Number of a file in an image's file tables, from 1 on; 0 is no file (*stated*).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

impl FileId {
    /// Index of the file table and the slot in it; `None` for 0.
    pub fn place(self) -> Option<(u32, u32)> {
        let index = self.0.checked_sub(1)?;
        Some((index / FILES_PER_TABLE, index % FILES_PER_TABLE))
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The beginning of every file of an image.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CommonHeader {
    /// [`MAGIC`] (*in use*).
    pub magic: [u8; 8],
    /// Length of the file's header. The field is *stated*; its value is checked by no public code, that it is
    /// the length of the whole header of that kind of file is *inferred*, unverified on Windows.
    pub header_length: U32,
    /// [`FILE_TYPE_IMAGE`], [`FILE_TYPE_REGION`] or [`FILE_TYPE_OBJECT_ID`] (*stated*).
    pub file_type: u8,
    /// 0 (*single source*).
    pub reserved1: u8,
    /// 0 (*single source*).
    pub reserved2: U16,
    /// 1, 2 or 3 (*in use* for 2 and 3). Readers check nothing but this.
    pub major: U32,
    /// 0 in all known code (*stated*).
    pub minor: U32,
    /// 0 (*single source*).
    pub reserved3: U64,
}
const _: () = assert!(size_of::<CommonHeader>() == 32);
const _: () = assert!(std::mem::offset_of!(CommonHeader, major) == 0x10);

/// A set of region files `region_<id>_0` to `region_<id>_<count - 1>`, each with its `objectid_<id>_<i>`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RegionSet {
    /// GUID in Windows' layout; file names hold its lower-case, dashed form (*in use*).
    pub id: [u8; 16],
    /// Number of region files (*in use*).
    pub count: U16,
    /// 0 (*single source*).
    pub reserved1: U16,
    /// 0 (*single source*).
    pub reserved2: U32,
}
const _: () = assert!(size_of::<RegionSet>() == 24);

/// The filesystem file (`.cim`) up to the parents' region sets, of which `parent_count` follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ImageHeader {
    /// Of type [`FILE_TYPE_IMAGE`].
    pub common: CommonHeader,
    /// The image's own region set (*in use*).
    pub regions: RegionSet,
    /// The [`Filesystem`] (*stated*).
    pub filesystem: RegionOffset,
    /// 0 (*single source*).
    pub reserved1: U32,
    /// 0 (*single source*).
    pub reserved2: U16,
    /// Number of region sets that follow (*stated*). That a fork lists its oldest ancestor first and its
    /// parent last follows from how offsets count regions (*single source*).
    pub parent_count: U16,
}
const _: () = assert!(size_of::<ImageHeader>() == 72);
const _: () = assert!(std::mem::offset_of!(ImageHeader, filesystem) == 0x38);
const _: () = assert!(std::mem::offset_of!(ImageHeader, parent_count) == 0x46);

/// Beginning of a region file. Objects follow in no particular order and without a directory: everything
/// is found by its offset (*stated*).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RegionHeader {
    /// Of type [`FILE_TYPE_REGION`].
    pub common: CommonHeader,
    /// Index (*stated*); whether of the file in its set or of the region in a fork is *unknown*. Both are the
    /// same in an image without parents. We write the former.
    pub index: U16,
    /// [`REGION_METADATA`], [`REGION_DATA`] or [`REGION_SMALL_DATA`].
    pub kind: u8,
    /// 0 (*single source*).
    pub reserved1: u8,
    /// 0 (*single source*).
    pub reserved2: U32,
}
const _: () = assert!(size_of::<RegionHeader>() == 40);

/// Beginning of an object-ID file, which only writers use, to find equal objects (*single source*; no public
/// code reads one).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ObjectIdHeader {
    /// Of type [`FILE_TYPE_OBJECT_ID`].
    pub common: CommonHeader,
    /// As in the region file's [`RegionHeader`].
    pub index: U16,
    /// As in the region file's [`RegionHeader`].
    pub kind: u8,
    /// 0.
    pub reserved1: u8,
    /// 0.
    pub reserved2: U32,
    /// Byte offset of the table of [`ObjectIdEntry`] in this file.
    pub table_offset: U32,
    /// Number of entries. Whether there may be none is *unknown*.
    pub count: U32,
}
const _: () = assert!(size_of::<ObjectIdHeader>() == 48);

/// One object of a region. The order of the table is *unknown*; ours is by digest, then length.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ObjectIdEntry {
    /// Length of the object in bytes (*single source*).
    pub length: U64,
    /// Digest (*single source*). Its algorithm and what exactly it covers are *unknown*. Ours is the beginning
    /// of the SHA-256 of the object's bytes, unverified on Windows: if it is another one there, Windows
    /// misses a chance to store an object once, and so do we on what Windows wrote.
    pub digest: [u8; 24],
    /// Offset of the object in the region file (*single source*).
    pub offset: U64,
}
const _: () = assert!(size_of::<ObjectIdEntry>() == 40);

/// The object that everything else is reached from.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Filesystem {
    /// The upcase table: [`UPCASE_UNITS`] code units of 16 bits (*stated*). What Windows stores in it is *unknown*.
    pub upcase: RegionOffset,
    /// The list of [`FileTable`] (*stated*).
    pub file_tables: RegionOffset,
    /// Number of file tables (*stated*).
    pub file_table_count: U32,
    /// [`FileId`] of the root directory (*stated*).
    pub root: U32,
}
const _: () = assert!(size_of::<Filesystem>() == 24);

/// Where up to [`FILES_PER_TABLE`] file entries lie (*stated*).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FileTable {
    /// The first entry; the others follow without gaps.
    pub offset: RegionOffset,
    /// Number of entries.
    pub count: U16,
    /// Length of an entry. It may differ from table to table and from [`FileEntry`]: what is missing is zero,
    /// what is more is ignored.
    pub entry_size: U16,
    /// 0 (*single source*).
    pub reserved: U32,
}
const _: () = assert!(size_of::<FileTable>() == 16);

bitflags! {
    /// Flags of a file (*stated*). There is no known form for other attributes (compressed, not indexed,
    /// offline, …). Directories and reparse points are recognised by what they have.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct FileFlags: u16 {
        /// `FILE_ATTRIBUTE_READONLY`.
        const READ_ONLY = 0x1;
        /// `FILE_ATTRIBUTE_HIDDEN`.
        const HIDDEN = 0x2;
        /// `FILE_ATTRIBUTE_SYSTEM`.
        const SYSTEM = 0x4;
        /// `FILE_ATTRIBUTE_ARCHIVE`.
        const ARCHIVE = 0x8;
        /// `FILE_ATTRIBUTE_SPARSE_FILE`.
        const SPARSE = 0x10;
        const _ = !0;
    }
}

/// Win32's values of the attributes that have a flag (*stated*).
const ATTRIBUTES: [(FileFlags, u32); 5] = [
    (FileFlags::READ_ONLY, 0x1),
    (FileFlags::HIDDEN, 0x2),
    (FileFlags::SYSTEM, 0x4),
    (FileFlags::ARCHIVE, 0x20),
    (FileFlags::SPARSE, 0x200),
];

impl FileFlags {
    /// Of Win32 file attributes; those that have no flag are left out.
    pub fn from_attributes(attributes: u32) -> Self {
        let set = ATTRIBUTES.iter().filter(|(_, attribute)| attributes & attribute != 0);
        set.fold(Self::empty(), |all, (flag, _)| all | *flag)
    }

    /// The Win32 file attributes that these stand for.
    pub fn to_attributes(self) -> u32 {
        let set = ATTRIBUTES.iter().filter(|(flag, _)| self.contains(*flag));
        set.fold(0, |all, (_, attribute)| all | attribute)
    }
}

/// A file or directory. A hard link is a second name for the same [`FileId`] (*stated*); the number of
/// links is stored nowhere that is known.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FileEntry {
    /// [`FileFlags`] (*stated*).
    pub flags: U16,
    /// Bytes of extended attributes (*stated*).
    pub ea_length: U16,
    /// Copy of the reparse buffer's tag, 0 without one (*stated*).
    pub reparse_tag: U32,
    /// 100 ns since 1601 (*stated*).
    pub creation_time: U64,
    /// 100 ns since 1601 (*stated*).
    pub last_write_time: U64,
    /// 100 ns since 1601 (*stated*).
    pub change_time: U64,
    /// 100 ns since 1601 (*stated*).
    pub last_access_time: U64,
    /// The file's data, or the link table of a directory (*stated*).
    pub default_stream: StreamDescriptor,
    /// Security descriptor: 16 bits of length, then the descriptor in self-relative form (*stated*).
    pub security: RegionOffset,
    /// `FILE_FULL_EA_INFORMATION` structures without a length in front (*stated*).
    pub eas: RegionOffset,
    /// 16 bits of length, then the whole reparse buffer with its own header (*stated*).
    pub reparse: RegionOffset,
    /// Link table of the alternate streams; how it is framed is not certain, see [`StreamFraming`].
    pub streams: RegionOffset,
    /// Since version 2: [`FileId`] of the directory. The field is *stated*, its meaning *inferred* from its
    /// name; no public code reads it. What it is for hard links and the root is *unknown*; we write the
    /// first of several directories, and 0 for the root.
    pub parent: U32,
    /// Since version 2: added to the regions of files that come from another image in a merged image. The field is
    /// *stated*, its meaning *inferred*. 0 in images that are not merged.
    pub base_region: U16,
    /// Since version 2: 0 (*single source*).
    pub reserved: U16,
}
const _: () = assert!(size_of::<FileEntry>() == ENTRY_SIZE_V2 as usize);
const _: () = assert!(std::mem::offset_of!(FileEntry, default_stream) == 0x28);
const _: () = assert!(std::mem::offset_of!(FileEntry, security) == 0x38);
const _: () = assert!(std::mem::offset_of!(FileEntry, parent) == ENTRY_SIZE_V1 as usize);

/// What a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// 0: contiguous bytes (*stated*).
    Data,
    /// 1: the link table of a directory (*stated*).
    Directory,
    /// 2: an executable in the layout that it has in memory (*stated*); see [`PeImage`].
    Pe,
    /// Something else; what is *unknown*, and it must not be read.
    Other(u8),
}

/// A stream: where its bytes are, how many, and what they mean.
#[derive(
    Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Debug,
)]
#[repr(C)]
pub struct StreamDescriptor {
    /// Data, link table or [`PeImage`] (*stated*). For streams without bytes null is natural (*inferred*).
    pub offset: RegionOffset,
    /// Bits 0..47: length in bytes. 48..55: [`StreamKind`]. 56: sparse. 57..63: *unknown*. (*Stated*.)
    pub size_and_kind: U64,
}
const _: () = assert!(size_of::<StreamDescriptor>() == 16);

const SPARSE_BIT: u64 = 1 << 56;

impl StreamDescriptor {
    /// A descriptor of `length` bytes, or `None` from 2^48 on.
    pub fn new(offset: RegionOffset, length: u64, kind: StreamKind, sparse: bool) -> Option<Self> {
        let kind = match kind {
            StreamKind::Data => 0,
            StreamKind::Directory => 1,
            StreamKind::Pe => 2,
            StreamKind::Other(kind) => kind,
        };
        let sparse = if sparse { SPARSE_BIT } else { 0 };
        let size_and_kind = U64::new(length | u64::from(kind) << 48 | sparse);
        (length < LENGTH_LIMIT).then_some(Self { offset, size_and_kind })
    }

    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.size_and_kind.get() & (LENGTH_LIMIT - 1)
    }

    /// What the stream is.
    pub fn kind(&self) -> StreamKind {
        match self.size_and_kind.to_bytes()[6] {
            0 => StreamKind::Data,
            1 => StreamKind::Directory,
            2 => StreamKind::Pe,
            kind => StreamKind::Other(kind),
        }
    }

    /// Whether the stream has no bytes behind it and reads as zeros (*stated*). How a stream is stored that
    /// was written in part is *unknown*.
    pub fn is_sparse(&self) -> bool {
        self.size_and_kind.get() & SPARSE_BIT != 0
    }

    /// Bits 57..63, of unknown meaning.
    pub fn unknown_bits(&self) -> u8 {
        self.size_and_kind.to_bytes()[7] >> 1
    }
}

/// Describes a stream of kind [`StreamKind::Pe`]; `mapping_count` [`PeMapping`] follow.
///
/// Byte x of the file lies at `data + x + delta`, where delta is that of the last mapping whose
/// `file_offset` is not beyond x, 0 before the first (*stated*).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PeImage {
    /// The expanded image, page-aligned (*stated*).
    pub data: RegionOffset,
    /// End of the last segment, which is the length of the file; the highest bit is no part of it (*stated*).
    pub data_length: U64,
    /// Length of the expanded image (*stated*).
    pub image_length: U32,
    /// Number of mappings (*stated*).
    pub mapping_count: U16,
    /// One flag means "valid image"; which bit is *unknown*.
    pub flags: U16,
}
const _: () = assert!(size_of::<PeImage>() == 24);

/// From where on how much is added; ascending (*stated*).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PeMapping {
    /// First byte of the file.
    pub file_offset: U32,
    /// What is added to get to the expanded image.
    pub delta: U32,
}
const _: () = assert!(size_of::<PeMapping>() == 8);

/// Beginning of a link table, which maps names to values: [`FileId`]s in a directory, stream descriptors
/// for alternate streams.
///
/// Behind it lie `count` values, `count` offsets of names of 32 bits from the start of the table, and
/// anywhere in the table the names: 16 bits of length in code units, then UTF-16. Sorted by upcased name
/// (*stated*); by code units or by characters is *unknown*, which matters only where a character beyond
/// the basic plane meets one from U+E000 on. No `.` and no `..` (*stated*).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LinkTableHeader {
    /// Length of the table in bytes: *stated*; that it counts this header too is from a *single source*.
    pub length: U32,
    /// Number of links (*stated*).
    pub count: U32,
}
const _: () = assert!(size_of::<LinkTableHeader>() == 8);

/// The reparse tag of a junction or volume mount point.
pub const TAG_MOUNT_POINT: u32 = 0xA000_0003;
/// The reparse tag of a symbolic link.
pub const TAG_SYMLINK: u32 = 0xA000_000C;

/// Tables of alternate streams are *stated* to be plain link tables, but the only reader expects 32 bits in
/// front, and fails on both forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StreamFraming {
    /// A link table, delimited by its own length: the natural reading of the structures' comments. *Inferred*.
    #[default]
    Plain,
    /// 32 bits with the length of the link table that follows. *Inferred*.
    Counted,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_split_into_region_and_byte() {
        let offset = RegionOffset::new(0x8001, 0x1234_5678_9ABC).unwrap();
        assert_eq!((offset.region(), offset.byte()), (0x8001, 0x1234_5678_9ABC));
        assert_eq!(offset.as_bytes(), [0xBC, 0x9A, 0x78, 0x56, 0x34, 0x12, 0x01, 0x80]);
        assert_eq!(offset.to_string(), "region 32769, byte 0x123456789abc");
        assert!(RegionOffset::new(0, LENGTH_LIMIT).is_none());
        assert!(offset.checked_add(LENGTH_LIMIT - 0x1234_5678_9ABC).is_none());
        assert!(offset.checked_add(u64::MAX).is_none());
        assert!(RegionOffset::NULL.is_null() && !RegionOffset::new(1, 0).unwrap().is_null());
    }

    #[test]
    fn streams_pack_length_kind_and_sparseness() {
        let stream = StreamDescriptor::new(RegionOffset::NULL, 5, StreamKind::Pe, true).unwrap();
        assert_eq!(stream.size_and_kind.get(), 0x0102_0000_0000_0005);
        assert_eq!((stream.length(), stream.kind()), (5, StreamKind::Pe));
        assert!(stream.is_sparse() && stream.unknown_bits() == 0);
        let odd = StreamDescriptor { size_and_kind: U64::new(0xFEFF_0000_0000_0000), ..stream };
        assert_eq!((odd.kind(), odd.unknown_bits()), (StreamKind::Other(0xFF), 0x7F));
        assert!(!odd.is_sparse());
        assert!(
            StreamDescriptor::new(RegionOffset::NULL, LENGTH_LIMIT, StreamKind::Data, false)
                .is_none()
        );
    }

    #[test]
    fn file_ids_start_with_one() {
        assert_eq!(FileId(0).place(), None);
        assert_eq!(FileId(1).place(), Some((0, 0)));
        assert_eq!(FileId(1024).place(), Some((0, 1023)));
        assert_eq!(FileId(1025).place(), Some((1, 0)));
    }
}
