//! The first pass: which inodes are written, in which order, with how many links, and whether each of
//! them can be stored at all.

use std::ops::Range;

use super::WriterOptions;
use super::stream::CHUNK_BITS_OVER_BLOCK_MAX;
use super::xattr::split_name;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{NAME_MAX, SYMLINK_MAX, XATTR_VALUE_MAX};
use crate::tree::{BlockAddress, Content, DeviceNumber, FileData, Inode, InodeId, Tree};

/// Longest full name of an extended attribute: the VFS hands out no longer ones.
const XATTR_NAME_MAX: usize = 255;
const UNSEEN: u32 = u32::MAX;

/// The reachable part of a tree.
#[derive(Debug)]
pub(super) struct Census {
    /// Inodes in the order in which they are stored: the root, then every directory's children together.
    pub(super) order: Vec<InodeId>,
    /// Link count by inode.
    pub(super) links: Vec<u32>,
    /// The directory that names an inode first, by inode.
    parents: Vec<u32>,
}

impl Census {
    /// Walks the tree from its root; refuses bad names and directories with more than one name.
    pub(super) fn take(tree: &Tree) -> Result<Self> {
        let mut census = Self {
            order: Vec::with_capacity(tree.len()),
            links: vec![0; tree.len()],
            parents: vec![UNSEEN; tree.len()],
        };
        if tree.root().entries().is_none() {
            return Err(Error::new(ErrorKind::Invalid, "the root is not a directory"));
        }
        census.parents[Tree::ROOT.0 as usize] = Tree::ROOT.0;
        census.links[Tree::ROOT.0 as usize] = 2;
        census.order.push(Tree::ROOT);
        if let Some(packed) = tree.packed() {
            census.packed(tree, packed)?;
        }
        let mut pending = vec![Tree::ROOT];
        let mut children = Vec::new();
        while let Some(dir) = pending.pop() {
            census.visit(tree, dir, &mut children)?;
            pending.extend(children.drain(..).rev());
        }
        Ok(census)
    }

    /// The packed file has no name, but an inode like any other.
    fn packed(&mut self, tree: &Tree, id: InodeId) -> Result<()> {
        let index = id.0 as usize;
        let in_blocks = |data: &FileData| {
            data.size() > 0 && matches!(data, FileData::Extent { .. } | FileData::Chunks { .. })
        };
        match (index < tree.len()).then(|| &tree[id].content) {
            Some(Content::Regular(data)) if in_blocks(data) => {}
            _ => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "the packed file has no data in blocks",
                ));
            }
        }
        self.links[index] = 1;
        self.parents[index] = Tree::ROOT.0;
        self.order.push(id);
        Ok(())
    }

    fn visit(&mut self, tree: &Tree, dir: InodeId, children: &mut Vec<InodeId>) -> Result<()> {
        for (name, &id) in tree[dir].entries().into_iter().flatten() {
            let invalid = |census: &Self, message: &str| {
                let path = join(census.path(tree, dir), name);
                Error::new(ErrorKind::Invalid, format!("{path}: {message}"))
            };
            if let Some(message) = bad_name(name) {
                return Err(invalid(self, message));
            }
            let index = id.0 as usize;
            if index >= tree.len() {
                return Err(invalid(self, "names an inode that the tree does not hold"));
            }
            if tree.packed() == Some(id) {
                return Err(invalid(self, "names the packed file"));
            }
            let first = self.parents[index] == UNSEEN;
            if tree[id].entries().is_some() {
                if !first {
                    return Err(invalid(self, "a directory has a second name, or holds itself"));
                }
                self.links[index] = 2;
                self.links[dir.0 as usize] += 1;
                children.push(id);
            } else {
                self.links[index] = self.links[index]
                    .checked_add(1)
                    .ok_or_else(|| invalid(self, "more than 2^32 - 1 hard links"))?;
            }
            if first {
                self.parents[index] = dir.0;
                self.order.push(id);
            }
        }
        Ok(())
    }

    /// The directory that holds a directory; the root's is the root.
    pub(super) fn parent(&self, id: InodeId) -> InodeId {
        InodeId(self.parents[id.0 as usize])
    }

    /// A path of an inode, for messages.
    pub(super) fn path(&self, tree: &Tree, mut id: InodeId) -> String {
        let mut names: Vec<&[u8]> = Vec::new();
        while id != Tree::ROOT {
            let parent = self.parent(id);
            let entry =
                tree[parent].entries().into_iter().flatten().find(|&(_, &child)| child == id);
            names.extend(entry.map(|(name, _)| &**name));
            id = parent;
        }
        names.iter().rev().fold(String::new(), |path, name| join(path, name))
    }

    /// Refuses what the format, or a kernel that reads it, cannot take. `data` are the blocks that hold
    /// streamed data.
    pub(super) fn check_inodes(
        &self,
        tree: &Tree,
        options: &WriterOptions,
        data: Range<u64>,
    ) -> Result<()> {
        let packed = tree.packed().map_or(0, |id| match &tree[id].content {
            Content::Regular(file) => file.size(),
            _ => 0,
        });
        if options.long_xattr_prefixes && packed > 0 {
            // Kernels before 6.17 look for the table in the packed file.
            let what = "long xattr prefixes and a packed file exclude each other";
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        for &id in &self.order {
            check_inode(&tree[id], options, &data, packed)
                .map_err(|(kind, message)| self.error(tree, id, kind, &message))?;
        }
        Ok(())
    }

    /// An error about an inode, with its path.
    pub(super) fn error(&self, tree: &Tree, id: InodeId, kind: ErrorKind, message: &str) -> Error {
        let path = self.path(tree, id);
        let path = if path.is_empty() { "/" } else { &path };
        Error::new(kind, format!("{path}: {message}"))
    }
}

fn join(mut path: String, name: &[u8]) -> String {
    use std::fmt::Write;
    write!(path, "/{}", name.escape_ascii()).expect("writing to a string");
    path
}

fn bad_name(name: &[u8]) -> Option<&'static str> {
    match name {
        [] => Some("an empty name"),
        b"." | b".." => Some("the names . and .. are the format's own"),
        _ if name.len() > NAME_MAX => Some("a name of more than 255 bytes"),
        _ if name.contains(&b'/') => Some("a name with a slash"),
        _ if name.contains(&0) => Some("a name with a NUL"),
        _ => None,
    }
}

type Refusal = (ErrorKind, String);

fn invalid<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err((ErrorKind::Invalid, message.into()))
}

fn check_inode(
    inode: &Inode,
    options: &WriterOptions,
    data: &Range<u64>,
    packed: u64,
) -> Result<(), Refusal> {
    if inode.permissions & !0o7777 != 0 {
        return invalid(format!("permissions {:#o} have bits beyond 07777", inode.permissions));
    }
    if inode.mtime.nanoseconds >= 1_000_000_000 {
        return invalid(format!("{} nanoseconds are a second or more", inode.mtime.nanoseconds));
    }
    check_xattrs(inode)?;
    match &inode.content {
        Content::Regular(file) => check_data(file, options, data, packed),
        Content::Symlink(target) => check_target(target),
        Content::CharDevice(number) | Content::BlockDevice(number) => check_device(*number),
        Content::Directory(_) | Content::Fifo | Content::Socket => Ok(()),
    }
}

fn check_target(target: &[u8]) -> Result<(), Refusal> {
    match target.len() {
        0 => invalid("an empty symbolic link"),
        length if length > SYMLINK_MAX => {
            invalid(format!("a symbolic link of {length} bytes, over {SYMLINK_MAX}"))
        }
        _ if target.contains(&0) => invalid("a symbolic link with a NUL"),
        _ => Ok(()),
    }
}

fn check_device(DeviceNumber { major, minor }: DeviceNumber) -> Result<(), Refusal> {
    if major < 1 << 12 && minor < 1 << 20 {
        return Ok(());
    }
    invalid(format!("device number {major}:{minor} does not fit 12 and 20 bits"))
}

fn check_xattrs(inode: &Inode) -> Result<(), Refusal> {
    for xattr in &inode.xattrs {
        let shown = xattr.name.escape_ascii();
        if split_name(&xattr.name).is_none() {
            return invalid(format!("the format has no room for xattr name {shown}"));
        }
        if xattr.name.len() > XATTR_NAME_MAX || xattr.name.contains(&0) {
            return invalid(format!("xattr name {shown} is over 255 bytes or holds a NUL"));
        }
        if xattr.value.len() > XATTR_VALUE_MAX {
            let length = xattr.value.len();
            return Err((
                ErrorKind::TooLarge,
                format!("xattr {shown} has {length} bytes, over {XATTR_VALUE_MAX}"),
            ));
        }
    }
    if inode.xattrs.is_sorted_by(|a, b| a.name < b.name) {
        return Ok(());
    }
    let mut names: Vec<&[u8]> = inode.xattrs.iter().map(|xattr| &*xattr.name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => invalid(format!("xattr {} is there twice", pair[0].escape_ascii())),
        None => Ok(()),
    }
}

fn check_data(
    file: &FileData,
    options: &WriterOptions,
    data: &Range<u64>,
    packed: u64,
) -> Result<(), Refusal> {
    let size = file.size();
    let block_size = options.block_size.bytes();
    if i64::try_from(size).is_err() {
        return Err((ErrorKind::TooLarge, format!("a file of {size} bytes")));
    }
    match file {
        FileData::Bytes(_) => Ok(()),
        FileData::Packed { offset, .. } => match offset.checked_add(size) {
            Some(end) if end <= packed && size > 0 => Ok(()),
            _ => invalid(format!("{size} bytes at {offset} of a packed file of {packed} bytes")),
        },
        FileData::Extent { start, .. } => {
            check_run(*start, size.div_ceil(block_size), options, data)
        }
        FileData::ExtentAndTail { start, tail, .. } => {
            if tail.is_empty() || tail.len() as u64 != size % block_size {
                let length = tail.len();
                return invalid(format!(
                    "a tail of {length} bytes does not end a file of {size} bytes"
                ));
            }
            check_run(*start, size / block_size, options, data)
        }
        FileData::Chunks { chunk_bits, chunks, .. } => {
            let block_bits = options.block_size.bits();
            if !(block_bits..=block_bits + CHUNK_BITS_OVER_BLOCK_MAX).contains(chunk_bits) {
                return invalid(format!("chunks of 2^{chunk_bits} bytes"));
            }
            let chunk = 1u64 << chunk_bits;
            let count = chunks.len();
            if count as u64 != size.div_ceil(chunk) {
                return invalid(format!(
                    "{count} chunks of {chunk} bytes are not a file of {size} bytes"
                ));
            }
            (0..).zip(chunks).try_for_each(|(index, start): (u64, _)| match start {
                Some(start) => {
                    let length = chunk.min(size - index * chunk);
                    check_run(*start, length.div_ceil(block_size), options, data)
                }
                None => Ok(()),
            })
        }
    }
}

/// A run of blocks must lie inside the streamed data, or inside its device: kernels check neither.
fn check_run(
    start: BlockAddress,
    blocks: u64,
    options: &WriterOptions,
    data: &Range<u64>,
) -> Result<(), Refusal> {
    if blocks == 0 {
        return Ok(());
    }
    let BlockAddress { device, block } = start;
    let end = u64::from(block) + blocks;
    if device == 0 {
        if u64::from(block) >= data.start && end <= data.end {
            return Ok(());
        }
        return invalid(format!("blocks {block}..{end} are outside the image's data {data:?}"));
    }
    match options.devices.get(usize::from(device) - 1) {
        Some(info) if end <= u64::from(info.blocks) => Ok(()),
        Some(info) => invalid(format!(
            "blocks {block}..{end} are outside device {device}, which has {}",
            info.blocks
        )),
        None => invalid(format!(
            "data on extra device {device}, but there are {}",
            options.devices.len()
        )),
    }
}
