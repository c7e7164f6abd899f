//! Files by Linux's calls.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

use super::{Cost, FileIdentity, Sharing, failed};
use crate::error::{Error, Result};

pub(super) fn set_mode(options: &mut OpenOptions, mode: u32) -> &mut OpenOptions {
    options.mode(mode)
}

pub(super) fn create_directory(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new().mode(mode).create(path).map_err(failed("mkdir", path))?;
    // mkdir(2) takes the umask away; most callers' umask leaves these modes alone and the second call out.
    let now = fs::symlink_metadata(path).map_err(failed("stat", path))?.mode() & 0o7777;
    if now == mode {
        return Ok(());
    }
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))
        .map_err(|errno| failed("chmod", path)(errno.into()))
}

pub(super) fn create_private_directories(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn is_like_new(path: &Path, mode: u32) -> Result<bool> {
    use rustix::fs::OFlags;
    let fail =
        |call: &'static str| move |errno: rustix::io::Errno| failed(call, path)(errno.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory =
        rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(fail("open"))?;
    let stat = rustix::fs::fstat(&directory).map_err(fail("stat"))?;
    let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if stat.st_mode & 0o7777 != mode || (stat.st_uid, stat.st_gid) != ours {
        return Ok(false);
    }
    let mut names = [0; 1];
    match rustix::fs::flistxattr(&directory, &mut names) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => {}
        Ok(_) | Err(rustix::io::Errno::RANGE) => return Ok(false),
        Err(errno) => return Err(fail("listxattr")(errno)),
    }
    let mut buffer = Vec::with_capacity(512);
    let mut entries = rustix::fs::RawDir::new(&directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(fail("readdir"))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn allocate(file: &File, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length)?;
    Ok(())
}

pub(super) fn read_ahead(file: &File, offset: u64, length: u64) {
    let advice = rustix::fs::Advice::WillNeed;
    let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(length), advice);
}

pub(super) fn set_times_to_now(path: &Path) -> Result<()> {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags)
        .map_err(|errno| failed("utimensat", path)(errno.into()))
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes everything on the file system that holds `path` durable.
pub fn sync_file_system(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(failed("open", path))?;
    rustix::fs::syncfs(&file).map_err(|errno| failed("syncfs", path)(errno.into()))
}

/// Whether this process may write there, permissions and the file system's state together.
pub fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Whether the lock was to be had at once.
pub(super) fn try_lock(file: &File, sharing: Sharing) -> io::Result<bool> {
    let operation = match sharing {
        Sharing::Exclusive => FlockOperation::NonBlockingLockExclusive,
        Sharing::Shared => FlockOperation::NonBlockingLockShared,
    };
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

pub(super) fn identity_at(path: &Path) -> io::Result<FileIdentity> {
    let metadata = fs::symlink_metadata(path)?;
    Ok(FileIdentity { volume: metadata.dev(), number: metadata.ino().into() })
}

pub(super) fn open_to_sync(path: &Path) -> io::Result<File> {
    File::open(path)
}

pub(super) fn open_disk(path: &Path, write: bool) -> io::Result<Option<File>> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    Ok((kind.is_file() || kind.is_block_device()).then_some(file))
}

pub(super) fn is_physical_disk(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.file_type().is_block_device())
}

pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (ours, theirs) = (file.metadata()?, fs::symlink_metadata(path)?);
    Ok(ours.dev() == theirs.dev() && ours.ino() == theirs.ino())
}

pub(super) fn cost(path: &Path) -> io::Result<Cost> {
    let metadata = fs::symlink_metadata(path)?;
    Ok(Cost {
        bytes: metadata.blocks() * 512,
        directory: metadata.is_dir(),
        volume: metadata.dev(),
        identity: metadata.ino().into(),
        links: metadata.nlink(),
    })
}

pub(super) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|errno| Error::new(format!("getrandom({})", bytes.len()), errno))?;
    }
    Ok(())
}
