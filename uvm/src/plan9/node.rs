//! A file of a share by its descriptor, and what can be asked of any file.

use std::os::fd::OwnedFd;
use std::sync::Mutex;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;

use super::budget::Slot;
use super::message::Attributes;
use super::share::file_system_number;
use super::wire::Qid;

/// A file that a guest has reached. It stays this file when it is renamed or removed.
#[derive(Debug)]
pub(super) struct Node {
    fd: OwnedFd,
    kind: FileType,
    /// Device and inode number on the host.
    identity: (u64, u64),
    qid: Qid,
    /// What tells inode numbers of this file's file system from those of others.
    mark: u64,
    _slot: Slot,
}

impl Node {
    pub(super) fn new(
        fd: OwnedFd,
        slot: Slot,
        file_systems: &Mutex<Vec<u64>>,
    ) -> Result<Self, Errno> {
        let statx = status(&fd)?;
        let device = u64::from(statx.stx_dev_major) << 32 | u64::from(statx.stx_dev_minor);
        // Inode numbers have their highest byte to spare.
        let mark = (file_system_number(file_systems, device) as u64) << 56;
        let kind = FileType::from_raw_mode(statx.stx_mode.into());
        let qid = Qid {
            kind: match kind {
                FileType::Directory => Qid::DIRECTORY,
                FileType::Symlink => Qid::SYMLINK,
                _ => Qid::FILE,
            },
            version: version(&statx),
            path: statx.stx_ino ^ mark,
        };
        Ok(Self { fd, kind, identity: (device, statx.stx_ino), qid, mark, _slot: slot })
    }

    /// The same file by another descriptor.
    pub(super) fn reopened(&self, fd: OwnedFd, slot: Slot) -> Self {
        Self { fd, _slot: slot, ..*self }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn kind(&self) -> FileType {
        self.kind
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    pub(super) fn is_regular(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    /// Whether both are one file.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    pub(super) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    pub(super) fn qid(&self) -> Qid {
        self.qid
    }

    /// The guest's number of another inode of the same file system.
    pub(super) fn number_beside(&self, inode: u64) -> u64 {
        inode ^ self.mark
    }

    /// Everything `stat(2)` knows, now.
    pub(super) fn attributes(&self) -> Result<Attributes, Errno> {
        let statx = status(&self.fd)?;
        let birth = statx.stx_mask & StatxFlags::BTIME.bits() != 0;
        let time = |time: rustix::fs::StatxTimestamp| {
            (time.tv_sec.cast_unsigned(), u64::from(time.tv_nsec))
        };
        let (major, minor) = (u64::from(statx.stx_rdev_major), u64::from(statx.stx_rdev_minor));
        Ok(Attributes {
            valid: Attributes::BASIC | if birth { Attributes::BIRTH } else { 0 },
            qid: self.qid,
            mode: statx.stx_mode.into(),
            uid: statx.stx_uid,
            gid: statx.stx_gid,
            links: statx.stx_nlink.into(),
            device: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
            size: statx.stx_size,
            block_size: statx.stx_blksize.into(),
            blocks: statx.stx_blocks,
            times: [
                time(statx.stx_atime),
                time(statx.stx_mtime),
                time(statx.stx_ctime),
                time(statx.stx_btime),
            ],
        })
    }
}

/// Status by the descriptor itself.
pub(super) fn status(fd: &OwnedFd) -> Result<Statx, Errno> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, mask)
}

/// The kernel's client takes two files with the same number and version for one inode while it has the first in its
/// cache, so the version must tell a file from one that had its number before: it is made of the time of birth. It does
/// not change with the content: the client has no use for that, and hard links would become separate inodes.
/// Never 0, by which the client would know that nothing of the file is to be cached.
fn version(statx: &Statx) -> u32 {
    let birth = statx.stx_btime;
    let mixed = birth.tv_sec.cast_unsigned() ^ u64::from(birth.tv_nsec).rotate_left(34);
    let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u32::try_from(mixed >> 32).unwrap_or(0).max(1)
}
