//! Layer images back to layer tars: a whole image, or what makes one tree of another.
//!
//! Entries come in three groups: first everything but large files, in the order of the paths (so that
//! directories come before what is in them); then files of a block and more, in the order in which the image
//! holds them; then hard links, as links to the first name in path order. A tar made of a layer image gives
//! the same image again, but for the UUID, which is that of the tar's own digest, for data blocks that the
//! image had but no file used (a layer that holds a file twice), and for the order of small files where there
//! are more than the writer keeps inline. What is written back is stable at once: image to tar to image to tar
//! gives the same tar.
//!
//! ustar headers, PAX records only where those do not suffice. Files with holes are written in GNU's sparse
//! version 1.0, which GNU tar, Go, libarchive and this crate read. Sockets are left out: tar has no way to say
//! them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Write};

use erofs::format::FileType;
use erofs::{ExtentSource, Image, InodeView, Nid, ReadAt};

use crate::digest::{Digest, Digester};
use crate::error::{Error, ErrorKind, Result};
use crate::overlay;
use crate::parents::{data_segments, is_whiteout};
use crate::path::PATH_MAX;
use crate::progress::Cancel;
use crate::tar::{Entry, EntryKind, Writer};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerTar {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Length of the tar in bytes.
    pub size: u64,
    /// Number of entries.
    pub entries: u64,
    /// Sockets that were left out.
    pub sockets: u64,
}

/// Writes a layer image as the layer's tar: whiteouts and opaque directories in OCI's form, escaped xattrs of
/// overlayfs in their own.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for a damaged image, [`ErrorKind::Invalid`] for a name that begins with `.wh.`, which a
/// tar would turn into a whiteout, [`ErrorKind::TooLarge`] for paths over 4,095 bytes, [`ErrorKind::Cancelled`],
/// [`ErrorKind::NoSpace`], [`ErrorKind::Io`].
pub fn write_layer_tar<R: ReadAt>(
    image: &Image<R>,
    output: impl Write,
    cancel: &Cancel,
) -> Result<LayerTar> {
    let mut plan = Plan::new(image, cancel);
    let root = image.inode(image.root()).map_err(reading)?;
    plan.tree(Vec::new(), root)?;
    plan.write(output)
}

/// Writes the layer tar that makes `upper` of `lower`: what is new or changed, and whiteouts for what is gone.
/// Both are whole trees as a container sees them (merged images, or single layers without whiteouts); without
/// `lower` everything is new. Files are compared byte by byte unless their metadata differ already. If one name
/// of a file with several is in the tar, all are, so that they stay one file.
///
/// # Errors
/// As [`write_layer_tar`].
pub fn diff_tar<L: ReadAt, U: ReadAt>(
    lower: Option<&Image<L>>,
    upper: &Image<U>,
    output: impl Write,
    cancel: &Cancel,
) -> Result<LayerTar> {
    let mut plan = Plan::new(upper, cancel);
    let root = upper.inode(upper.root()).map_err(reading)?;
    match lower {
        None => plan.tree(Vec::new(), root)?,
        Some(lower) => {
            let below = lower.inode(lower.root()).map_err(reading)?;
            plan.changes(lower, below, root.clone())?;
            plan.complete_links(root)?;
            plan.complete_parents()?;
        }
    }
    plan.write(output)
}

fn reading(error: erofs::Error) -> Error {
    Error::erofs("cannot read the image", error)
}

/// What goes into a tar, before the order is known.
struct Plan<'i, R> {
    image: &'i Image<R>,
    cancel: &'i Cancel,
    items: BTreeMap<Vec<u8>, Item>,
    entered: HashSet<Nid>,
    sockets: u64,
}

enum Item {
    Inode(InodeView),
    /// `.wh.` and `.wh..wh..opq`: the path says which.
    Mark,
}

impl<'i, R: ReadAt> Plan<'i, R> {
    fn new(image: &'i Image<R>, cancel: &'i Cancel) -> Self {
        Self { image, cancel, items: BTreeMap::new(), entered: HashSet::new(), sockets: 0 }
    }

    /// Plans an inode and all below it.
    fn tree(&mut self, path: Vec<u8>, inode: InodeView) -> Result<()> {
        let mut open = vec![(path, inode)];
        while let Some((path, inode)) = open.pop() {
            self.cancel.check()?;
            if is_whiteout(&inode) {
                self.whiteout(&path);
                continue;
            }
            if inode.is_dir() {
                self.enter(&path, &inode)?;
                let xattrs = self.image.xattrs(&inode).map_err(reading)?;
                let is_opaque = |x: &erofs::Xattr| &*x.name == overlay::OPAQUE && &*x.value == b"y";
                if xattrs.iter().any(is_opaque) {
                    self.items.insert(joined(&path, overlay::OPAQUE_NAME)?, Item::Mark);
                }
                for entry in self.image.read_dir(&inode).map_err(reading)? {
                    let child = self.image.inode(entry.nid).map_err(reading)?;
                    let path = joined(&path, &entry.name)?;
                    check_name(&entry.name).map_err(|error| error.path(&path))?;
                    open.push((path, child));
                }
            }
            self.items.insert(path, Item::Inode(inode));
        }
        Ok(())
    }

    /// A directory has one place; a second one would be a loop in a damaged image.
    fn enter(&mut self, path: &[u8], dir: &InodeView) -> Result<()> {
        if self.entered.insert(dir.nid) {
            return Ok(());
        }
        Err(Error::corrupt("a directory of the image has two names").path(path))
    }

    fn whiteout(&mut self, path: &[u8]) {
        let start = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = path.split_at(start);
        self.items.insert([parent, overlay::WHITEOUT_PREFIX, name].concat(), Item::Mark);
    }

    /// Plans what is different in the directories that both trees have.
    fn changes<L: ReadAt>(
        &mut self,
        lower: &Image<L>,
        lower_root: InodeView,
        root: InodeView,
    ) -> Result<()> {
        let mut open = vec![(Vec::new(), lower_root, root)];
        while let Some((path, lower_dir, dir)) = open.pop() {
            self.enter(&path, &dir)?;
            if !self.same_metadata(lower, &lower_dir, &dir)? {
                self.items.insert(path.clone(), Item::Inode(dir.clone()));
            }
            let mut gone: BTreeMap<Box<[u8]>, Nid> = BTreeMap::new();
            for entry in lower.read_dir(&lower_dir).map_err(reading)? {
                gone.insert(entry.name, entry.nid);
            }
            for entry in self.image.read_dir(&dir).map_err(reading)? {
                self.cancel.check()?;
                let new = self.image.inode(entry.nid).map_err(reading)?;
                let path = joined(&path, &entry.name)?;
                check_name(&entry.name).map_err(|error| error.path(&path))?;
                let old = gone.remove(&entry.name).map(|nid| lower.inode(nid));
                match old.transpose().map_err(reading)? {
                    Some(old) if old.is_dir() && new.is_dir() => open.push((path, old, new)),
                    Some(old) if self.same(lower, &old, &new)? => {}
                    _ => self.tree(path, new)?,
                }
            }
            for name in gone.into_keys() {
                self.whiteout(&joined(&path, &name)?);
            }
        }
        Ok(())
    }

    fn same_metadata<L: ReadAt>(
        &self,
        lower: &Image<L>,
        old: &InodeView,
        new: &InodeView,
    ) -> Result<bool> {
        let key = |inode: &InodeView| {
            (inode.file_type as u8, inode.permissions, inode.uid, inode.gid, inode.mtime)
        };
        if key(old) != key(new) {
            return Ok(false);
        }
        let old = lower.xattrs(old).map_err(reading)?;
        let new = self.image.xattrs(new).map_err(reading)?;
        Ok(overlay::exported_xattrs(&old) == overlay::exported_xattrs(&new))
    }

    /// Whether two things that are no directories are the same.
    fn same<L: ReadAt>(&self, lower: &Image<L>, old: &InodeView, new: &InodeView) -> Result<bool> {
        if (old.device_number, old.nlink) != (new.device_number, new.nlink)
            || !self.same_metadata(lower, old, new)?
        {
            return Ok(false);
        }
        match new.file_type {
            FileType::Symlink => {
                let old = lower.read_link(old).map_err(reading)?;
                Ok(old == self.image.read_link(new).map_err(reading)?)
            }
            FileType::Regular if old.size == new.size => {
                let comparing = |error| Error::io("cannot compare two files", error);
                same_bytes(&mut lower.reader(old), &mut self.image.reader(new)).map_err(comparing)
            }
            FileType::Regular => Ok(false),
            _ => Ok(true),
        }
    }

    /// Plans the other names of files of which one name is planned.
    fn complete_links(&mut self, root: InodeView) -> Result<()> {
        let planned: HashSet<Nid> = self
            .items
            .values()
            .filter_map(|item| match item {
                Item::Inode(inode) if !inode.is_dir() && inode.nlink > 1 => Some(inode.nid),
                _ => None,
            })
            .collect();
        if planned.is_empty() {
            return Ok(());
        }
        // `changes` and `tree` have entered every directory once, so this walk ends.
        let mut open = vec![(Vec::new(), root)];
        while let Some((path, dir)) = open.pop() {
            for entry in self.image.read_dir(&dir).map_err(reading)? {
                let inode = self.image.inode(entry.nid).map_err(reading)?;
                let path = joined(&path, &entry.name)?;
                if inode.is_dir() {
                    open.push((path, inode));
                } else if planned.contains(&inode.nid) {
                    self.items.entry(path).or_insert(Item::Inode(inode));
                }
            }
        }
        Ok(())
    }

    /// Plans the directories on the way to everything planned: a layer says what they are like.
    fn complete_parents(&mut self) -> Result<()> {
        let mut missing: BTreeMap<Vec<u8>, Item> = BTreeMap::new();
        for path in self.items.keys() {
            let mut path = path.as_slice();
            while !path.is_empty() {
                let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                path = &path[..end];
                if self.items.contains_key(path) || missing.contains_key(path) {
                    break;
                }
                let dir = self.image.resolve(path, false).map_err(reading)?;
                missing.insert(path.to_vec(), Item::Inode(dir));
            }
        }
        self.items.append(&mut missing);
        Ok(())
    }

    /// Writes the planned entries in the order that the module describes.
    fn write(mut self, output: impl Write) -> Result<LayerTar> {
        let items = std::mem::take(&mut self.items);
        let mut first_names: HashMap<Nid, &[u8]> = HashMap::new();
        let mut without_blocks = Vec::new();
        let mut with_blocks = Vec::new();
        let mut links = Vec::new();
        for (path, item) in &items {
            match item {
                Item::Inode(inode) if inode.file_type == FileType::Socket => self.sockets += 1,
                Item::Inode(inode) if !inode.is_dir() => {
                    if let Some(&target) = first_names.get(&inode.nid) {
                        links.push((path, inode, target));
                        continue;
                    }
                    first_names.insert(inode.nid, path);
                    match self.first_block(inode)? {
                        None => without_blocks.push((path, item)),
                        Some(position) => with_blocks.push((position, path, inode)),
                    }
                }
                _ => without_blocks.push((path, item)),
            }
        }
        with_blocks.sort_by_key(|&(position, ..)| position);
        let count = without_blocks.len() + with_blocks.len() + links.len();

        let mut tar = Writer::new(Measuring { output, digester: Digester::default(), size: 0 });
        for (path, item) in without_blocks {
            match item {
                Item::Inode(inode) => self.inode(&mut tar, path, inode)?,
                Item::Mark => tar.entry(&mark(path))?,
            }
        }
        for (_, path, inode) in with_blocks {
            self.inode(&mut tar, path, inode)?;
        }
        for (path, inode, target) in links {
            let entry = self.entry(path, inode, EntryKind::HardLink(target.to_vec()))?;
            // The link is the same inode: its xattrs have been said.
            tar.entry(&Entry { xattrs: Vec::new(), ..entry })?;
        }
        let Measuring { digester, size, .. } = tar.finish()?;
        Ok(LayerTar {
            diff_id: digester.finish(),
            size,
            entries: count as u64,
            sockets: self.sockets,
        })
    }

    /// Where a large file's first data block is: device and position. `None` for everything else.
    fn first_block(&self, inode: &InodeView) -> Result<Option<(u16, u64)>> {
        if inode.file_type != FileType::Regular || inode.size < erofs::format::PAGE {
            return Ok(None);
        }
        for extent in self.image.extents(inode) {
            match extent.map_err(reading)?.source {
                ExtentSource::Hole => {}
                ExtentSource::Blocks { device, position } => return Ok(Some((device, position))),
                ExtentSource::Inline { .. } => return Ok(None),
            }
        }
        Ok(None)
    }

    fn entry(&self, path: &[u8], inode: &InodeView, kind: EntryKind) -> Result<Entry> {
        let xattrs = self.image.xattrs(inode).map_err(reading)?;
        let path = match (path, inode.is_dir()) {
            (b"", _) => b"./".to_vec(),
            (path, true) => [path, b"/"].concat(),
            (path, false) => path.to_vec(),
        };
        Ok(Entry {
            path,
            kind,
            permissions: inode.permissions,
            uid: inode.uid.into(),
            gid: inode.gid.into(),
            mtime: inode.mtime,
            xattrs: overlay::exported_xattrs(&xattrs),
            offset: 0,
        })
    }

    fn inode<W: Write>(&self, tar: &mut Writer<W>, path: &[u8], inode: &InodeView) -> Result<()> {
        self.cancel.check()?;
        let (major, minor) =
            (u64::from(inode.device_number.major), u64::from(inode.device_number.minor));
        let mut segments = vec![(0, inode.size)];
        let kind = match inode.file_type {
            FileType::Regular => {
                segments = data_segments(self.image, inode)?;
                let whole = segments == [(0, inode.size)] || inode.size == 0;
                let segments = if whole { None } else { Some(segments.clone()) };
                EntryKind::Regular { size: inode.size, segments }
            }
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink(self.image.read_link(inode).map_err(reading)?),
            FileType::CharDevice => EntryKind::CharDevice { major, minor },
            FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket | FileType::Unknown => return Ok(()),
        };
        tar.entry(&self.entry(path, inode, kind)?)?;
        if inode.file_type != FileType::Regular {
            return Ok(());
        }
        let mut buffer = vec![0; 256 << 10];
        for (mut offset, mut left) in segments {
            while left > 0 {
                self.cancel.check()?;
                let piece = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let read =
                    self.image.read_at(inode, &mut buffer[..piece], offset).map_err(reading)?;
                if read == 0 {
                    return Err(Error::corrupt("a file ends before its length").path(path));
                }
                tar.data(&buffer[..read])?;
                offset += read as u64;
                left -= read as u64;
            }
        }
        Ok(())
    }
}

fn joined(path: &[u8], name: &[u8]) -> Result<Vec<u8>> {
    let path = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
    if path.len() > PATH_MAX {
        return Err(Error::new(ErrorKind::TooLarge, format!("a path of over {PATH_MAX} bytes")));
    }
    Ok(path)
}

/// A tar cannot tell a file of such a name from a whiteout.
fn check_name(name: &[u8]) -> Result<()> {
    if name.starts_with(overlay::WHITEOUT_PREFIX) {
        return Err(Error::invalid("names that begin with \".wh.\" mean whiteouts in a layer tar"));
    }
    Ok(())
}

/// An empty file with time 0, as whiteouts have in an image.
fn mark(path: &[u8]) -> Entry {
    Entry {
        path: path.to_vec(),
        kind: EntryKind::Regular { size: 0, segments: None },
        permissions: 0,
        uid: 0,
        gid: 0,
        mtime: erofs::Timestamp::default(),
        xattrs: Vec::new(),
        offset: 0,
    }
}

fn same_bytes(one: &mut impl Read, other: &mut impl Read) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let length = crate::pipeline::read_full(one, &mut left)?;
        if crate::pipeline::read_full(other, &mut right)? != length
            || left[..length] != right[..length]
        {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
    }
}

/// Hashes and counts what it passes on.
struct Measuring<W> {
    output: W,
    digester: Digester,
    size: u64,
}

impl<W: Write> Write for Measuring<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.output.write(bytes)?;
        self.digester.update(&bytes[..length]);
        self.size += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
