//! A layer as a tree of names, written to a tar in an order that importers can use: parents before children, a
//! directory's whiteouts right behind it, streams right behind their owner.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::security::Descriptor;
use super::tar::{Meta, WindowsTar, attribute};

/// Where a file's bytes come from.
#[derive(Debug, Clone)]
pub(super) enum Data {
    Bytes(Vec<u8>),
    File(PathBuf),
}

#[derive(Debug)]
enum Kind {
    Directory,
    File(Data),
    HardLink(String),
    Symlink(String),
    Junction(String),
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    meta: Meta,
    /// Alternate streams by name.
    streams: BTreeMap<String, Vec<u8>>,
    /// Names in this directory that the layer removes.
    removed: Vec<String>,
}

/// A layer to be written. Names are relative, with slashes.
#[derive(Debug)]
pub(super) struct Tree {
    /// By components, so that a directory comes right before what is in it.
    nodes: BTreeMap<Vec<String>, Node>,
    /// In a layer with parents only what is below `Files` has descriptors.
    base: bool,
}

impl Tree {
    /// With an empty `Files`.
    pub(super) fn new(base: bool) -> Self {
        let mut tree = Self { nodes: BTreeMap::new(), base };
        tree.directory("Files", Descriptor::Root);
        tree
    }

    pub(super) fn directory(&mut self, path: &str, descriptor: Descriptor) {
        self.put(path, Kind::Directory, attribute::DIRECTORY, Some(descriptor));
    }

    pub(super) fn file(&mut self, path: &str, data: Data, descriptor: Descriptor) {
        self.put(path, Kind::File(data), attribute::ARCHIVE, Some(descriptor));
    }

    /// `target` is a full path in this layer or one below it.
    pub(super) fn hard_link(&mut self, path: &str, target: &str) {
        self.put(path, Kind::HardLink(target.to_owned()), attribute::ARCHIVE, None);
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str, to_directory: bool) {
        let directory = if to_directory { attribute::DIRECTORY } else { attribute::ARCHIVE };
        let attributes = directory | attribute::REPARSE_POINT;
        self.put(path, Kind::Symlink(target.to_owned()), attributes, Some(Descriptor::Inherited));
    }

    pub(super) fn junction(&mut self, path: &str, target: &str) {
        let attributes = attribute::DIRECTORY
            | attribute::REPARSE_POINT
            | attribute::HIDDEN
            | attribute::SYSTEM
            | attribute::NOT_CONTENT_INDEXED;
        self.put(path, Kind::Junction(target.to_owned()), attributes, Some(Descriptor::Inherited));
    }

    /// A stream of what is at `path` already.
    pub(super) fn stream(&mut self, path: &str, stream: &str, data: &[u8]) {
        if let Some(node) = self.nodes.get_mut(&components(path)) {
            node.streams.insert(stream.to_owned(), data.to_vec());
        }
    }

    /// More attributes for what is at `path` already.
    pub(super) fn attributes(&mut self, path: &str, attributes: u32) {
        if let Some(node) = self.nodes.get_mut(&components(path)) {
            node.meta.attributes |= attributes;
        }
    }

    /// An extended attribute for what is at `path` already.
    pub(super) fn ea(&mut self, path: &str, name: &str, value: &[u8]) {
        if let Some(node) = self.nodes.get_mut(&components(path)) {
            node.meta.eas.insert(name.to_owned(), value.to_vec());
        }
    }

    /// Removes what the layers below have at `path`.
    pub(super) fn remove(&mut self, path: &str) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.parents(path);
        if let Some(node) = self.nodes.get_mut(&components(parent)) {
            node.removed.push(name.to_owned());
        }
    }

    /// What is there stays; directories above it that nobody has described are the system's.
    fn put(&mut self, path: &str, kind: Kind, attributes: u32, descriptor: Option<Descriptor>) {
        self.parents(path);
        let bare = !self.base && !path.starts_with("Files/");
        let descriptor = descriptor.filter(|_| !bare).map(Descriptor::bytes);
        let meta = Meta { attributes, descriptor, eas: BTreeMap::new() };
        let node = Node { kind, meta, streams: BTreeMap::new(), removed: Vec::new() };
        self.nodes.insert(components(path), node);
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.nodes.contains_key(&components(parent))
        {
            self.directory(parent, Descriptor::SystemDirectory);
        }
    }

    /// Writes the tar and returns the number of its entries.
    pub(super) fn write(&self, path: &Path) -> Result<u64> {
        let mut tar = WindowsTar::create(path)?;
        for (components, node) in &self.nodes {
            let name = components.join("/");
            let meta = &node.meta;
            match &node.kind {
                Kind::Directory => tar.directory(&name, meta)?,
                Kind::File(Data::Bytes(bytes)) => {
                    tar.file(&name, meta, bytes.len() as u64, &bytes[..])?;
                }
                Kind::File(Data::File(source)) => {
                    let file = File::open(source)
                        .with_context(|| format!("cannot open {}", source.display()))?;
                    let size = file.metadata()?.len();
                    tar.file(&name, meta, size, file)?;
                }
                Kind::HardLink(target) => tar.hard_link(&name, meta, target)?,
                Kind::Symlink(target) => tar.symlink(&name, meta, target)?,
                Kind::Junction(target) => tar.junction(&name, meta, target)?,
            }
            for (stream, data) in &node.streams {
                tar.stream(&name, stream, data)?;
            }
            for removed in &node.removed {
                tar.whiteout(&name, removed)?;
            }
        }
        let entries = tar.entries;
        tar.finish()?;
        Ok(entries)
    }
}

fn components(path: &str) -> Vec<String> {
    path.split('/').map(str::to_owned).collect()
}
