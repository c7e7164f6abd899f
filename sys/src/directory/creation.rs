//! Making entries in an open directory. Every call takes one name, never a path, and follows no symbolic link, so
//! nothing is made anywhere else.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawMode, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Directory;
use crate::error::Result;
use crate::xattr;

/// What [`Directory::make_node`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A character device with its major and minor number.
    CharDevice(u32, u32),
    /// A block device with its major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket that nobody listens on.
    Socket,
}

impl Directory {
    /// Makes a directory that only its owner may enter, and opens it.
    ///
    /// # Errors
    /// That of `mkdirat`; `EINVAL` if the name is not one component.
    pub fn make_directory(&self, name: &[u8]) -> Result<Self> {
        self.check_name("mkdirat", name)?;
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)
            .map_err(|error| self.error("mkdirat", name, error))?;
        self.open_directory(name)
    }

    /// Makes a regular file that only its owner may use, open for writing.
    ///
    /// # Errors
    /// That of `openat`; `EEXIST` if the name is taken; `EINVAL` if the name is not one component.
    pub fn make_file(&self, name: &[u8]) -> Result<File> {
        self.check_name("openat", name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|error| self.error("openat", name, error))
    }

    /// Makes a symbolic link; the target is not looked at.
    ///
    /// # Errors
    /// That of `symlinkat`; `EINVAL` if the name is not one component.
    pub fn make_symlink(&self, name: &[u8], target: &[u8]) -> Result<()> {
        self.check_name("symlinkat", name)?;
        rustix::fs::symlinkat(target, &self.fd, name)
            .map_err(|error| self.error("symlinkat", name, error))
    }

    /// Makes a device node, pipe or socket that only its owner may use.
    ///
    /// # Errors
    /// That of `mknodat`; `EINVAL` if the name is not one component.
    pub fn make_node(&self, name: &[u8], node: Node) -> Result<()> {
        self.check_name("mknodat", name)?;
        let (kind, device) = match node {
            Node::CharDevice(major, minor) => {
                (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
            }
            Node::BlockDevice(major, minor) => {
                (FileType::BlockDevice, rustix::fs::makedev(major, minor))
            }
            Node::Fifo => (FileType::Fifo, 0),
            Node::Socket => (FileType::Socket, 0),
        };
        rustix::fs::mknodat(&self.fd, name, kind, Mode::RUSR | Mode::WUSR, device)
            .map_err(|error| self.error("mknodat", name, error))
    }

    /// Makes a hard link to a name of another directory, of a symbolic link to that link itself.
    ///
    /// # Errors
    /// That of `linkat`; `EINVAL` if a name is not one component.
    pub fn make_link(&self, name: &[u8], directory: &Self, existing: &[u8]) -> Result<()> {
        self.check_name("linkat", name)?;
        directory.check_name("linkat", existing)?;
        rustix::fs::linkat(&directory.fd, existing, &self.fd, name, AtFlags::empty())
            .map_err(|error| self.error("linkat", name, error))
    }

    /// Gives a name, itself, an owner; an empty name is the directory. Clears setuid and setgid bits.
    ///
    /// # Errors
    /// That of `fchownat`.
    pub fn set_owner(&self, name: &[u8], uid: u32, gid: u32) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(&self.fd, name, Some(uid), Some(gid), flags)
            .map_err(|error| self.error("fchownat", name, error))
    }

    /// Sets the permission bits (`mode & 0o7777`) of a name that is no symbolic link; an empty name is the directory.
    ///
    /// # Errors
    /// That of `fchmodat` or `fchmod`.
    pub fn set_permissions(&self, name: &[u8], permissions: u16) -> Result<()> {
        let mode = Mode::from_raw_mode(RawMode::from(permissions));
        match name.is_empty() {
            true => rustix::fs::fchmod(&self.fd, mode),
            // Who could put a link in the name's place can write here anyway: the directory is still 0700.
            false => rustix::fs::chmodat(&self.fd, name, mode, AtFlags::empty()),
        }
        .map_err(|error| self.error("fchmodat", name, error))
    }

    /// Sets the modification time of a name, itself, and leaves the access time; an empty name is the directory.
    ///
    /// # Errors
    /// That of `utimensat`.
    pub fn set_mtime(&self, name: &[u8], seconds: i64, nanoseconds: u32) -> Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
        };
        match name.is_empty() {
            true => rustix::fs::futimens(&self.fd, &times),
            false => rustix::fs::utimensat(&self.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW),
        }
        .map_err(|error| self.error("utimensat", name, error))
    }

    /// Sets an extended attribute of a name, itself; an empty name is the directory.
    ///
    /// # Errors
    /// That of `lsetxattr`. Needs `/proc`.
    pub fn set_xattr(&self, name: &[u8], attribute: &[u8], value: &[u8]) -> Result<()> {
        let mut path = format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(if name.is_empty() { b"." } else { name });
        xattr::set_xattr(&path, attribute, value).map_err(|error| {
            let call = format!("lsetxattr {}", attribute.escape_ascii());
            self.error(&call, name, Errno::from_raw_os_error(error.errno().unwrap_or(0)))
        })
    }

    fn check_name(&self, call: &str, name: &[u8]) -> Result<()> {
        match name {
            b"" | b"." | b".." => Err(self.error(call, name, Errno::INVAL)),
            name if name.contains(&b'/') => Err(self.error(call, name, Errno::INVAL)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn entries_are_made_here_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let top = Directory::open(dir.path()).unwrap();
        let inner = top.make_directory(b"inner").unwrap();
        inner.make_file(b"file").unwrap().write_all(b"text").unwrap();
        inner.make_symlink(b"link", b"/etc/passwd").unwrap();
        inner.make_node(b"pipe", Node::Fifo).unwrap();
        top.make_link(b"again", &inner, b"file").unwrap();
        inner.set_permissions(b"file", 0o640).unwrap();
        inner.set_mtime(b"file", -5, 999_999_999).unwrap();
        inner.set_mtime(b"link", 7, 0).unwrap();
        let file = dir.path().join("again").metadata().unwrap();
        assert_eq!((file.nlink(), file.mode() & 0o7777, file.len()), (2, 0o640, 4));
        assert_eq!((file.mtime(), file.mtime_nsec()), (-5, 999_999_999));
        assert_eq!(dir.path().join("inner/link").symlink_metadata().unwrap().mtime(), 7);

        symlink(dir.path(), dir.path().join("inner/out")).unwrap();
        for name in [&b""[..], b".", b"..", b"a/b", b"/x", b"out/x"] {
            assert_eq!(
                inner.make_file(name).unwrap_err().errno(),
                Some(Errno::INVAL.raw_os_error())
            );
            assert!(inner.make_directory(name).is_err());
            assert!(inner.make_symlink(name, b"x").is_err());
            assert!(inner.make_link(name, &inner, b"file").is_err());
            assert!(inner.make_node(name, Node::Fifo).is_err());
        }
        assert!(inner.open_directory(b"out").is_err());
        assert!(inner.make_file(b"out").is_err(), "a link in the name's place is not followed");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
