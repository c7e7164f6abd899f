//! `cimwriter.dll`, or `cimfs.dll` where that is all there is: Windows' own way of writing composite images. Ours is the
//! crate `cimfs`, which needs no Windows; this is for who wants Windows' own images, and for comparing.

use std::path::Path;

use super::{CimImage, CimStream, Result};

/// What `CimCreateFile` is told of a file or directory. Times are 100 ns since 1601; an empty slice is no such data.
#[derive(Debug, Clone, Copy, Default)]
pub struct CimFileMetadata<'d> {
    /// `FILE_ATTRIBUTE_…`
    pub attributes: u32,
    /// Bytes that can be written; those that are not read as zero.
    pub size: u64,
    /// When it was made.
    pub creation_time: i64,
    /// When its data changed.
    pub last_write_time: i64,
    /// When anything of it changed.
    pub change_time: i64,
    /// When it was read.
    pub last_access_time: i64,
    /// A self-relative security descriptor.
    pub security_descriptor: &'d [u8],
    /// A whole reparse buffer, with its tag.
    pub reparse_data: &'d [u8],
    /// A list of `FILE_FULL_EA_INFORMATION`.
    pub extended_attributes: &'d [u8],
}

/// Writing composite images (cim-format.md 11.1). An image has one stream open at a time; it closes on drop, and must
/// before the next call for its image.
pub trait CimWriter: Send + Sync {
    /// `CimCreateImage`: `new` alone is a fresh image, with `existing` a fork of that; `existing` alone is changed.
    fn create_image(
        &self,
        directory: &Path,
        existing: Option<&str>,
        new: Option<&str>,
    ) -> Result<CimImage>;

    /// `CimCreateFile`: adds or replaces a file or directory; the directory above must be there.
    fn create_image_file(
        &self,
        image: &CimImage,
        path: &Path,
        metadata: &CimFileMetadata<'_>,
    ) -> Result<CimStream>;

    /// `CimCreateAlternateStream`: `path` is `FILE:STREAM`, `size` its bytes.
    fn create_alternate_stream(
        &self,
        image: &CimImage,
        path: &Path,
        size: u64,
    ) -> Result<CimStream>;

    /// `CimWriteStream`: the next bytes.
    fn write_stream(&self, stream: &CimStream, data: &[u8]) -> Result<()>;

    /// `CimCreateHardLink`: `new` becomes another name of `existing`.
    fn create_image_link(&self, image: &CimImage, new: &Path, existing: &Path) -> Result<()>;

    /// `CimDeletePath`: a file, a stream, a link or a directory with everything in it.
    fn delete_image_path(&self, image: &CimImage, path: &Path) -> Result<()>;

    /// `CimCommitImage`: writes the image; its handle can only be closed afterwards.
    fn commit_image(&self, image: &CimImage) -> Result<()>;
}
