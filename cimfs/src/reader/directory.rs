//! Directories: listing, looking up, and following paths.

use zerocopy::little_endian::U32;

use crate::reader::LinkTable;
use crate::{Error, ErrorKind, FileId, FileView, Image, ImagePath, Name, ReadAt, Result};

/// Whether a lookup minds the case of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Case {
    /// As Windows looks names up: by the image's upcase table. A name that is exactly the same is preferred.
    #[default]
    Ignored,
    /// Only the very same code units.
    Exact,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Name, not checked for separators and the like; see [`Name::fault`].
    pub name: Name,
    /// Which file it is.
    pub id: FileId,
}

/// The names of a directory in the order of its table.
pub struct Entries<'a, R> {
    image: &'a Image<R>,
    table: Option<LinkTable<U32>>,
    next: u32,
}

impl<R> std::fmt::Debug for Entries<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").field("next", &self.next).finish_non_exhaustive()
    }
}

impl<R: ReadAt> Iterator for Entries<'_, R> {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let table = self.table.as_ref().filter(|table| self.next < table.count())?;
        let index = self.next;
        self.next += 1;
        Some(self.image.entry(table, index))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let rest = self.table.as_ref().map_or(0, |table| table.count() - self.next);
        // Each may be an error, but each is something.
        (0, usize::try_from(rest).ok())
    }
}

impl<R: ReadAt> Image<R> {
    /// The names of a directory.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file is none; [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub fn entries(&self, directory: &FileView) -> Result<Entries<'_, R>> {
        Ok(Entries { image: self, table: self.directory_table(directory)?, next: 0 })
    }

    /// Looks a name up in a directory.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file is no directory; [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub fn lookup(
        &self,
        directory: &FileView,
        name: &Name,
        case: Case,
    ) -> Result<Option<DirEntry>> {
        let Some(table) = self.directory_table(directory)? else { return Ok(None) };
        let found = table.find(self.regions(), self.upcase()?, name, case == Case::Exact)?;
        found.map(|index| self.entry(&table, index)).transpose()
    }

    /// Follows a path from the root. Reparse points are not followed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such path; [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub fn resolve(&self, path: &ImagePath, case: Case) -> Result<FileView> {
        let mut here = self.file(self.root())?;
        for (depth, name) in path.names().iter().enumerate() {
            let entry = match here.is_dir() {
                true => self.lookup(&here, name, case)?,
                false => None,
            };
            let entry = entry.ok_or_else(|| {
                let so_far = ImagePath::from_names(path.names()[..=depth].to_vec());
                Error::new(ErrorKind::NotFound, format!("there is no {so_far}"))
            })?;
            here = self.file(entry.id)?;
        }
        Ok(here)
    }

    /// The table of a directory, `None` for an empty one without a table.
    pub(crate) fn directory_table(&self, directory: &FileView) -> Result<Option<LinkTable<U32>>> {
        if !directory.is_dir() {
            let what = format!("{directory} is no directory");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let stream = directory.entry.default_stream;
        if stream.is_sparse() || stream.unknown_bits() != 0 {
            let what = format!("directory {} has stream flags of data", directory.id);
            return Err(Error::corrupt(directory.position, what));
        }
        match stream.length() {
            0 => Ok(None),
            limit => LinkTable::open(self.regions(), stream.offset, limit).map(Some),
        }
    }

    fn entry(&self, table: &LinkTable<U32>, index: u32) -> Result<DirEntry> {
        let id = FileId(table.value(self.regions(), index)?.get());
        Ok(DirEntry { name: table.name(self.regions(), index)?, id })
    }
}
