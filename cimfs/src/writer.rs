//! The image writer: data streams through to its region, everything else stays in memory until the end.
//!
//! ```text
//! region_G_0  metadata    │ header │ upcase table │ descriptors, reparse buffers … │ link tables │ file tables │ filesystem │
//! region_G_1  small data  │ header │ files below the limit, at multiples of 8 …  │
//! region_G_2  data        │ header │ files from the limit on, at multiples of 4096 …  │
//! objectid_G_0 … 2        │ header │ length, digest and offset of each object │
//! NAME.cim                │ header │   last of all
//! ```
//!
//! Regions without objects are left out and the indexes close up.

mod emit;
mod objects;
mod options;
mod output;
mod region;
mod repair;
mod tree;

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use zerocopy::FromZeros as _;

use crate::format::{FileEntry, RegionOffset, StreamDescriptor, StreamKind, UPCASE_LENGTH};
use crate::reader::Regions;
use crate::{Error, ErrorKind, Guid, Image, ImagePath, Name, Result, Upcase, WritableSet};
use objects::ParentObjects;
pub use options::{Metadata, WriterOptions};
pub(crate) use output::TEMPORARY;
use output::{Output, Place};
use region::Class;
pub use repair::{Rebuilt, repair};
use tree::{Body, Child, Data, Directory, Node, NodeIndex, Spot, Streams, Target, Tree};

/// What [`ImageWriter::commit`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Identifier of the image's own regions.
    pub guid: Guid,
    /// Entries of files and directories that were written; in a fork only new and changed ones.
    pub entries: u64,
    /// Lengths of the image's own region files in the order of their indexes.
    pub regions: Vec<u64>,
}

/// A fork's parent.
struct Parent<R> {
    image: Image<R>,
    upcase: Upcase,
}

/// Writes one image: a fresh one, or a fork of another, which stays as it is.
///
/// The calls have the meaning of the Win32 functions: directories are not made on the way to a path, adding
/// replaces what has the name, names are compared without regard to case, removing a directory removes what is in
/// it. One stream can be open at a time, and all its bytes must come. The same calls with the same GUID give the
/// same bytes.
///
/// Nothing has its final name before [`commit`](Self::commit), and dropping the writer before removes
/// everything. After an error of kind [`ErrorKind::Io`] the writer is of no further use.
pub struct ImageWriter<S: WritableSet> {
    output: Output<S>,
    options: WriterOptions,
    guid: Guid,
    tree: Tree,
    parent: Option<Parent<S::File>>,
    open: Option<OpenStream>,
    by_content: bool,
}

impl<S: WritableSet> std::fmt::Debug for ImageWriter<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageWriter")
            .field("guid", &self.guid)
            .field("nodes", &self.tree.len())
            .field("forked", &self.parent.is_some())
            .finish_non_exhaustive()
    }
}

/// A stream whose bytes are coming.
struct OpenStream {
    target: OpenTarget,
    class: Class,
    start: u64,
    size: u64,
    written: u64,
    hash: Sha256,
}

enum OpenTarget {
    File(Spot, Box<Node>),
    Alternate(NodeIndex, Name),
}

impl<S: WritableSet> ImageWriter<S> {
    /// Starts a fresh image with an empty root directory. `name` is that of the filesystem file; `guid` should
    /// come from what identifies the content, as by [`Guid::for_content`].
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for names and options that make no sense; [`ErrorKind::Exists`] if the name
    /// is taken, the GUID is another image's, or temporary files are in the way; [`ErrorKind::Io`].
    pub fn create(set: S, name: &str, guid: Guid, options: WriterOptions) -> Result<Self> {
        check_name(name)?;
        options.validate()?;
        let mut output = Output::new(set, name, guid, ParentObjects::none())?;
        let table: Vec<u8> =
            Upcase::standard().units().iter().flat_map(|unit| unit.to_le_bytes()).collect();
        debug_assert_eq!(table.len() as u64, UPCASE_LENGTH);
        output.put(Class::Metadata, &table, None)?;
        let root = Node::new(FileEntry::new_zeroed(), Body::Directory(Directory::empty()));
        let tree = Tree::new(root);
        let (parent, open) = (None, None);
        let mut writer = Self { output, options, guid, tree, parent, open, by_content: false };
        writer.add_directory(&ImagePath::ROOT, &Metadata::default())?;
        Ok(writer)
    }

    /// Starts a fork of the image `parent` in the same set: at first it has all that its parent has. Only what
    /// is changed is written.
    ///
    /// # Errors
    /// As [`create`](Self::create), and what reading the parent gives.
    pub fn fork(
        set: S,
        parent: &str,
        name: &str,
        guid: Guid,
        mut options: WriterOptions,
    ) -> Result<Self> {
        check_name(name)?;
        options.validate()?;
        let image = Image::open(&set, parent)?;
        let sets = || image.parents().iter().chain([&image.header().regions]);
        check_unlike_parents(&image, guid)?;
        if image.parents().len() >= usize::from(u16::MAX) {
            return Err(Error::new(ErrorKind::TooLarge, "an image has at most 65535 parents"));
        }
        options.version = options.version.max(image.version().0);
        let upcase = image.upcase()?.clone();
        let tree = Tree::of_parent(&image)?;
        let sets: Vec<_> = sets().map(|set| (Guid::from_disk(set.id), set.count.get())).collect();
        let parent_objects = ParentObjects::open(&set, &sets);
        let output = Output::new(set, name, guid, parent_objects)?;
        let parent = Some(Parent { image, upcase });
        Ok(Self { output, options, guid, tree, parent, open: None, by_content: false })
    }

    /// Adds a directory, or gives one that exists (the root too) other metadata. A file of that name is
    /// replaced. An existing directory keeps what is in it and its alternate streams.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the directory that it is to be in does not exist; [`ErrorKind::Invalid`] for names and metadata that
    /// cannot be stored; [`ErrorKind::Io`].
    pub fn add_directory(&mut self, path: &ImagePath, metadata: &Metadata) -> Result<()> {
        self.expect_closed()?;
        metadata.validate().map_err(|error| error.within(path))?;
        path.check()?;
        let existing = self.find(path)?.filter(|index| self.tree[*index].is_dir());
        let index = match existing {
            Some(index) => index,
            None => {
                let spot = self.spot(path)?;
                let body = Body::Directory(Directory::empty());
                let index = self.tree.add(Node::new(FileEntry::new_zeroed(), body));
                self.insert(spot, index)?;
                index
            }
        };
        self.describe(index, metadata)
    }

    /// Starts a file of `size` bytes. It has its name from [`end`](Self::end) on.
    ///
    /// # Errors
    /// As [`add_directory`](Self::add_directory), and [`ErrorKind::TooLarge`] from 2^48 bytes on.
    pub fn begin_file(&mut self, path: &ImagePath, metadata: &Metadata, size: u64) -> Result<()> {
        self.expect_closed()?;
        metadata.validate().map_err(|error| error.within(path))?;
        let spot = self.spot(path)?;
        let node = self.file_node(metadata)?;
        self.open(OpenTarget::File(spot, Box::new(node)), size)
    }

    /// Adds a file with its bytes.
    ///
    /// # Errors
    /// As [`begin_file`](Self::begin_file).
    pub fn add_file(&mut self, path: &ImagePath, metadata: &Metadata, bytes: &[u8]) -> Result<()> {
        self.begin_file(path, metadata, bytes.len() as u64)?;
        self.write_data(bytes)?;
        self.end()
    }

    /// Adds a file of `size` zeros that takes no space.
    ///
    /// # Errors
    /// As [`begin_file`](Self::begin_file).
    pub fn add_sparse_file(
        &mut self,
        path: &ImagePath,
        metadata: &Metadata,
        size: u64,
    ) -> Result<()> {
        self.expect_closed()?;
        metadata.validate().map_err(|error| error.within(path))?;
        options::check_size(size)?;
        let spot = self.spot(path)?;
        let mut node = self.file_node(metadata)?;
        node.body = Body::File(data(Place::NULL, size, true));
        let index = self.tree.add(node);
        self.insert(spot, index)
    }

    /// Adds an alternate stream of `size` zeros that takes no space, in place of one of that name.
    ///
    /// # Errors
    /// As [`begin_stream`](Self::begin_stream).
    pub fn add_sparse_stream(&mut self, path: &ImagePath, name: &Name, size: u64) -> Result<()> {
        let index = self.stream_of(path, name)?;
        options::check_size(size)?;
        self.insert_stream(index, name.clone(), data(Place::NULL, size, true))
    }

    /// Starts an alternate stream of a file or directory, in place of one of that name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such file; [`ErrorKind::Invalid`] for names that cannot be stored;
    /// [`ErrorKind::TooLarge`]; [`ErrorKind::Io`].
    pub fn begin_stream(&mut self, path: &ImagePath, name: &Name, size: u64) -> Result<()> {
        let index = self.stream_of(path, name)?;
        self.open(OpenTarget::Alternate(index, name.clone()), size)
    }

    /// Takes the next bytes of the open stream.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there are more than announced, or no stream is open; [`ErrorKind::Io`].
    pub fn write_data(&mut self, bytes: &[u8]) -> Result<()> {
        let none = || Error::new(ErrorKind::Invalid, "no stream is open");
        let open = self.open.as_mut().ok_or_else(none)?;
        if bytes.len() as u64 > open.size - open.written {
            let what = format!("more than the {} bytes that were announced", open.size);
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        open.hash.update(bytes);
        open.written += bytes.len() as u64;
        match bytes.is_empty() {
            true => Ok(()),
            false => self.output.append(open.class, bytes),
        }
    }

    /// Ends the open stream. Bytes that are stored already are not stored again.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if bytes are missing (the stream is forgotten then) or no stream is open; [`ErrorKind::Io`].
    pub fn end(&mut self) -> Result<()> {
        let none = || Error::new(ErrorKind::Invalid, "no stream is open");
        let open = self.open.take().ok_or_else(none)?;
        let OpenStream { target, class, start, size, written, hash } = open;
        if written < size {
            if size > 0 {
                self.output.rewind(class, start)?;
            }
            let what = format!("{written} of {size} bytes were written");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let place = match size {
            0 => Place::NULL,
            _ => {
                let parents = self.parent.as_ref().map(|parent| parent.image.regions());
                self.output.end(class, start, hash, size, parents)?
            }
        };
        let data = data(place, size, false);
        match target {
            OpenTarget::File(spot, mut node) => {
                node.body = Body::File(data);
                let index = self.tree.add(*node);
                self.insert(spot, index)
            }
            OpenTarget::Alternate(index, name) => self.insert_stream(index, name, data),
        }
    }

    /// Gives a file another name. What has the new name is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such file or no directory for the name; [`ErrorKind::Invalid`] for directories;
    /// [`ErrorKind::Io`].
    pub fn add_link(&mut self, path: &ImagePath, existing: &ImagePath) -> Result<()> {
        self.expect_closed()?;
        let target = self.existing(existing)?;
        if self.tree[target].is_dir() {
            let what = format!("{existing} is a directory, which has one name");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        let spot = self.spot(path)?;
        self.insert(spot, target)
    }

    /// Removes a name, and what is in it if it is a directory.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none; [`ErrorKind::Invalid`] for the root; [`ErrorKind::Io`].
    pub fn remove(&mut self, path: &ImagePath) -> Result<()> {
        self.expect_closed()?;
        let spot = self.spot(path)?;
        let (parent, upcase) = parts(&self.parent);
        let folded = upcase.fold_units(spot.name.units());
        let children = self.tree.children(parent, upcase, spot.directory)?;
        if children.is_none_or(|children| children.remove(&folded).is_none()) {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no {path}")));
        }
        self.tree.touch(spot.directory);
        Ok(())
    }

    /// Whether a path exists, and if so whether it is a directory.
    ///
    /// # Errors
    /// What reading the parent gives.
    pub fn is_directory(&mut self, path: &ImagePath) -> Result<Option<bool>> {
        Ok(self.find(path)?.map(|index| self.tree[index].is_dir()))
    }

    /// Writes the metadata, makes everything durable, and only then gives the image its name: what is cut
    /// before leaves no image and files that [`orphans`](crate::orphans) finds.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] while a stream is open; [`ErrorKind::TooLarge`] if a number does not fit its
    /// field; [`ErrorKind::Corrupt`] from the parent; [`ErrorKind::Io`].
    pub fn commit(self) -> Result<Summary> {
        self.expect_closed()?;
        emit::Emission::new(self)?.write()
    }

    /// Like [`commit`](Self::commit), under a GUID that is made of the image's name, parents and content instead of the
    /// one that it was begun with: for those who know nothing that identifies the content beforehand.
    ///
    /// # Errors
    /// As [`commit`](Self::commit); [`ErrorKind::Exists`] if there are regions of that GUID.
    pub fn commit_by_content(mut self) -> Result<Summary> {
        self.by_content = true;
        self.commit()
    }

    /// Gives the image another identifier than it was begun with: that of content that was not known then. Nothing
    /// has been named after the first one, except temporary files.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it is that of a parent; [`ErrorKind::Exists`] if it is another image's;
    /// [`ErrorKind::Io`].
    pub fn set_guid(&mut self, guid: Guid) -> Result<()> {
        if let Some(parent) = &self.parent {
            check_unlike_parents(&parent.image, guid)?;
        }
        self.output.set_guid(guid)?;
        self.guid = guid;
        Ok(())
    }

    /// The file that an alternate stream is to be of.
    fn stream_of(&mut self, path: &ImagePath, name: &Name) -> Result<NodeIndex> {
        self.expect_closed()?;
        if let Some(fault) = name.fault() {
            let what = format!("{path}: the stream's name {name:?} {fault}");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        self.existing(path)
    }

    fn expect_closed(&self) -> Result<()> {
        match self.open {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Invalid, "the open stream has not been ended")),
        }
    }

    fn find(&mut self, path: &ImagePath) -> Result<Option<NodeIndex>> {
        let (parent, upcase) = parts(&self.parent);
        self.tree.find(parent, upcase, path.names())
    }

    fn existing(&mut self, path: &ImagePath) -> Result<NodeIndex> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no {path}"));
        self.find(path)?.ok_or_else(missing)
    }

    fn spot(&mut self, path: &ImagePath) -> Result<Spot> {
        let (parent, upcase) = parts(&self.parent);
        self.tree.spot(parent, upcase, path)
    }

    fn insert(&mut self, spot: Spot, index: NodeIndex) -> Result<()> {
        let (parent, upcase) = parts(&self.parent);
        let folded = upcase.fold_units(spot.name.units());
        let children = self.tree.children(parent, upcase, spot.directory)?;
        let child = Child { name: spot.name, target: Target::Node(index) };
        children.expect("a spot is in a directory").insert(folded, child);
        self.tree.touch(spot.directory);
        Ok(())
    }

    /// Gives a node its metadata.
    fn describe(&mut self, index: NodeIndex, metadata: &Metadata) -> Result<()> {
        let blobs = self.blobs(metadata)?;
        let node = &mut self.tree[index];
        node.dirty = true;
        fill(node, metadata, blobs);
        Ok(())
    }

    fn file_node(&mut self, metadata: &Metadata) -> Result<Node> {
        let mut node = Node::new(FileEntry::new_zeroed(), Body::File(data(Place::NULL, 0, false)));
        fill(&mut node, metadata, self.blobs(metadata)?);
        Ok(node)
    }

    /// Stores security descriptor, EAs and reparse buffer.
    fn blobs(&mut self, metadata: &Metadata) -> Result<[Place; 3]> {
        let parents: Option<&Regions<S::File>> =
            self.parent.as_ref().map(|parent| parent.image.regions());
        let mut put = |counted: bool, bytes: &[u8]| {
            if bytes.is_empty() {
                return Ok(Place::NULL);
            }
            let mut object = Vec::with_capacity(bytes.len() + 2);
            if counted {
                let length = u16::try_from(bytes.len()).expect("metadata was validated");
                object.extend_from_slice(&length.to_le_bytes());
            }
            object.extend_from_slice(bytes);
            self.output.put(Class::Metadata, &object, parents)
        };
        Ok([
            put(true, metadata.security())?,
            put(false, &metadata.eas)?,
            put(true, &metadata.reparse)?,
        ])
    }

    fn open(&mut self, target: OpenTarget, size: u64) -> Result<()> {
        options::check_size(size)?;
        let large = size >= self.options.large_data_from;
        let class = if large { Class::Data } else { Class::SmallData };
        let start = match size {
            0 => 0,
            _ => self.output.begin(class)?,
        };
        let hash = Sha256::new();
        self.open = Some(OpenStream { target, class, start, size, written: 0, hash });
        Ok(())
    }

    fn insert_stream(&mut self, index: NodeIndex, name: Name, data: Data) -> Result<()> {
        let (parent, upcase) = parts(&self.parent);
        let node = &mut self.tree[index];
        node.dirty = true;
        if let Streams::Kept(place) = node.streams {
            let mut streams = BTreeMap::new();
            if place != Place::NULL
                && let Some((parent, id)) = parent.zip(node.origin)
            {
                for stream in parent.alternate_streams(&parent.file(id)?)? {
                    let stream = stream?;
                    let descriptor = *stream.stream.descriptor();
                    let place = Place::Parent(descriptor.offset);
                    let folded = upcase.fold_units(stream.name.units());
                    streams.insert(folded, (stream.name, Data { place, descriptor }));
                }
            }
            node.streams = Streams::Changed(streams);
        }
        if let Streams::Changed(streams) = &mut node.streams {
            streams.insert(upcase.fold_units(name.units()), (name, data));
        }
        Ok(())
    }
}

fn parts<R>(parent: &Option<Parent<R>>) -> (Option<&Image<R>>, &Upcase) {
    match parent {
        Some(parent) => (Some(&parent.image), &parent.upcase),
        None => (None, Upcase::standard()),
    }
}

fn data(place: Place, size: u64, sparse: bool) -> Data {
    let descriptor = StreamDescriptor::new(RegionOffset::NULL, size, StreamKind::Data, sparse);
    Data { place, descriptor: descriptor.expect("the size was checked") }
}

fn fill(node: &mut Node, metadata: &Metadata, [security, eas, reparse]: [Place; 3]) {
    node.entry.flags = metadata.flags.bits().into();
    node.entry.ea_length =
        u16::try_from(metadata.eas.len()).expect("metadata was validated").into();
    node.entry.reparse_tag = metadata.reparse_tag().into();
    node.entry.creation_time = metadata.creation_time.0.into();
    node.entry.last_write_time = metadata.last_write_time.0.into();
    node.entry.change_time = metadata.change_time.0.into();
    node.entry.last_access_time = metadata.last_access_time.0.into();
    (node.security, node.eas, node.reparse) = (security, eas, reparse);
}

fn check_unlike_parents<R>(parent: &Image<R>, guid: Guid) -> Result<()> {
    let mut sets = parent.parents().iter().chain([&parent.header().regions]);
    match sets.any(|set| Guid::from_disk(set.id) == guid) {
        true => {
            let what = format!("{guid} is the identifier of the parent or one of its parents");
            Err(Error::new(ErrorKind::Invalid, what))
        }
        false => Ok(()),
    }
}

/// The filesystem file lies in the set itself.
fn check_name(name: &str) -> Result<()> {
    match Name::from(name).fault() {
        Some(fault) => {
            let what = format!("the file name {name:?} {fault}");
            Err(Error::new(ErrorKind::Invalid, what))
        }
        None => Ok(()),
    }
}
