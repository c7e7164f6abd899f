//! The merger: a stack of layer images to one tree that refers to them as devices.
//!
//! For each name the layers are asked from the top down, as overlayfs does:
//!
//! 1. absent: the next layer. A whiteout (a character device 0:0, or an empty file with
//!    `trusted.overlay.whiteout`): stop.
//! 2. not a directory: taken if nothing was taken yet; stop in any case.
//! 3. a directory: the first one gives the attributes, all give their names; stop if it is opaque.
//!
//! `trusted.overlay.*` do not come through, except that the escaped `trusted.overlay.overlay.X` becomes
//! `trusted.overlay.X`, as in a mounted overlay. The tree's file data is where it was: device n of the
//! result is [`Merged::devices`]`[n - 1]`. What lies inline in a layer cannot be addressed and is copied.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::format::{CHUNK_BITS_MASK, DataLayout, FileType};
use crate::reader::{Budget, unsupported};
use crate::trail::Trail;
use crate::{
    BlockAddress, BlockSize, Content, DeviceInfo, DeviceNumber, Error, ErrorKind, ExtentSource,
    FileData, Image, Inode, InodeId, InodeView, Nid, ReadAt, Result, Tree, Xattr,
};

const OVERLAY: &[u8] = b"trusted.overlay.";
const ESCAPED: &[u8] = b"trusted.overlay.overlay.";
/// A file is copied whole where its tail fits neither behind an inode nor onto a device, up to this size.
const COPY_MAX: u64 = 1 << 20;

/// A stack of layers as one tree.
#[derive(Debug, Clone)]
pub struct Merged {
    /// The tree, to be written by an [`ImageWriter`](crate::ImageWriter) with the devices and the block size
    /// below.
    pub tree: Tree,
    /// The files that the tree's data lies in, in the order of device numbers.
    pub devices: Vec<MergedDevice>,
    /// The block size that addresses in the tree count in.
    pub block_size: BlockSize,
}

impl Merged {
    /// The devices for [`WriterOptions::devices`](crate::WriterOptions::devices).
    pub fn device_infos(&self) -> Vec<DeviceInfo> {
        self.devices.iter().map(|device| device.info.clone()).collect()
    }
}

/// One file that a merged image refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedDevice {
    /// Index of the layer in the slice given to [`merge`].
    pub layer: usize,
    /// 0: the layer image itself; n: its n-th extra device.
    pub device: u16,
    /// Length, and a tag: the layer's UUID in hex, or the tag in the layer's own device slot. Callers that
    /// know better (a digest) may replace the tag.
    pub info: DeviceInfo,
}

/// Merges layers, **the bottom one first**. Addresses count in the smallest block size of the layers.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for `redirect` and `metacopy` marks and for compressed data, with the path;
/// [`ErrorKind::Corrupt`] for a broken layer.
pub fn merge<R: ReadAt>(layers: &[&Image<R>]) -> Result<Merged> {
    let all_large = layers.iter().all(|layer| layer.block_size() >= BlockSize::B4096.bytes());
    merge_with_block_size(layers, if all_large { BlockSize::B4096 } else { BlockSize::B512 })
}

/// As [`merge`], with addresses in a block size that divides every layer's: an image with blocks of 512
/// can refer to layers with blocks of 4096, not the other way round.
///
/// # Errors
/// As [`merge`], and [`ErrorKind::Invalid`] for a layer with smaller blocks.
pub fn merge_with_block_size<R: ReadAt>(
    layers: &[&Image<R>],
    block_size: BlockSize,
) -> Result<Merged> {
    if let Some((index, layer)) =
        layers.iter().enumerate().find(|(_, layer)| layer.block_size() < block_size.bytes())
    {
        let (small, large) = (layer.block_size(), block_size.bytes());
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("blocks of {large} bytes cannot refer to layer {index} with blocks of {small}"),
        ));
    }
    let (devices, numbers) = devices(layers, block_size)?;
    let length = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.total_length()));
    let mut merger = Merger {
        layers,
        block_size: block_size.bytes(),
        devices: &devices,
        numbers,
        tree: Tree::new(),
        ids: HashMap::new(),
        directories: HashSet::new(),
        budget: Budget::new(length),
    };
    merger.run()?;
    Ok(Merged { tree: merger.tree, devices, block_size })
}

/// Number in the merged image by (layer, its device).
type DeviceNumbers = HashMap<(usize, u16), u16>;

fn devices<R: ReadAt>(
    layers: &[&Image<R>],
    block_size: BlockSize,
) -> Result<(Vec<MergedDevice>, DeviceNumbers)> {
    let mut devices = Vec::new();
    let mut numbers = HashMap::new();
    for (layer, image) in layers.iter().enumerate() {
        let uuid: String = image.uuid().iter().map(|byte| format!("{byte:02x}")).collect();
        let own = std::iter::once(uuid.into_bytes())
            .chain(image.devices().iter().map(|slot| crate::reader::until_nul(&slot.tag).to_vec()));
        for (device, tag) in (0_u16..=u16::MAX).zip(own) {
            // A flattened layer has its devices in the same file.
            let Some(source) = image.source(device) else { break };
            let blocks = source.length() / block_size.bytes();
            let blocks = u32::try_from(blocks).map_err(|_| {
                let what = format!("layer {layer} has {blocks} blocks, too many for one image");
                Error::new(ErrorKind::TooLarge, what)
            })?;
            devices.push(MergedDevice { layer, device, info: DeviceInfo { tag, blocks } });
            let number = u16::try_from(devices.len())
                .map_err(|_| Error::new(ErrorKind::TooLarge, "more than 65535 devices"))?;
            numbers.insert((layer, device), number);
        }
    }
    Ok((devices, numbers))
}

/// A directory of the result whose names are still to be merged.
struct Pending {
    id: InodeId,
    /// The directories that it is made of, the top one first.
    parts: Vec<(usize, InodeView)>,
    trail: Trail,
}

struct Merger<'a, R> {
    layers: &'a [&'a Image<R>],
    block_size: u64,
    devices: &'a [MergedDevice],
    numbers: DeviceNumbers,
    tree: Tree,
    /// Everything that is not a directory, so that names for one inode stay names for one inode.
    ids: HashMap<(usize, Nid), InodeId>,
    /// Directories that a name has led to: none may be met twice.
    directories: HashSet<(usize, Nid)>,
    budget: Budget,
}

impl<R: ReadAt> Merger<'_, R> {
    fn run(&mut self) -> Result<()> {
        let trail = Trail::root();
        let mut parts = Vec::new();
        for (layer, image) in self.layers.iter().enumerate().rev() {
            let root = image.inode(image.root())?;
            if !root.is_dir() {
                return Err(Error::corrupt(root.position, format!("layer {layer} has no root")));
            }
            let xattrs = self.directory_xattrs(layer, &root).map_err(|e| e.within(&trail))?;
            if parts.is_empty() {
                self.tree[Tree::ROOT] = inode(&root, xattrs, Content::Directory(BTreeMap::new()));
            }
            // Overlayfs does not look for an opaque mark on the root of a layer (*observed* on 6.18).
            parts.push((layer, root));
        }
        let mut pending = vec![Pending { id: Tree::ROOT, parts, trail }];
        while let Some(directory) = pending.pop() {
            self.directory(&directory, &mut pending)?;
        }
        Ok(())
    }

    fn directory(&mut self, directory: &Pending, pending: &mut Vec<Pending>) -> Result<()> {
        let mut names: BTreeMap<Box<[u8]>, Vec<(usize, Nid)>> = BTreeMap::new();
        for (layer, view) in &directory.parts {
            let layer = *layer;
            self.budget.metadata(view.size, view.position)?;
            for entry in
                self.layers[layer].read_dir(view).map_err(|e| e.within(&directory.trail))?
            {
                let found = names.entry(entry.name).or_default();
                // A name twice in one layer: the first counts, as for a lookup.
                if found.last().is_none_or(|(last, _)| *last != layer) {
                    found.push((layer, entry.nid));
                }
            }
        }
        let mut entries = BTreeMap::new();
        for (name, found) in names {
            let trail = directory.trail.child(&name);
            let taken = self.name(&found, &trail, pending).map_err(|e| e.within(&trail))?;
            if let Some(id) = taken {
                entries.insert(name, id);
            }
        }
        self.tree[directory.id].content = Content::Directory(entries);
        Ok(())
    }

    /// What a name stands for, given its inodes from the top layer down.
    fn name(
        &mut self,
        found: &[(usize, Nid)],
        trail: &Trail,
        pending: &mut Vec<Pending>,
    ) -> Result<Option<InodeId>> {
        let mut parts = Vec::new();
        let mut first = None;
        for (layer, nid) in found.iter().copied() {
            let view = self.layers[layer].inode(nid)?;
            if !view.is_dir() {
                if first.is_none() && !self.is_whiteout(layer, &view)? {
                    return self.file(layer, &view).map(Some);
                }
                break;
            }
            if !self.directories.insert((layer, nid)) {
                let what = format!("directory {nid} of layer {layer} has two names");
                return Err(Error::new(ErrorKind::Corrupt, what));
            }
            let xattrs = self.directory_xattrs(layer, &view)?;
            let opaque = xattrs
                .iter()
                .any(|xattr| &*xattr.name == b"trusted.overlay.opaque" && &*xattr.value == b"y");
            first.get_or_insert((view.clone(), xattrs));
            parts.push((layer, view));
            if opaque {
                break;
            }
        }
        let Some((view, xattrs)) = first else { return Ok(None) };
        let id = self.tree.add(inode(&view, xattrs, Content::Directory(BTreeMap::new())));
        pending.push(Pending { id, parts, trail: trail.clone() });
        Ok(Some(id))
    }

    fn is_whiteout(&self, layer: usize, view: &InodeView) -> Result<bool> {
        Ok(match view.file_type {
            FileType::CharDevice => view.device_number == DeviceNumber::WHITEOUT,
            FileType::Regular if view.size == 0 => self.layers[layer]
                .xattrs(view)?
                .iter()
                .any(|xattr| &*xattr.name == b"trusted.overlay.whiteout"),
            _ => false,
        })
    }

    fn directory_xattrs(&mut self, layer: usize, view: &InodeView) -> Result<Vec<Xattr>> {
        let xattrs = self.layers[layer].xattrs(view)?;
        self.budget.xattrs(&xattrs)?;
        refuse(&xattrs, b"trusted.overlay.redirect")?;
        Ok(xattrs)
    }

    fn file(&mut self, layer: usize, view: &InodeView) -> Result<InodeId> {
        if let Some(id) = self.ids.get(&(layer, view.nid)) {
            return Ok(*id);
        }
        let image = self.layers[layer];
        let xattrs = image.xattrs(view)?;
        self.budget.xattrs(&xattrs)?;
        refuse(&xattrs, b"trusted.overlay.metacopy")?;
        refuse(&xattrs, b"trusted.overlay.redirect")?;
        let content = match view.file_type {
            FileType::Regular => Content::Regular(self.data(layer, view)?),
            FileType::Symlink => {
                self.budget.metadata(view.size, view.position)?;
                Content::Symlink(image.read_link(view)?.into())
            }
            FileType::CharDevice => Content::CharDevice(view.device_number),
            FileType::BlockDevice => Content::BlockDevice(view.device_number),
            FileType::Fifo => Content::Fifo,
            FileType::Socket => Content::Socket,
            FileType::Directory | FileType::Unknown => {
                return Err(Error::corrupt(view.position, "an inode of unexpected type"));
            }
        };
        let id = self.tree.add(inode(view, xattrs, content));
        self.ids.insert((layer, view.nid), id);
        Ok(id)
    }

    fn data(&mut self, layer: usize, view: &InodeView) -> Result<FileData> {
        let image = self.layers[layer];
        let size = view.size;
        if size == 0 && !view.is_compressed() {
            return Ok(FileData::Bytes(Box::default()));
        }
        match view.layout {
            // Its bytes may begin anywhere in a block.
            _ if view.is_packed() => self.copy(image, view),
            DataLayout::ChunkBased => self.chunks(layer, view),
            DataLayout::FlatInline => {
                let tail_size = size % image.block_size();
                let whole = size - tail_size;
                // A tail that fills blocks of the merged image would need blocks of its own there.
                if whole == 0 || tail_size >= self.block_size {
                    return self.copy(image, view);
                }
                let start = match image.extent_at(view, 0, whole)?.map(|extent| extent.source) {
                    Some(ExtentSource::Blocks { device, position }) => {
                        self.address(layer, device, position, whole)?
                    }
                    _ => return self.copy(image, view),
                };
                self.budget.metadata(tail_size, view.position)?;
                let mut tail = vec![0; usize::try_from(tail_size).unwrap_or(0)];
                image.read_at(view, &mut tail, whole)?;
                Ok(FileData::ExtentAndTail { start, size, tail: tail.into() })
            }
            DataLayout::FlatPlain | DataLayout::CompressedFull | DataLayout::CompressedCompact => {
                match image.extent_at(view, 0, size)?.map(|extent| extent.source) {
                    Some(ExtentSource::Blocks { device, position }) => {
                        let start = self.address(layer, device, position, size)?;
                        Ok(FileData::Extent { start, size })
                    }
                    _ => image.hole(view),
                }
            }
        }
    }

    /// A file's bytes in memory.
    fn copy(&mut self, image: &Image<R>, view: &InodeView) -> Result<FileData> {
        if view.size > COPY_MAX {
            let what = format!(
                "{} bytes with an inline tail cannot be referred to in blocks of {}",
                view.size, self.block_size
            );
            return Err(unsupported(what));
        }
        self.budget.metadata(view.size, view.position)?;
        let mut bytes = vec![0; usize::try_from(view.size).unwrap_or(0)];
        image.read_at(view, &mut bytes, 0)?;
        Ok(FileData::Bytes(bytes.into()))
    }

    fn chunks(&mut self, layer: usize, view: &InodeView) -> Result<FileData> {
        let image = self.layers[layer];
        let size = view.size;
        let table = image.chunk_table(view)?;
        self.budget.metadata(table.count * table.entry_size, view.position)?;
        let mut chunks = Vec::with_capacity(usize::try_from(table.count).unwrap_or(0));
        for index in 0..table.count {
            let length = (size - (index << table.chunk_bits)).min(1 << table.chunk_bits);
            chunks.push(match image.chunk(&table, index)? {
                None => None,
                Some((device, block)) => {
                    let (device, position) = image.locate(device, block, length)?;
                    Some(self.address(layer, device, position, length)?)
                }
            });
        }
        let largest = self.block_size.trailing_zeros() + CHUNK_BITS_MASK;
        let mut chunk_bits = table.chunk_bits;
        if u32::from(chunk_bits) > largest {
            if chunks.len() > 1 || size > 1 << largest {
                let what =
                    format!("chunks of 2^{chunk_bits} bytes in blocks of {}", self.block_size);
                return Err(unsupported(what));
            }
            // The only chunk is cut off at the end of the file anyway.
            chunk_bits = u8::try_from(largest).unwrap_or(chunk_bits);
        }
        Ok(FileData::Chunks { size, chunk_bits, chunks: chunks.into() })
    }

    /// The merged image's address for `length` bytes of a layer, whose blocks must exist completely.
    fn address(
        &self,
        layer: usize,
        device: u16,
        position: u64,
        length: u64,
    ) -> Result<BlockAddress> {
        let device = *self.numbers.get(&(layer, device)).ok_or_else(|| {
            let what = format!("device {device} of layer {layer} was not given");
            Error::new(ErrorKind::NotFound, what)
        })?;
        let block = position / self.block_size;
        let end = block + length.div_ceil(self.block_size);
        if end > self.devices[usize::from(device) - 1].info.blocks.into() {
            let what = format!("data of layer {layer} ends in a block that is not complete");
            return Err(Error::corrupt(position, what));
        }
        match u32::try_from(block) {
            Ok(block) => Ok(BlockAddress { device, block }),
            Err(_) => Err(unsupported("48-bit block addresses in a merged image")),
        }
    }
}

fn refuse(xattrs: &[Xattr], name: &[u8]) -> Result<()> {
    match xattrs.iter().any(|xattr| &*xattr.name == name) {
        true => Err(unsupported(format!("{} in a layer to be merged", name.escape_ascii()))),
        false => Ok(()),
    }
}

fn inode(view: &InodeView, xattrs: Vec<Xattr>, content: Content) -> Inode {
    let xattrs = xattrs
        .into_iter()
        .filter_map(|xattr| {
            if let Some(rest) = xattr.name.strip_prefix(ESCAPED) {
                return Some(Xattr { name: [OVERLAY, rest].concat().into(), ..xattr });
            }
            (!xattr.name.starts_with(OVERLAY)).then_some(xattr)
        })
        .collect();
    Inode {
        permissions: view.permissions,
        uid: view.uid,
        gid: view.gid,
        mtime: view.mtime,
        xattrs,
        content,
    }
}

#[cfg(test)]
mod tests;
