//! Layer images back to layer tars.
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
use std::io::{self, Write};

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
                self.items.insert(whiteout_path(&path), Item::Mark);
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

        let mut tar = Writer::new(Measuring::new(output));
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

/// The entry that says that a path is gone.
pub(crate) fn whiteout_path(path: &[u8]) -> Vec<u8> {
    let start = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let (parent, name) = path.split_at(start);
    [parent, overlay::WHITEOUT_PREFIX, name].concat()
}

pub(crate) fn joined(path: &[u8], name: &[u8]) -> Result<Vec<u8>> {
    let path = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
    if path.len() > PATH_MAX {
        return Err(Error::new(ErrorKind::TooLarge, format!("a path of over {PATH_MAX} bytes")));
    }
    Ok(path)
}

/// A tar cannot tell a file of such a name from a whiteout.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.starts_with(overlay::WHITEOUT_PREFIX) {
        return Err(Error::invalid("names that begin with \".wh.\" mean whiteouts in a layer tar"));
    }
    Ok(())
}

/// An empty file with time 0, as whiteouts have in an image.
pub(crate) fn mark(path: &[u8]) -> Entry {
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

/// Hashes and counts what it passes on.
#[derive(Debug)]
pub(crate) struct Measuring<W> {
    output: W,
    pub(crate) digester: Digester,
    pub(crate) size: u64,
}

impl<W: Write> Measuring<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output, digester: Digester::default(), size: 0 }
    }
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
