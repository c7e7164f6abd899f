//! The layers below, asked only when a hard link names a file that its own layer lacks, or when a layer has files
//! in a directory that it does not describe.

use std::sync::Arc;

use erofs::format::FileType;
use erofs::{Content, ExtentSource, FileData, Image, ImageWriter, Inode, InodeView, ReadAt, Sink};

use crate::error::{Error, Result};
use crate::layer_tree::Metadata;
use crate::overlay;

/// Something that a parent's image can be read from.
pub type ImageSource = Box<dyn ReadAt + Send + Sync>;

/// The images of the layers below the one that is read.
pub trait Parents: Sync {
    /// The images, the nearest layer first. Called at most once for a layer, and only when it depends on them; may
    /// block until they are there.
    ///
    /// # Errors
    /// Whatever keeps them from being there.
    fn layers(&self) -> Result<Vec<Arc<Image<ImageSource>>>>;
}

/// Copies a file of the layers below into an image: its data now, the rest as the returned inode.
/// `None`: there is no such file.
pub(crate) fn copy_from_parents<S: Sink>(
    layers: &[Arc<Image<ImageSource>>],
    path: &[&[u8]],
    writer: &mut ImageWriter<S>,
) -> Result<Option<Inode>> {
    for image in layers {
        match find(image, path)? {
            Found::Here(inode) => return copy_inode(image, &inode, writer).map(Some),
            Found::Hidden => return Ok(None),
            Found::Below => {}
        }
    }
    Ok(None)
}

/// The metadata of a directory of the layers below. `None`: there is no such directory.
pub(crate) fn directory_of_parents(
    layers: &[Arc<Image<ImageSource>>],
    path: &[&[u8]],
) -> Result<Option<Metadata>> {
    for image in layers {
        match find(image, path)? {
            Found::Here(inode) if inode.is_dir() => {
                let Inode { permissions, uid, gid, mtime, xattrs, .. } =
                    inode_with(image, &inode, Content::Fifo)?;
                return Ok(Some(Metadata { permissions, uid, gid, mtime, xattrs }));
            }
            Found::Here(_) | Found::Hidden => return Ok(None),
            Found::Below => {}
        }
    }
    Ok(None)
}

/// The target of a symbolic link of the layers below. `None`: there is no such link.
pub(crate) fn symlink_of_parents(
    layers: &[Arc<Image<ImageSource>>],
    path: &[&[u8]],
) -> Result<Option<Vec<u8>>> {
    for image in layers {
        match find(image, path)? {
            Found::Here(inode) if inode.file_type == FileType::Symlink => {
                let target = image.read_link(&inode);
                return target
                    .map(Some)
                    .map_err(|error| Error::erofs("cannot read a parent's image", error));
            }
            Found::Here(_) | Found::Hidden => return Ok(None),
            Found::Below => {}
        }
    }
    Ok(None)
}

enum Found {
    Here(InodeView),
    /// This layer hides what the ones below may have.
    Hidden,
    Below,
}

fn find<R: ReadAt>(image: &Image<R>, path: &[&[u8]]) -> Result<Found> {
    let reading = |error| Error::erofs("cannot read a parent's image", error);
    let mut inode = image.inode(image.root()).map_err(reading)?;
    let mut opaque = false;
    for name in path {
        if !inode.is_dir() {
            return Ok(Found::Hidden);
        }
        let xattrs = image.xattrs(&inode).map_err(reading)?;
        opaque |=
            xattrs.iter().any(|xattr| &*xattr.name == overlay::OPAQUE && &*xattr.value == b"y");
        let Some(entry) = image.lookup(&inode, name).map_err(reading)? else {
            return Ok(if opaque { Found::Hidden } else { Found::Below });
        };
        inode = image.inode(entry.nid).map_err(reading)?;
    }
    Ok(if is_whiteout(&inode) { Found::Hidden } else { Found::Here(inode) })
}

pub(crate) fn is_whiteout(inode: &InodeView) -> bool {
    inode.file_type == FileType::CharDevice && inode.device_number == erofs::DeviceNumber::WHITEOUT
}

fn copy_inode<R: ReadAt, S: Sink>(
    image: &Image<R>,
    inode: &InodeView,
    writer: &mut ImageWriter<S>,
) -> Result<Inode> {
    let reading = |error| Error::erofs("cannot read a parent's image", error);
    let content = match inode.file_type {
        FileType::Regular => Content::Regular(copy_data(image, inode, writer)?),
        FileType::Symlink => Content::Symlink(image.read_link(inode).map_err(reading)?.into()),
        FileType::CharDevice => Content::CharDevice(inode.device_number),
        FileType::BlockDevice => Content::BlockDevice(inode.device_number),
        FileType::Fifo => Content::Fifo,
        FileType::Socket => Content::Socket,
        FileType::Directory | FileType::Unknown => {
            return Err(Error::invalid("a hard link to a directory of a lower layer"));
        }
    };
    inode_with(image, inode, content)
}

/// An inode with the metadata of a parent's, less what overlayfs has noted on that.
fn inode_with<R: ReadAt>(image: &Image<R>, inode: &InodeView, content: Content) -> Result<Inode> {
    let mut xattrs =
        image.xattrs(inode).map_err(|error| Error::erofs("cannot read a parent's image", error))?;
    xattrs.retain(|xattr| {
        !xattr.name.starts_with(overlay::PREFIX) || xattr.name.starts_with(overlay::ESCAPE_PREFIX)
    });
    Ok(Inode {
        permissions: inode.permissions,
        uid: inode.uid,
        gid: inode.gid,
        mtime: inode.mtime,
        xattrs,
        content,
    })
}

fn copy_data<R: ReadAt, S: Sink>(
    image: &Image<R>,
    inode: &InodeView,
    writer: &mut ImageWriter<S>,
) -> Result<FileData> {
    let reading = |error| Error::erofs("cannot read a parent's image", error);
    let writing = |error| Error::erofs("cannot write a file's data", error);
    if inode.size == 0 {
        return Ok(FileData::Bytes(Box::default()));
    }
    let segments = data_segments(image, inode)?;
    writer.begin_sparse_file(inode.size, &segments).map_err(writing)?;
    let mut buffer = vec![0; 256 << 10];
    for (mut offset, mut length) in segments {
        while length > 0 {
            let piece = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
            let read = image.read_at(inode, &mut buffer[..piece], offset).map_err(reading)?;
            if read == 0 {
                return Err(Error::corrupt("a parent's file ends before its length"));
            }
            writer.write_data(&buffer[..read]).map_err(writing)?;
            offset += read as u64;
            length -= read as u64;
        }
    }
    writer.end_file().map_err(writing)
}

/// The parts of a file that are no holes: offset and length, ascending, neighbours joined.
pub(crate) fn data_segments<R: ReadAt>(
    image: &Image<R>,
    inode: &InodeView,
) -> Result<Vec<(u64, u64)>> {
    let mut segments: Vec<(u64, u64)> = Vec::new();
    for extent in image.extents(inode) {
        let extent = extent.map_err(|error| Error::erofs("cannot read a file's extents", error))?;
        if matches!(extent.source, ExtentSource::Hole) {
            continue;
        }
        match segments.last_mut() {
            Some((offset, length)) if *offset + *length == extent.offset => {
                *length += extent.length;
            }
            _ => segments.push((extent.offset, extent.length)),
        }
    }
    Ok(segments)
}
