//! The layer tar that makes one tree of another: what `commit` of a container, `ctr snapshots diff` and the like
//! are made of.
//!
//! Both trees are walked together, directory by directory. Directories that are made of the same layers on both
//! sides are not looked into, and where the lower layers are the same only the names of the upper ones are:
//! the difference of a container and its image costs as much as the container wrote, whatever the image's size.
//!
//! | | in the tar |
//! | --- | --- |
//! | new, or changed in type, permissions, owner, time, xattrs, size, bytes, target or links | the entry, and the directories on the way to it |
//! | not different | nothing |
//! | gone | a whiteout |
//! | a directory that hides the one that it replaces | `.wh..wh..opq`, then all of it |
//! | a root of which only the time differs, or an ordinary one (0755, 0:0) over nothing | nothing |
//! | names of one inode | the first in path order, then hard links to it; all or none |
//! | sockets | nothing: tar has no way to say them |
//!
//! Entries are ordered by path. Whiteouts have time 0, with and without a source date epoch, as those of containerd
//! since 2.0 have; times behind the epoch become the epoch, and with one times are whole seconds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::rc::Rc;

use erofs::Timestamp;
use erofs::format::FileType;

use crate::error::{Error, Result};
use crate::export::{LayerTar, Measuring, check_name, joined, mark, whiteout_path};
use crate::overlay;
use crate::progress::Cancel;
use crate::side::{Found, ListedIn, Node, Part, Place, Side, Stack, split};
use crate::tar::{Entry, EntryKind, Writer};

/// How a difference is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffOptions {
    /// The latest time that an entry may have; later ones become this one.
    pub source_date_epoch: Option<Timestamp>,
}

/// Writes the layer tar that makes `right` of `left`. The same trees give the same tar, in whatever layers they
/// lie. Nobody should write in an upper directory meanwhile: a file that changes its length is an error,
/// other changes are taken or not. Memory grows with the number of entries in the tar.
///
/// # Errors
/// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for a damaged image,
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for names that begin with `.wh.` and for files that changed
/// while they were read, [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for overlayfs's redirects and
/// metadata-only copies, [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge) for paths over 4,095 bytes,
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), [`ErrorKind::NoSpace`](crate::ErrorKind::NoSpace),
/// [`ErrorKind::Io`](crate::ErrorKind::Io).
pub fn diff(
    left: &Side,
    right: &Side,
    options: &DiffOptions,
    output: impl Write,
    cancel: &Cancel,
) -> Result<LayerTar> {
    let (left, right) = (Stack::open(left)?, Stack::open(right)?);
    let mut plan = Plan {
        left: &left,
        right: &right,
        cancel,
        items: BTreeMap::new(),
        entered: HashSet::new(),
        links: Links::default(),
        shared_root: 0,
        buffers: [vec![0; PIECE], vec![0; PIECE]],
    };
    plan.roots()?;
    plan.complete_links()?;
    plan.write(options, output)
}

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// What goes into the tar, before links and parents are complete.
struct Plan<'s> {
    left: &'s Stack<'s>,
    right: &'s Stack<'s>,
    cancel: &'s Cancel,
    /// By path; an opaque mark comes right behind its directory.
    items: BTreeMap<Vec<u8>, Item>,
    /// Directories that a name has led to, left and right: none may be met twice.
    entered: HashSet<(bool, Part)>,
    links: Links,
    /// Layers at the bottom of both sides that are the same.
    shared_root: usize,
    buffers: [Vec<u8>; 2],
}

enum Item {
    Node(Node),
    Whiteout,
    Opaque,
}

/// Which files with several names were found to be the same: names of one inode must stay names of one inode.
#[derive(Default)]
struct Links {
    left: HashMap<Place, Place>,
    right: HashMap<Place, Place>,
}

/// A directory of the right side on the way to others; `None` is the root.
type Trail = Option<Rc<Directory>>;

struct Directory {
    path: Vec<u8>,
    node: Node,
    above: Trail,
}

fn path_of(trail: &Trail) -> &[u8] {
    trail.as_ref().map_or(b"", |directory| &directory.path)
}

/// A directory of the right side whose names are to be compared.
struct Level {
    trail: Trail,
    /// None where the left side has no directory here, or one that is replaced.
    left: Vec<Part>,
    right: Vec<Part>,
}

impl Plan<'_> {
    fn roots(&mut self) -> Result<()> {
        let nothing = || Found { node: empty_root(), parts: Vec::new(), opaque: false };
        let (old, new) = (self.left.root()?, self.right.root()?);
        let both = match (old, new) {
            (None, None) => return Ok(()),
            (None, Some(new)) => {
                let root = &new.node;
                let plain = (root.permissions, root.uid, root.gid) == (0o755, 0, 0)
                    && self.right.xattrs(b"", root)?.is_empty();
                if !plain {
                    self.items.insert(Vec::new(), Item::Node(root.clone()));
                }
                (nothing(), new)
            }
            (Some(old), None) => (old, nothing()),
            (Some(old), Some(new)) => {
                // Everything that is done in a root changes its time; an image without any other change to
                // its root should not have one.
                let timed = Node { mtime: old.node.mtime, ..new.node.clone() };
                if !self.same_metadata(b"", &old.node, &timed)? {
                    self.items.insert(Vec::new(), Item::Node(new.node.clone()));
                }
                (old, new)
            }
        };
        let (old, new) = both;
        self.shared_root = self.left.shared(&old.parts, self.right, &new.parts);
        let mut open = vec![Level { trail: None, left: old.parts, right: new.parts }];
        while let Some(level) = open.pop() {
            let below = self.level(&level);
            open.append(&mut below.map_err(|error| error.path(path_of(&level.trail)))?);
        }
        Ok(())
    }

    /// Plans an item and the directories on the way to it: a layer says what they are like.
    fn plan(&mut self, path: Vec<u8>, item: Item, trail: &Trail) {
        self.items.entry(path).or_insert(item);
        let mut trail = trail;
        while let Some(directory) = trail {
            if self.items.contains_key(&directory.path) {
                break;
            }
            self.items.insert(directory.path.clone(), Item::Node(directory.node.clone()));
            trail = &directory.above;
        }
    }

    fn level(&mut self, level: &Level) -> Result<Vec<Level>> {
        let Level { trail, left, right } = level;
        let dir = path_of(trail);
        self.enter(left, right)?;
        let shared = self.left.shared(left, self.right, right);
        let (left_above, right_above) = (left.len() - shared, right.len() - shared);
        let old = self.left.names(dir, &left[..left_above])?;
        let new = self.right.names(dir, &right[..right_above])?;
        // What only layers below both have is the same on both sides.
        let mut names: BTreeMap<&[u8], [&[ListedIn]; 2]> = BTreeMap::new();
        for (name, found) in &old {
            names.entry(name).or_default()[0] = found;
        }
        for (name, found) in &new {
            names.entry(name).or_default()[1] = found;
        }
        let mut below = Vec::new();
        for (name, [old, new]) in names {
            self.cancel.check()?;
            let path = joined(dir, name)?;
            let mut one = || {
                let old = self.left.resolve(dir, name, left, left_above, old)?;
                let new = self.right.resolve(dir, name, right, right_above, new)?;
                self.name(&path, old, new, trail)
            };
            below.extend(one().map_err(|error| error.path(&path))?);
        }
        Ok(below)
    }

    /// A directory has one place; a second one would be a loop in a damaged image.
    fn enter(&mut self, left: &[Part], right: &[Part]) -> Result<()> {
        let both = left.iter().map(|part| (false, part)).chain(right.iter().map(|p| (true, p)));
        for (side, part) in both.filter(|(_, part)| **part != Part::Upper) {
            if !self.entered.insert((side, part.clone())) {
                return Err(Error::corrupt("a directory of the image has two names"));
            }
        }
        Ok(())
    }

    /// Plans what a name is; a directory of which more is to be compared is returned.
    fn name(
        &mut self,
        path: &[u8],
        old: Option<Found>,
        new: Option<Found>,
        trail: &Trail,
    ) -> Result<Option<Level>> {
        let (old, new) = match (old, new) {
            (None, None) => return Ok(None),
            (Some(_), None) => {
                check_name(split(path).1)?;
                self.plan(path.to_vec(), Item::Whiteout, trail);
                return Ok(None);
            }
            (old, Some(new)) => (old, new),
        };
        if !new.node.is_dir() {
            let same = match &old {
                Some(old) => self.same(path, &old.node, &new.node)?,
                None => false,
            };
            if !same {
                check_name(split(path).1)?;
                self.plan(path.to_vec(), Item::Node(new.node), trail);
            }
            return Ok(None);
        }
        let old = old.filter(|old| old.node.is_dir());
        let different = match &old {
            Some(old) => !self.same_metadata(path, &old.node, &new.node)?,
            None => true,
        };
        let left = old.map(|old| old.parts).unwrap_or_default();
        let replaced = self.is_replaced(path, &left, &new)?;
        if different || replaced {
            check_name(split(path).1)?;
            self.plan(path.to_vec(), Item::Node(new.node.clone()), trail);
        }
        if replaced {
            self.plan([path, b"/"].concat(), Item::Opaque, &None);
        }
        let shared = self.left.shared(&left, self.right, &new.parts);
        if shared == left.len() && shared == new.parts.len() {
            return Ok(None);
        }
        let left = if replaced { Vec::new() } else { left };
        let directory = Directory { path: path.to_vec(), node: new.node, above: trail.clone() };
        Ok(Some(Level { trail: Some(Rc::new(directory)), left, right: new.parts }))
    }

    /// Whether a directory hides one that the left side has: it ends with an opaque mark in a layer that is not the
    /// left side's, and there was something to hide.
    fn is_replaced(&self, path: &[u8], left: &[Part], new: &Found) -> Result<bool> {
        if !new.opaque || left.is_empty() || self.shared_root == 0 {
            return Ok(false);
        }
        let own = self.right.layers() - self.shared_root;
        let is_own = |part: &Part| !matches!(part, Part::Layer(layer, _) if *layer >= own);
        Ok(new.parts.iter().all(is_own) && !self.left.names(path, left)?.is_empty())
    }

    fn same_metadata(&self, path: &[u8], old: &Node, new: &Node) -> Result<bool> {
        if self.left.is_same(old.place, self.right, new.place) {
            return Ok(true);
        }
        let key =
            |node: &Node| (node.file_type as u8, node.permissions, node.uid, node.gid, node.mtime);
        Ok(key(old) == key(new) && self.left.xattrs(path, old)? == self.right.xattrs(path, new)?)
    }

    /// Whether two things that are no directories are the same.
    fn same(&mut self, path: &[u8], old: &Node, new: &Node) -> Result<bool> {
        let same = (old.device_number, old.links) == (new.device_number, new.links)
            && self.same_metadata(path, old, new)?
            && (self.left.is_same(old.place, self.right, new.place)
                || match new.file_type {
                    FileType::Symlink => {
                        self.left.read_link(path, old)? == self.right.read_link(path, new)?
                    }
                    FileType::Regular => old.size == new.size && self.same_bytes(path, old, new)?,
                    _ => true,
                });
        if same && new.links > 1 {
            let left = *self.links.left.entry(old.place).or_insert(new.place);
            let right = *self.links.right.entry(new.place).or_insert(old.place);
            return Ok((left, right) == (new.place, old.place));
        }
        Ok(same)
    }

    fn same_bytes(&mut self, path: &[u8], old: &Node, new: &Node) -> Result<bool> {
        let (old, new) = (self.left.open_file(path, old)?, self.right.open_file(path, new)?);
        let mut segments = old.segments()?;
        segments.extend(new.segments()?);
        segments.sort_unstable();
        // What is a hole on both sides is zeros on both sides.
        let mut done = 0;
        for (offset, length) in segments {
            let end = offset + length;
            done = done.max(offset);
            while done < end {
                self.cancel.check()?;
                let length = usize::try_from(end - done).unwrap_or(PIECE).min(PIECE);
                let [left, right] = &mut self.buffers;
                let (left, right) = (&mut left[..length], &mut right[..length]);
                old.read_exact_at(left, done)?;
                new.read_exact_at(right, done)?;
                if left != right {
                    return Ok(false);
                }
                done += length as u64;
            }
        }
        Ok(true)
    }

    /// Plans the other names of files of which one name is planned. Names that both sides have from the same layer
    /// were not looked at and may be among them.
    fn complete_links(&mut self) -> Result<()> {
        let mut missing: HashMap<Place, u64> = HashMap::new();
        for item in self.items.values() {
            if let Item::Node(node) = item
                && !node.is_dir()
                && node.links > 1
            {
                let left = missing.entry(node.place).or_insert(node.links);
                *left = left.saturating_sub(1);
            }
        }
        missing.retain(|_, left| *left > 0);
        let Some(root) = self.right.root()?.filter(|_| !missing.is_empty()) else {
            return Ok(());
        };
        let layer_of = |place: &Place| match place {
            Place::Upper(..) => None,
            Place::Layer(layer, _) => Some(*layer),
        };
        let layers: HashSet<Option<usize>> = missing.keys().map(layer_of).collect();
        let part_of = |part: &Part| match part {
            Part::Upper => None,
            Part::Layer(layer, _) => Some(*layer),
        };
        let mut entered = HashSet::new();
        let mut open: Vec<(Trail, Vec<Part>)> = vec![(None, root.parts)];
        while let Some((trail, parts)) = open.pop() {
            self.cancel.check()?;
            let dir = path_of(&trail);
            // Only names in these layers can lead to the files wanted.
            let Some(last) = parts.iter().rposition(|part| layers.contains(&part_of(part))) else {
                continue;
            };
            for part in parts.iter().filter(|part| **part != Part::Upper) {
                if !entered.insert(part.clone()) {
                    let error = Error::corrupt("a directory of the image has two names");
                    return Err(error.path(dir));
                }
            }
            let listed = self.right.names(dir, &parts[..=last]);
            for (name, found) in listed.map_err(|error| error.path(dir))? {
                let path = joined(dir, &name)?;
                let found = self.right.resolve(dir, &name, &parts, last + 1, &found);
                let Some(Found { node, parts, .. }) = found.map_err(|error| error.path(&path))?
                else {
                    continue;
                };
                if node.is_dir() {
                    let above = trail.clone();
                    open.push((Some(Rc::new(Directory { path, node, above })), parts));
                } else if missing.contains_key(&node.place) {
                    self.plan(path, Item::Node(node), &trail);
                }
            }
        }
        Ok(())
    }

    fn write(self, options: &DiffOptions, output: impl Write) -> Result<LayerTar> {
        let mut tar = TarOfSide {
            side: self.right,
            cancel: self.cancel,
            options,
            tar: Writer::new(Measuring::new(output)),
            first_names: HashMap::new(),
            buffer: vec![0; PIECE],
            entries: 0,
            sockets: 0,
        };
        for (path, item) in &self.items {
            self.cancel.check()?;
            match item {
                Item::Node(node) if node.file_type == FileType::Socket => tar.sockets += 1,
                Item::Node(node) => tar.node(path, node).map_err(|error| error.path(path))?,
                Item::Whiteout => tar.mark(&whiteout_path(path))?,
                Item::Opaque => tar.mark(&[path, overlay::OPAQUE_NAME].concat())?,
            }
        }
        let TarOfSide { tar, entries, sockets, .. } = tar;
        let Measuring { digester, size, .. } = tar.finish()?;
        Ok(LayerTar { diff_id: digester.finish(), size, entries, sockets })
    }
}

/// Writes nodes of the right side.
struct TarOfSide<'p, W: Write> {
    side: &'p Stack<'p>,
    cancel: &'p Cancel,
    options: &'p DiffOptions,
    tar: Writer<Measuring<W>>,
    first_names: HashMap<Place, Vec<u8>>,
    buffer: Vec<u8>,
    entries: u64,
    sockets: u64,
}

impl<W: Write> TarOfSide<'_, W> {
    fn mark(&mut self, path: &[u8]) -> Result<()> {
        self.entries += 1;
        self.tar.entry(&mark(path))
    }

    fn node(&mut self, path: &[u8], node: &Node) -> Result<()> {
        self.entries += 1;
        let (major, minor) =
            (u64::from(node.device_number.major), u64::from(node.device_number.minor));
        let linked = !node.is_dir() && node.links > 1;
        if linked {
            if let Some(first) = self.first_names.get(&node.place) {
                let kind = EntryKind::HardLink(first.clone());
                // The link is the same inode: its xattrs have been said.
                return self.tar.entry(&self.entry(path, node, kind, Vec::new()));
            }
            self.first_names.insert(node.place, path.to_vec());
        }
        let mut file = None;
        let kind = match node.file_type {
            FileType::Regular => {
                let open = self.side.open_file(path, node)?;
                let segments = open.segments()?;
                let whole = segments == [(0, node.size)] || node.size == 0;
                file = Some((open, segments.clone()));
                EntryKind::Regular { size: node.size, segments: Some(segments).filter(|_| !whole) }
            }
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink(self.side.read_link(path, node)?),
            FileType::CharDevice => EntryKind::CharDevice { major, minor },
            FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket | FileType::Unknown => {
                return Err(Error::corrupt("an inode of unexpected type"));
            }
        };
        let xattrs = self.side.xattrs(path, node)?;
        self.tar.entry(&self.entry(path, node, kind, xattrs))?;
        let Some((file, segments)) = file else { return Ok(()) };
        for (mut offset, mut left) in segments {
            while left > 0 {
                self.cancel.check()?;
                let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                file.read_exact_at(&mut self.buffer[..length], offset)?;
                self.tar.data(&self.buffer[..length])?;
                offset += length as u64;
                left -= length as u64;
            }
        }
        Ok(())
    }

    fn entry(&self, path: &[u8], node: &Node, kind: EntryKind, xattrs: Vec<erofs::Xattr>) -> Entry {
        let path = match (path, node.is_dir()) {
            (b"", _) => b"./".to_vec(),
            (path, true) => [path, b"/"].concat(),
            (path, false) => path.to_vec(),
        };
        let mtime = match self.options.source_date_epoch {
            Some(epoch) => Timestamp { nanoseconds: 0, ..node.mtime.min(epoch) },
            None => node.mtime,
        };
        Entry {
            path,
            kind,
            permissions: node.permissions,
            uid: node.uid.into(),
            gid: node.gid.into(),
            mtime,
            xattrs,
            offset: 0,
        }
    }
}

/// What stands for the root of nothing at all.
fn empty_root() -> Node {
    Node {
        place: Place::Upper(0, 0),
        file_type: FileType::Directory,
        permissions: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        size: 0,
        links: 2,
        device_number: erofs::DeviceNumber { major: 0, minor: 0 },
    }
}
