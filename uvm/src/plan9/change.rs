//! Making, changing and removing files of a share.

use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::fid::{Fid, Open};
use super::message::{open_flags, valid};
use super::node::{Node, status};
use super::share::Share;

/// Whom a new file belongs to, and its permissions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

impl Owner {
    fn permissions(self) -> Mode {
        Mode::from_raw_mode(self.mode & 0o7777)
    }

    /// Permissions to make a file with whose owner may have to change: until then nobody else can open it.
    fn guarded(self) -> Mode {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if (self.uid, self.gid) == (uid.as_raw(), gid.as_raw()) {
            self.permissions()
        } else {
            self.permissions() & Mode::RWXU
        }
    }

    /// Makes the file's owner and permissions what the guest asked for. A server without privileges cannot give files
    /// away: they stay its own then.
    fn settle(self, share: &Share, node: &Node) -> Result<(), Errno> {
        let now = status(node.fd())?;
        if (now.stx_uid, now.stx_gid) != (self.uid, self.gid) {
            match own(node, Some(self.uid), Some(self.gid)) {
                Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {}
                done => done?,
            }
        } else {
            // A default ACL of the host's directory may have narrowed the permissions; that stays. What was left out to
            // guard the file does not, nor set-user-id and the like.
            let guarded = self.permissions() & !self.guarded();
            let wanted = guarded | self.permissions() & Mode::from_raw_mode(0o7000);
            if wanted & !Mode::from_raw_mode(now.stx_mode.into()) == Mode::empty() {
                return Ok(());
            }
        }
        match node.kind() {
            FileType::Symlink => Ok(()),
            _ => permit(share, node, self.permissions()),
        }
    }
}

fn own(node: &Node, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    // All ones would mean "leave it" to the kernel.
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Errno::INVAL);
    }
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    rustix::fs::chownat(node.fd(), "", uid, gid, AtFlags::EMPTY_PATH)
}

fn permit(share: &Share, node: &Node, mode: Mode) -> Result<(), Errno> {
    if node.kind() == FileType::Symlink {
        return Err(Errno::OPNOTSUPP);
    }
    // fchmod(2) refuses O_PATH descriptors.
    let (descriptors, number) = share.by_descriptor(node);
    rustix::fs::chmodat(descriptors, number, mode, AtFlags::empty())
}

/// `Tlcreate`: makes a file, or opens one that is there already unless it must be new.
pub(super) fn create(
    directory: &Fid,
    name: &[u8],
    flags: u32,
    owner: Owner,
) -> Result<(Arc<Node>, Open), Errno> {
    let (share, parent) = (&directory.share, directory.file()?);
    share.new_name(parent, name)?;
    let access = access(flags)?;
    let new = access | OFlags::CREATE | OFlags::EXCL;
    // Somebody on the host may make and remove the name between the two tries.
    for _ in 0..8 {
        match share.open_at(parent, name, new, owner.guarded()) {
            Ok(node) => {
                owner.settle(share, &node)?;
                return Ok((Arc::new(node), opened(flags)));
            }
            Err(Errno::EXIST) if flags & open_flags::EXCLUSIVE == 0 => {}
            Err(error) => return Err(error),
        }
        match share.step(parent, name) {
            Ok(node) => return open(&directory.of(node), flags),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EXIST)
}

fn access(flags: u32) -> Result<OFlags, Errno> {
    let mut access = match flags & open_flags::ACCESS {
        0 => OFlags::RDONLY,
        1 => OFlags::WRONLY,
        2 => OFlags::RDWR,
        _ => return Err(Errno::INVAL),
    };
    let same = [
        (open_flags::TRUNCATE, OFlags::TRUNC),
        (open_flags::APPEND, OFlags::APPEND),
        (open_flags::DSYNC, OFlags::DSYNC),
        (open_flags::DSYNC | open_flags::SYNC, OFlags::SYNC),
        (open_flags::NO_ATIME, OFlags::NOATIME),
    ];
    for (theirs, ours) in same {
        if flags & theirs == theirs {
            access |= ours;
        }
    }
    Ok(access)
}

fn opened(flags: u32) -> Open {
    let access = flags & open_flags::ACCESS;
    Open::File { readable: access != 1, writable: access != 0 }
}

/// `Tlopen`.
pub(super) fn open(fid: &Fid, flags: u32) -> Result<(Arc<Node>, Open), Errno> {
    let (share, node) = (&fid.share, fid.file()?);
    let access = access(flags)?;
    let changes = access.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
    match node.kind() {
        FileType::Directory if changes => Err(Errno::ISDIR),
        FileType::Directory => {
            let flags = access & OFlags::NOATIME;
            let node = share.reopen(node, flags).or_else(|error| match error {
                // Not the owner: the flag is a wish.
                Errno::PERM => share.reopen(node, OFlags::empty()),
                error => Err(error),
            })?;
            Ok((Arc::new(node), Open::Directory(0.into())))
        }
        _ if flags & open_flags::DIRECTORY != 0 => Err(Errno::NOTDIR),
        FileType::RegularFile => {
            if changes {
                share.writable()?;
            }
            Ok((Arc::new(share.reopen(node, access)?), opened(flags)))
        }
        FileType::Symlink => Err(Errno::LOOP),
        // The guest's kernel has devices, fifos and sockets of its own for these.
        _ => Err(Errno::NXIO),
    }
}

/// `Tmkdir`.
pub(super) fn make_directory(directory: &Fid, name: &[u8], owner: Owner) -> Result<Node, Errno> {
    let (share, parent) = (&directory.share, directory.file()?);
    share.new_name(parent, name)?;
    rustix::fs::mkdirat(parent.fd(), name, owner.guarded())?;
    let node = share.open_at(parent, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    owner.settle(share, &node)?;
    Ok(node)
}

/// `Tmknod`.
pub(super) fn make_node(
    directory: &Fid,
    name: &[u8],
    device: (u32, u32),
    owner: Owner,
) -> Result<Node, Errno> {
    let (share, parent) = (&directory.share, directory.file()?);
    share.new_name(parent, name)?;
    let kind = FileType::from_raw_mode(owner.mode);
    let number = match kind {
        FileType::Fifo | FileType::Socket | FileType::RegularFile => 0,
        FileType::CharacterDevice | FileType::BlockDevice => {
            let whiteout = kind == FileType::CharacterDevice && device == (0, 0);
            if !whiteout && !share.has_devices() {
                return Err(Errno::PERM);
            }
            rustix::fs::makedev(device.0, device.1)
        }
        // S_IFMT of 0 is a regular file to mknod(2).
        FileType::Unknown if owner.mode & 0o170_000 == 0 => 0,
        _ => return Err(Errno::INVAL),
    };
    let kind = if kind == FileType::Unknown { FileType::RegularFile } else { kind };
    rustix::fs::mknodat(parent.fd(), name, kind, owner.guarded(), number)?;
    let node = share.open_at(parent, name, OFlags::PATH, Mode::empty())?;
    owner.settle(share, &node)?;
    Ok(node)
}

/// `Tsymlink`. The target is text of the guest; the server follows none.
pub(super) fn make_symlink(
    directory: &Fid,
    name: &[u8],
    target: &[u8],
    owner: Owner,
) -> Result<Node, Errno> {
    let (share, parent) = (&directory.share, directory.file()?);
    share.new_name(parent, name)?;
    rustix::fs::symlinkat(target, parent.fd(), name)?;
    let node = share.open_at(parent, name, OFlags::PATH, Mode::empty())?;
    owner.settle(share, &node)?;
    Ok(node)
}

/// `Tlink`.
pub(super) fn link(directory: &Fid, file: &Fid, name: &[u8]) -> Result<(), Errno> {
    let (share, parent, node) = (&directory.share, directory.file()?, file.file()?);
    same_share(directory, file)?;
    share.new_name(parent, name)?;
    if node.is_directory() {
        return Err(Errno::PERM);
    }
    let (descriptors, number) = share.by_descriptor(node);
    let flags = AtFlags::SYMLINK_FOLLOW;
    rustix::fs::linkat(descriptors, number, parent.fd(), name, flags)
}

/// `Trenameat`.
pub(super) fn rename(from: &Fid, name: &[u8], to: &Fid, new_name: &[u8]) -> Result<(), Errno> {
    let (share, old, new) = (&from.share, from.file()?, to.file()?);
    same_share(from, to)?;
    share.existing(old, name)?;
    share.new_name(new, new_name)?;
    rustix::fs::renameat(old.fd(), name, new.fd(), new_name)
}

fn same_share(one: &Fid, other: &Fid) -> Result<(), Errno> {
    if Arc::ptr_eq(&one.share, &other.share) { Ok(()) } else { Err(Errno::XDEV) }
}

/// `Tunlinkat`.
pub(super) fn unlink(directory: &Fid, name: &[u8], is_directory: bool) -> Result<(), Errno> {
    let (share, parent) = (&directory.share, directory.file()?);
    share.writable()?;
    share.existing(parent, name)?;
    let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    rustix::fs::unlinkat(parent.fd(), name, flags)
}

/// What `Tsetattr` changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Changes {
    pub(super) valid: u32,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) atime: (u64, u64),
    pub(super) mtime: (u64, u64),
}

impl Changes {
    fn has(&self, bit: u32) -> bool {
        self.valid & bit != 0
    }

    fn time(
        &self,
        bit: u32,
        set: u32,
        (seconds, nanoseconds): (u64, u64),
    ) -> Result<Timespec, Errno> {
        let now_or_not = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        match (self.has(bit), self.has(set)) {
            (false, _) => Ok(now_or_not(rustix::fs::UTIME_OMIT)),
            (true, false) => Ok(now_or_not(rustix::fs::UTIME_NOW)),
            // Larger numbers are the kernel's words for "now" and "leave it".
            (true, true) if nanoseconds > 999_999_999 => Err(Errno::INVAL),
            (true, true) => Ok(Timespec {
                tv_sec: seconds.cast_signed(),
                tv_nsec: i64::try_from(nanoseconds).map_err(|_| Errno::INVAL)?,
            }),
        }
    }
}

/// `Tsetattr`, in the order in which one change does not undo another: a new owner takes away set-user-id, a new
/// length changes the times.
pub(super) fn set_attributes(fid: &Fid, to: &Changes) -> Result<(), Errno> {
    let (share, node) = (&fid.share, fid.file()?);
    share.changeable(node)?;
    let last_access = to.time(valid::ATIME, valid::ATIME_SET, to.atime)?;
    let last_modification = to.time(valid::MTIME, valid::MTIME_SET, to.mtime)?;
    if to.has(valid::SIZE) {
        truncate(fid, node, to.size)?;
    }
    if to.has(valid::UID | valid::GID) {
        let uid = to.has(valid::UID).then_some(to.uid);
        own(node, uid, to.has(valid::GID).then_some(to.gid))?;
    }
    if to.has(valid::MODE) {
        permit(share, node, Mode::from_raw_mode(to.mode & 0o7777))?;
    }
    if to.has(valid::ATIME | valid::MTIME) {
        let times = Timestamps { last_access, last_modification };
        rustix::fs::utimensat(node.fd(), "", &times, AtFlags::EMPTY_PATH)?;
    }
    Ok(())
}

fn truncate(fid: &Fid, node: &Node, size: u64) -> Result<(), Errno> {
    match node.kind() {
        FileType::Directory => Err(Errno::ISDIR),
        FileType::RegularFile if matches!(fid.open, Open::File { writable: true, .. }) => {
            rustix::fs::ftruncate(node.fd(), size)
        }
        FileType::RegularFile => {
            rustix::fs::ftruncate(fid.share.reopen(node, OFlags::WRONLY)?.fd(), size)
        }
        _ => Err(Errno::INVAL),
    }
}
