//! A directory's table read at once, for those who want all of it.

use zerocopy::FromBytes as _;
use zerocopy::little_endian::{U16, U32};

use crate::format::{LinkTableHeader, NAME_MAX, RegionOffset};
use crate::{Error, FileId, FileView, Image, ReadAt, Result};

/// The names of a directory as they are on disk: one read for the whole table, no memory for each name.
///
/// [`Image::entries`] reads as it goes instead, which is better where only some names are wanted.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    start: RegionOffset,
    count: usize,
    bytes: Vec<u8>,
}

const HEADER: usize = size_of::<LinkTableHeader>();

impl Listing {
    /// Number of names.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the directory is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The names in the order of the table, as code units that are not checked for separators and the like (see
    /// [`Name::fault`](crate::Name::fault)), with the files that they lead to.
    pub fn iter(&self) -> impl Iterator<Item = Result<(&[U16], FileId)>> {
        (0..self.count).map(|index| self.entry(index))
    }

    fn entry(&self, index: usize) -> Result<(&[U16], FileId)> {
        let id = self.word(HEADER + 4 * index);
        let offset = self.word(HEADER + 4 * (self.count + index));
        let bad = |what: &str| Error::corrupt(self.start, format!("link {index}: {what}"));
        let outside = || bad("its name is outside the names");
        let offset = usize::try_from(offset).map_err(|_| outside())?;
        let rest = match offset < HEADER + 8 * self.count {
            true => None,
            false => self.bytes.get(offset..),
        };
        let (length, rest) =
            rest.and_then(|rest| U16::ref_from_prefix(rest).ok()).ok_or_else(outside)?;
        let length = usize::from(length.get());
        if length > NAME_MAX {
            return Err(bad("a name of more than 255 code units"));
        }
        match <[U16]>::ref_from_prefix_with_elems(rest, length) {
            Ok((name, _)) => Ok((name, FileId(id))),
            Err(_) => Err(bad("its name does not fit")),
        }
    }

    /// The table's frame was checked: values and offsets of names lie inside.
    fn word(&self, at: usize) -> u32 {
        let word = self.bytes.get(at..).and_then(|rest| U32::ref_from_prefix(rest).ok());
        word.map_or(0, |(word, _)| word.get())
    }
}

impl<R: ReadAt> Image<R> {
    /// Reads all names of a directory at once.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the file is none;
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt), [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn listing(&self, directory: &FileView) -> Result<Listing> {
        let Some(table) = self.directory_table(directory)? else { return Ok(Listing::default()) };
        let start = directory.entry.default_stream.offset;
        Ok(Listing {
            start,
            // A link takes bytes of the table, whose length was found to be inside the region.
            count: usize::try_from(table.count()).unwrap_or(usize::MAX),
            bytes: self.regions().read_bytes(start, table.length())?,
        })
    }
}
