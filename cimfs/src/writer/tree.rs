//! The files of the image that is being written, in memory. Of a parent's files only those are here that something was
//! done to, or that lie on the way there.

use std::collections::{BTreeMap, HashMap};

use zerocopy::FromZeros as _;

use crate::format::{FileEntry, StreamDescriptor};
use crate::writer::output::Place;
use crate::{Error, ErrorKind, FileId, FileView, Image, ImagePath, Name, ReadAt, Result, Upcase};

/// Index of a [`Node`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct NodeIndex(pub(super) usize);

/// Bytes of a stream: the descriptor's place is not known before the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Data {
    pub(super) place: Place,
    /// Its offset means nothing.
    pub(super) descriptor: StreamDescriptor,
}

/// A file or directory.
#[derive(Debug)]
pub(super) struct Node {
    /// Number in the parent image.
    pub(super) origin: Option<FileId>,
    /// Whether its entry must be written.
    pub(super) dirty: bool,
    /// Its offsets mean nothing; they are in the places.
    pub(super) entry: FileEntry,
    pub(super) security: Place,
    pub(super) eas: Place,
    pub(super) reparse: Place,
    pub(super) streams: Streams,
    pub(super) body: Body,
}

/// Alternate streams.
#[derive(Debug)]
pub(super) enum Streams {
    /// As the parent has them.
    Kept(Place),
    /// Sorted by folded name.
    Changed(BTreeMap<Box<[u16]>, (Name, Data)>),
}

#[derive(Debug)]
pub(super) enum Body {
    File(Data),
    Directory(Directory),
}

/// Names of a directory by their folded form.
pub(super) type Children = BTreeMap<Box<[u16]>, Child>;

#[derive(Debug)]
pub(super) struct Directory {
    /// The table as the parent has it; its place is meaningless once `changed` is set.
    pub(super) kept: Data,
    /// `None`: not read from the parent yet. Sorted by folded name.
    pub(super) children: Option<Children>,
    /// Whether the table must be written.
    pub(super) changed: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) name: Name,
    pub(super) target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Node(NodeIndex),
    /// A file of the parent that nothing was done to.
    Parent(FileId),
}

/// All nodes. The first is the root.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    from_parent: HashMap<FileId, NodeIndex>,
}

impl std::ops::Index<NodeIndex> for Tree {
    type Output = Node;

    fn index(&self, index: NodeIndex) -> &Node {
        &self.nodes[index.0]
    }
}

impl std::ops::IndexMut<NodeIndex> for Tree {
    fn index_mut(&mut self, index: NodeIndex) -> &mut Node {
        &mut self.nodes[index.0]
    }
}

impl Node {
    pub(super) fn new(entry: FileEntry, body: Body) -> Self {
        Self {
            origin: None,
            dirty: true,
            entry,
            security: Place::NULL,
            eas: Place::NULL,
            reparse: Place::NULL,
            streams: Streams::Kept(Place::NULL),
            body,
        }
    }

    fn of_parent(file: &FileView) -> Self {
        let entry = file.entry;
        let descriptor = entry.default_stream;
        let data = Data { place: Place::Parent(descriptor.offset), descriptor };
        let body = match file.is_dir() {
            true => Body::Directory(Directory { kept: data, children: None, changed: false }),
            false => Body::File(data),
        };
        Self {
            origin: Some(file.id),
            dirty: false,
            security: Place::Parent(entry.security),
            eas: Place::Parent(entry.eas),
            reparse: Place::Parent(entry.reparse),
            streams: Streams::Kept(Place::Parent(entry.streams)),
            ..Self::new(entry, body)
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }
}

impl Directory {
    pub(super) fn empty() -> Self {
        let kept = Data { place: Place::NULL, descriptor: StreamDescriptor::new_zeroed() };
        Self { kept, children: Some(BTreeMap::new()), changed: true }
    }
}

/// A directory that was found, and a name in it.
pub(super) struct Spot {
    pub(super) directory: NodeIndex,
    pub(super) name: Name,
}

impl Tree {
    pub(super) const ROOT: NodeIndex = NodeIndex(0);

    pub(super) fn new(root: Node) -> Self {
        Self { nodes: vec![root], from_parent: HashMap::new() }
    }

    pub(super) fn of_parent<R: ReadAt>(parent: &Image<R>) -> Result<Self> {
        let root = parent.file(parent.root())?;
        if !root.is_dir() {
            return Err(Error::corrupt(root.position, "the root is no directory"));
        }
        let mut tree = Self::new(Node::of_parent(&root));
        tree.from_parent.insert(root.id, Self::ROOT);
        Ok(tree)
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn add(&mut self, node: Node) -> NodeIndex {
        self.nodes.push(node);
        NodeIndex(self.nodes.len() - 1)
    }

    /// The node of what a directory leads to, if there is one.
    pub(super) fn known(&self, target: Target) -> Option<NodeIndex> {
        match target {
            Target::Node(index) => Some(index),
            Target::Parent(id) => self.from_parent.get(&id).copied(),
        }
    }

    /// The node of what a directory leads to.
    fn node<R: ReadAt>(&mut self, parent: Option<&Image<R>>, target: Target) -> Result<NodeIndex> {
        let id = match target {
            Target::Node(index) => return Ok(index),
            Target::Parent(id) => id,
        };
        if let Some(index) = self.from_parent.get(&id) {
            return Ok(*index);
        }
        let parent = parent.expect("only a parent's directories lead to a parent's files");
        let index = self.add(Node::of_parent(&parent.file(id)?));
        self.from_parent.insert(id, index);
        Ok(index)
    }

    /// What is in a directory; `None` if it is a file.
    pub(super) fn children<R: ReadAt>(
        &mut self,
        parent: Option<&Image<R>>,
        upcase: &Upcase,
        index: NodeIndex,
    ) -> Result<Option<&mut Children>> {
        let origin = self[index].origin;
        let Body::Directory(directory) = &mut self[index].body else { return Ok(None) };
        if directory.children.is_none() {
            let (parent, id) = parent.zip(origin).expect("only a parent's directory is not read");
            let mut children = BTreeMap::new();
            for entry in parent.entries(&parent.file(id)?)? {
                let entry = entry?;
                let folded = upcase.fold_units(entry.name.units());
                let child = Child { name: entry.name, target: Target::Parent(entry.id) };
                if let Some(other) = children.insert(folded, child) {
                    let what = format!("directory {id} has {:?} twice", other.name);
                    return Err(Error::new(ErrorKind::Corrupt, what));
                }
            }
            directory.children = Some(children);
        }
        Ok(directory.children.as_mut())
    }

    /// Follows a path. `None`: there is nothing.
    pub(super) fn find<R: ReadAt>(
        &mut self,
        parent: Option<&Image<R>>,
        upcase: &Upcase,
        names: &[Name],
    ) -> Result<Option<NodeIndex>> {
        let mut here = Self::ROOT;
        for name in names {
            let Some(children) = self.children(parent, upcase, here)? else { return Ok(None) };
            let Some(child) = children.get(&upcase.fold_units(name.units())) else {
                return Ok(None);
            };
            let target = child.target;
            here = self.node(parent, target)?;
        }
        Ok(Some(here))
    }

    /// The directory that a path's last name is in.
    pub(super) fn spot<R: ReadAt>(
        &mut self,
        parent: Option<&Image<R>>,
        upcase: &Upcase,
        path: &ImagePath,
    ) -> Result<Spot> {
        path.check()?;
        let Some((name, above)) = path.names().split_last() else {
            return Err(Error::new(ErrorKind::Invalid, "the root stays a directory"));
        };
        let directory = self.find(parent, upcase, above)?;
        match directory.filter(|index| self[*index].is_dir()) {
            Some(directory) => Ok(Spot { directory, name: name.clone() }),
            None => {
                let above = ImagePath::from_names(above.to_vec());
                Err(Error::new(
                    ErrorKind::NotFound,
                    format!("{path}: there is no directory {above}"),
                ))
            }
        }
    }

    /// Marks a directory whose names are about to change.
    pub(super) fn touch(&mut self, directory: NodeIndex) {
        let node = &mut self[directory];
        node.dirty = true;
        if let Body::Directory(directory) = &mut node.body {
            directory.changed = true;
        }
    }
}
