//! A whole image as a tree.

use std::collections::{BTreeMap, HashMap};

use super::unsupported;
use crate::format::{DataLayout, FileType, Incompat};
use crate::trail::Trail;
use crate::{
    BlockAddress, Content, Error, ErrorKind, FileData, Image, Inode, InodeId, InodeView, Nid,
    ReadAt, Result, Tree, Xattr,
};

/// Bytes of xattrs that a tree may hold beyond four times the image's length. Shared values may legally be
/// much larger in a tree than in the image, but not without end.
const XATTR_ALLOWANCE: u64 = 64 << 20;
/// Chunks that stand for a flat file without blocks (one big hole).
const HOLE_CHUNKS: u64 = 16;

/// How much a tree may take, so that inodes which share one piece of metadata cannot multiply it.
pub(crate) struct Budget {
    metadata: u64,
    xattrs: u64,
}

impl Budget {
    /// What honest images of `length` bytes in all can need.
    pub(crate) fn new(length: u64) -> Self {
        let xattrs = length.saturating_mul(4).saturating_add(XATTR_ALLOWANCE);
        Self { metadata: length, xattrs }
    }

    /// Takes bytes of directories, tails, targets or chunk tables.
    pub(crate) fn metadata(&mut self, bytes: u64, position: u64) -> Result<()> {
        self.metadata = self.metadata.checked_sub(bytes).ok_or_else(|| {
            Error::corrupt(position, "directories, tails and tables are larger than the image")
        })?;
        Ok(())
    }

    pub(crate) fn xattrs(&mut self, xattrs: &[Xattr]) -> Result<()> {
        let sizes = xattrs.iter().map(|xattr| 64 + (xattr.name.len() + xattr.value.len()) as u64);
        let bytes = sizes.sum();
        self.xattrs = self.xattrs.checked_sub(bytes).ok_or_else(|| {
            Error::new(
                ErrorKind::TooLarge,
                "the xattrs of all inodes are too large to hold in memory",
            )
        })?;
        Ok(())
    }
}

/// A directory whose names are still to be read.
struct Pending {
    id: InodeId,
    view: InodeView,
    trail: Trail,
}

impl<R: ReadAt> Image<R> {
    /// Reads every inode that a name leads to. File data stays where it is, as [`FileData`] found; only
    /// what lies behind an inode is read, and targets, names and xattrs.
    ///
    /// Inodes of regular files with compressed data fail with [`ErrorKind::Unsupported`]; the message has
    /// the path.
    pub fn load_tree(&self) -> Result<Tree> {
        let mut budget = Budget::new(self.total_length());
        let mut tree = Tree::new();
        let root = self.inode(self.root())?;
        if !root.is_dir() {
            return Err(Error::corrupt(root.position, "the root is no directory"));
        }
        let mut ids = HashMap::from([(root.nid, Tree::ROOT)]);
        tree[Tree::ROOT] = self.load_inode(&root, &mut budget)?;
        if self.incompat().contains(Incompat::FRAGMENTS)
            && self.superblock().packed_nid.get() != 0
            && let packed = self.packed_inode()?
            && !packed.is_compressed()
        {
            let packed = self.load_inode(&packed, &mut budget)?;
            let packed = tree.add(packed);
            tree.set_packed(packed);
        }
        let mut pending = vec![Pending { id: Tree::ROOT, view: root, trail: Trail::root() }];
        while let Some(Pending { id, view, trail }) = pending.pop() {
            let mut entries = BTreeMap::new();
            budget.metadata(view.size, view.position).map_err(|e| e.within(&trail))?;
            for entry in self.read_dir(&view).map_err(|e| e.within(&trail))? {
                let (child, view) = self
                    .load_child(&mut tree, &mut ids, entry.nid, &mut budget)
                    .map_err(|e| e.within(trail.child(&entry.name)))?;
                if let Some(view) = view {
                    pending.push(Pending { id: child, view, trail: trail.child(&entry.name) });
                }
                if entries.contains_key(&entry.name) {
                    let what = "the directory has this name twice";
                    return Err(
                        Error::new(ErrorKind::Corrupt, what).within(trail.child(&entry.name))
                    );
                }
                entries.insert(entry.name, child);
            }
            tree[id].content = Content::Directory(entries);
        }
        Ok(tree)
    }

    /// The inode's place in the tree, and its view if it is a directory.
    fn load_child(
        &self,
        tree: &mut Tree,
        ids: &mut HashMap<Nid, InodeId>,
        nid: Nid,
        budget: &mut Budget,
    ) -> Result<(InodeId, Option<InodeView>)> {
        if let Some(id) = ids.get(&nid) {
            return match tree[*id].content {
                Content::Directory(_) => {
                    Err(Error::new(ErrorKind::Corrupt, format!("directory {nid} has two names")))
                }
                _ => Ok((*id, None)),
            };
        }
        let view = self.inode(nid)?;
        let id = tree.add(self.load_inode(&view, budget)?);
        ids.insert(nid, id);
        Ok((id, view.is_dir().then_some(view)))
    }

    /// One inode with everything but a directory's names.
    fn load_inode(&self, view: &InodeView, budget: &mut Budget) -> Result<Inode> {
        let content = match view.file_type {
            FileType::Directory => Content::Directory(BTreeMap::new()),
            FileType::Regular => Content::Regular(self.file_data(view, budget)?),
            FileType::Symlink => {
                budget.metadata(view.size, view.position)?;
                Content::Symlink(self.read_link(view)?.into())
            }
            FileType::CharDevice => Content::CharDevice(view.device_number),
            FileType::BlockDevice => Content::BlockDevice(view.device_number),
            FileType::Fifo => Content::Fifo,
            FileType::Socket => Content::Socket,
            FileType::Unknown => {
                return Err(Error::corrupt(view.position, "an inode of unknown type"));
            }
        };
        let xattrs = self.xattrs(view)?;
        budget.xattrs(&xattrs)?;
        Ok(Inode {
            permissions: view.permissions,
            uid: view.uid,
            gid: view.gid,
            mtime: view.mtime,
            xattrs,
            content,
        })
    }

    fn file_data(&self, view: &InodeView, budget: &mut Budget) -> Result<FileData> {
        let size = view.size;
        let address = |device: u16, block: u64| match u32::try_from(block) {
            Ok(block) => Ok(BlockAddress { device, block }),
            Err(_) => Err(unsupported("48-bit block addresses in a tree").at(view.position)),
        };
        if size == 0 && !view.is_compressed() {
            return Ok(FileData::Bytes(Box::default()));
        }
        if let Some(offset) = view.packed {
            if self.packed_inode()?.is_compressed() {
                return Err(unsupported("compressed data in the packed inode").at(view.position));
            }
            return Ok(FileData::Packed { offset, size });
        }
        match view.layout {
            DataLayout::FlatPlain => match view.start {
                Some(start) => Ok(FileData::Extent { start: address(0, start)?, size }),
                None => self.hole(view),
            },
            DataLayout::FlatInline => {
                let tail_position = self.tail_position(view)?;
                let tail_size = size % self.block_size();
                budget.metadata(tail_size, view.position)?;
                let tail = self.primary_source().read_bytes(tail_position, tail_size)?.into();
                if size < self.block_size() {
                    return Ok(FileData::Bytes(tail));
                }
                match view.start {
                    Some(start) => {
                        Ok(FileData::ExtentAndTail { start: address(0, start)?, size, tail })
                    }
                    None => Err(unsupported("a hole with an inline tail").at(view.position)),
                }
            }
            DataLayout::ChunkBased => {
                let table = self.chunk_table(view)?;
                budget.metadata(table.count * table.entry_size, view.position)?;
                let chunks = (0..table.count)
                    .map(|index| match self.chunk(&table, index)? {
                        None => Ok(None),
                        Some((device, block)) => address(device, block).map(Some),
                    })
                    .collect::<Result<_>>()?;
                Ok(FileData::Chunks { size, chunk_bits: table.chunk_bits, chunks })
            }
            DataLayout::CompressedFull | DataLayout::CompressedCompact => {
                let layout = view.layout as u16;
                Err(unsupported(format!("compressed data (layout {layout})")).at(view.position))
            }
        }
    }

    /// A flat file without blocks: the fewest chunks that cover it, all holes.
    pub(crate) fn hole(&self, view: &InodeView) -> Result<FileData> {
        let block_bits = self.superblock().blkszbits;
        let chunk_bits = (block_bits..=block_bits + 31)
            .find(|bits| view.size <= 1 << bits)
            .unwrap_or(block_bits + 31);
        let count = view.size.div_ceil(1 << chunk_bits);
        if count > HOLE_CHUNKS {
            let what = format!("a hole of {} bytes", view.size);
            return Err(Error::new(ErrorKind::TooLarge, what).at(view.position));
        }
        let chunks = vec![None; usize::try_from(count).unwrap_or(0)].into();
        Ok(FileData::Chunks { size: view.size, chunk_bits, chunks })
    }
}
