//! Windows layers as folders: a tar into the files that Windows' own functions take, and back.
//!
//! What is written where, and by which functions, is the [`LayerFolder`]'s affair; here are the tar, its records, and
//! backup streams.

mod intake;
mod tar;

use cimfs::{FileTime, ImagePath};

use crate::error::Result;

pub use intake::unpack_windows_layer;
pub use tar::FolderTar;

/// A file's times and attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FolderBasics {
    /// `FILE_ATTRIBUTE_…` as the tar has them.
    pub attributes: u32,
    /// When the file was made.
    pub creation_time: FileTime,
    /// When it was last read.
    pub last_access_time: FileTime,
    /// When its data were last written.
    pub last_write_time: FileTime,
    /// When anything of it was last changed.
    pub change_time: FileTime,
}

/// A file or directory of a layer.
#[derive(Debug)]
pub struct FolderEntry<'a> {
    /// Where it is: below `Files`, `Hives` or `UtilityVM`, or one of these.
    pub path: &'a ImagePath,
    /// Whether it is a directory, by its attributes.
    pub directory: bool,
    /// Times and attributes.
    pub basics: FolderBasics,
}

/// Takes a layer in. What comes is checked: a path comes once, behind its directory, which is none that leads elsewhere.
pub trait LayerFolder {
    /// A file or directory begins; its backup stream follows.
    ///
    /// # Errors
    /// What ends the unpacking.
    fn begin(&mut self, entry: &FolderEntry<'_>) -> Result<()>;

    /// More of the backup stream.
    ///
    /// # Errors
    /// What ends the unpacking.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// The file is complete.
    ///
    /// # Errors
    /// What ends the unpacking.
    fn end(&mut self) -> Result<()>;

    /// Another name of a file, which this layer or one below has.
    ///
    /// # Errors
    /// What ends the unpacking.
    fn link(&mut self, path: &ImagePath, target: &ImagePath) -> Result<()>;

    /// What the layers below have there is gone.
    ///
    /// # Errors
    /// What ends the unpacking.
    fn whiteout(&mut self, path: &ImagePath) -> Result<()>;
}

#[cfg(test)]
mod tests;
