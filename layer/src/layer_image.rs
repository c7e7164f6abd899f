//! A layer's tar into a layer image: options, result, and the function that does it.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use erofs::{Image, ImageWriter, Inode, Sink, WriterOptions};

use crate::compression::Compression;
use crate::digest::{Checksum, Digest};
use crate::error::{Error, Result};
use crate::image_file::ImageFile;
use crate::intake::Intake;
use crate::layer_tree::{LayerTree, LowerLayers, Metadata, count_names};
use crate::overlay;
use crate::parents::{
    ImageSource, Parents, copy_from_parents, directory_of_parents, symlink_of_parents,
};
use crate::pipeline::{self, Chunk, ChunkReader};
use crate::progress::{Cancel, Progress};
use crate::tar::{End, Reader};

/// What is known and wanted about a layer before it is read.
#[derive(Debug, Clone, Default)]
pub struct LayerOptions {
    /// How the blob is compressed; `None`: known by its first bytes.
    pub compression: Option<Compression>,
    /// Promised digest of the blob as it comes (compressed).
    pub digest: Option<Digest>,
    /// Promised length of the blob in bytes, as it comes.
    pub size: Option<u64>,
    /// Promised digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// Most bytes that the uncompressed tar may have, and that any file in it may claim.
    pub max_size: Option<u64>,
}

/// What was made of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerImage {
    /// Digest of the blob as it came (compressed).
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Length of the uncompressed tar in bytes.
    pub tar_size: u64,
    /// Length of the layer image in bytes.
    pub image_size: u64,
    /// Checksum of the layer image.
    pub checksum: Checksum,
    /// UUID of the layer image: v5 over the diffID's text.
    pub uuid: [u8; 16],
    /// Number of names in the tree, the root included.
    pub entries: u64,
    /// Whether the image depends on the layers below, or on there being none, and not on the diffID alone: it has
    /// a hard link to a file of theirs, or files in a directory that only they describe.
    pub depends_on_parents: bool,
    /// Whether the layer's root directory is opaque, so that nothing below the layer shows. overlayfs does not
    /// honour the mark on a root (*observed* on Linux 6.18): whoever stacks layers has to end the stack here.
    pub hides_lower: bool,
}

/// Makes a layer image of a layer's blob in one pass.
///
/// `output` must be empty; when this returns it holds the whole image, and the caller's `fsync` makes it
/// durable (writing to the disk has begun by then). After an error it holds rubbish and must be thrown away.
/// The same tar gives the same image bytes, however the blob is compressed, cut into reads or timed.
/// Memory is bounded by the number of entries, not by the length of the files.
///
/// # Errors
/// `Corrupt` for a blob or tar that is cut off or damaged, `DigestMismatch` where it is
/// not what `options` promise, `Invalid`, `TooLarge` and `Unsupported` for
/// entries that cannot be stored (the message has path and offset), `MissingParent` for hard links to
/// nothing known, `Cancelled`, `NoSpace` and `Io`.
pub fn write_layer_image(
    source: impl Read + Send,
    output: &File,
    options: &LayerOptions,
    parents: Option<&dyn Parents>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<LayerImage> {
    let image_file = ImageFile::new(output);
    let mut writer = ImageWriter::new(image_file, WriterOptions::default())
        .map_err(|error| Error::erofs("cannot begin the layer image", error))?;

    let take = |chunks| take_tar(chunks, &mut writer, options, cancel);
    let (blob, Taken { tree, end }) = pipeline::run(source, options, progress, cancel, take)?;
    blob.check_end(end, options)?;

    let mut lower = Lower { parents, layers: None, writer: &mut writer };
    let tree = tree.finish(&mut lower)?;
    let uuid = lower.uuid(&blob.diff_id);
    let depends_on_parents = lower.layers.is_some();
    let (image_file, summary) = writer
        .finish(&tree, uuid)
        .map_err(|error| Error::erofs("cannot write the layer image", error))?;
    Ok(LayerImage {
        digest: blob.digest,
        size: blob.size,
        diff_id: blob.diff_id,
        tar_size: blob.tar_size,
        image_size: summary.length,
        checksum: image_file.checksum(),
        uuid,
        entries: count_names(&tree),
        depends_on_parents,
        hides_lower: tree.root().xattr(overlay::OPAQUE) == Some(b"y"),
    })
}

/// What a layer's blob is, without an image of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the blob as it came (compressed).
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Digest of what is in it, uncompressed.
    pub diff_id: Digest,
    /// Length of that in bytes.
    pub tar_size: u64,
    /// How it is compressed.
    pub compression: Compression,
}

impl LayerBlob {
    /// A tar without its end mark may be cut off between two entries; a digest that it was promised to have says that
    /// it is not.
    pub(crate) fn check_end(&self, end: Option<End>, options: &LayerOptions) -> Result<()> {
        if end == Some(End::Marked) || options.digest.is_some() || options.diff_id.is_some() {
            return Ok(());
        }
        Err(Error::corrupt("the tar has no end mark and may be cut off").at(self.tar_size))
    }
}

/// Reads a blob to its end and measures it, inside and outside. `options` are checked.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for a compressed stream that is cut off or damaged, [`ErrorKind::DigestMismatch`],
/// [`ErrorKind::TooLarge`], [`ErrorKind::Cancelled`] and [`ErrorKind::Io`]. The tar is not looked into.
///
/// [`ErrorKind::Corrupt`]: crate::ErrorKind::Corrupt
/// [`ErrorKind::DigestMismatch`]: crate::ErrorKind::DigestMismatch
/// [`ErrorKind::TooLarge`]: crate::ErrorKind::TooLarge
/// [`ErrorKind::Cancelled`]: crate::ErrorKind::Cancelled
/// [`ErrorKind::Io`]: crate::ErrorKind::Io
pub fn measure_layer(
    source: impl Read + Send,
    options: &LayerOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<LayerBlob> {
    let take = |chunks: Receiver<Chunk>| {
        chunks.iter().for_each(drop);
        Ok(())
    };
    pipeline::run(source, options, progress, cancel, take).map(|(blob, ())| blob)
}

struct Taken {
    tree: LayerTree,
    end: Option<End>,
}

/// Takes the tar's entries in and reads what may follow its end, which counts for the digests only.
fn take_tar<S: Sink>(
    chunks: Receiver<Chunk>,
    writer: &mut ImageWriter<S>,
    options: &LayerOptions,
    cancel: &Cancel,
) -> Result<Taken> {
    let mut tar = Reader::new(ChunkReader::new(chunks));
    let mut intake = Intake::new(writer, options.max_size);
    intake.take_all(&mut tar, cancel)?;
    let end = tar.end();
    tar.into_inner().drain();
    Ok(Taken { tree: intake.into_tree(), end })
}

/// Namespace of the UUIDs of layer images; fixed for ever, since images must come out the same.
const UUID_NAMESPACE: uuid::Uuid = uuid::uuid!("b8f0c8e6-4f5c-5d0a-9d7e-2f8f6c1f5a37");

/// The UUID of a layer image: v5 over a text that is different for different content.
pub(crate) fn image_uuid(text: &str) -> [u8; 16] {
    uuid::Uuid::new_v5(&UUID_NAMESPACE, text.as_bytes()).into_bytes()
}

/// The parents, once they were needed; none at all is an answer too.
struct Lower<'p, 'w, S: Sink> {
    parents: Option<&'p dyn Parents>,
    layers: Option<Vec<Arc<Image<ImageSource>>>>,
    writer: &'w mut ImageWriter<S>,
}

impl<S: Sink> LowerLayers for Lower<'_, '_, S> {
    fn file(&mut self, path: &[&[u8]]) -> Result<Option<Inode>> {
        self.open()?;
        copy_from_parents(self.layers.as_deref().unwrap_or_default(), path, self.writer)
    }

    fn directory(&mut self, path: &[&[u8]]) -> Result<Option<Metadata>> {
        self.open()?;
        directory_of_parents(self.layers.as_deref().unwrap_or_default(), path)
    }

    fn symlink(&mut self, path: &[&[u8]]) -> Result<Option<Vec<u8>>> {
        self.open()?;
        symlink_of_parents(self.layers.as_deref().unwrap_or_default(), path)
    }
}

impl<S: Sink> Lower<'_, '_, S> {
    fn open(&mut self) -> Result<()> {
        if self.layers.is_none() {
            self.layers = Some(self.parents.map_or(Ok(Vec::new()), Parents::layers)?);
        }
        Ok(())
    }

    /// What was copied from the parents is not in the diffID, so their UUIDs join it.
    fn uuid(&self, diff_id: &Digest) -> [u8; 16] {
        let mut text = diff_id.to_string();
        for layer in self.layers.iter().flatten() {
            text.push(' ');
            text.push_str(&uuid::Uuid::from_bytes(layer.uuid()).to_string());
        }
        image_uuid(&text)
    }
}
