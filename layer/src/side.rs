//! One side of a difference: a stack of layer images, with an overlay's upper directory on top or not, seen as the
//! one tree that an overlay mount of it would show. Nothing is mounted and nothing is merged: every directory is
//! the list of the directories that it is made of, and names are looked up in those.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use erofs::format::FileType;
use erofs::{DeviceNumber, Image, InodeView, Nid, Timestamp, Xattr};
use sys::directory::{Directory, FileStatus};

use crate::directory::{changed, file_type, file_type_bits, upper_xattrs};
use crate::error::{Error, ErrorKind, Result};
use crate::layer_tree::device_number;
use crate::overlay;
use crate::parents::{ImageSource, data_segments, is_whiteout};

/// A tree to compare: layer images, the top one first, and perhaps the upper directory of an overlay above them.
/// The default is nothing at all.
///
/// Where two sides share layers these should be the same [`Arc`]s: what both have in common is then not looked at.
#[derive(Debug, Clone, Default)]
pub struct Side {
    /// Images, the top one first. A layer that hides all below it must be the last one.
    pub layers: Vec<Arc<Image<ImageSource>>>,
    /// Upper directory of an overlay. No symbolic link below it is followed.
    pub upper: Option<PathBuf>,
}

/// An opened [`Side`].
pub(crate) struct Stack<'s> {
    layers: &'s [Arc<Image<ImageSource>>],
    upper: Option<Upper>,
}

/// A directory in one layer of the stack.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Upper,
    Layer(usize, Nid),
}

/// Where an inode is, which is also its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// Device and inode number.
    Upper(u64, u64),
    Layer(usize, Nid),
}

/// An inode of either kind of layer.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) file_type: FileType,
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) size: u64,
    /// As stored, which nothing vouches for.
    pub(crate) links: u64,
    pub(crate) device_number: DeviceNumber,
}

impl Node {
    pub(crate) fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    fn is_whiteout(&self) -> bool {
        self.file_type == FileType::CharDevice && self.device_number == DeviceNumber::WHITEOUT
    }
}

/// What a name leads to.
pub(crate) struct Found {
    pub(crate) node: Node,
    /// The directories that it is made of, the top one first; none of anything else.
    pub(crate) parts: Vec<Part>,
    /// Whether a mark ended the list, so that layers below are hidden.
    pub(crate) opaque: bool,
}

/// Index of a part that has a name, and the inode if that part is of a layer image.
pub(crate) type ListedIn = (usize, Option<Nid>);
/// Names of some parts of a directory: for each, where it was found, the top one first.
pub(crate) type Names = BTreeMap<Box<[u8]>, Vec<ListedIn>>;

impl<'s> Stack<'s> {
    pub(crate) fn open(side: &'s Side) -> Result<Self> {
        let upper = side.upper.as_deref().map(|path| {
            let top = Directory::open(path)
                .map_err(|error| Error::sys("cannot open the upper directory", error))?;
            Ok(Upper { top, last: RefCell::default() })
        });
        Ok(Self { layers: &side.layers, upper: upper.transpose()? })
    }

    /// Number of layer images.
    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The root, or `None` of nothing at all.
    pub(crate) fn root(&self) -> Result<Option<Found>> {
        let mut parts = Vec::new();
        let mut node = None;
        let mut opaque = false;
        if let Some(upper) = &self.upper {
            let status = upper.top.status(b"").map_err(reading_upper)?;
            node = Some(upper_node(&status)?);
            parts.push(Part::Upper);
        }
        for (index, image) in self.layers.iter().enumerate() {
            let root = image.inode(image.root()).map_err(reading)?;
            if !root.is_dir() {
                return Err(Error::corrupt("the root of a layer image is no directory"));
            }
            parts.push(Part::Layer(index, root.nid));
            opaque = is_opaque(&image.xattrs(&root).map_err(reading)?);
            node.get_or_insert_with(|| layer_node(index, &root));
        }
        Ok(node.map(|node| Found { node, parts, opaque }))
    }

    /// How many directories at the bottom of two lists are the same ones.
    pub(crate) fn shared(&self, parts: &[Part], other: &Stack<'_>, others: &[Part]) -> usize {
        let same = |(one, two): &(&Part, &Part)| match (one, two) {
            (Part::Layer(one, nid), Part::Layer(two, other_nid)) => {
                nid == other_nid && Arc::ptr_eq(&self.layers[*one], &other.layers[*two])
            }
            _ => false,
        };
        parts.iter().rev().zip(others.iter().rev()).take_while(same).count()
    }

    /// Whether two places are one inode.
    pub(crate) fn is_same(&self, place: Place, other: &Stack<'_>, others: Place) -> bool {
        match (place, others) {
            (Place::Layer(one, nid), Place::Layer(two, other_nid)) => {
                nid == other_nid && Arc::ptr_eq(&self.layers[one], &other.layers[two])
            }
            _ => false,
        }
    }

    /// The names in some parts of the directory at `path`.
    pub(crate) fn names(&self, path: &[u8], parts: &[Part]) -> Result<Names> {
        let mut names = Names::new();
        for (index, part) in parts.iter().enumerate() {
            match part {
                Part::Upper => {
                    let listed = self.upper()?.directory(path, Directory::names)?;
                    for name in listed {
                        names.entry(name.to_bytes().into()).or_default().push((index, None));
                    }
                }
                Part::Layer(layer, nid) => {
                    let image = &self.layers[*layer];
                    let view = image.inode(*nid).map_err(reading)?;
                    for entry in image.read_dir(&view).map_err(reading)? {
                        let found = names.entry(entry.name).or_default();
                        // A name twice in one layer: the first counts, as for a lookup.
                        if found.last().is_none_or(|(last, _)| *last != index) {
                            found.push((index, Some(entry.nid)));
                        }
                    }
                }
            }
        }
        Ok(names)
    }

    /// What a name in the directory at `path` stands for. `listed` says where it is in the first `above` parts; in
    /// the others it is looked up.
    pub(crate) fn resolve(
        &self,
        path: &[u8],
        name: &[u8],
        parts: &[Part],
        above: usize,
        listed: &[ListedIn],
    ) -> Result<Option<Found>> {
        let mut first: Option<Found> = None;
        for (index, part) in parts.iter().enumerate() {
            let inode = match part {
                Part::Upper => match listed.iter().any(|(found, _)| *found == index) {
                    true => self.upper_inode(path, name).map(Some)?,
                    false => None,
                },
                Part::Layer(layer, dir) if index >= above => {
                    let image = &self.layers[*layer];
                    let dir = image.inode(*dir).map_err(reading)?;
                    let entry = image.lookup(&dir, name).map_err(reading)?;
                    entry.map(|entry| self.layer_inode(*layer, entry.nid)).transpose()?
                }
                Part::Layer(layer, _) => {
                    let nid = listed.iter().find(|(found, _)| *found == index);
                    let nid = nid.and_then(|(_, nid)| *nid);
                    nid.map(|nid| self.layer_inode(*layer, nid)).transpose()?
                }
            };
            let Some((node, part, opaque)) = inode else { continue };
            match &mut first {
                None if node.is_whiteout() => return Ok(None),
                None => {
                    let is_dir = node.is_dir();
                    let parts = if is_dir { vec![part] } else { Vec::new() };
                    first = Some(Found { node, parts, opaque });
                    if !is_dir {
                        break;
                    }
                }
                Some(_) if !node.is_dir() => break,
                Some(found) => {
                    found.parts.push(part);
                    found.opaque = opaque;
                }
            }
            if opaque {
                break;
            }
        }
        Ok(first)
    }

    fn layer_inode(&self, layer: usize, nid: Nid) -> Result<(Node, Part, bool)> {
        let image = &self.layers[layer];
        let view = image.inode(nid).map_err(reading)?;
        let opaque = view.is_dir() && is_opaque(&image.xattrs(&view).map_err(reading)?);
        debug_assert_eq!(is_whiteout(&view), layer_node(layer, &view).is_whiteout());
        Ok((layer_node(layer, &view), Part::Layer(layer, nid), opaque))
    }

    fn upper_inode(&self, path: &[u8], name: &[u8]) -> Result<(Node, Part, bool)> {
        let (status, xattrs) = self.upper()?.directory(path, |dir| {
            let status = dir.status(name)?;
            let is_dir = file_type(&status) == file_type_bits::DIRECTORY;
            Ok((status, if is_dir { dir.xattrs(name)? } else { Vec::new() }))
        })?;
        let opaque = is_opaque(&upper_xattrs(xattrs)?);
        Ok((upper_node(&status)?, Part::Upper, opaque))
    }

    /// The xattrs of an inode as a container sees them.
    pub(crate) fn xattrs(&self, path: &[u8], node: &Node) -> Result<Vec<Xattr>> {
        let stored = match node.place {
            Place::Upper(..) => {
                let (parent, name) = split(path);
                upper_xattrs(self.upper()?.directory(parent, |dir| dir.xattrs(name))?)?
            }
            Place::Layer(layer, nid) => {
                let image = &self.layers[layer];
                image.xattrs(&image.inode(nid).map_err(reading)?).map_err(reading)?
            }
        };
        Ok(overlay::exported_xattrs(&stored))
    }

    /// The target of a symbolic link.
    pub(crate) fn read_link(&self, path: &[u8], node: &Node) -> Result<Vec<u8>> {
        match node.place {
            Place::Upper(..) => {
                let (parent, name) = split(path);
                let target = self.upper()?.directory(parent, |dir| dir.read_link(name))?;
                Ok(target.into_bytes())
            }
            Place::Layer(layer, nid) => {
                let image = &self.layers[layer];
                image.read_link(&image.inode(nid).map_err(reading)?).map_err(reading)
            }
        }
    }

    /// A regular file, to be read.
    pub(crate) fn open_file(&self, path: &[u8], node: &Node) -> Result<OpenFile<'_>> {
        match node.place {
            Place::Upper(device, inode) => {
                let (parent, name) = split(path);
                let file = self.upper()?.directory(parent, |dir| dir.open_file(name))?;
                let status = sys::directory::file_status(&file).map_err(reading_upper)?;
                if status.identity != (device, inode) || status.size != node.size {
                    return Err(changed());
                }
                let sparse = status.blocks * 512 < status.size;
                Ok(OpenFile::Upper { file, size: node.size, sparse })
            }
            Place::Layer(layer, nid) => {
                let image = &*self.layers[layer];
                Ok(OpenFile::Layer(image, Box::new(image.inode(nid).map_err(reading)?)))
            }
        }
    }

    fn upper(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or_else(|| Error::invalid("there is no upper directory"))
    }
}

/// A regular file of either kind of layer.
pub(crate) enum OpenFile<'s> {
    Layer(&'s Image<ImageSource>, Box<InodeView>),
    Upper { file: File, size: u64, sparse: bool },
}

impl OpenFile<'_> {
    /// The parts that are no holes: offset and length, ascending.
    pub(crate) fn segments(&self) -> Result<Vec<(u64, u64)>> {
        match self {
            Self::Layer(image, view) => data_segments(image, view),
            Self::Upper { size: 0, .. } => Ok(Vec::new()),
            Self::Upper { size, sparse: false, .. } => Ok(vec![(0, *size)]),
            Self::Upper { file, size, .. } => {
                sys::directory::data_segments(file, *size).map_err(reading_upper)
            }
        }
    }

    /// Fills the buffer from `offset`.
    pub(crate) fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        match self {
            Self::Layer(image, view) => {
                while !buffer.is_empty() {
                    let length = image.read_at(view, buffer, offset).map_err(reading)?;
                    if length == 0 {
                        return Err(Error::corrupt("a file ends before its length"));
                    }
                    buffer = &mut buffer[length..];
                    offset += length as u64;
                }
                Ok(())
            }
            Self::Upper { file, .. } => {
                file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => changed(),
                    _ => Error::io("cannot read a file of the upper directory", error),
                })
            }
        }
    }
}

/// The upper directory. A container may nest directories deeper than files can be open, so that only the top and
/// the directory used last are.
struct Upper {
    top: Directory,
    last: RefCell<Option<(Vec<u8>, Directory)>>,
}

impl Upper {
    /// Does something in the directory at `path`.
    fn directory<T>(
        &self,
        path: &[u8],
        action: impl FnOnce(&Directory) -> sys::Result<T>,
    ) -> Result<T> {
        let mut last = self.last.borrow_mut();
        let walk = || -> sys::Result<T> {
            if path.is_empty() {
                return action(&self.top);
            }
            if let Some((at, directory)) = &*last
                && at == path
            {
                return action(directory);
            }
            let (mut directory, rest) = match last.take() {
                Some((at, directory)) if is_below(path, &at) => {
                    (Some(directory), &path[at.len() + 1..])
                }
                _ => (None, path),
            };
            for name in rest.split(|byte| *byte == b'/') {
                directory = Some(directory.as_ref().unwrap_or(&self.top).open_directory(name)?);
            }
            match directory {
                Some(directory) => action(&last.insert((path.to_vec(), directory)).1),
                None => action(&self.top),
            }
        };
        walk().map_err(reading_upper)
    }
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.len() > directory.len()
        && path.starts_with(directory)
        && path.get(directory.len()) == Some(&b'/')
}

/// Parent and name of a path; the root has neither.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn is_opaque(xattrs: &[Xattr]) -> bool {
    xattrs.iter().any(|xattr| &*xattr.name == overlay::OPAQUE && &*xattr.value == b"y")
}

fn layer_node(layer: usize, view: &InodeView) -> Node {
    Node {
        place: Place::Layer(layer, view.nid),
        file_type: view.file_type,
        permissions: view.permissions,
        uid: view.uid,
        gid: view.gid,
        mtime: view.mtime,
        size: view.size,
        links: view.nlink.into(),
        device_number: view.device_number,
    }
}

fn upper_node(status: &FileStatus) -> Result<Node> {
    let file_type = match file_type(status) {
        file_type_bits::DIRECTORY => FileType::Directory,
        file_type_bits::REGULAR => FileType::Regular,
        file_type_bits::SYMLINK => FileType::Symlink,
        file_type_bits::CHAR_DEVICE => FileType::CharDevice,
        file_type_bits::BLOCK_DEVICE => FileType::BlockDevice,
        file_type_bits::FIFO => FileType::Fifo,
        file_type_bits::SOCKET => FileType::Socket,
        other => {
            let message = format!("a file of the unknown type {other:#o}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
    };
    let (major, minor) = match file_type {
        FileType::CharDevice | FileType::BlockDevice => status.device_number,
        _ => (0, 0),
    };
    let (seconds, nanoseconds) = status.mtime;
    let (device, inode) = status.identity;
    Ok(Node {
        place: Place::Upper(device, inode),
        file_type,
        permissions: u16::try_from(status.mode & 0o7777).unwrap_or(0),
        uid: status.uid,
        gid: status.gid,
        mtime: Timestamp { seconds, nanoseconds },
        size: status.size,
        links: status.links,
        device_number: device_number(major.into(), minor.into())?,
    })
}

pub(crate) fn reading(error: erofs::Error) -> Error {
    Error::erofs("cannot read the image", error)
}

fn reading_upper(error: sys::Error) -> Error {
    Error::sys("cannot read the upper directory", error)
}
