//! Which mount a path or descriptor is on.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Statx, StatxAttributes, StatxFlags, statx};

use crate::{Error, Result};

/// The kernel knows mounts itself. A file system in user space whose process is not there yet, or dead, must not be
/// asked: the answer would never come, or be an error.
const ASK_NOBODY: AtFlags = AtFlags::STATX_DONT_SYNC;

/// What tells one mount from another while it lives: the kernel gives the id of a dead mount out again, and an
/// anonymous device number too, but hardly both at once at one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountIdentity {
    /// The id that `/proc/self/mountinfo` shows.
    pub id: u64,
    /// Major and minor number of the superblock.
    pub device: (u32, u32),
    /// The path is the root of the mount.
    pub is_root: bool,
}

impl MountIdentity {
    /// Of the topmost mount at `path`; a symbolic link at its end is not followed.
    ///
    /// # Errors
    /// Those of `statx(2)`; the mount id needs Linux 5.8.
    pub fn of_path(path: &Path) -> Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | ASK_NOBODY;
        let call = || format!("statx({}, mnt_id)", path.display());
        statx(CWD, path, flags, StatxFlags::MNT_ID)
            .map(|answer| Self::of(&answer))
            .map_err(|errno| Error::new(call(), errno))
    }

    /// Of the mount that an open file is on.
    ///
    /// # Errors
    /// As [`Self::of_path`].
    pub fn of_fd(fd: BorrowedFd<'_>) -> Result<Self> {
        statx(fd, c"", AtFlags::EMPTY_PATH | ASK_NOBODY, StatxFlags::MNT_ID)
            .map(|answer| Self::of(&answer))
            .map_err(|errno| Error::new("statx(fd, mnt_id)", errno))
    }

    fn of(answer: &Statx) -> Self {
        Self {
            id: answer.stx_mnt_id,
            device: (answer.stx_dev_major, answer.stx_dev_minor),
            is_root: answer.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }
    }
}

/// Number of the calling thread's mount namespace.
///
/// # Errors
/// Those of reading `/proc`.
pub fn mount_namespace() -> Result<u64> {
    const PATH: &str = "/proc/thread-self/ns/mnt";
    namespace_of(Path::new(PATH)).map_err(|source| Error::new(format!("stat({PATH})"), source))
}

/// A process that lives in mount namespace `number`, if there is one that we may look at.
///
/// # Errors
/// Those of listing `/proc`.
pub fn process_in_mount_namespace(number: u64) -> Result<Option<u32>> {
    let failed = |source| Error::new("readdir(/proc)", source);
    for entry in std::fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process that has just died, or that is not ours to look at, is no witness.
        let path = format!("/proc/{pid}/ns/mnt");
        if namespace_of(Path::new(&path)).is_ok_and(|found| found == number) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

fn namespace_of(path: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(path)?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_table_has_the_identity() {
        let identity = MountIdentity::of_path(Path::new("/proc")).unwrap();
        assert!(identity.is_root);
        let table = crate::MountTable::read().unwrap();
        let entry = table.at(Path::new("/proc")).unwrap();
        assert_eq!((entry.id, entry.device), (identity.id, identity.device));
        let file = std::fs::File::open("/proc/version").unwrap();
        let inside = MountIdentity::of_fd(file.as_fd()).unwrap();
        assert_eq!((inside.id, inside.is_root), (identity.id, false));
    }

    #[test]
    fn our_namespace_has_a_process() {
        let ours = mount_namespace().unwrap();
        assert!(process_in_mount_namespace(ours).unwrap().is_some());
        assert_eq!(process_in_mount_namespace(1).unwrap(), None);
    }
}
