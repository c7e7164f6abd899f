//! One shared directory: what of it a guest may reach, and nothing else.
//!
//! A guest names files by single components from a file it already has. Each is opened with `openat2` so that neither a
//! symbolic link nor `..` nor a link of `/proc` can lead anywhere, as `O_PATH`, which opens no device and waits
//! for no fifo. What has been reached is worked on by its descriptor, so that no later renaming on the host can
//! put something else in its place.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::budget::Budget;
use super::error::{Error, Result};
use super::node::Node;

/// A directory of the host to be shared, and on what terms.
#[derive(Debug, Clone)]
pub struct Export {
    root: PathBuf,
    read_only: bool,
    allowed: Option<Vec<OsString>>,
    devices: bool,
}

impl Export {
    /// All of a directory, to be read and written, without device nodes.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), read_only: false, allowed: None, devices: false }
    }

    /// Whether the guest may only read.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// The only names of the directory itself that the guest is shown and may use; what lies in a directory of such a
    /// name is not restricted. `None` allows all.
    #[must_use]
    pub fn allowed(mut self, names: Option<Vec<OsString>>) -> Self {
        self.allowed = names;
        self
    }

    /// Whether the guest may make nodes of block and character devices on the host. The server opens none of them, but
    /// others on the host could. Overlayfs's whiteouts (character 0:0) are always allowed.
    #[must_use]
    pub fn devices(mut self, devices: bool) -> Self {
        self.devices = devices;
        self
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// How many file systems below one root get inode numbers of their own; the rest share.
const FILE_SYSTEMS: usize = 255;

/// A share that is being served.
#[derive(Debug)]
pub(super) struct Share {
    root: Arc<Node>,
    read_only: bool,
    allowed: Option<HashSet<Vec<u8>>>,
    devices: bool,
    /// `/proc/self/fd`: the way from an `O_PATH` descriptor to calls that want a path.
    descriptors: Arc<OwnedFd>,
    budget: Arc<Budget>,
    /// The file systems met so far; the root's comes first.
    file_systems: Mutex<Vec<u64>>,
}

impl Share {
    /// Opens the root; here alone symbolic links are followed.
    pub(super) fn open(
        export: &Export,
        descriptors: Arc<OwnedFd>,
        budget: Arc<Budget>,
    ) -> Result<Self> {
        let failed =
            |errno: Errno| Error::new(format!("cannot share {}", export.root.display()), errno);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let slot = Budget::take(&budget).map_err(failed)?;
        let fd = rustix::fs::open(&export.root, flags, Mode::empty()).map_err(failed)?;
        let file_systems = Mutex::new(Vec::new());
        let root = Node::new(fd, slot, &file_systems).map_err(failed)?;
        let allowed = export
            .allowed
            .as_ref()
            .map(|names| names.iter().map(|name| name.clone().into_vec()).collect());
        Ok(Self {
            root: Arc::new(root),
            read_only: export.read_only,
            allowed,
            devices: export.devices,
            descriptors,
            budget,
            file_systems,
        })
    }

    pub(super) fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// Whether device nodes may be made.
    pub(super) fn has_devices(&self) -> bool {
        self.devices
    }

    /// Refuses whatever changes something in a share that is read only.
    pub(super) fn writable(&self) -> Result<(), Errno> {
        if self.read_only { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// Refuses changes of this file's attributes: in a read-only share all, in a restricted one those of the root, which
    /// is then only the place where the allowed names are.
    pub(super) fn changeable(&self, node: &Node) -> Result<(), Errno> {
        self.writable()?;
        if self.allowed.is_some() && node.is(&self.root) { Err(Errno::PERM) } else { Ok(()) }
    }

    /// Whether the guest is shown a name in this directory. `.` and `..` are always there.
    pub(super) fn shows(&self, directory: &Node, name: &[u8]) -> bool {
        match &self.allowed {
            Some(allowed) if directory.is(&self.root) => {
                allowed.contains(name) || matches!(name, b"." | b"..")
            }
            _ => true,
        }
    }

    /// Checks that a name can stand for something that is in a directory already.
    pub(super) fn existing(&self, directory: &Node, name: &[u8]) -> Result<(), Errno> {
        entry(directory, name)?;
        if self.shows(directory, name) { Ok(()) } else { Err(Errno::NOENT) }
    }

    /// Checks that something may be given this name in a directory.
    pub(super) fn new_name(&self, directory: &Node, name: &[u8]) -> Result<(), Errno> {
        self.writable()?;
        entry(directory, name)?;
        if self.shows(directory, name) { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// One step of a walk.
    pub(super) fn step(&self, from: &Arc<Node>, name: &[u8]) -> Result<Arc<Node>, Errno> {
        if !from.is_directory() {
            return Err(Errno::NOTDIR);
        }
        match name {
            b"." => Ok(from.clone()),
            b".." => self.parent(from),
            _ => {
                self.existing(from, name)?;
                self.open_at(from, name, OFlags::PATH, Mode::empty()).map(Arc::new)
            }
        }
    }

    /// Opens a name in a directory that the caller has checked.
    pub(super) fn open_at(
        &self,
        directory: &Node,
        name: &[u8],
        flags: OFlags,
        mode: Mode,
    ) -> Result<Node, Errno> {
        let slot = Budget::take(&self.budget)?;
        let fd = open_beneath(directory.fd(), name, flags, mode)?;
        Node::new(fd, slot, &self.file_systems)
    }

    /// Opens a file anew for reading or writing, by its descriptor: it is this file whatever has become of its name.
    pub(super) fn reopen(&self, node: &Node, flags: OFlags) -> Result<Node, Errno> {
        let slot = Budget::take(&self.budget)?;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fd = if node.is_directory() {
            rustix::fs::openat(node.fd(), ".", flags | OFlags::DIRECTORY, Mode::empty())?
        } else {
            // Devices would be opened, and a fifo would wait.
            debug_assert!(node.is_regular());
            rustix::fs::openat(&*self.descriptors, number(node), flags, Mode::empty())?
        };
        Ok(node.reopened(fd, slot))
    }

    /// Where a path can be asked of `/proc/self/fd`: the directory and the name in it.
    pub(super) fn by_descriptor(&self, node: &Node) -> (&OwnedFd, String) {
        (&self.descriptors, number(node))
    }

    /// The number that the guest is given for an entry that lies in this directory.
    pub(super) fn entry_number(&self, directory: &Node, inode: u64) -> u64 {
        directory.number_beside(inode)
    }

    /// The directory that holds this one; the root is its own. Every directory on the way up is opened until the root is
    /// met: one that was moved out of the share while the guest held it has no parent any more.
    fn parent(&self, of: &Arc<Node>) -> Result<Arc<Node>, Errno> {
        if of.is(&self.root) {
            return Ok(self.root.clone());
        }
        let up = |from: &Node| {
            let slot = Budget::take(&self.budget)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(from.fd(), "..", flags, Mode::empty())?;
            Node::new(fd, slot, &self.file_systems)
        };
        let parent = Arc::new(up(of)?);
        let mut at = parent.clone();
        for _ in 0..DEEPEST {
            if at.is(&self.root) {
                return Ok(parent);
            }
            let above = Arc::new(up(&at)?);
            if above.is(&at) {
                break;
            }
            at = above;
        }
        Err(Errno::NOENT)
    }
}

/// How far up the root is looked for.
const DEEPEST: usize = 1024;

fn number(node: &Node) -> String {
    node.fd().as_raw_fd().to_string()
}

/// Checks that a name is one component, in a directory.
fn entry(directory: &Node, name: &[u8]) -> Result<(), Errno> {
    if !directory.is_directory() {
        return Err(Errno::NOTDIR);
    }
    if name.len() > 255 {
        return Err(Errno::NAMETOOLONG);
    }
    if name.is_empty() {
        return Err(Errno::NOENT);
    }
    if matches!(name, b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        return Err(Errno::INVAL);
    }
    Ok(())
}

fn open_beneath(
    directory: &OwnedFd,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(directory, name, flags, mode, resolve) {
            // A renaming somewhere at the same time.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// The place of a file system among those met.
pub(super) fn file_system_number(file_systems: &Mutex<Vec<u64>>, device: u64) -> usize {
    let mut met = file_systems.lock().unwrap_or_else(PoisonError::into_inner);
    match met.iter().position(|&known| known == device) {
        Some(index) => index,
        None if met.len() < FILE_SYSTEMS => {
            met.push(device);
            met.len() - 1
        }
        None => FILE_SYSTEMS,
    }
}
