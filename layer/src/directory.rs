//! A directory of this host into a layer image: an overlayfs upper directory, or any tree.
//!
//! | in the directory | in the image |
//! | --- | --- |
//! | character device 0:0 | a whiteout |
//! | `trusted.overlay.opaque` = `y` | kept |
//! | `trusted.overlay.redirect`, `metacopy`, other values of `opaque` | refused: what they stand for is not in the directory |
//! | other `trusted.overlay.*` but the escaped ones | left out: overlayfs's own books (origin, impure, nlink, upper, …) |
//! | names of one inode | hard links |
//! | holes | holes |
//! | sockets | kept |

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use erofs::{
    Content, FileData, ImageWriter, Inode, InodeId, Timestamp, Tree, WriterOptions, Xattr,
};
use sys::directory::{Directory, FileStatus};

use crate::digest::Checksum;
use crate::error::{Error, ErrorKind, Result};
use crate::image_file::ImageFile;
use crate::layer_tree::{count_names, device_number, empty_file, symlink};
use crate::overlay;
use crate::path::PATH_MAX;
use crate::progress::Cancel;

/// What was made of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryImage {
    /// Length of the image in bytes.
    pub image_size: u64,
    /// Checksum of the image.
    pub checksum: Checksum,
    /// UUID of the image: v5 over its content.
    pub uuid: [u8; 16],
    /// Number of names in the tree, the root included.
    pub entries: u64,
}

/// Makes a layer image of a directory. `output` must be empty and is the caller's to `fsync`; after an error it
/// holds rubbish. No symbolic link below `directory` is followed. The same tree gives the same bytes, however
/// its entries lie on the disk. Nobody should write in the directory meanwhile: a file that becomes shorter is
/// an error, other changes are taken or not.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for overlayfs's redirects and metadata-only copies, [`ErrorKind::TooLarge`] and
/// [`ErrorKind::Invalid`] for what an image cannot hold, [`ErrorKind::Cancelled`], [`ErrorKind::NoSpace`],
/// [`ErrorKind::Io`].
pub fn write_directory_image(
    directory: &Path,
    output: &File,
    cancel: &Cancel,
) -> Result<DirectoryImage> {
    let top = Directory::open(directory)
        .map_err(|error| Error::sys("cannot open the directory", error))?;
    let image_file = ImageFile::new(output).with_own_uuid();
    let writer = ImageWriter::new(image_file, WriterOptions::default())
        .map_err(|error| Error::erofs("cannot begin the image", error))?;
    let mut walk = Walk {
        writer,
        tree: Tree::new(),
        linked: HashMap::new(),
        buffer: vec![0; 256 << 10],
        cancel,
    };
    let reading = |error| Error::sys("cannot read the directory", error);
    let status = top.status(b"").map_err(reading)?;
    let root = walk.inode(&top, b"", &status, Content::Directory(Default::default()))?;
    walk.tree[Tree::ROOT] = root;
    walk.below(top)?;

    let entries = count_names(&walk.tree);
    let (image_file, summary) = walk
        .writer
        .finish(&walk.tree, [0; 16])
        .map_err(|error| Error::erofs("cannot write the image", error))?;
    Ok(DirectoryImage {
        image_size: summary.length,
        checksum: image_file.checksum(),
        uuid: image_file.own_uuid().unwrap_or_default(),
        entries,
    })
}

struct Walk<'f> {
    writer: ImageWriter<ImageFile<'f>>,
    tree: Tree,
    /// Inodes with more than one name.
    linked: HashMap<(u64, u64), InodeId>,
    buffer: Vec<u8>,
    cancel: &'f Cancel,
}

/// A directory on the way down: which names are still to come.
struct OpenDirectory {
    directory: Directory,
    id: InodeId,
    /// From the top, without a slash at either end.
    path: Vec<u8>,
    names: std::vec::IntoIter<CString>,
}

impl Walk<'_> {
    /// Takes what is below the top, in the order of the names. Not recursive: who writes in the directory
    /// decides how deep it is.
    fn below(&mut self, top: Directory) -> Result<()> {
        let mut open = vec![self.open(top, Tree::ROOT, Vec::new())?];
        while let Some(dir) = open.last_mut() {
            self.cancel.check()?;
            let Some(name) = dir.names.next() else {
                open.pop();
                continue;
            };
            let path = match dir.path.as_slice() {
                [] => name.to_bytes().to_vec(),
                parent => [parent, b"/", name.to_bytes()].concat(),
            };
            if path.len() > PATH_MAX {
                let message = format!("a path of over {PATH_MAX} bytes");
                return Err(Error::new(ErrorKind::TooLarge, message).path(&path[..64]));
            }
            let below = self.name(dir, name.to_bytes()).map_err(|error| error.path(&path))?;
            if let Some((directory, id)) = below {
                open.push(self.open(directory, id, path)?);
            }
        }
        Ok(())
    }

    fn open(&self, directory: Directory, id: InodeId, path: Vec<u8>) -> Result<OpenDirectory> {
        let names = directory
            .names()
            .map_err(|error| Error::sys("cannot read a directory", error).path(&path))?
            .into_iter();
        Ok(OpenDirectory { directory, id, path, names })
    }

    /// Takes what a name is; a directory is returned, to be gone through.
    fn name(&mut self, dir: &OpenDirectory, name: &[u8]) -> Result<Option<(Directory, InodeId)>> {
        let OpenDirectory { directory: dir, id: parent, .. } = dir;
        let parent = *parent;
        let reading = |error| Error::sys("cannot read an entry", error);
        let status = dir.status(name).map_err(reading)?;
        let is_directory = file_type(&status) == file_type_bits::DIRECTORY;
        if !is_directory
            && status.links > 1
            && let Some(&id) = self.linked.get(&status.identity)
        {
            self.set(parent, name, id);
            return Ok(None);
        }
        let (major, minor) = status.device_number;
        let content = match file_type(&status) {
            file_type_bits::DIRECTORY => Content::Directory(Default::default()),
            file_type_bits::REGULAR => Content::Regular(self.data(dir, name, &status)?),
            file_type_bits::SYMLINK => symlink(dir.read_link(name).map_err(reading)?.into_bytes())?,
            file_type_bits::CHAR_DEVICE if (major, minor) == (0, 0) => {
                let whiteout = self.tree.add(overlay::whiteout());
                self.tree[parent].set_xattr(overlay::ORIGIN, b"");
                self.set(parent, name, whiteout);
                return Ok(None);
            }
            file_type_bits::CHAR_DEVICE => {
                Content::CharDevice(device_number(major.into(), minor.into())?)
            }
            file_type_bits::BLOCK_DEVICE => {
                Content::BlockDevice(device_number(major.into(), minor.into())?)
            }
            file_type_bits::FIFO => Content::Fifo,
            file_type_bits::SOCKET => Content::Socket,
            other => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("a file of the unknown type {other:#o}"),
                ));
            }
        };
        let inode = self.inode(dir, name, &status, content)?;
        let id = self.tree.add(inode);
        self.set(parent, name, id);
        if is_directory {
            return Ok(Some((dir.open_directory(name).map_err(reading)?, id)));
        }
        if status.links > 1 {
            self.linked.insert(status.identity, id);
        }
        Ok(None)
    }

    fn set(&mut self, parent: InodeId, name: &[u8], id: InodeId) {
        if let Some(entries) = self.tree[parent].entries_mut() {
            entries.insert(name.into(), id);
        }
    }

    fn inode(
        &self,
        dir: &Directory,
        name: &[u8],
        status: &FileStatus,
        content: Content,
    ) -> Result<Inode> {
        let found = dir
            .xattrs(name)
            .map_err(|error| Error::sys("cannot read extended attributes", error))?;
        let (seconds, nanoseconds) = status.mtime;
        Ok(Inode {
            permissions: u16::try_from(status.mode & 0o7777).unwrap_or(0),
            uid: status.uid,
            gid: status.gid,
            mtime: Timestamp { seconds, nanoseconds },
            xattrs: upper_xattrs(found)?,
            content,
        })
    }

    fn data(&mut self, dir: &Directory, name: &[u8], status: &FileStatus) -> Result<FileData> {
        if status.size == 0 {
            return Ok(empty_file());
        }
        let reading = |error| Error::sys("cannot read a file", error);
        let writing = |error| Error::erofs("cannot write a file's data", error);
        let file = dir.open_file(name).map_err(reading)?;
        let opened = sys::directory::file_status(&file).map_err(reading)?;
        if opened.identity != status.identity || opened.size != status.size {
            return Err(changed());
        }
        let sparse = status.blocks * 512 < status.size;
        let segments = if sparse {
            sys::directory::data_segments(&file, status.size).map_err(reading)?
        } else {
            vec![(0, status.size)]
        };
        if sparse {
            self.writer.begin_sparse_file(status.size, &segments)
        } else {
            self.writer.begin_file(status.size)
        }
        .map_err(writing)?;
        for (mut offset, mut left) in segments {
            while left > 0 {
                self.cancel.check()?;
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                let buffer = &mut self.buffer[..length];
                file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => changed(),
                    _ => Error::io("cannot read a file", error),
                })?;
                self.writer.write_data(buffer).map_err(writing)?;
                offset += length as u64;
                left -= length as u64;
            }
        }
        self.writer.end_file().map_err(writing)
    }
}

/// What an image keeps of the xattrs in an upper directory; see the module's table.
pub(crate) fn upper_xattrs(found: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Vec<Xattr>> {
    let mut kept = Vec::with_capacity(found.len());
    for (name, value) in found {
        if name.starts_with(overlay::PREFIX) && !name.starts_with(overlay::ESCAPE_PREFIX) {
            let opaque = name == overlay::OPAQUE;
            if opaque && value == b"y" {
                kept.push(Xattr { name: name.into(), value: value.into() });
            } else if opaque || overlay::STANDS_FOR_OTHERS.contains(&name.as_slice()) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "overlayfs's mark {}=\"{}\" stands for something outside of this directory; mount with redirect_dir=off,metacopy=off",
                        name.escape_ascii(),
                        value.escape_ascii()
                    ),
                ));
            }
        } else if overlay::is_storable(&name) {
            kept.push(Xattr { name: name.into(), value: value.into() });
        }
    }
    overlay::check_sizes(&kept)?;
    Ok(kept)
}

pub(crate) fn changed() -> Error {
    Error::invalid("the file changed while it was read")
}

pub(crate) fn file_type(status: &FileStatus) -> u32 {
    status.mode & 0o170_000
}

/// The types in `st_mode`.
pub(crate) mod file_type_bits {
    pub(crate) const FIFO: u32 = 0o010_000;
    pub(crate) const CHAR_DEVICE: u32 = 0o020_000;
    pub(crate) const DIRECTORY: u32 = 0o040_000;
    pub(crate) const BLOCK_DEVICE: u32 = 0o060_000;
    pub(crate) const REGULAR: u32 = 0o100_000;
    pub(crate) const SYMLINK: u32 = 0o120_000;
    pub(crate) const SOCKET: u32 = 0o140_000;
}
