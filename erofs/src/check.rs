//! The checker: everything in an image that breaks a rule, including what kernels accept without a word.

mod acl;
mod inode;
mod name_filter;
mod regions;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashMap;
use std::fmt;

use crate::format::{Incompat, LABEL_MAX, NULL_BLOCK, PAGE, SUPERBLOCK_OFFSET};
use crate::trail::Trail;
use crate::{Error, ErrorKind, Image, Nid, ReadAt};
use regions::Regions;

/// Findings beyond this many are only counted.
const MAX_FINDINGS: usize = 10_000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Legal, or harmless on the kernels that we know, but not what a writer should do.
    Warning,
    /// Legal, but not read here, so that a part of the image was not checked.
    Unsupported,
    /// The image breaks the format's rules, or means different things to different readers.
    Error,
}

macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident, $severity:ident, $text:literal;)+) => {
        /// What a finding is about. Names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[$doc])+ $name,)+ }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The stable name, as in `link-count`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// How bad findings of this code are.
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)+ }
            }
        }
    };
}

codes! {
    /// The superblock's checksum is wrong: no kernel mounts the image.
    Checksum, Error, "superblock-checksum";
    /// The superblock's inode count differs from the inodes found.
    InodeCount, Warning, "inode-count";
    /// The superblock's block count differs from the file's length.
    BlockCount, Warning, "block-count";
    /// The label fills its field, which kernels before 6.15 refuse.
    Label, Warning, "label";
    /// The file does not end on a page boundary, which Linux 7.3 cannot read.
    Padding, Warning, "image-padding";
    /// A reserved field is not zero.
    Reserved, Warning, "reserved-field";
    /// A feature is used that the superblock does not announce.
    FeatureFlag, Warning, "feature-flag";
    /// A field of the 48-bit profile is used without its flag: kernels differ in what they read.
    WideField, Error, "wide-field";
    /// A device's range in the unified space is missing or covers something else.
    DeviceRange, Error, "device-range";
    /// A device is shorter than its slot says.
    DeviceShort, Error, "device-short";
    /// Data lies on an extra device that was not given, so it was not checked.
    DeviceMissing, Warning, "device-missing";
    /// An inode cannot be read: position, format, mode or size.
    Inode, Error, "inode";
    /// A name leads to nid 0, which libc hides.
    NidZero, Warning, "nid-zero";
    /// Nanoseconds of 10^9 or more.
    Nanoseconds, Error, "nanoseconds";
    /// The link count differs from the names found.
    LinkCount, Error, "link-count";
    /// A device node, pipe or socket with data.
    SpecialSize, Warning, "special-size";
    /// Data is compressed, so it was not checked. Told once, with the number of such inodes.
    Compressed, Unsupported, "compressed";
    /// Data lies outside the file or device that it should be in.
    DataRange, Error, "data-range";
    /// Data ends in a block that its file or device does not hold completely.
    PartialBlock, Error, "partial-block";
    /// An inline tail crosses a block boundary, or there is none.
    InlineTail, Error, "inline-tail";
    /// A chunk table is malformed or not inside the image.
    ChunkTable, Error, "chunk-table";
    /// A chunk names a device that the image does not have.
    DeviceId, Error, "device-id";
    /// A symbolic link's target is empty, too long or holds a NUL.
    SymlinkTarget, Error, "symlink-target";
    /// A symbolic link's target is not in the block of its inode, which old kernels refuse.
    SymlinkPosition, Warning, "symlink-position";
    /// A directory block is malformed.
    Directory, Error, "directory";
    /// Names are not in strictly ascending byte order, so some are not found.
    DirectoryOrder, Error, "directory-order";
    /// A name holds a slash or a NUL.
    DirectoryName, Error, "directory-name";
    /// `.` or `..` is missing or leads elsewhere.
    DirectoryDots, Error, "directory-dots";
    /// An entry's type differs from its inode's.
    EntryType, Error, "entry-type";
    /// The bytes behind the last name of a block are not zero.
    DirectoryFill, Error, "directory-fill";
    /// A directory has more than one name.
    DirectoryTwice, Error, "directory-twice";
    /// The root is not a directory or cannot be read.
    Root, Error, "root";
    /// An xattr body or entry cannot be read.
    Xattr, Error, "xattr";
    /// An xattr's name index stands for nothing, so the xattr is invisible.
    XattrIndex, Warning, "xattr-index";
    /// An inode has two xattrs of one name.
    XattrDuplicate, Error, "xattr-duplicate";
    /// The name filter hides an xattr that is there.
    XattrFilter, Error, "xattr-filter";
    /// A POSIX ACL is malformed.
    Acl, Error, "acl";
    /// The mode's group bits differ from the ACL's mask.
    AclMask, Error, "acl-mask";
    /// `trusted.overlay.opaque` is neither `y` nor `x`.
    OverlayOpaque, Warning, "overlay-opaque";
    /// Two pieces of metadata share bytes.
    MetadataOverlap, Error, "metadata-overlap";
    /// File data lies on top of metadata.
    DataOverlap, Error, "data-overlap";
    /// Directories and tables are together larger than the image: it was not checked to the end.
    Limit, Error, "limit";
    /// Reading failed below us.
    Io, Error, "io";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub code: Code,
    /// What is wrong, in words, with the values.
    pub message: String,
    /// Byte offset in the image, where there is one.
    pub offset: Option<u64>,
    /// The inode, where there is one.
    pub nid: Option<Nid>,
    /// A path that leads there, where there is one; `/` is the root.
    pub path: Option<Vec<u8>>,
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity() {
            Severity::Error => "error",
            Severity::Unsupported => "unsupported",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}: ", self.code)?;
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.escape_ascii())?;
        }
        f.write_str(&self.message)?;
        match (self.nid, self.offset) {
            (Some(nid), Some(offset)) => write!(f, " (inode {nid}, byte {offset:#x})"),
            (Some(nid), None) => write!(f, " (inode {nid})"),
            (None, Some(offset)) => write!(f, " (byte {offset:#x})"),
            (None, None) => Ok(()),
        }
    }
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Inodes that a name leads to.
    pub inodes: u64,
    /// Directories among them.
    pub directories: u64,
    /// Regular files among them.
    pub files: u64,
    /// Symbolic links among them.
    pub symlinks: u64,
    /// Device nodes, pipes and sockets among them.
    pub specials: u64,
    /// Names, without `.` and `..`.
    pub names: u64,
    /// Inodes with compressed data, whose data was not checked.
    pub compressed: u64,
    /// Extended attributes of all inodes.
    pub xattrs: u64,
    /// Bytes of file data in blocks and tails, holes not counted, shared blocks counted for every file.
    pub data_bytes: u64,
}

/// The result of [`check`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What is wrong, in the order found.
    pub findings: Vec<Finding>,
    /// Findings that were left out because there were too many.
    pub omitted: u64,
    /// What was looked at.
    pub counts: Counts,
}

impl Report {
    /// Findings of severity [`Severity::Error`].
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// Whether no rule is broken as far as the image is understood, and a part of it is not.
    pub fn is_unsupported(&self) -> bool {
        self.errors() == 0 && self.omitted == 0 && self.count(Severity::Unsupported) > 0
    }

    /// Whether everything was checked and no rule is broken; there may be warnings.
    pub fn is_sound(&self) -> bool {
        self.errors() == 0 && self.omitted == 0 && self.count(Severity::Unsupported) == 0
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity() == severity).count()
    }
}

/// Checks everything that can be checked without reading file data: superblock, device table, every inode
/// that a name leads to, its names or its blocks' places, its xattrs, and which bytes are used twice.
pub fn check<R: ReadAt>(image: &Image<R>) -> Report {
    let mut checker = Checker {
        image,
        report: Report::default(),
        regions: Regions::default(),
        links: HashMap::new(),
        shared: HashMap::new(),
        metadata_left: image.total_length(),
        missing_device_told: false,
        chunk_flag_told: false,
        compressed: None,
    };
    checker.superblock();
    checker.devices();
    checker.walk();
    checker.report_overlaps();
    checker.report_compressed();
    checker.report
}

/// What an inode said of its links, and what was found.
struct Links {
    stored: u32,
    found: u64,
    directory: bool,
    trail: Trail,
}

/// Where a finding is.
#[derive(Default, Clone, Copy)]
struct Place<'t> {
    offset: Option<u64>,
    nid: Option<Nid>,
    trail: Option<&'t Trail>,
}

impl Place<'_> {
    fn offset(offset: u64) -> Self {
        Self { offset: Some(offset), ..Self::default() }
    }
}

struct Checker<'a, R> {
    image: &'a Image<R>,
    report: Report,
    regions: Regions,
    links: HashMap<Nid, Links>,
    /// Shared xattrs that were read: the full name, if the index stands for something, and the filter's bit.
    shared: HashMap<u32, Option<inode::SharedXattr>>,
    /// Bytes that directories and chunk tables may still take: honest ones do not share bytes.
    metadata_left: u64,
    missing_device_told: bool,
    chunk_flag_told: bool,
    /// The first inode with compressed data and its path.
    compressed: Option<(Nid, Option<Trail>)>,
}

impl<R: ReadAt> Checker<'_, R> {
    fn find(&mut self, code: Code, place: Place<'_>, message: impl Into<String>) {
        if self.report.findings.len() >= MAX_FINDINGS {
            self.report.omitted += 1;
            return;
        }
        self.report.findings.push(Finding {
            code,
            message: message.into(),
            offset: place.offset,
            nid: place.nid,
            path: place.trail.map(Trail::path),
        });
    }

    /// A finding from an error; failing to read at all is never the image's fault.
    fn fail(&mut self, code: Code, place: Place<'_>, error: &Error) {
        match error.kind() {
            ErrorKind::Io => self.find(Code::Io, place, format!("{error:?}")),
            _ => self.find(code, place, error.to_string()),
        }
    }

    fn superblock(&mut self) {
        let image = self.image;
        let superblock = image.superblock();
        let place = Place::offset(SUPERBLOCK_OFFSET);
        if let Err(error) = image.verify_checksum() {
            self.fail(Code::Checksum, place, &error);
        }
        if superblock.volume_name[LABEL_MAX] != 0 {
            self.find(Code::Label, place, "the label has no room for a final NUL");
        }
        let label_end = image.label().len();
        if superblock.volume_name[label_end..].iter().any(|byte| *byte != 0) {
            self.find(Code::Reserved, place, "the label is followed by bytes that are not zero");
        }
        if superblock.reserved1 != [0; 2] || superblock.reserved2 != [0; 8] {
            self.find(Code::Reserved, place, "reserved bytes of the superblock are not zero");
        }
        if superblock.fixed_nsec.get() >= 1_000_000_000 {
            let message = format!("the common time has {} nanoseconds", superblock.fixed_nsec);
            self.find(Code::Nanoseconds, place, message);
        }
        let extra = u64::from(superblock.sb_extslots) * 16;
        self.regions.metadata(SUPERBLOCK_OFFSET, 128 + extra, None);

        let length = image.length();
        if !length.is_multiple_of(PAGE) {
            let message = format!("the image has {length} bytes, not a multiple of {PAGE}");
            self.find(Code::Padding, Place::default(), message);
        }
        let wide = image.incompat().contains(Incompat::BIT48) && superblock.rootnid_8b.get() != 0;
        let high = if wide { u64::from(superblock.rootnid_2b.get()) << 32 } else { 0 };
        let blocks = u64::from(superblock.blocks.get()) | high;
        let found = length.div_ceil(image.block_size());
        if blocks > found || (blocks < found && !image.is_flattened()) {
            let message = format!("the superblock counts {blocks} blocks, the file has {found}");
            self.find(Code::BlockCount, place, message);
        }
    }

    fn devices(&mut self) {
        let image = self.image;
        let slots = image.devices();
        let table = u64::from(image.superblock().devt_slotoff.get()) * 128;
        if !slots.is_empty() {
            self.regions.metadata(table, slots.len() as u64 * 128, None);
        }
        let own_blocks = match image.is_flattened() {
            true => u64::from(image.superblock().blocks.get()),
            false => image.length().div_ceil(image.block_size()),
        };
        let mut ranges = vec![(0, own_blocks, 0)];
        for (number, slot) in (1_u16..=u16::MAX).zip(slots) {
            let place = Place::offset(table + u64::from(number - 1) * 128);
            let (first, blocks) = image.slot_range(slot);
            if slot.reserved != [0; 52] {
                self.find(
                    Code::Reserved,
                    place,
                    format!("reserved bytes of device {number}'s slot"),
                );
            }
            if slot.high.iter().any(|high| high.get() != 0)
                && !image.incompat().contains(Incompat::BIT48)
            {
                let message = format!("device {number} has 48-bit fields without the 48BIT flag");
                self.find(Code::WideField, place, message);
            }
            match first.checked_add(blocks) {
                _ if first == 0 => {
                    let message = format!("device {number} has no place in the unified space");
                    self.find(Code::DeviceRange, place, message);
                }
                Some(end)
                    if end <= u64::from(NULL_BLOCK)
                        || image.incompat().contains(Incompat::BIT48) =>
                {
                    ranges.push((first, end, number));
                }
                _ => {
                    let message = format!("device {number} ends behind the last block address");
                    self.find(Code::DeviceRange, place, message);
                }
            }
            let given = image.source(number).map(|source| source.length());
            if let Some(given) = given
                && blocks.checked_mul(image.block_size()).is_none_or(|needed| needed > given)
            {
                let message =
                    format!("device {number} has {given} bytes, its slot promises {blocks} blocks");
                self.find(Code::DeviceShort, place, message);
            }
        }
        ranges.sort_unstable();
        let mut covered = (0, 0);
        for (first, end, number) in ranges {
            if first < covered.0 && end > first {
                let message = format!(
                    "device {number} begins at block {first} of the unified space, inside device {}",
                    covered.1
                );
                self.find(Code::DeviceRange, Place::offset(table), message);
            }
            if end > covered.0 {
                covered = (end, number);
            }
        }
    }

    fn report_compressed(&mut self) {
        let Some((nid, trail)) = self.compressed.take() else { return };
        let place = Place { offset: None, nid: Some(nid), trail: trail.as_ref() };
        let count = match self.report.counts.compressed {
            1 => "a compressed inode".to_owned(),
            count => format!("the first of {count} compressed inodes"),
        };
        let message = format!("{count} ({}): its data was not checked", self.algorithms());
        self.find(Code::Compressed, place, message);
    }

    /// What data may be compressed with. Images without configurations have LZ4 only.
    fn algorithms(&self) -> String {
        const NAMES: [&str; 4] = ["LZ4", "LZMA", "DEFLATE", "Zstandard"];
        if !self.image.incompat().contains(Incompat::COMPR_CFGS) {
            return NAMES[0].to_owned();
        }
        let bits = self.image.superblock().available_compr_algs.get();
        let named = NAMES.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
        let named: Vec<&str> = named.map(|(_, name)| *name).collect();
        if named.is_empty() { "an unknown algorithm".to_owned() } else { named.join(" or ") }
    }

    fn report_overlaps(&mut self) {
        let regions = std::mem::take(&mut self.regions);
        regions.overlaps(|code, offset, nid, message| {
            self.find(code, Place { offset: Some(offset), nid, trail: None }, message);
        });
    }
}
