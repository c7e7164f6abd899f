//! What differs between two images, path by path.

mod content;
mod links;
mod shared;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use zerocopy::little_endian::U32;

use crate::format::{FileFlags, PATH_MAX};
use crate::reader::LinkTable;
use crate::trail::Trail;
use crate::{Error, FileId, FileTime, FileView, Image, ImagePath, Name, ReadAt, Result, Upcase};
use shared::Shared;

/// Whether something came, went or stayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// Only the second image has it.
    Added,
    /// Only the first image has it.
    Removed,
    /// Both have it, and something differs.
    Modified,
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path as the second image spells it, or the first where it was removed.
    pub path: ImagePath,
    /// Added, removed or modified.
    pub kind: ChangeKind,
    /// Whether it is a directory in the second image, or in the first where it was removed.
    pub is_dir: bool,
    /// The file in the first image.
    pub before: Option<FileId>,
    /// The file in the second image.
    pub after: Option<FileId>,
    /// What differs; empty for an added or removed path.
    pub differences: Vec<Difference>,
}

/// A before (first image) and an after (second image).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<T> {
    /// In the first image.
    pub before: T,
    /// In the second image.
    pub after: T,
}

impl<T: PartialEq> Pair<T> {
    fn differs(self) -> Option<Self> {
        (self.before != self.after).then_some(self)
    }
}

/// One thing that differs between two files of the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// Whether it is a directory. Data is then not compared.
    Directory(Pair<bool>),
    /// The case of letters in its name.
    Name(Pair<Name>),
    /// Read-only, hidden, and so on.
    Flags(Pair<FileFlags>),
    /// When it was made.
    CreationTime(Pair<FileTime>),
    /// When its data changed.
    LastWriteTime(Pair<FileTime>),
    /// When anything of it changed.
    ChangeTime(Pair<FileTime>),
    /// When it was read.
    LastAccessTime(Pair<FileTime>),
    /// The security descriptor.
    Security,
    /// The extended attributes.
    Eas,
    /// The reparse buffer, or whether there is one.
    Reparse,
    /// Length of the data in bytes. The bytes are then not compared.
    Size(Pair<u64>),
    /// The bytes of data of the same length.
    Data {
        /// Offset of the first byte that differs.
        offset: u64,
    },
    /// An alternate stream that came, went or has other bytes.
    Stream {
        /// Its name.
        name: Name,
        /// Which of these it is.
        kind: ChangeKind,
    },
    /// The first path (in order) that leads to the same file; `None` where this path is the first.
    HardLink(Pair<Option<ImagePath>>),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = |directory| if directory { "directory" } else { "file" };
        let time = |time: FileTime| crate::dump::time(time);
        match self {
            Self::Directory(p) => write!(f, "type {} -> {}", what(p.before), what(p.after)),
            Self::Name(p) => write!(f, "name {:?} -> {:?}", p.before, p.after),
            Self::Flags(p) => {
                let flags = crate::dump::flags;
                write!(f, "attributes {} -> {}", flags(p.before), flags(p.after))
            }
            Self::CreationTime(p) => write!(f, "created {} -> {}", time(p.before), time(p.after)),
            Self::LastWriteTime(p) => write!(f, "written {} -> {}", time(p.before), time(p.after)),
            Self::ChangeTime(p) => write!(f, "changed {} -> {}", time(p.before), time(p.after)),
            Self::LastAccessTime(p) => {
                write!(f, "accessed {} -> {}", time(p.before), time(p.after))
            }
            Self::Security => f.write_str("security descriptor"),
            Self::Eas => f.write_str("extended attributes"),
            Self::Reparse => f.write_str("reparse data"),
            Self::Size(p) => write!(f, "size {} -> {}", p.before, p.after),
            Self::Data { offset } => write!(f, "data from byte {offset}"),
            Self::Stream { name, kind } => {
                let kind = match kind {
                    ChangeKind::Added => "added",
                    ChangeKind::Removed => "removed",
                    ChangeKind::Modified => "modified",
                };
                write!(f, "stream {name} {kind}")
            }
            Self::HardLink(p) => {
                let link = |path: &Option<ImagePath>| match path {
                    Some(path) => path.to_string(),
                    None => "none".into(),
                };
                write!(f, "hard link to {} -> {}", link(&p.before), link(&p.after))
            }
        }
    }
}

/// Compares two images: names, flags, times, security descriptors, EAs, reparse buffers, data, alternate streams
/// and hard links. How an image stores things (numbers of files, offsets, sharing) is no difference.
///
/// Names are paired as Windows does it, without regard to case. An added or removed directory is followed by
/// everything in it. The result is in the order of a walk.
///
/// What both images have at the same place of the same region file is equal without being looked at: of a
/// directory that a fork shares with its parent, only the numbers of what is in it are read, to find the
/// directories below. Files that are the same are recognised by [`ReadAt::identity`].
///
/// # Errors
/// The first thing that cannot be read in either image, with its path:
/// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt), [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported),
/// [`ErrorKind::Io`](crate::ErrorKind::Io).
pub fn compare<A: ReadAt, B: ReadAt>(a: &Image<A>, b: &Image<B>) -> Result<Vec<Change>> {
    let mut comparison = Comparison {
        a,
        b,
        upcase: b.upcase()?,
        shared: Shared::new(a, b),
        sides: [Side::new(a), Side::new(b)],
        stack: Vec::new(),
        changes: Vec::new(),
    };
    let root = |id| Some((Name::default(), id));
    comparison.object(&Trail::root(), root(a.root()), root(b.root()))?;
    comparison.run()?;
    Ok(comparison.changes)
}

/// What has been seen of one image.
struct Side {
    /// Files that several names lead to.
    linked: HashSet<FileId>,
    /// The first path of each of these.
    first_paths: HashMap<FileId, Trail>,
    directories: HashSet<FileId>,
    /// Bytes that directories may still have.
    left: u64,
}

impl Side {
    fn new<R: ReadAt>(image: &Image<R>) -> Self {
        Self {
            linked: links::linked(image),
            first_paths: HashMap::new(),
            directories: HashSet::new(),
            left: links::directories_limit(image),
        }
    }

    /// The path that this file was first seen under, if that is another one.
    fn link(&mut self, file: &FileView, trail: &Trail) -> Option<ImagePath> {
        if !self.linked.contains(&file.id) || file.is_dir() {
            return None;
        }
        match self.first_paths.get(&file.id) {
            Some(first) => Some(first.path()),
            None => {
                self.first_paths.insert(file.id, trail.clone());
                None
            }
        }
    }

    fn enter(&mut self, directory: &FileView) -> Result<()> {
        if !self.directories.insert(directory.id) {
            let what = format!("directory {} has a second name", directory.id);
            return Err(Error::corrupt(directory.position, what));
        }
        self.left = self.left.checked_sub(directory.size()).ok_or_else(|| {
            Error::corrupt(directory.position, "the directories are together larger than the image")
        })?;
        Ok(())
    }
}

/// A name, and which file it is.
type Link = (Name, FileId);

/// What is still to be compared of a directory.
enum Level {
    /// A table that both images have.
    Same { trail: Trail, table: LinkTable<U32>, next: u32 },
    /// Names of either image or both, in reverse order.
    Paired { trail: Trail, links: Vec<(Option<Link>, Option<Link>)> },
}

struct Comparison<'a, A, B> {
    a: &'a Image<A>,
    b: &'a Image<B>,
    upcase: &'a Upcase,
    shared: Shared,
    sides: [Side; 2],
    stack: Vec<Level>,
    changes: Vec<Change>,
}

impl<A: ReadAt, B: ReadAt> Comparison<'_, A, B> {
    fn run(&mut self) -> Result<()> {
        while let Some(level) = self.stack.last_mut() {
            match level {
                Level::Same { trail, table, next } if *next < table.count() => {
                    let index = *next;
                    *next += 1;
                    let within = |error: Error| error.within(trail.clone());
                    let regions = self.a.regions();
                    let id = FileId(table.value(regions, index).map_err(within)?.get());
                    if self.is_same_file(id) {
                        continue;
                    }
                    let Some(Level::Same { trail, table, .. }) = self.stack.last() else {
                        continue;
                    };
                    let within = |error: Error| error.within(trail.clone());
                    let name = table.name(self.a.regions(), index).map_err(within)?;
                    let trail = trail.child(name.clone());
                    self.object(&trail, Some((name.clone(), id)), Some((name, id)))?;
                }
                Level::Same { .. } => drop(self.stack.pop()),
                Level::Paired { trail, links } => {
                    let Some((before, after)) = links.pop() else {
                        self.stack.pop();
                        continue;
                    };
                    let Some((name, _)) = after.as_ref().or(before.as_ref()) else { continue };
                    let trail = trail.child(name.clone());
                    self.object(&trail, before, after)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a number stands for the same file in both images, and one that has a single name and no names in it.
    fn is_same_file(&mut self, id: FileId) -> bool {
        self.shared.is_same_entry(self.a, self.b, id)
            && self.sides.iter().all(|side| !side.linked.contains(&id))
            && self.a.file(id).is_ok_and(|file| !file.is_dir())
    }

    fn object(&mut self, trail: &Trail, before: Option<Link>, after: Option<Link>) -> Result<()> {
        self.views(trail, before, after).map_err(|error| error.within(trail))
    }

    fn views(&mut self, trail: &Trail, before: Option<Link>, after: Option<Link>) -> Result<()> {
        let left = before.as_ref().map(|(_, id)| self.a.file(*id)).transpose()?;
        let right = after.as_ref().map(|(_, id)| self.b.file(*id)).transpose()?;
        let links = Pair {
            before: left.as_ref().and_then(|file| self.sides[0].link(file, trail)),
            after: right.as_ref().and_then(|file| self.sides[1].link(file, trail)),
        };
        let mut differences = Vec::new();
        let (kind, shown) = match (&left, &right) {
            (Some(left), Some(right)) => {
                let names = before.zip(after).map(|((x, _), (y, _))| Pair { before: x, after: y });
                let names = names.and_then(Pair::differs).map(Difference::Name);
                let content = self.differences(left, right)?;
                let links = links.differs().map(Difference::HardLink);
                differences = names.into_iter().chain(content).chain(links).collect();
                (ChangeKind::Modified, right)
            }
            (None, Some(right)) => (ChangeKind::Added, right),
            (Some(left), None) => (ChangeKind::Removed, left),
            (None, None) => return Ok(()),
        };
        if kind != ChangeKind::Modified || !differences.is_empty() {
            self.changes.push(Change {
                path: trail.path(),
                kind,
                is_dir: shown.is_dir(),
                before: left.as_ref().map(|file| file.id),
                after: right.as_ref().map(|file| file.id),
                differences,
            });
        }
        self.enter(trail, left.filter(FileView::is_dir), right.filter(FileView::is_dir))
    }

    /// Everything that is different but names.
    fn differences(&self, left: &FileView, right: &FileView) -> Result<Vec<Difference>> {
        if self.shared.is_same_place(left, right) {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let of = |get: fn(&FileView) -> FileTime| {
            Pair { before: get(left), after: get(right) }.differs()
        };
        let kinds = Pair { before: left.is_dir(), after: right.is_dir() };
        found.extend(kinds.differs().map(Difference::Directory));
        let flags = Pair { before: left.flags(), after: right.flags() };
        found.extend(flags.differs().map(Difference::Flags));
        found.extend(of(FileView::creation_time).map(Difference::CreationTime));
        found.extend(of(FileView::last_write_time).map(Difference::LastWriteTime));
        found.extend(of(FileView::change_time).map(Difference::ChangeTime));
        found.extend(of(FileView::last_access_time).map(Difference::LastAccessTime));
        self.blobs(left, right, &mut found)?;
        if !left.is_dir() && !right.is_dir() {
            found.extend(self.data(left.data(), right.data())?);
        }
        self.streams(left, right, &mut found)?;
        Ok(found)
    }

    /// Goes on in directories.
    fn enter(
        &mut self,
        trail: &Trail,
        left: Option<FileView>,
        right: Option<FileView>,
    ) -> Result<()> {
        for (side, directory) in self.sides.iter_mut().zip([&left, &right]) {
            if let Some(directory) = directory {
                side.enter(directory)?;
                if trail.length() > PATH_MAX {
                    let what = format!("a path of more than {PATH_MAX} code units");
                    return Err(Error::corrupt(directory.position, what));
                }
            }
        }
        if let Some((left, right)) = left.as_ref().zip(right.as_ref()) {
            let (before, after) = (left.entry.default_stream, right.entry.default_stream);
            if before.size_and_kind == after.size_and_kind
                && before.length() > 0
                && self.shared.is_same_offset(before.offset, after.offset)
            {
                if let Some(table) = self.a.directory_table(left)? {
                    self.stack.push(Level::Same { trail: trail.clone(), table, next: 0 });
                }
                return Ok(());
            }
        }
        let before = left.map(|file| links_of(self.a, &file)).transpose()?.unwrap_or_default();
        let after = right.map(|file| links_of(self.b, &file)).transpose()?.unwrap_or_default();
        let links = pair(self.upcase, before, after);
        if !links.is_empty() {
            self.stack.push(Level::Paired { trail: trail.clone(), links });
        }
        Ok(())
    }
}

fn links_of<R: ReadAt>(image: &Image<R>, directory: &FileView) -> Result<Vec<Link>> {
    image.entries(directory)?.map(|entry| entry.map(|entry| (entry.name, entry.id))).collect()
}

/// Pairs the names of a directory, in reverse order. Of names that differ only in case, which sound images do not
/// have, those go together that are exactly the same.
fn pair(upcase: &Upcase, before: Vec<Link>, after: Vec<Link>) -> Vec<(Option<Link>, Option<Link>)> {
    let mut folded: BTreeMap<Box<[u16]>, [Vec<Link>; 2]> = BTreeMap::new();
    for (side, links) in [before, after].into_iter().enumerate() {
        for link in links {
            folded.entry(upcase.fold_units(link.0.units())).or_default()[side].push(link);
        }
    }
    let mut pairs = Vec::new();
    for [before, mut after] in folded.into_values() {
        let alone = before.len() == 1 && after.len() == 1;
        for link in before {
            let same = after.iter().position(|other| alone || other.0 == link.0);
            pairs.push((Some(link), same.map(|index| after.remove(index))));
        }
        pairs.extend(after.into_iter().map(|link| (None, Some(link))));
    }
    pairs.reverse();
    pairs
}
