//! Walking a directory tree by descriptors: no name is resolved from the root twice, and no symbolic link is
//! ever followed, so that nobody who writes in the tree can lead the walk out of it.

mod creation;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::xattr;

pub use creation::Node;

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    /// For messages only.
    path: String,
}

/// What `fstatat` says about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStatus {
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// 512-byte units on the disk.
    pub blocks: u64,
    /// Modification time: seconds, nanoseconds.
    pub mtime: (i64, u32),
    /// Major and minor of a device node.
    pub device_number: (u32, u32),
    /// Identity: device and inode number of the file itself.
    pub identity: (u64, u64),
    /// Names that the inode has.
    pub links: u64,
}

impl FileStatus {
    fn of(stat: &Stat) -> Self {
        #[allow(
            clippy::useless_conversion,
            clippy::unnecessary_cast,
            reason = "types differ by architecture"
        )]
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            device_number: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            identity: (stat.st_dev.into(), stat.st_ino.into()),
            links: stat.st_nlink as u64,
        }
    }
}

impl Directory {
    /// Opens the top of a tree; here alone symbolic links in the path are followed.
    ///
    /// # Errors
    /// That of `open`.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path_text = path.display().to_string();
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path_text }),
            Err(error) => Err(Error::new(format!("open({path_text}, O_DIRECTORY)"), error)),
        }
    }

    /// The directory's descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// That of `openat`; `ELOOP` or `ENOTDIR` if the name is no directory.
    pub fn open_directory(&self, name: &[u8]) -> Result<Self> {
        let fd = self.open_at(name, OFlags::DIRECTORY)?;
        Ok(Self { fd, path: format!("{}/{}", self.path, name.escape_ascii()) })
    }

    /// Opens a regular file in this directory to read it.
    ///
    /// # Errors
    /// That of `openat`; `ELOOP` if the name is a symbolic link.
    pub fn open_file(&self, name: &[u8]) -> Result<File> {
        // Should the name have become a fifo, the open must not wait for a writer.
        self.open_at(name, OFlags::NONBLOCK).map(File::from)
    }

    fn open_at(&self, name: &[u8], more: OFlags) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|error| self.error("openat", name, error))
    }

    /// The names in the directory without `.` and `..`, in byte order.
    ///
    /// # Errors
    /// That of `getdents`.
    pub fn names(&self) -> Result<Vec<CString>> {
        let failed = |error| self.error("getdents", b"", error);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What a name is, itself; an empty name is the directory.
    ///
    /// # Errors
    /// That of `fstatat`.
    pub fn status(&self, name: &[u8]) -> Result<FileStatus> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let stat = rustix::fs::statat(&self.fd, name, flags)
            .map_err(|error| self.error("fstatat", name, error))?;
        Ok(FileStatus::of(&stat))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// That of `readlinkat`.
    pub fn read_link(&self, name: &[u8]) -> Result<CString> {
        rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map_err(|error| self.error("readlinkat", name, error))
    }

    /// The extended attributes of a name, itself, in byte order; an empty name is the directory.
    ///
    /// # Errors
    /// That of `llistxattr` or `lgetxattr`. Needs `/proc`.
    pub fn xattrs(&self, name: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        // Before Linux 6.13 there are no xattr calls that take a directory and a name.
        let mut path = format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(if name.is_empty() { b"." } else { name });
        xattr::xattrs(&path).map_err(|error| {
            self.error("lgetxattr", name, Errno::from_raw_os_error(error.errno().unwrap_or(0)))
        })
    }

    fn error(&self, call: &str, name: &[u8], error: Errno) -> Error {
        Error::new(format!("{call}({}/{})", self.path, name.escape_ascii()), error)
    }
}

/// What an open file is.
///
/// # Errors
/// That of `fstat`.
pub fn file_status(file: &File) -> Result<FileStatus> {
    rustix::fs::fstat(file)
        .map(|stat| FileStatus::of(&stat))
        .map_err(|error| Error::new("fstat", error))
}

/// The parts of a file below `size` that are no holes: offset and length, ascending. A file system that knows
/// no holes reports the whole file. Moves the file's cursor.
///
/// # Errors
/// That of `lseek`.
pub fn data_segments(file: &File, size: u64) -> Result<Vec<(u64, u64)>> {
    let failed = |error| Error::new("lseek(SEEK_DATA)", error);
    let mut segments = Vec::new();
    let mut offset = 0;
    while offset < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(Errno::INVAL) if offset == 0 => return Ok(vec![(0, size)]),
            Err(error) => return Err(failed(error)),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).map_err(failed)?.min(size);
        if end <= start {
            break;
        }
        segments.push((start, end - start));
        offset = end;
    }
    Ok(segments)
}
