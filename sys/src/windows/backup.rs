//! `kernel32.dll`: files with all that NTFS knows of them, as backup programs write and read them.

use std::path::Path;

use super::Result;

/// What `FILE_BASIC_INFO` has: times in units of 100 ns since 1601, and attributes. 0 leaves a value as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BasicInfo {
    /// When the file was made.
    pub creation_time: u64,
    /// When it was last read.
    pub last_access_time: u64,
    /// When its data were last written.
    pub last_write_time: u64,
    /// When anything of it was last changed.
    pub change_time: u64,
    /// `FILE_ATTRIBUTE_…`
    pub attributes: u32,
}

/// What is there at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileFacts {
    /// Times and attributes.
    pub basic: BasicInfo,
    /// The file's number, if it has several names.
    pub linked: Option<u128>,
}

/// A file that is being written. Dropped before its end it stays, unfinished.
pub trait RestoredFile {
    /// `BackupWrite`: more of the backup stream.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Ends the stream and sets times and attributes.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// A file that is being read.
pub trait BackedUpFile {
    /// `BackupRead`: more of the backup stream; 0 at its end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize>;
}

/// Files as backup programs see them. Links are not followed. The privileges to back up and to restore have to be enabled.
pub trait BackupApi: Send + Sync {
    /// Makes a file or directory that is not there yet, to be filled by a backup stream. With `security` its security
    /// descriptor is in it, which takes the security privilege too.
    fn restore(
        &self,
        path: &Path,
        directory: bool,
        basic: &BasicInfo,
        security: bool,
    ) -> Result<Box<dyn RestoredFile>>;

    /// Opens a file or directory to be read as a backup stream, with its security descriptor or without.
    fn back_up(&self, path: &Path, security: bool) -> Result<Box<dyn BackedUpFile>>;

    /// What is there.
    fn file_facts(&self, path: &Path) -> Result<FileFacts>;

    /// `SetFileInformationByHandle(FileBasicInfo)`.
    fn set_basic_info(&self, path: &Path, basic: &BasicInfo) -> Result<()>;

    /// `CreateHardLinkW`: `link` becomes another name of `file`.
    fn hard_link(&self, file: &Path, link: &Path) -> Result<()>;

    /// Removes a file, a link, or an empty directory, whether or not it is read-only.
    fn remove_entry(&self, path: &Path) -> Result<()>;
}
