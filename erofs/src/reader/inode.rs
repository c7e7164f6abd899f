//! Inodes as they are found, checked.

use std::fmt;

use crate::format::{
    CompactInode, DataLayout, ExtendedInode, FileType, IN_PACKED, Incompat, NULL_BLOCK, SLOT,
};
use crate::reader::unsupported;
use crate::{DeviceNumber, Error, Image, ReadAt, Result, Timestamp};
use zerocopy::little_endian::U64;

/// Number of an inode: its position in 32-byte slots behind the start of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nid(pub u64);

impl fmt::Display for Nid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One inode of an image: its attributes, and where its data and xattrs are to be looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InodeView {
    /// Its number, which is also `st_ino` of a mounted image.
    pub nid: Nid,
    /// What it is; never [`FileType::Unknown`].
    pub file_type: FileType,
    /// `mode & 0o7777`.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time; nanoseconds of 10^9 and more on disk are carried over to the seconds.
    pub mtime: Timestamp,
    /// Link count as stored, which nothing vouches for.
    pub nlink: u32,
    /// Length of the data in bytes, below 2^63.
    pub size: u64,
    /// How the data is laid out.
    pub layout: DataLayout,
    /// Device number of a device node, else 0:0.
    pub device_number: DeviceNumber,
    /// Whether this is the 64-byte form.
    pub extended: bool,
    /// Byte position in the image.
    pub position: u64,
    /// Length of the xattr body, 0 without xattrs. A body of 12 bytes is reserved and not readable.
    pub(crate) xattr_size: u64,
    /// First block of flat data, or `None` for one big hole.
    pub(crate) start: Option<u64>,
    /// The field that holds start block, chunk format or device number.
    pub(crate) u: u32,
    /// Where the file begins in the packed inode, if it is there.
    pub(crate) packed: Option<u64>,
    /// Nanoseconds as stored.
    pub(crate) raw_nanoseconds: u32,
    /// Whether `i_format` bit 4 is set: no `.` in a directory, one link otherwise.
    pub(crate) bit4: bool,
    /// Whether fields are set that only Linux 6.15 and newer understand.
    pub(crate) wide_fields: bool,
}

impl InodeView {
    /// Length of the inode itself, without its xattr body.
    pub(crate) fn core_size(&self) -> u64 {
        if self.extended { 64 } else { 32 }
    }

    /// Where inode and xattr body end, and the inline tail or the chunk table begins.
    pub(crate) fn head_end(&self) -> u64 {
        // Cannot overflow: the head was found to lie inside the image.
        self.position + self.core_size() + self.xattr_size
    }

    /// Whether the data is compressed, which this crate does not read.
    pub fn is_compressed(&self) -> bool {
        self.packed.is_none() && self.has_compressed_layout()
    }

    /// Whether the whole file is a piece of the image's packed inode.
    pub fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// Where the offset in the packed inode is, or the header of compressed data.
    pub(crate) fn map_header(&self) -> u64 {
        self.head_end().next_multiple_of(size_of::<u64>() as u64)
    }

    fn has_compressed_layout(&self) -> bool {
        matches!(self.layout, DataLayout::CompressedFull | DataLayout::CompressedCompact)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Type and permissions as `stat` shows them in `st_mode`.
    pub fn mode(&self) -> u32 {
        let kind: u32 = match self.file_type {
            FileType::Unknown => 0,
            FileType::Fifo => 0o010_000,
            FileType::CharDevice => 0o020_000,
            FileType::Directory => 0o040_000,
            FileType::BlockDevice => 0o060_000,
            FileType::Regular => 0o100_000,
            FileType::Symlink => 0o120_000,
            FileType::Socket => 0o140_000,
        };
        kind | u32::from(self.permissions)
    }
}

fn file_type(mode: u16) -> Option<FileType> {
    Some(match mode & 0o170_000 {
        0o010_000 => FileType::Fifo,
        0o020_000 => FileType::CharDevice,
        0o040_000 => FileType::Directory,
        0o060_000 => FileType::BlockDevice,
        0o100_000 => FileType::Regular,
        0o120_000 => FileType::Symlink,
        0o140_000 => FileType::Socket,
        _ => return None,
    })
}

/// Minor bits 0..7, major (12 bits), minor bits 8..19, from low to high.
fn device_number(u: u32) -> DeviceNumber {
    DeviceNumber { major: (u >> 8) & 0xFFF, minor: (u & 0xFF) | ((u >> 12) & 0xF_FF00) }
}

fn timestamp(seconds: i64, nanoseconds: u32) -> Timestamp {
    Timestamp {
        seconds: seconds.saturating_add((nanoseconds / 1_000_000_000).into()),
        nanoseconds: nanoseconds % 1_000_000_000,
    }
}

/// The fields that the two forms have in common.
struct Raw {
    format: u16,
    icount: u16,
    mode: u16,
    nlink: u32,
    size: u64,
    u: u32,
    start_high: u16,
    uid: u32,
    gid: u32,
    seconds: i64,
    nanoseconds: u32,
    extended: bool,
    wide_fields: bool,
}

impl<R: ReadAt> Image<R> {
    /// Byte position of an inode.
    pub(crate) fn inode_position(&self, nid: Nid) -> Result<u64> {
        if nid.0 >> 63 != 0 {
            return Err(unsupported(format!("inode {nid:?} inside a metadata box (metabox)")));
        }
        let base = u64::from(self.superblock.meta_blkaddr.get()) * self.block_size();
        nid.0
            .checked_mul(SLOT)
            .and_then(|offset| offset.checked_add(base))
            .ok_or_else(|| Error::corrupt(base, format!("inode {nid} lies past every image")))
    }

    fn raw_inode(&self, position: u64) -> Result<Raw> {
        let compact: CompactInode = self.primary.read_struct(position)?;
        let format = compact.format.get();
        if format & !0x1F != 0 {
            return Err(unsupported(format!("inode format {format:#x}")).at(position));
        }
        let bit4 = format & 0x10 != 0;
        if format & 1 == 0 {
            let mode = compact.mode.get();
            let one_link = bit4 && file_type(mode) != Some(FileType::Directory);
            let field = compact.nlink.get();
            let delta = compact.mtime.get();
            return Ok(Raw {
                format,
                icount: compact.xattr_icount.get(),
                mode,
                nlink: if one_link { 1 } else { field.into() },
                size: compact.size.get().into(),
                u: compact.u.get(),
                start_high: if one_link { field } else { 0 },
                uid: compact.uid.get().into(),
                gid: compact.gid.get().into(),
                seconds: self.superblock.epoch.get().saturating_add(delta.into()),
                nanoseconds: self.superblock.fixed_nsec.get(),
                extended: false,
                wide_fields: bit4 || delta != 0,
            });
        }
        let extended: ExtendedInode = self.primary.read_struct(position)?;
        Ok(Raw {
            format,
            icount: extended.xattr_icount.get(),
            mode: extended.mode.get(),
            nlink: extended.nlink.get(),
            size: extended.size.get(),
            u: extended.u.get(),
            start_high: extended.start_high.get(),
            uid: extended.uid.get(),
            gid: extended.gid.get(),
            seconds: extended.mtime.get(),
            nanoseconds: extended.mtime_nsec.get(),
            extended: true,
            wide_fields: bit4 || extended.start_high.get() != 0,
        })
    }

    /// Reads an inode. Inodes with compressed data are returned too; only their data is out of reach.
    pub fn inode(&self, nid: Nid) -> Result<InodeView> {
        let position = self.inode_position(nid)?;
        let raw = self.raw_inode(position)?;
        let layout = match (raw.format >> 1) & 7 {
            0 => DataLayout::FlatPlain,
            1 => DataLayout::CompressedFull,
            2 => DataLayout::FlatInline,
            3 => DataLayout::CompressedCompact,
            4 => DataLayout::ChunkBased,
            other => return Err(unsupported(format!("inode data layout {other}")).at(position)),
        };
        let file_type = file_type(raw.mode).ok_or_else(|| {
            Error::corrupt(position, format!("inode {nid} has mode {:#o}", raw.mode))
        })?;
        if raw.size > i64::MAX as u64 {
            return Err(Error::corrupt(position, format!("inode {nid} has size {:#x}", raw.size)));
        }
        let xattr_size = match raw.icount {
            0 => 0,
            n => 12 + 4 * (u64::from(n) - 1),
        };
        let core = if raw.extended { 64 } else { 32 };
        self.primary.check(position, core + xattr_size)?;

        // Linux 6.15 and newer take "nowhere" as a hole; the high half counts where there is one.
        let bit4 = raw.format & 0x10 != 0;
        let has_high = raw.extended || (bit4 && file_type != FileType::Directory);
        let nowhere = raw.u == NULL_BLOCK && (!has_high || raw.start_high == 0xFFFF);
        let start = u64::from(raw.u) | (u64::from(raw.start_high) << 32);
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        let mut view = InodeView {
            nid,
            file_type,
            permissions: raw.mode & 0o7777,
            uid: raw.uid,
            gid: raw.gid,
            mtime: timestamp(raw.seconds, raw.nanoseconds),
            nlink: raw.nlink,
            size: raw.size,
            layout,
            device_number: if is_device { device_number(raw.u) } else { DeviceNumber::default() },
            extended: raw.extended,
            position,
            xattr_size,
            start: (!nowhere).then_some(start),
            u: raw.u,
            packed: None,
            raw_nanoseconds: raw.nanoseconds,
            bit4,
            wide_fields: raw.wide_fields,
        };
        if view.has_compressed_layout()
            && file_type == FileType::Regular
            && self.incompat().contains(Incompat::FRAGMENTS)
            && let Ok(header) = self.primary.read_struct::<U64>(view.map_header())
            && header.get() & IN_PACKED != 0
        {
            view.packed = Some(header.get() ^ IN_PACKED);
        }
        Ok(view)
    }

    /// The inode that holds the data of packed files.
    pub(crate) fn packed_inode(&self) -> Result<InodeView> {
        let nid = Nid(self.superblock.packed_nid.get());
        let view = self.inode(nid)?;
        match view.file_type {
            FileType::Regular if view.packed.is_none() => Ok(view),
            _ => Err(Error::corrupt(view.position, format!("inode {nid} cannot hold other files"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_split_the_minor() {
        let encode =
            |major: u32, minor: u32| (minor & 0xFF) | (major << 8) | ((minor & !0xFF) << 12);
        for (major, minor) in [(0, 0), (1, 3), (259, 70_000), (4095, 1_048_575)] {
            assert_eq!(device_number(encode(major, minor)), DeviceNumber { major, minor });
        }
    }

    #[test]
    fn nanoseconds_carry() {
        assert_eq!(
            timestamp(-1, 1_500_000_000),
            Timestamp { seconds: 0, nanoseconds: 500_000_000 }
        );
    }
}
