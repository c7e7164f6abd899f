//! Read-only file systems in user space: a trait of ours, and its adapter to the crate that speaks the protocol.
//! Nothing above this crate names that crate.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr, Request, Session, SessionACL,
};

use crate::{Error, MappedBytes, Result};

/// The number of the root.
pub const FUSE_ROOT: u64 = 1;
/// Nothing ever changes, so the kernel may keep what it was told.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// Most that the kernel asks for at once.
const READ_MAX: u32 = 1 << 20;
/// Requests that the kernel sends ahead.
const BACKGROUND: u16 = 64;
/// Block size that `stat` shows.
const BLOCK: u32 = 4096;

/// What sort of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FuseKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
}

/// What `stat` shows of a file. It belongs to whom the file system's owner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FuseNode {
    /// Its number, [`FUSE_ROOT`] for the root, never 0.
    pub number: u64,
    /// What sort of file.
    pub kind: FuseKind,
    /// Length in bytes.
    pub size: u64,
    /// Permission bits.
    pub permissions: u16,
    /// Seconds since 1970 and nanoseconds of the last change.
    pub modified: (i64, u32),
}

/// A file system that never changes. Errors reach whoever made the system call by their number, `EIO` if they have
/// none.
pub trait FuseFiles: Send + Sync + 'static {
    /// The file that `name` leads to in a directory; `None` if there is none.
    ///
    /// # Errors
    /// Whatever the system call is to report.
    fn lookup(&self, directory: u64, name: &[u8]) -> io::Result<Option<FuseNode>>;

    /// A file by its number.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    fn node(&self, number: u64) -> io::Result<FuseNode>;

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    fn target(&self, number: u64) -> io::Result<Vec<u8>>;

    /// Fills `buf` from `offset` on as far as the file goes, and tells how far.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    fn read(&self, number: u64, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// All `size` bytes from `offset` on where they are mapped and at hand, or as many as the file has left: the kernel then copies
    /// them from there, once less than with [`read`](Self::read), which is asked if this is `None`.
    fn mapped(&self, number: u64, offset: u64, size: usize) -> Option<MappedBytes<'_>>;

    /// Hands the names of a directory to `take` from the `start`-th on, until it returns `false`.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    fn names(
        &self,
        directory: u64,
        start: u64,
        take: &mut dyn FnMut(&[u8], &FuseNode) -> bool,
    ) -> io::Result<()>;

    /// The value of an extended attribute; `None` if there is none of that name.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    fn xattr(&self, number: u64, name: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// The names of all extended attributes, each with a NUL behind.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    fn xattr_names(&self, number: u64) -> io::Result<Vec<u8>>;

    /// Length of everything in bytes, and number of files, for `statfs`.
    fn totals(&self) -> (u64, u64);
}

/// Opens the device through which a file system in user space talks to the kernel.
///
/// # Errors
/// `ENOENT` or `ENODEV` if the kernel has no FUSE, `EACCES` if it is not for this user.
pub fn open_fuse_device() -> Result<File> {
    const PATH: &str = "/dev/fuse";
    let opened = OpenOptions::new().read(true).write(true).open(PATH);
    opened.map_err(|source| Error::new(format!("open({PATH})"), source))
}

/// Answers the kernel on an open FUSE device whose file system was mounted by somebody, until it is unmounted.
///
/// # Errors
/// What the device reports otherwise.
pub fn serve_fuse(device: OwnedFd, files: impl FuseFiles, threads: usize) -> Result<()> {
    let failed = |source| Error::new("serve(/dev/fuse)", source);
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.clone_fd = true;
    // The kernel itself looks at permissions (`default_permissions`) and at who may (`allow_other`).
    let session = Session::from_fd(Adapter { files }, device, SessionACL::All, config);
    session.and_then(Session::run).map_err(failed)
}

/// Mounts at `target` with fusermount3, which any user may call, and answers the kernel until it is unmounted;
/// `mounted` is called when the kernel has been answered for the first time.
///
/// # Errors
/// What fusermount3 or the device report.
pub fn mount_fuse(
    target: &Path,
    name: &str,
    files: impl FuseFiles,
    threads: usize,
    mounted: impl FnOnce(),
) -> Result<()> {
    use fuser::MountOption;
    let failed = |source| Error::new(format!("fusermount3({})", target.display()), source);
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.clone_fd = true;
    config.mount_options = vec![
        MountOption::RO,
        MountOption::FSName(name.to_owned()),
        MountOption::Subtype("plywood".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    let session = Session::new(Adapter { files }, target, &config).map_err(failed)?;
    mounted();
    session.run().map_err(failed)
}

struct Adapter<F> {
    files: F,
}

fn errno(error: io::Error) -> Errno {
    match error.raw_os_error() {
        Some(_) => error.into(),
        None => Errno::EIO,
    }
}

fn time((seconds, nanoseconds): (i64, u32)) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(whole),
        false => UNIX_EPOCH.checked_add(whole),
    };
    let rest = Duration::from_nanos(nanoseconds.into());
    time.and_then(|time| time.checked_add(rest)).unwrap_or(UNIX_EPOCH)
}

fn kind(node: &FuseNode) -> FileType {
    match node.kind {
        FuseKind::Directory => FileType::Directory,
        FuseKind::Regular => FileType::RegularFile,
        FuseKind::Symlink => FileType::Symlink,
    }
}

fn attributes(node: &FuseNode) -> FileAttr {
    let time = time(node.modified);
    FileAttr {
        ino: INodeNo(node.number),
        size: node.size,
        blocks: node.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(node),
        perm: node.permissions,
        // How many names a file has is not known; 1 makes no program draw conclusions.
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

impl<F: FuseFiles> Filesystem for Adapter<F> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What a kernel does not know it does without.
        for capability in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_ASYNC_DIO,
        ] {
            let _ = config.add_capabilities(capability);
        }
        // Sets how much is read at once too.
        let _ = config.set_max_write(READ_MAX);
        if let Err(most) = config.set_max_readahead(READ_MAX) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.files.lookup(parent.0, name.as_bytes()) {
            Ok(Some(node)) => reply.entry(&FOREVER, &attributes(&node), Generation(0)),
            // The number 0 says that there is nothing, and for how long.
            Ok(None) => {
                let nothing = FuseNode {
                    number: 0,
                    kind: FuseKind::Regular,
                    size: 0,
                    permissions: 0,
                    modified: (0, 0),
                };
                reply.entry(&FOREVER, &attributes(&nothing), Generation(0));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.files.node(ino.0) {
            Ok(node) => reply.attr(&FOREVER, &attributes(&node)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.files.target(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    // The kernel takes this for "never ask again", opens without us, and keeps what it has read.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        thread_local! {
            static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        let size = size as usize;
        if let Some(mapped) = self.files.mapped(ino.0, offset, size) {
            // What cannot be copied from is `EIO` to whoever reads: the kernel ends the request so.
            return reply.data(mapped.for_kernel());
        }
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.files.read(ino.0, &mut buffer[..size], offset) {
                Ok(length) => reply.data(&buffer[..length]),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut next = offset;
        let mut take = |name: &[u8], node: &FuseNode| {
            next += 1;
            !reply.add(INodeNo(node.number), next, kind(node), OsStr::from_bytes(name))
        };
        match self.files.names(ino.0, offset, &mut take) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut next = offset;
        let mut take = |name: &[u8], node: &FuseNode| {
            next += 1;
            let (number, name) = (INodeNo(node.number), OsStr::from_bytes(name));
            !reply.add(number, next, name, &FOREVER, &attributes(node), Generation(0))
        };
        match self.files.names(ino.0, offset, &mut take) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (bytes, files) = self.files.totals();
        reply.statfs(bytes.div_ceil(BLOCK.into()), 0, 0, files, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes();
        // These no file has, and programs that list many files stop asking when they are told so.
        if name.starts_with(b"security.") || name.starts_with(b"system.posix_acl_") {
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.files.xattr(ino.0, name) {
            Ok(Some(value)) => answer(&value, size, reply),
            Ok(None) => reply.error(Errno::ENODATA),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.files.xattr_names(ino.0) {
            Ok(names) => answer(&names, size, reply),
            Err(error) => reply.error(errno(error)),
        }
    }
}

/// The value, or its length if that is the question.
fn answer(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(_) => reply.error(Errno::E2BIG),
    }
}
