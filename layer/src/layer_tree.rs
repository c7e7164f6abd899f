//! The tree that a layer's entries build, one after the other.
//!
//! | case | what happens |
//! | --- | --- |
//! | a path again | the later entry wins; a directory keeps its children and takes the new metadata |
//! | directory over file, file over directory | the later entry wins; children of the directory are gone |
//! | something that is no directory in the middle of a path | a later name below it makes it a directory; a symbolic link of the same layer is **not** followed |
//! | a missing parent that is a symbolic link below | what it would hold goes where the link leads, inside the root: `bin/x` on a layer with `bin -> usr/bin` must not take `/bin` away |
//! | missing parent | a directory with the metadata that the layers below give it, as a host's would keep its own; where they have none 0755, 0:0, with the time of the entry that needed it first |
//! | hard link | shares the inode that the target's path names at that point; a target that comes later is found at the end |
//! | whiteout and entry of one name | the whiteout speaks of the layers below, so the entry stays; a directory becomes opaque |
//! | character device 0:0 | a whiteout, as overlayfs will see it |
//!
//! The metadata that a hard link's own entry repeats is not read: the inode has that of its first name.

use std::collections::{BTreeMap, BTreeSet};

use erofs::{Content, DeviceNumber, FileData, Inode, InodeId, Timestamp, Tree, Xattr};

use crate::error::{Error, ErrorKind, Result};
use crate::overlay;
use crate::path::components;

/// Bits of a device number that EROFS has.
const MAJOR_BITS: u32 = 12;
const MINOR_BITS: u32 = 20;

/// Owner, permissions, time and xattrs, checked.
#[derive(Debug, Clone)]
pub(crate) struct Metadata {
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: Vec<Xattr>,
}

impl Metadata {
    fn with(self, content: Content) -> Inode {
        let Self { permissions, uid, gid, mtime, xattrs } = self;
        Inode { permissions, uid, gid, mtime, xattrs, content }
    }
}

/// Where an entry goes: a name in a directory, or the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'p> {
    /// The root directory itself.
    Root,
    /// A name in a directory; the directory is there.
    Name(InodeId, &'p [u8]),
    /// The directory is opaque.
    Opaque(InodeId),
    /// The name is deleted from the layers below.
    Whiteout(InodeId, &'p [u8]),
    /// aufs's own files: no part of the layer.
    Nowhere,
}

/// A layer's tree while it grows.
#[derive(Debug, Default)]
pub(crate) struct LayerTree {
    tree: Tree,
    opaque: BTreeSet<InodeId>,
    /// Directories that entries needed and no entry described.
    implied: BTreeSet<InodeId>,
    whiteouts: BTreeMap<InodeId, BTreeSet<Box<[u8]>>>,
    /// Hard links whose target was not there: the stand-in inode and the target, in the order of the tar.
    pending: BTreeMap<InodeId, Pending>,
}

/// The names on the way from the root.
type NamePath = Vec<Box<[u8]>>;

#[derive(Debug, Clone)]
struct Pending {
    path: Vec<u8>,
    target: Vec<u8>,
}

/// The layers below, as one tree. Whoever asks makes the layer depend on them.
pub(crate) trait LowerLayers {
    /// What is at a path, copied into this image: the inode (no directory), or `None`.
    fn file(&mut self, path: &[&[u8]]) -> Result<Option<Inode>>;

    /// The metadata of the directory at a path, or `None`.
    fn directory(&mut self, path: &[&[u8]]) -> Result<Option<Metadata>>;

    /// The target of the symbolic link at a path, or `None`.
    fn symlink(&mut self, path: &[&[u8]]) -> Result<Option<Vec<u8>>>;
}

impl LayerTree {
    /// Finds where a path's entry goes, and makes the directories on the way. `mtime` is for those.
    pub(crate) fn place<'p>(&mut self, path: &'p [u8], mtime: Timestamp) -> Result<Place<'p>> {
        let components = components(path)?;
        let Some((&name, parents)) = components.split_last() else {
            return Ok(Place::Root);
        };
        if name != overlay::OPAQUE_NAME
            && components.iter().any(|component| component.starts_with(overlay::AUFS_PREFIX))
        {
            return Ok(Place::Nowhere);
        }
        let reserved = |component: &[u8]| component.starts_with(overlay::WHITEOUT_PREFIX);
        if parents.iter().any(|component| reserved(component)) {
            return Err(Error::invalid("a whiteout cannot hold files").path(path));
        }
        let whiteout = name.strip_prefix(overlay::WHITEOUT_PREFIX);
        if let Some(b"" | b"." | b"..") = whiteout {
            return Err(Error::invalid("a whiteout of no name").path(path));
        }
        let mut dir = Tree::ROOT;
        for &component in parents {
            dir = self.directory_in(dir, component, mtime);
        }
        Ok(match whiteout {
            _ if name == overlay::OPAQUE_NAME => Place::Opaque(dir),
            Some(name) => Place::Whiteout(dir, name),
            None => Place::Name(dir, name),
        })
    }

    /// The directory of this name, made if it is not there, in the place of whatever else is.
    fn directory_in(&mut self, dir: InodeId, name: &[u8], mtime: Timestamp) -> InodeId {
        if let Some(id) = self.get(dir, name)
            && self.tree[id].entries().is_some()
        {
            return id;
        }
        let id = self.tree.add(Inode { mtime, ..Inode::directory() });
        self.set(dir, name, id);
        self.implied.insert(id);
        id
    }

    fn get(&self, dir: InodeId, name: &[u8]) -> Option<InodeId> {
        self.tree[dir].entries()?.get(name).copied()
    }

    fn set(&mut self, dir: InodeId, name: &[u8], id: InodeId) {
        let entries = self.tree[dir].entries_mut().expect("names are only set in directories");
        match entries.get_mut(name) {
            Some(entry) => *entry = id,
            None => _ = entries.insert(name.into(), id),
        }
    }

    /// Marks a directory opaque.
    pub(crate) fn set_opaque(&mut self, dir: InodeId) {
        self.opaque.insert(dir);
    }

    /// Deletes a name from the layers below.
    pub(crate) fn set_whiteout(&mut self, dir: InodeId, name: &[u8]) {
        self.whiteouts.entry(dir).or_default().insert(name.into());
    }

    /// Puts a directory at a place, or gives the one that is there new metadata.
    pub(crate) fn add_directory(&mut self, place: Place<'_>, metadata: Metadata) {
        let id = match place {
            Place::Root => Tree::ROOT,
            Place::Name(dir, name) => self.directory_in(dir, name, metadata.mtime),
            _ => return,
        };
        self.implied.remove(&id);
        self.describe(id, metadata);
    }

    fn describe(&mut self, dir: InodeId, metadata: Metadata) {
        let entries = std::mem::replace(&mut self.tree[dir].content, Content::Fifo);
        self.tree[dir] = metadata.with(entries);
    }

    /// Puts something that is no directory at a name, in the place of whatever is there.
    pub(crate) fn add(&mut self, dir: InodeId, name: &[u8], metadata: Metadata, content: Content) {
        if content == Content::CharDevice(DeviceNumber::WHITEOUT) {
            if let Some(entries) = self.tree[dir].entries_mut() {
                entries.remove(name);
            }
            self.set_whiteout(dir, name);
            return;
        }
        let id = self.tree.add(metadata.with(content));
        self.set(dir, name, id);
    }

    /// Makes a name a hard link to what another path names: now, or at the end if nothing is there yet.
    pub(crate) fn add_hard_link(
        &mut self,
        dir: InodeId,
        name: &[u8],
        path: &[u8],
        target: &[u8],
    ) -> Result<()> {
        let components = components(target).map_err(|error| error.path(path))?;
        match self.tree.lookup(components.iter().copied()) {
            Some(id) if self.tree[id].entries().is_some() => Err(link_to_directory(path, target)),
            Some(id) if !self.pending.contains_key(&id) => {
                self.set(dir, name, id);
                Ok(())
            }
            _ => {
                // Any content will do; `finish` replaces the name.
                let id = self.tree.add(Inode { content: Content::Fifo, ..Inode::directory() });
                let pending = Pending { path: path.to_vec(), target: target.to_vec() };
                self.pending.insert(id, pending);
                self.set(dir, name, id);
                Ok(())
            }
        }
    }

    /// Resolves what is open and puts whiteouts and opaque marks into the tree. `lower` is asked for the targets
    /// of hard links that this layer does not have, and for directories that it does not describe.
    pub(crate) fn finish(mut self, lower: &mut impl LowerLayers) -> Result<Tree> {
        self.resolve_links(lower)?;
        self.follow_lower_links(lower)?;
        self.describe_implied(lower)?;
        let whiteouts = std::mem::take(&mut self.whiteouts);
        for (dir, names) in whiteouts {
            let mut left = false;
            for name in names {
                match self.get(dir, &name) {
                    Some(id) if self.tree[id].entries().is_some() => self.set_opaque(id),
                    Some(_) => {}
                    None => {
                        let id = self.tree.add(overlay::whiteout());
                        self.set(dir, &name, id);
                        left = true;
                    }
                }
            }
            if left {
                self.tree[dir].set_xattr(overlay::ORIGIN, b"");
            }
        }
        for dir in std::mem::take(&mut self.opaque) {
            self.tree[dir].set_xattr(overlay::OPAQUE, b"y");
        }
        Ok(self.tree)
    }

    /// Moves what is in a directory that no entry describes, and that is a symbolic link below, to where that leads.
    fn follow_lower_links(&mut self, lower: &mut impl LowerLayers) -> Result<()> {
        // One link of every chain in each round, as many as Linux follows; what is left stays a directory.
        for _ in 0..40 {
            let mut moved = false;
            for (path, target) in self.lower_links(lower)? {
                moved |= self.follow(&path, &target);
            }
            if !moved {
                break;
            }
        }
        Ok(())
    }

    /// The directories that no entry describes and that are symbolic links below, with their targets.
    fn lower_links(&self, lower: &mut impl LowerLayers) -> Result<Vec<(NamePath, Vec<u8>)>> {
        let mut links = Vec::new();
        let mut directories: Vec<(InodeId, NamePath)> = vec![(Tree::ROOT, Vec::new())];
        while let Some((dir, path)) = directories.pop() {
            if self.implied.is_empty() || self.opaque.contains(&dir) {
                continue;
            }
            for (name, &id) in self.tree[dir].entries().into_iter().flatten() {
                let hidden = self.whiteouts.get(&dir).is_some_and(|names| names.contains(name));
                if self.tree[id].entries().is_none() || hidden {
                    continue;
                }
                let path: NamePath = path.iter().chain([name]).cloned().collect();
                if self.implied.contains(&id) && !self.opaque.contains(&id) {
                    let names: Vec<&[u8]> = path.iter().map(|name| &**name).collect();
                    links.extend(lower.symlink(&names)?.map(|target| (path.clone(), target)));
                }
                directories.push((id, path));
            }
        }
        Ok(links)
    }

    /// Moves what is at `path`; `false` if it has to stay.
    fn follow(&mut self, path: &NamePath, target: &[u8]) -> bool {
        let Some((name, parents)) = path.split_last() else { return false };
        let destination = resolved(parents, target);
        if destination.starts_with(path) || !self.can_hold(&destination) {
            return false;
        }
        // It may have moved with a directory above it; then it is looked at again there.
        let from = self.tree.lookup(parents.iter().map(|name| &**name));
        let Some((from, moved)) = from.and_then(|dir| Some((dir, self.get(dir, name)?))) else {
            return false;
        };
        if let Some(entries) = self.tree[from].entries_mut() {
            entries.remove(name);
        }
        let mtime = self.tree[moved].mtime;
        let mut to = Tree::ROOT;
        for component in &destination {
            to = self.directory_in(to, component, mtime);
        }
        self.pour(moved, to);
        true
    }

    /// Whether nothing but directories of this layer is on a path.
    fn can_hold(&self, path: &[Box<[u8]>]) -> bool {
        let mut dir = Tree::ROOT;
        for name in path {
            match self.get(dir, name) {
                None => return true,
                Some(id) if self.tree[id].entries().is_none() => return false,
                Some(id) => dir = id,
            }
        }
        true
    }

    /// Puts what one directory holds into another; of two things of one name the one that is moved stays.
    fn pour(&mut self, from: InodeId, to: InodeId) {
        let mut pairs = vec![(from, to)];
        while let Some((from, to)) = pairs.pop() {
            if let Some(names) = self.whiteouts.remove(&from) {
                self.whiteouts.entry(to).or_default().extend(names);
            }
            if self.opaque.remove(&from) {
                self.opaque.insert(to);
            }
            let entries = self.tree[from].entries_mut().map(std::mem::take).unwrap_or_default();
            for (name, id) in entries {
                match self.get(to, &name) {
                    Some(there)
                        if self.tree[there].entries().is_some()
                            && self.tree[id].entries().is_some() =>
                    {
                        if !self.implied.contains(&id) {
                            let Inode { permissions, uid, gid, mtime, ref xattrs, .. } =
                                self.tree[id];
                            let xattrs = xattrs.clone();
                            self.implied.remove(&there);
                            self.describe(there, Metadata { permissions, uid, gid, mtime, xattrs });
                        }
                        pairs.push((id, there));
                    }
                    _ => self.set(to, &name, id),
                }
            }
        }
    }

    /// Gives directories that no entry describes the metadata that they have below: a layer with `tmp/x` and no
    /// `tmp/` must not change the mode of `/tmp`.
    fn describe_implied(&mut self, lower: &mut impl LowerLayers) -> Result<()> {
        let implied = std::mem::take(&mut self.implied);
        if implied.is_empty() {
            return Ok(());
        }
        let mut found = Vec::new();
        let mut directories: Vec<(InodeId, Vec<Box<[u8]>>)> = vec![(Tree::ROOT, Vec::new())];
        while let Some((dir, path)) = directories.pop() {
            // What an opaque directory holds has no past.
            if self.opaque.contains(&dir) {
                continue;
            }
            for (name, &id) in self.tree[dir].entries().into_iter().flatten() {
                let hidden = self.whiteouts.get(&dir).is_some_and(|names| names.contains(name));
                if self.tree[id].entries().is_none() || hidden {
                    continue;
                }
                let path: Vec<Box<[u8]>> = path.iter().chain([name]).cloned().collect();
                if implied.contains(&id) {
                    let names: Vec<&[u8]> = path.iter().map(|name| &**name).collect();
                    found.extend(lower.directory(&names)?.map(|metadata| (id, metadata)));
                }
                directories.push((id, path));
            }
        }
        for (dir, metadata) in found {
            self.describe(dir, metadata);
        }
        Ok(())
    }

    fn resolve_links(&mut self, lower: &mut impl LowerLayers) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        // Names of one file below must become names of one file here.
        let mut copied: BTreeMap<Vec<u8>, InodeId> = BTreeMap::new();
        for (&id, link) in &pending {
            let place = components(&link.path)?;
            // Something else may have taken the link's place since.
            if self.tree.lookup(place.iter().copied()) != Some(id) {
                continue;
            }
            let mut target = components(&link.target)?;
            let mut steps = 0;
            let found = loop {
                let found = self.tree.lookup(target.iter().copied());
                let Some(next) = found.and_then(|found| pending.get(&found)) else {
                    break found;
                };
                steps += 1;
                if steps > pending.len() {
                    return Err(Error::invalid(format!(
                        "a loop of hard links: nothing but links is behind \"{}\"",
                        link.target.escape_ascii()
                    ))
                    .path(&link.path));
                }
                target = components(&next.target)?;
            };
            let inode = match found {
                Some(found) if self.tree[found].entries().is_some() => {
                    return Err(link_to_directory(&link.path, &link.target));
                }
                Some(found) => found,
                None => {
                    let key = target.join(&b'/');
                    match copied.get(&key) {
                        Some(&inode) => inode,
                        None => {
                            let inode = lower
                                .file(&target)
                                .map_err(|error| error.path(&link.path))?
                                .ok_or_else(|| missing_target(link))?;
                            let inode = self.tree.add(inode);
                            copied.insert(key, inode);
                            inode
                        }
                    }
                }
            };
            if let Some((name, parents)) = place.split_last()
                && let Some(dir) = self.tree.lookup(parents.iter().copied())
            {
                self.set(dir, name, inode);
            }
        }
        Ok(())
    }
}

/// Where a symbolic link in a directory leads, without ever leaving the root.
fn resolved(dir: &[Box<[u8]>], target: &[u8]) -> NamePath {
    let mut path = if target.starts_with(b"/") { Vec::new() } else { dir.to_vec() };
    for component in target.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(path.pop()),
            name => path.push(name.into()),
        }
    }
    path
}

/// Number of names in a finished tree, the root included.
pub(crate) fn count_names(tree: &Tree) -> u64 {
    let mut directories = vec![Tree::ROOT];
    let mut names = 1;
    while let Some(dir) = directories.pop() {
        for &id in tree[dir].entries().into_iter().flat_map(BTreeMap::values) {
            names += 1;
            if tree[id].entries().is_some() {
                directories.push(id);
            }
        }
    }
    names
}

/// A device number within EROFS's bounds.
pub(crate) fn device_number(major: u64, minor: u64) -> Result<DeviceNumber> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) if major >> MAJOR_BITS == 0 && minor >> MINOR_BITS == 0 => {
            Ok(DeviceNumber { major, minor })
        }
        _ => Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the device number {major}:{minor} does not fit in {MAJOR_BITS} and {MINOR_BITS} bits"
            ),
        )),
    }
}

/// An owner within the 32 bits that Linux has.
pub(crate) fn owner(what: &str, id: u64) -> Result<u32> {
    u32::try_from(id).map_err(|_| {
        Error::new(ErrorKind::TooLarge, format!("the {what} {id} does not fit in 32 bits"))
    })
}

/// A symbolic link's content within EROFS's bounds.
pub(crate) fn symlink(target: Vec<u8>) -> Result<Content> {
    if target.is_empty() || target.contains(&0) {
        return Err(Error::invalid("a symbolic link's target is empty or holds a NUL byte"));
    }
    if target.len() > erofs::format::SYMLINK_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "a symbolic link's target of {} bytes, more than {}",
                target.len(),
                erofs::format::SYMLINK_MAX
            ),
        ));
    }
    Ok(Content::Symlink(target.into()))
}

/// An empty file's content.
pub(crate) fn empty_file() -> FileData {
    FileData::Bytes(Box::default())
}

fn link_to_directory(path: &[u8], target: &[u8]) -> Error {
    Error::invalid(format!("a hard link to the directory \"{}\"", target.escape_ascii())).path(path)
}

fn missing_target(link: &Pending) -> Error {
    Error::new(
        ErrorKind::MissingParent,
        format!(
            "a hard link to \"{}\", which neither this layer nor a known parent has",
            link.target.escape_ascii()
        ),
    )
    .path(&link.path)
}
