//! What differs between two images, path by path.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use crate::format::FileType;
use crate::trail::Trail;
use crate::{
    DeviceNumber, Error, ErrorKind, Escaped, Extent, ExtentSource, Image, InodeView, Nid, ReadAt,
    Result, Timestamp, Xattr,
};

/// Bytes compared at a time.
const PIECE: usize = 128 * 1024;

/// Whether a path came, went or stayed.
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
    /// The path, beginning with `/`.
    pub path: Vec<u8>,
    /// Added, removed or modified.
    pub kind: ChangeKind,
    /// What it is in the second image, or in the first where it was removed.
    pub file_type: FileType,
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

/// One thing that differs between two objects of the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// What it is. Size, data, target and device number are then not compared.
    Type(Pair<FileType>),
    /// `mode & 0o7777`.
    Permissions(Pair<u16>),
    /// Owner and group.
    Owner(Pair<(u32, u32)>),
    /// Modification time.
    ModificationTime(Pair<Timestamp>),
    /// Length of a regular file in bytes. Its bytes are then not compared.
    Size(Pair<u64>),
    /// The bytes of a regular file of the same length.
    Data {
        /// Offset of the first byte that differs.
        offset: u64,
    },
    /// Target of a symbolic link.
    Target(Pair<Vec<u8>>),
    /// Device number.
    DeviceNumber(Pair<DeviceNumber>),
    /// An xattr that came, went or changed.
    Xattr {
        /// Full name.
        name: Box<[u8]>,
        /// Value in the first image.
        before: Option<Box<[u8]>>,
        /// Value in the second image.
        after: Option<Box<[u8]>>,
    },
    /// The first path (in order) that names the same inode; `None` where this path is the first.
    HardLink(Pair<Option<Vec<u8>>>),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<Box<[u8]>>| match value {
            Some(value) => format!("\"{}\"", Escaped(value)),
            None => "none".to_owned(),
        };
        let link = |path: &Option<Vec<u8>>| match path {
            Some(path) => Escaped(path).to_string(),
            None => "none".to_owned(),
        };
        match self {
            Self::Type(p) => write!(f, "type {:?} -> {:?}", p.before, p.after),
            Self::Permissions(p) => write!(f, "permissions {:04o} -> {:04o}", p.before, p.after),
            Self::Owner(p) => {
                write!(f, "owner {}:{} -> {}:{}", p.before.0, p.before.1, p.after.0, p.after.1)
            }
            Self::ModificationTime(p) => {
                write!(f, "mtime {} -> {}", p.before, p.after)
            }
            Self::Size(p) => write!(f, "size {} -> {}", p.before, p.after),
            Self::Data { offset } => write!(f, "data from byte {offset}"),
            Self::Target(p) => write!(f, "target {} -> {}", Escaped(&p.before), Escaped(&p.after)),
            Self::DeviceNumber(p) => write!(
                f,
                "device {}:{} -> {}:{}",
                p.before.major, p.before.minor, p.after.major, p.after.minor
            ),
            Self::Xattr { name, before, after } => {
                write!(f, "xattr {} {} -> {}", Escaped(name), value(before), value(after))
            }
            Self::HardLink(p) => {
                write!(f, "hard link to {} -> {}", link(&p.before), link(&p.after))
            }
        }
    }
}

/// Compares two images: names, types, permissions, owners, times, sizes, data, targets, device numbers,
/// xattrs and hard links. How an image stores things (inode numbers, layouts, sharing) is no difference.
///
/// Bytes are read only where sizes are equal, and not where both have a hole. An added or removed directory
/// is followed by everything in it. The result is ordered by path, name by name.
///
/// # Errors
/// The first thing that cannot be read in either image, with its path; compressed data is
/// [`ErrorKind::Unsupported`].
pub fn diff<A: ReadAt, B: ReadAt>(a: &Image<A>, b: &Image<B>) -> Result<Vec<Change>> {
    let mut differ = Differ {
        a,
        b,
        sides: [Side::new(a.total_length()), Side::new(b.total_length())],
        compared: HashMap::new(),
        changes: Vec::new(),
    };
    let trail = Trail::root();
    let roots = (Some(a.inode(a.root())?), Some(b.inode(b.root())?));
    let mut stack = Vec::new();
    differ.object(roots, &trail, &mut stack).map_err(|e| e.within(&trail))?;
    while let Some(level) = stack.last_mut() {
        let Some((name, (before, after))) = level.entries.pop_first() else {
            stack.pop();
            continue;
        };
        let trail = level.trail.child(&name);
        let mut one = || {
            let views = (
                before.map(|nid| a.inode(nid)).transpose()?,
                after.map(|nid| b.inode(nid)).transpose()?,
            );
            differ.object(views, &trail, &mut stack)
        };
        one().map_err(|e| e.within(&trail))?;
    }
    Ok(differ.changes)
}

/// What has been seen of one image.
struct Side {
    directories: HashSet<Nid>,
    /// The first path of everything that is not a directory.
    first_paths: HashMap<Nid, Trail>,
    /// Bytes that directories may still have.
    left: u64,
}

impl Side {
    fn new(length: u64) -> Self {
        Self { directories: HashSet::new(), first_paths: HashMap::new(), left: length }
    }

    /// The names of a directory, or none of anything else.
    fn names<R: ReadAt>(
        &mut self,
        image: &Image<R>,
        view: Option<&InodeView>,
    ) -> Result<Vec<(Box<[u8]>, Nid)>> {
        let Some(view) = view.filter(|view| view.is_dir()) else { return Ok(Vec::new()) };
        if !self.directories.insert(view.nid) {
            let what = format!("directory {} has two names", view.nid);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        self.left = self.left.checked_sub(view.size).ok_or_else(|| {
            Error::corrupt(view.position, "directories are larger than the image")
        })?;
        let entries = image.read_dir(view)?;
        Ok(entries.into_iter().map(|entry| (entry.name, entry.nid)).collect())
    }

    /// The path that this inode was first seen under, if that is another one.
    fn link(&mut self, view: &InodeView, trail: &Trail) -> Option<Vec<u8>> {
        if view.is_dir() {
            return None;
        }
        match self.first_paths.get(&view.nid) {
            Some(first) => Some(first.path()),
            None => {
                self.first_paths.insert(view.nid, trail.clone());
                None
            }
        }
    }
}

/// Names with their inodes in the first and the second image.
type Names = BTreeMap<Box<[u8]>, (Option<Nid>, Option<Nid>)>;

/// Names of a directory that are still to be compared.
struct Level {
    entries: Names,
    trail: Trail,
}

struct Differ<'a, A, B> {
    a: &'a Image<A>,
    b: &'a Image<B>,
    sides: [Side; 2],
    /// Results for pairs of files that several names lead to.
    compared: HashMap<(Nid, Nid), Option<u64>>,
    changes: Vec<Change>,
}

impl<A: ReadAt, B: ReadAt> Differ<'_, A, B> {
    fn object(
        &mut self,
        views: (Option<InodeView>, Option<InodeView>),
        trail: &Trail,
        stack: &mut Vec<Level>,
    ) -> Result<()> {
        let links = [
            views.0.as_ref().and_then(|view| self.sides[0].link(view, trail)),
            views.1.as_ref().and_then(|view| self.sides[1].link(view, trail)),
        ];
        let (kind, file_type, differences) = match &views {
            (Some(before), Some(after)) => {
                let differences = self.compare(before, after, links)?;
                (ChangeKind::Modified, after.file_type, differences)
            }
            (None, Some(after)) => (ChangeKind::Added, after.file_type, Vec::new()),
            (Some(before), None) => (ChangeKind::Removed, before.file_type, Vec::new()),
            (None, None) => return Ok(()),
        };
        if kind != ChangeKind::Modified || !differences.is_empty() {
            self.changes.push(Change { path: trail.path(), kind, file_type, differences });
        }

        let mut entries = Names::new();
        for (name, nid) in self.sides[0].names(self.a, views.0.as_ref())? {
            entries.entry(name).or_default().0 = Some(nid);
        }
        for (name, nid) in self.sides[1].names(self.b, views.1.as_ref())? {
            entries.entry(name).or_default().1 = Some(nid);
        }
        if !entries.is_empty() {
            stack.push(Level { entries, trail: trail.clone() });
        }
        Ok(())
    }

    fn compare(
        &mut self,
        before: &InodeView,
        after: &InodeView,
        links: [Option<Vec<u8>>; 2],
    ) -> Result<Vec<Difference>> {
        let mut found = Vec::new();
        if before.permissions != after.permissions {
            let pair = Pair { before: before.permissions, after: after.permissions };
            found.push(Difference::Permissions(pair));
        }
        if (before.uid, before.gid) != (after.uid, after.gid) {
            let pair = Pair { before: (before.uid, before.gid), after: (after.uid, after.gid) };
            found.push(Difference::Owner(pair));
        }
        if before.mtime != after.mtime {
            let pair = Pair { before: before.mtime, after: after.mtime };
            found.push(Difference::ModificationTime(pair));
        }
        if before.file_type != after.file_type {
            let pair = Pair { before: before.file_type, after: after.file_type };
            found.insert(0, Difference::Type(pair));
        } else {
            self.compare_content(before, after, &mut found)?;
        }
        compare_xattrs(&self.a.xattrs(before)?, &self.b.xattrs(after)?, &mut found);
        let [before, after] = links;
        if before != after {
            found.push(Difference::HardLink(Pair { before, after }));
        }
        Ok(found)
    }

    fn compare_content(
        &mut self,
        before: &InodeView,
        after: &InodeView,
        found: &mut Vec<Difference>,
    ) -> Result<()> {
        match before.file_type {
            FileType::Regular if before.size != after.size => {
                found.push(Difference::Size(Pair { before: before.size, after: after.size }));
            }
            FileType::Regular => {
                let key = (before.nid, after.nid);
                let offset = match self.compared.get(&key) {
                    Some(offset) => *offset,
                    None => {
                        let offset = first_difference(self.a, before, self.b, after)?;
                        self.compared.insert(key, offset);
                        offset
                    }
                };
                found.extend(offset.map(|offset| Difference::Data { offset }));
            }
            FileType::Symlink => {
                let pair =
                    Pair { before: self.a.read_link(before)?, after: self.b.read_link(after)? };
                if pair.before != pair.after {
                    found.push(Difference::Target(pair));
                }
            }
            FileType::CharDevice | FileType::BlockDevice => {
                let pair = Pair { before: before.device_number, after: after.device_number };
                if pair.before != pair.after {
                    found.push(Difference::DeviceNumber(pair));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn compare_xattrs(before: &[Xattr], after: &[Xattr], found: &mut Vec<Difference>) {
    let mut names: BTreeMap<&[u8], (Option<&Xattr>, Option<&Xattr>)> = BTreeMap::new();
    for xattr in before {
        names.entry(&xattr.name).or_default().0 = Some(xattr);
    }
    for xattr in after {
        names.entry(&xattr.name).or_default().1 = Some(xattr);
    }
    for (name, (before, after)) in names {
        if before != after {
            found.push(Difference::Xattr {
                name: name.into(),
                before: before.map(|xattr| (*xattr.value).into()),
                after: after.map(|xattr| (*xattr.value).into()),
            });
        }
    }
}

/// Offset of the first byte that differs between two files of one size.
fn first_difference<A: ReadAt, B: ReadAt>(
    a: &Image<A>,
    before: &InodeView,
    b: &Image<B>,
    after: &InodeView,
) -> Result<Option<u64>> {
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let (mut here, mut there): (Option<Extent>, Option<Extent>) = (None, None);
    let mut offset = 0;
    while offset < before.size {
        if here.is_none_or(|extent| extent.end() <= offset) {
            here = a.extent_at(before, offset, u64::MAX)?;
        }
        if there.is_none_or(|extent| extent.end() <= offset) {
            there = b.extent_at(after, offset, u64::MAX)?;
        }
        let (Some(one), Some(other)) = (here, there) else { break };
        let end = one.end().min(other.end());
        if one.source == ExtentSource::Hole && other.source == ExtentSource::Hole {
            offset = end;
            continue;
        }
        let length = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
        let (left, right) = (&mut left[..length], &mut right[..length]);
        a.read_at(before, left, offset)?;
        b.read_at(after, right, offset)?;
        if left != right {
            let same = left.iter().zip(right.iter()).take_while(|(x, y)| x == y).count();
            return Ok(Some(offset + same as u64));
        }
        offset += length as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{image_of, sample, tree_of};
    use crate::{BlockSize, Content, FileData, Tree, WriterOptions};

    fn open(tree: &Tree) -> Image<Vec<u8>> {
        Image::open(image_of(tree, 1)).unwrap()
    }

    fn lines(a: &Tree, b: &Tree) -> Vec<String> {
        let show = |change: &Change| {
            let path = String::from_utf8_lossy(&change.path).into_owned();
            let details: Vec<_> = change.differences.iter().map(ToString::to_string).collect();
            format!("{:?} {path} {:?}: {}", change.kind, change.file_type, details.join("; "))
        };
        diff(&open(a), &open(b)).unwrap().iter().map(show).collect()
    }

    fn file(bytes: &[u8]) -> Content {
        Content::Regular(FileData::Bytes(bytes.into()))
    }

    #[test]
    fn how_an_image_stores_things_is_no_difference() {
        let options = |block_size| WriterOptions { block_size, ..WriterOptions::default() };
        let [small, large] = [BlockSize::B512, BlockSize::B4096]
            .map(|size| Image::open(sample(options(size)).1).unwrap());
        assert_eq!(diff(&small, &large).unwrap(), []);
    }

    #[test]
    fn every_difference_is_told() {
        let a = tree_of(&[
            ("big", file(&[1; 300_000]), &[]),
            ("dev", Content::CharDevice(DeviceNumber { major: 1, minor: 3 }), &[]),
            ("gone/deep/file", file(b"x"), &[]),
            ("kind", file(b"x"), &[]),
            ("link", Content::Symlink((*b"old").into()), &[]),
            ("same", file(b"x"), &[("user.same", "1")]),
            ("size", file(b"x"), &[("user.changed", "1"), ("user.gone", "1")]),
        ]);
        let mut bytes = [1; 300_000];
        bytes[299_999] = 2;
        let mut b = tree_of(&[
            ("big", file(&bytes), &[]),
            ("dev", Content::CharDevice(DeviceNumber { major: 1, minor: 5 }), &[]),
            ("kind/inside", file(b"x"), &[]),
            ("link", Content::Symlink((*b"new").into()), &[]),
            ("same", file(b"x"), &[("user.same", "1")]),
            ("size", file(b"xy"), &[("user.changed", "2"), ("user.new", "1")]),
        ]);
        let id = b.lookup([&b"same"[..]]).unwrap();
        b[Tree::ROOT].entries_mut().unwrap().insert((*b"zzz").into(), id);
        let id = b.lookup([&b"dev"[..]]).unwrap();
        b[id].uid = 7;
        b[id].mtime = Timestamp { seconds: -1, nanoseconds: 5 };
        assert_eq!(
            lines(&a, &b),
            [
                "Modified /big Regular: data from byte 299999",
                "Modified /dev CharDevice: owner 0:0 -> 7:0; mtime 0.000000000 -> -0.999999995; \
                 device 1:3 -> 1:5",
                "Removed /gone Directory: ",
                "Removed /gone/deep Directory: ",
                "Removed /gone/deep/file Regular: ",
                "Modified /kind Directory: type Regular -> Directory; permissions 0644 -> 0755",
                "Added /kind/inside Regular: ",
                "Modified /link Symlink: target old -> new",
                "Modified /size Regular: size 1 -> 2; xattr user.changed \"1\" -> \"2\"; \
                 xattr user.gone \"1\" -> none; xattr user.new none -> \"1\"",
                "Added /zzz Regular: ",
            ]
        );
        assert_eq!(lines(&a, &a), Vec::<String>::new());
    }

    #[test]
    fn a_hard_link_is_not_a_copy() {
        let copies = tree_of(&[("a", file(b"x"), &[]), ("b", file(b"x"), &[])]);
        let mut links = tree_of(&[("a", file(b"x"), &[])]);
        let id = links.lookup([&b"a"[..]]).unwrap();
        links[Tree::ROOT].entries_mut().unwrap().insert((*b"b").into(), id);
        assert_eq!(lines(&copies, &links), ["Modified /b Regular: hard link to none -> /a"]);
        assert_eq!(lines(&links, &copies), ["Modified /b Regular: hard link to /a -> none"]);
    }
}
