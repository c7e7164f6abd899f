//! The mount API of Linux 5.2 and newer: configure a file system, get a mount that is attached nowhere, put it
//! into the tree. A mount that was never attached dies with its descriptor, so a killed process leaves nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};

use crate::{Error, Result, UserNamespace};

/// `fsconfig` copies at most this many bytes of a string value (the kernel's `strndup_user(_, 256)`).
pub const STRING_MAX: usize = 255;

/// Properties of one mount, independent of its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttributes {
    /// Nothing is written through this mount.
    pub read_only: bool,
    /// Set-user-id bits have no effect.
    pub no_suid: bool,
    /// Device nodes cannot be opened.
    pub no_dev: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
    /// Access times are not kept.
    pub no_atime: bool,
    /// Access times of directories are not kept.
    pub no_dir_atime: bool,
    /// Access times are kept at every access.
    pub strict_atime: bool,
}

impl MountAttributes {
    fn bits(self) -> MountAttrFlags {
        let mut bits = MountAttrFlags::empty();
        bits.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        bits.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_suid);
        bits.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_dev);
        bits.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        bits.set(MountAttrFlags::MOUNT_ATTR_NODIRATIME, self.no_dir_atime);
        // The kinds of access time are one field, not bits.
        match (self.no_atime, self.strict_atime) {
            (true, _) => bits |= MountAttrFlags::MOUNT_ATTR_NOATIME,
            (false, true) => bits |= MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            (false, false) => {}
        }
        bits
    }

    fn words(self) -> String {
        let words = [
            (self.read_only, "ro"),
            (self.no_suid, "nosuid"),
            (self.no_dev, "nodev"),
            (self.no_exec, "noexec"),
            (self.no_atime, "noatime"),
            (self.no_dir_atime, "nodiratime"),
            (self.strict_atime, "strictatime"),
        ];
        let words: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        words.join(",")
    }
}

/// A file system being configured (`fsopen`).
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
    file_system: String,
}

impl FsContext {
    /// Starts configuring a file system of type `file_system`.
    ///
    /// # Errors
    /// `ENODEV` if the kernel has no such type, `EPERM` without `CAP_SYS_ADMIN`.
    pub fn open(file_system: &str) -> Result<Self> {
        match fsopen(file_system, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(fd) => Ok(Self { fd, file_system: file_system.to_owned() }),
            Err(errno) => Err(Error::new(format!("fsopen({file_system})"), errno)),
        }
    }

    /// Sets an option without a value.
    ///
    /// # Errors
    /// `EINVAL` if the file system does not know it; the kernel's words are in the error.
    pub fn set_flag(&self, key: &str) -> Result<()> {
        fsconfig_set_flag(&self.fd, key)
            .map_err(|errno| self.failed(format!("fsconfig({}, {key})", self.file_system), errno))
    }

    /// Sets an option to a string of at most [`STRING_MAX`] bytes.
    ///
    /// # Errors
    /// `EINVAL` for an unknown option, a refused value or one that is too long; what the lookup of a path gave.
    pub fn set_string(&self, key: &str, value: impl AsRef<OsStr>) -> Result<()> {
        let value = value.as_ref();
        fsconfig_set_string(&self.fd, key, value).map_err(|errno| {
            let text = value.display();
            self.failed(format!("fsconfig({}, {key}={text})", self.file_system), errno)
        })
    }

    /// Sets an option to an open file; `name` is what the error shows.
    ///
    /// # Errors
    /// `EINVAL` if the option takes no descriptor (overlayfs: before Linux 6.13).
    pub fn set_fd(&self, key: &str, fd: BorrowedFd<'_>, name: &Path) -> Result<()> {
        fsconfig_set_fd(&self.fd, key, fd).map_err(|errno| {
            let (number, name) = (fd.as_raw_fd(), name.display());
            self.failed(
                format!("fsconfig({}, {key}=fd {number} of {name})", self.file_system),
                errno,
            )
        })
    }

    /// Makes the superblock.
    ///
    /// # Errors
    /// Whatever the file system says to its configuration; its words are in the error.
    pub fn create(&self) -> Result<()> {
        fsconfig_create(&self.fd)
            .map_err(|errno| self.failed(format!("fsconfig({}, create)", self.file_system), errno))
    }

    /// A mount of the superblock, attached nowhere.
    ///
    /// # Errors
    /// Those of `fsmount(2)`.
    pub fn mount(&self, attributes: MountAttributes) -> Result<DetachedMount> {
        let fd = fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes.bits()).map_err(
            |errno| {
                let words = attributes.words();
                self.failed(format!("fsmount({}, {words})", self.file_system), errno)
            },
        )?;
        Ok(DetachedMount { fd, what: self.file_system.clone() })
    }

    /// The messages that the kernel has for this context, oldest first, without their `e `/`w `/`i ` marks.
    pub fn drain_log(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = [0; 4096];
        // Every read gives one message; the end is ENODATA.
        while let Ok(length @ 1..) = rustix::io::read(&self.fd, &mut line) {
            let text = String::from_utf8_lossy(&line[..length]);
            let text = text.trim_end();
            lines.push(text.get(2..).unwrap_or(text).to_owned());
        }
        lines
    }

    fn failed(&self, call: String, errno: rustix::io::Errno) -> Error {
        Error::new(call, errno).with_log(self.drain_log())
    }
}

/// A mount that is in nobody's tree yet. Dropping it undoes it.
#[derive(Debug)]
pub struct DetachedMount {
    fd: OwnedFd,
    what: String,
}

impl DetachedMount {
    /// A copy of the mount at `source` (`open_tree` with `OPEN_TREE_CLONE`): what a bind mount is made of.
    /// `recursive` takes the mounts below along.
    ///
    /// # Errors
    /// Those of `open_tree(2)`.
    pub fn copy_of(source: &Path, recursive: bool) -> Result<Self> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
        let what = source.display().to_string();
        match open_tree(CWD, source, flags) {
            Ok(fd) => Ok(Self { fd, what }),
            Err(errno) => Err(Error::new(format!("open_tree({what}, clone)"), errno)),
        }
    }

    /// Puts the mount at `target`.
    ///
    /// # Errors
    /// Those of `move_mount(2)`.
    pub fn attach(&self, target: &Path) -> Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&self.fd, "", CWD, target, flags).map_err(|errno| {
            Error::new(format!("move_mount({}, {})", self.what, target.display()), errno)
        })
    }

    /// Adds `attributes` to this mount (not to those below it); what it has already stays.
    ///
    /// # Errors
    /// Those of `mount_setattr(2)`, which exists since Linux 5.12.
    pub fn add_attributes(&self, attributes: MountAttributes) -> Result<()> {
        // The access-time bits are one field, which has to be cleared to be changed.
        let changes = attributes.no_atime || attributes.strict_atime;
        let clear = if changes { libc::MOUNT_ATTR__ATIME } else { 0 };
        let set = u64::from(attributes.bits().bits());
        let attr =
            libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
        mount_setattr(self.fd.as_fd(), &attr, false).map_err(|source| {
            Error::new(format!("mount_setattr({}, {})", self.what, attributes.words()), source)
        })
    }

    /// Separates this mount and those below it from the ones that they are copies of: nothing that is mounted or
    /// unmounted in the one appears or vanishes in the other.
    ///
    /// # Errors
    /// Those of `mount_setattr(2)`.
    pub fn make_private(&self) -> Result<()> {
        let attr = libc::mount_attr {
            attr_set: 0,
            attr_clr: 0,
            propagation: libc::MS_PRIVATE,
            userns_fd: 0,
        };
        mount_setattr(self.fd.as_fd(), &attr, true)
            .map_err(|source| Error::new(format!("mount_setattr({}, private)", self.what), source))
    }

    /// Shows the owners of files as `namespace` maps them: who is `inside` there on the disk appears as `outside`.
    /// The mount must be attached nowhere yet.
    ///
    /// # Errors
    /// `EINVAL` if the file system cannot (EROFS: before Linux 5.19), `ENOSYS` before Linux 5.12.
    pub fn map_ids(&self, namespace: &UserNamespace) -> Result<()> {
        let fd = namespace.as_fd().as_raw_fd();
        let attr = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::try_from(fd).unwrap_or(u64::MAX),
        };
        mount_setattr(self.fd.as_fd(), &attr, false)
            .map_err(|source| Error::new(format!("mount_setattr({}, idmap)", self.what), source))
    }

    /// The root directory of the mount, usable wherever a directory descriptor is (also as an overlay's layer).
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[expect(unsafe_code, reason = "rustix has no mount_setattr")]
fn mount_setattr(
    fd: BorrowedFd<'_>,
    attr: &libc::mount_attr,
    recursive: bool,
) -> std::io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant, `attr` points to an initialised structure of the size
    // that is passed, and the kernel only reads both during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Makes the mount at `mount_point` read-only; its file system stays as it is.
///
/// # Errors
/// Those of `mount_setattr(2)`; `EBUSY` if files are open for writing in it.
pub fn make_read_only(mount_point: &Path) -> Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let mount = open_path(mount_point)?;
    mount_setattr(mount.as_fd(), &attr, false).map_err(|source| {
        Error::new(format!("mount_setattr({}, ro)", mount_point.display()), source)
    })
}

/// Opens `path` as a mere reference (`O_PATH`), for options that take a descriptor.
///
/// # Errors
/// Those of `open(2)`.
pub fn open_path(path: &Path) -> Result<File> {
    use rustix::fs::{Mode, OFlags};
    match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(File::from(fd)),
        Err(errno) => Err(Error::new(format!("open({}, O_PATH)", path.display()), errno)),
    }
}

/// Mounts by the old `mount(2)` with an option string, which the kernel cuts at one page.
///
/// # Errors
/// Those of `mount(2)`; `E2BIG` from here if `data` is longer than the kernel would take.
pub fn mount_with_options(
    source: &Path,
    target: &Path,
    file_system: &str,
    read_only: bool,
    data: &OsStr,
) -> Result<()> {
    let mut flags = rustix::mount::MountFlags::empty();
    flags.set(rustix::mount::MountFlags::RDONLY, read_only);
    let call = || {
        let (source, target, data) = (source.display(), target.display(), data.display());
        format!("mount({source}, {target}, {file_system}, {data})")
    };
    let too_long = |_| Error::new(call(), rustix::io::Errno::INVAL);
    if data.len() >= OPTIONS_PAGE {
        return Err(Error::new(call(), rustix::io::Errno::TOOBIG));
    }
    let data = std::ffi::CString::new(data.as_bytes()).map_err(too_long)?;
    rustix::mount::mount(source, target, file_system, flags, &*data)
        .map_err(|errno| Error::new(call(), errno))
}

/// Bytes of option string that `mount(2)` reads, its NUL included.
pub const OPTIONS_PAGE: usize = 4096;
