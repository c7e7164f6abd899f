//! The tree model: what an image holds, before it is written and after it is read.
//!
//! Inodes live in one arena and directories name them by index, so hard links are simply two names for
//! one index. The same type is the writer's input, the reader's whole-image output and the merger's
//! result, which is what makes "tree to image to tree" a property that a test can state.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Index of an inode in its [`Tree`]. The root is [`Tree::ROOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub u32);

/// Seconds and nanoseconds since 1970-01-01T00:00:00Z; seconds may be negative, nanoseconds are below 10^9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds, towards minus infinity.
    pub seconds: i64,
    /// Nanoseconds within the second, 0..10^9.
    pub nanoseconds: u32,
}

/// As a decimal number of seconds: half a second before 1970 is `-0.500000000`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanoseconds);
        let sign = if total < 0 { "-" } else { "" };
        let magnitude = total.unsigned_abs();
        write!(f, "{sign}{}.{:09}", magnitude / 1_000_000_000, magnitude % 1_000_000_000)
    }
}

/// Major and minor of a device node. EROFS stores 12 bits of major and 20 bits of minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DeviceNumber {
    /// Major number, below 2^12.
    pub major: u32,
    /// Minor number, below 2^20.
    pub minor: u32,
}

impl DeviceNumber {
    /// 0:0, which as a character device is overlayfs's whiteout.
    pub const WHITEOUT: Self = Self { major: 0, minor: 0 };
}

/// An extended attribute: the full name (`trusted.overlay.opaque`) and the value's bytes. Both can be shared by
/// many inodes, and what is shared costs the writer no comparison of bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// Full name with its namespace, no NUL.
    pub name: Arc<[u8]>,
    /// Value, at most 65,535 bytes.
    pub value: Arc<[u8]>,
}

/// Where a run of a file's blocks lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockAddress {
    /// 0: the image's unified address space (the image itself unless a device slot covers the block);
    /// n: the n-th extra device.
    pub device: u16,
    /// First block, in units of the image's block size.
    pub block: u32,
}

/// The bytes of a regular file: where they are, or the bytes themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileData {
    /// Held in memory. The writer puts it inline behind the inode, or in blocks where it does not fit.
    Bytes(Box<[u8]>),
    /// One contiguous run of `ceil(size / block size)` blocks.
    Extent {
        /// First block.
        start: BlockAddress,
        /// Length in bytes.
        size: u64,
    },
    /// Equal pieces of `1 << chunk_bits` bytes, each somewhere or nowhere (a hole that reads as zeros).
    Chunks {
        /// Length in bytes.
        size: u64,
        /// log2 of a chunk's length in bytes, at least log2 of the block size.
        chunk_bits: u8,
        /// `ceil(size / chunk)` entries; `None` is a hole.
        chunks: Box<[Option<BlockAddress>]>,
    },
    /// Whole blocks somewhere, and the last `size mod block size` bytes in memory (EROFS's inline tail).
    ExtentAndTail {
        /// First block of the whole blocks. The writer turns an address on an extra device into one in
        /// the unified address space, the only kind that the format has here; the reader hands out that.
        start: BlockAddress,
        /// Length in bytes of the whole file, tail included.
        size: u64,
        /// The last `size mod block size` bytes, not empty.
        tail: Box<[u8]>,
    },
    /// Bytes of the [packed file](Tree::packed), from any offset on: EROFS's way to many small files in few blocks.
    /// Needs Linux 6.1, and 6.8 with blocks of 512 bytes.
    Packed {
        /// Offset of the first byte in the packed file.
        offset: u64,
        /// Length in bytes, not 0.
        size: u64,
    },
}

impl FileData {
    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Extent { size, .. }
            | Self::Chunks { size, .. }
            | Self::ExtentAndTail { size, .. }
            | Self::Packed { size, .. } => *size,
        }
    }
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory: names (1 to 255 bytes, no `/`, no NUL, not `.` or `..`) to inodes, in byte order.
    Directory(BTreeMap<Box<[u8]>, InodeId>),
    /// A regular file.
    Regular(FileData),
    /// A symbolic link; the target is 1 to 4,095 bytes with no NUL.
    Symlink(Box<[u8]>),
    /// A character device; [`DeviceNumber::WHITEOUT`] is a whiteout.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One inode. Link counts are not stored here: they follow from the names in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, the only time EROFS keeps.
    pub mtime: Timestamp,
    /// Extended attributes, any order, no name twice. The writer sorts them by name.
    pub xattrs: Vec<Xattr>,
    /// What it is.
    pub content: Content,
}

impl Inode {
    /// An empty directory, 0755, owned by 0:0, with time 0.
    pub fn directory() -> Self {
        Self {
            permissions: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
            content: Content::Directory(BTreeMap::new()),
        }
    }

    /// Whether this is overlayfs's whiteout: a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.content == Content::CharDevice(DeviceNumber::WHITEOUT)
    }

    /// The value of an extended attribute by its full name.
    pub fn xattr(&self, name: &[u8]) -> Option<&[u8]> {
        self.xattrs.iter().find(|xattr| &*xattr.name == name).map(|xattr| &*xattr.value)
    }

    /// Sets an extended attribute, replacing a value of the same name.
    pub fn set_xattr(&mut self, name: &[u8], value: &[u8]) {
        match self.xattrs.iter_mut().find(|xattr| &*xattr.name == name) {
            Some(xattr) => xattr.value = value.into(),
            None => self.xattrs.push(Xattr { name: name.into(), value: value.into() }),
        }
    }

    /// The names in a directory, or `None` for anything else.
    pub fn entries(&self) -> Option<&BTreeMap<Box<[u8]>, InodeId>> {
        match &self.content {
            Content::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// The names in a directory, to change, or `None` for anything else.
    pub fn entries_mut(&mut self) -> Option<&mut BTreeMap<Box<[u8]>, InodeId>> {
        match &mut self.content {
            Content::Directory(entries) => Some(entries),
            _ => None,
        }
    }
}

/// A tree of inodes. Inodes that no name reaches are allowed and are not written.
#[derive(Debug, Clone)]
pub struct Tree {
    inodes: Vec<Inode>,
    packed: Option<InodeId>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// The root directory's index.
    pub const ROOT: InodeId = InodeId(0);

    /// A tree with an empty root directory.
    pub fn new() -> Self {
        Self { inodes: vec![Inode::directory()], packed: None }
    }

    /// Adds an inode that nothing names yet.
    ///
    /// # Panics
    /// If the tree would hold more than 2^32 inodes, which needs more memory than machines have.
    pub fn add(&mut self, inode: Inode) -> InodeId {
        let id = u32::try_from(self.inodes.len()).expect("fewer than 2^32 inodes in a tree");
        self.inodes.push(inode);
        InodeId(id)
    }

    /// The packed file, a regular file without a name: [`FileData::Packed`] is in it.
    pub fn packed(&self) -> Option<InodeId> {
        self.packed
    }

    /// Sets the packed file. Its data must be in blocks or chunks, of any device.
    pub fn set_packed(&mut self, file: InodeId) {
        self.packed = Some(file);
    }

    /// Number of inodes in the arena, reachable or not.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Never true: there is always a root.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// The root directory.
    pub fn root(&self) -> &Inode {
        &self.inodes[0]
    }

    /// Follows names from the root, without following symbolic links. An empty path is the root.
    pub fn lookup<'p>(&self, path: impl IntoIterator<Item = &'p [u8]>) -> Option<InodeId> {
        path.into_iter().try_fold(Self::ROOT, |dir, name| self[dir].entries()?.get(name).copied())
    }
}

impl std::ops::Index<InodeId> for Tree {
    type Output = Inode;
    fn index(&self, id: InodeId) -> &Inode {
        &self.inodes[id.0 as usize]
    }
}

impl std::ops::IndexMut<InodeId> for Tree {
    fn index_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.0 as usize]
    }
}
