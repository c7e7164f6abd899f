//! File entries.

use std::fmt;

use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::format::{ENTRY_SIZE_V1, FileEntry, FileFlags, RegionOffset, StreamKind};
use crate::{Error, ErrorKind, FileId, Image, ReadAt, Result, Stream};

/// A time as Windows counts it: units of 100 ns since 1601-01-01, UTC. 0 often means unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileTime(pub u64);

/// Seconds from 1601 to 1970.
const EPOCH_DIFFERENCE: i64 = 11_644_473_600;

impl FileTime {
    /// From seconds and nanoseconds since 1970, the latter rounded down to 100; `None` before 1601 and after
    /// the year 60055.
    pub fn from_unix(seconds: i64, nanoseconds: u32) -> Option<Self> {
        let seconds = u64::try_from(seconds.checked_add(EPOCH_DIFFERENCE)?).ok()?;
        seconds.checked_mul(10_000_000)?.checked_add(u64::from(nanoseconds / 100)).map(Self)
    }

    /// Seconds and nanoseconds since 1970.
    pub fn to_unix(self) -> (i64, u32) {
        let seconds = i64::try_from(self.0 / 10_000_000).expect("a tenth of a million fits");
        let rest = u32::try_from(self.0 % 10_000_000).expect("below ten million");
        (seconds - EPOCH_DIFFERENCE, rest * 100)
    }
}

/// A file or directory: its entry in a file table.
#[derive(Debug, Clone, Copy)]
pub struct FileView {
    /// Its number.
    pub id: FileId,
    /// Where the entry lies.
    pub position: RegionOffset,
    /// Length of the entry on disk; shorter ones were filled with zeros.
    pub entry_size: u16,
    /// The entry.
    pub entry: FileEntry,
}

impl FileView {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.entry.default_stream.kind() == StreamKind::Directory
    }

    /// Whether it has a reparse buffer.
    pub fn is_reparse_point(&self) -> bool {
        !self.entry.reparse.is_null()
    }

    /// Read-only, hidden, and so on.
    pub fn flags(&self) -> FileFlags {
        FileFlags::from_bits_retain(self.entry.flags.get())
    }

    /// Win32 file attributes: the flags that are known, with `DIRECTORY` and `REPARSE_POINT` from what the
    /// file has, and `NORMAL` if there is nothing else.
    pub fn attributes(&self) -> u32 {
        let directory = if self.is_dir() { 0x10 } else { 0 };
        let reparse = if self.is_reparse_point() { 0x400 } else { 0 };
        match self.flags().to_attributes() | directory | reparse {
            0 => 0x80,
            attributes => attributes,
        }
    }

    /// Length of the data in bytes; of a directory's link table for directories.
    pub fn size(&self) -> u64 {
        self.entry.default_stream.length()
    }

    /// Tag of the reparse buffer, 0 without one.
    pub fn reparse_tag(&self) -> u32 {
        self.entry.reparse_tag.get()
    }

    /// When it was made.
    pub fn creation_time(&self) -> FileTime {
        FileTime(self.entry.creation_time.get())
    }

    /// When its data changed.
    pub fn last_write_time(&self) -> FileTime {
        FileTime(self.entry.last_write_time.get())
    }

    /// When anything of it changed.
    pub fn change_time(&self) -> FileTime {
        FileTime(self.entry.change_time.get())
    }

    /// When it was read.
    pub fn last_access_time(&self) -> FileTime {
        FileTime(self.entry.last_access_time.get())
    }

    /// A directory that it is in, if the image says so (since version 2; *inferred*). Of several names our writer
    /// takes the first in the order of a walk.
    pub fn parent(&self) -> Option<FileId> {
        Some(FileId(self.entry.parent.get())).filter(|parent| parent.0 != 0)
    }

    /// The default stream: a file's data.
    pub fn data(&self) -> Stream {
        Stream::new(self.entry.default_stream)
    }
}

impl fmt::Display for FileView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {}", self.id)
    }
}

impl<R: ReadAt> Image<R> {
    /// Reads a file's entry.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the image has no such file; [`ErrorKind::Unsupported`] for a file of a merged
    /// image; [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub fn file(&self, id: FileId) -> Result<FileView> {
        let view = self.file_as_it_is(id)?;
        match view.entry.base_region.get() {
            0 => Ok(view),
            base => {
                let what = format!(
                    "file {id} belongs to a merged CIM (its regions begin at {base}), \
                     whose form on disk is not public"
                );
                Err(Error::new(ErrorKind::Unsupported, what).at(view.position))
            }
        }
    }

    pub(crate) fn file_as_it_is(&self, id: FileId) -> Result<FileView> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no file {id}"));
        let (index, slot) = id.place().ok_or_else(missing)?;
        let table = self.file_table(index).map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing(),
            _ => error,
        })?;
        if slot >= u32::from(table.count.get()) {
            return Err(missing());
        }
        let entry_size = table.entry_size.get();
        if entry_size < ENTRY_SIZE_V1 {
            let what = format!("file table {index} has entries of {entry_size} bytes");
            return Err(Error::corrupt(table.offset, what));
        }
        let position = table.offset.checked_add(u64::from(slot) * u64::from(entry_size));
        let position = position.ok_or_else(|| {
            Error::corrupt(table.offset, format!("file table {index} reaches past its region"))
        })?;
        // The whole entry must be there, however much of it is understood.
        self.regions().locate(position, entry_size.into())?;
        let mut entry = FileEntry::new_zeroed();
        let known = usize::from(entry_size).min(size_of::<FileEntry>());
        self.regions().read_metadata(&mut entry.as_mut_bytes()[..known], position)?;
        Ok(FileView { id, position, entry_size, entry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_1601() {
        assert_eq!(FileTime::from_unix(0, 199).unwrap().0, 116_444_736_000_000_001);
        assert_eq!(FileTime(116_444_736_000_000_001).to_unix(), (0, 100));
        assert_eq!(FileTime(0).to_unix(), (-EPOCH_DIFFERENCE, 0));
        assert_eq!(FileTime::from_unix(-EPOCH_DIFFERENCE - 1, 0), None);
        assert_eq!(FileTime::from_unix(i64::MAX, 0), None);
        let (seconds, nanoseconds) = FileTime(u64::MAX).to_unix();
        assert_eq!(FileTime::from_unix(seconds, nanoseconds), Some(FileTime(u64::MAX)));
    }
}
