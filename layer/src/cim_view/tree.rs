//! All names of an image, made into the tree of its view.

use std::collections::{BTreeMap, HashSet};

use cimfs::format::PATH_MAX;
use cimfs::{FileId, FileView, Image, ReadAt};
use erofs::{BlockSize, Content, FileData, Inode, InodeId, Sink, Tree};

use super::appearance::{Attributes, FileKind, file_kind, modified, permissions};
use super::content::{Placer, writing};
use super::name::fault;
use super::seen::Seen;
use super::{Error, ErrorKind, ViewSummary, cim_error, devices, writer};
use crate::progress::Cancel;
use crate::windows::encode_wtf8;

/// Longest name on Linux in bytes.
const NAME_MAX: usize = 255;
/// Tables of directories are read up to this many times the image's length in all: honest ones hardly ever share
/// bytes, and hostile ones must not make this endless.
const SHARING: u64 = 4;

/// Why there is no view.
pub(super) enum Failure {
    /// Smaller blocks would spare much copying.
    SmallerBlocks,
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

type Result<T, E = Failure> = std::result::Result<T, E>;

pub(super) fn write<R: ReadAt, S: Sink>(
    image: &Image<R>,
    block_size: BlockSize,
    uuid: [u8; 16],
    sink: S,
    cancel: &Cancel,
) -> Result<(S, ViewSummary)> {
    let writer = writer(sink, block_size, devices(image, block_size)?)?;
    let regions = 0..u16::try_from(image.region_count()).unwrap_or(u16::MAX);
    let total: u64 = regions.filter_map(|index| image.region_length(index)).sum();
    let mut builder = Builder {
        image,
        tree: Tree::new(),
        placer: Placer::new(image, writer, block_size),
        attributes: Attributes::default(),
        ids: Seen::default(),
        directories: HashSet::new(),
        pending: Vec::new(),
        places: Vec::new(),
        tables_left: total.saturating_mul(SHARING),
        charged: 0,
    };
    builder.root()?;
    while let Some(directory) = builder.pending.pop() {
        cancel.check()?;
        builder.directory(&directory).map_err(|failure| match failure {
            Failure::Error(error) => Failure::Error(error.path(&builder.path(directory.place))),
            other => other,
        })?;
    }
    let (pointed, copied) = (builder.placer.pointed, builder.placer.copied);
    let Builder { mut tree, mut placer, attributes, .. } = builder;
    // What no second file has must be in memory once when the writer looks.
    drop(attributes);
    if let Some(packed) = placer.packed.take() {
        packed.finish(&mut tree);
    }
    let (sink, image) = placer.writer.finish(&tree, uuid).map_err(writing)?;
    // Freeing millions of pieces takes as long as making the file durable, which comes next.
    std::thread::spawn(move || drop(tree));
    Ok((sink, ViewSummary { image, block_size, pointed, copied }))
}

/// A directory whose names are still to be read.
struct Pending {
    inode: InodeId,
    file: FileView,
    /// Index in [`Builder::places`].
    place: u32,
}

/// Where a directory is, for messages: its parent and its name, and the length of its path in code units.
struct Place {
    parent: u32,
    name: Box<[u8]>,
    length: usize,
}

struct Builder<'a, R, S: Sink> {
    image: &'a Image<R>,
    tree: Tree,
    placer: Placer<'a, R, S>,
    attributes: Attributes,
    /// What is no directory, so that two names of one file stay that.
    ids: Seen,
    directories: HashSet<FileId>,
    pending: Vec<Pending>,
    places: Vec<Place>,
    tables_left: u64,
    charged: u64,
}

impl<R: ReadAt, S: Sink> Builder<'_, R, S> {
    fn root(&mut self) -> Result<()> {
        let file = self.image.file(self.image.root()).map_err(reading)?;
        if !file.is_dir() {
            return Err(Error::corrupt("the root is no directory").into());
        }
        self.directories.insert(file.id);
        let xattrs = self.attributes.of(self.image, &file, &FileKind::Directory)?;
        self.tree[Tree::ROOT] = inode(&file, &FileKind::Directory, xattrs, directory());
        self.places.push(Place { parent: 0, name: Box::default(), length: 0 });
        self.pending.push(Pending { inode: Tree::ROOT, file, place: 0 });
        Ok(())
    }

    fn directory(&mut self, directory: &Pending) -> Result<()> {
        // An empty directory may have no table at all.
        self.tables_left = self
            .tables_left
            .checked_sub(directory.file.size())
            .ok_or_else(|| Error::corrupt("the directories are together larger than the image"))?;
        let listing = self.image.listing(&directory.file).map_err(reading)?;
        let mut entries: Vec<(Box<[u8]>, InodeId)> = Vec::with_capacity(listing.len());
        let found = self.pending.len();
        for entry in listing.iter() {
            let (units, id) = entry.map_err(reading)?;
            let units = || units.iter().map(|unit| unit.get());
            let name = encode_wtf8(units());
            let length = self.places[directory.place as usize].length + units().count() + 1;
            let inode = match (fault(units()), name.len() > NAME_MAX) {
                (Some(fault), _) => Err(Error::corrupt(format!("a name that {fault}")).into()),
                (None, true) => Err(unsupported(format!("a name of {} bytes", name.len()))),
                (None, false) => self.name(id, &name, directory.place, length),
            };
            let inode = inode.map_err(|failure| match failure {
                Failure::Error(error) => {
                    let mut path = path_of(&self.places, directory.place);
                    path.push(b'/');
                    path.extend_from_slice(&name);
                    Failure::Error(error.path(&path))
                }
                other => other,
            })?;
            entries.push((name.into(), inode));
        }
        // In the order of their names, which is that of the data in most images: reading goes on where it was.
        self.pending[found..].reverse();
        let count = entries.len();
        let entries: BTreeMap<_, _> = entries.into_iter().collect();
        if entries.len() < count {
            return Err(Error::corrupt("a directory with one name twice").into());
        }
        self.tree[directory.inode].content = Content::Directory(entries);
        Ok(())
    }

    /// What a name stands for.
    fn name(&mut self, id: FileId, name: &[u8], parent: u32, length: usize) -> Result<InodeId> {
        if let Some(known) = self.ids.get(id) {
            return Ok(known);
        }
        let file = self.image.file(id).map_err(reading)?;
        let kind = file_kind(self.image, &file)?;
        let xattrs = self.attributes.of(self.image, &file, &kind)?;
        let taken = self.attributes.taken();
        self.placer.charge_memory(taken - self.charged)?;
        self.charged = taken;
        let content = match &kind {
            FileKind::Directory => directory(),
            FileKind::Symlink(target) => Content::Symlink(target.as_slice().into()),
            FileKind::Regular if file.is_dir() => Content::Regular(FileData::Bytes(Box::default())),
            FileKind::Regular => Content::Regular(self.placer.place(&file.data())?),
        };
        let inode = self.tree.add(inode(&file, &kind, xattrs, content));
        if kind != FileKind::Directory {
            self.ids.insert(id, inode);
            return Ok(inode);
        }
        if !self.directories.insert(id) {
            return Err(Error::corrupt(format!("directory {id} has a second name")).into());
        }
        if length > PATH_MAX {
            return Err(Error::corrupt("a path of more than 32,767 code units").into());
        }
        let place = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        self.places.push(Place { parent, name: name.into(), length });
        self.pending.push(Pending { inode, file, place });
        Ok(inode)
    }

    fn path(&self, place: u32) -> Vec<u8> {
        match path_of(&self.places, place) {
            path if path.is_empty() => b"/".to_vec(),
            path => path,
        }
    }
}

fn path_of(places: &[Place], mut place: u32) -> Vec<u8> {
    let mut names = Vec::new();
    while place != 0 {
        let here = &places[place as usize];
        names.push(&*here.name);
        place = here.parent;
    }
    names.iter().rev().flat_map(|name| std::iter::once(&b'/').chain(*name)).copied().collect()
}

fn unsupported(what: String) -> Failure {
    Failure::Error(Error::new(ErrorKind::Unsupported, what))
}

fn directory() -> Content {
    Content::Directory(BTreeMap::new())
}

fn inode(file: &FileView, kind: &FileKind, xattrs: Vec<erofs::Xattr>, content: Content) -> Inode {
    Inode {
        permissions: permissions(file, kind),
        uid: 0,
        gid: 0,
        mtime: modified(file),
        xattrs,
        content,
    }
}

fn reading(error: cimfs::Error) -> Failure {
    Failure::Error(cim_error("cannot read the image", error))
}
