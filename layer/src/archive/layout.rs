//! Writing an image as the tar of an OCI image layout, its layers made anew from their images.
//!
//! A tar needs the length of a file before its data, and the index comes first, so that a reader of a stream knows
//! early what comes. So each layer is written twice: once to be measured, once for good. Nothing is kept between,
//! in memory or on disk.

use std::io::{self, Write};

use erofs::{Image, ReadAt, Timestamp};
use serde_json::{Value, json};

use super::compose::{plain_manifest, rebuilt_config};
use super::document::{Descriptor, Document, OCI_INDEX};
use super::oci::{IMAGE_NAME, REF_NAME};
use crate::compression::Compression;
use crate::digest::{Digest, Digester};
use crate::error::{Error, ErrorKind, Result};
use crate::export::write_layer_tar;
use crate::progress::Cancel;
use crate::tar::{Entry, EntryKind, Writer};

/// An image to be written.
#[derive(Debug)]
pub struct LayoutImage<'a, R> {
    /// Its names, possibly none.
    pub names: &'a [String],
    /// Its config; the diffIDs are replaced by those of the layers as they are written.
    pub config: &'a Document,
    /// The images of its layers, bottom first.
    pub layers: &'a [Image<R>],
    /// How the layers are compressed.
    pub compression: Compression,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenLayout {
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Digest of the config.
    pub config: Digest,
    /// The layers, bottom first.
    pub layers: Vec<WrittenLayer>,
    /// Length of the archive in bytes.
    pub size: u64,
}

/// A layer as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenLayer {
    /// Digest of its tar.
    pub diff_id: Digest,
    /// Digest of its blob.
    pub digest: Digest,
    /// Length of its blob in bytes.
    pub size: u64,
}

/// Writes an image as the tar of an OCI image layout. `docker load` understands it too: there is a `manifest.json`.
/// The same image gives the same bytes.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for damaged layer images, [`ErrorKind::Cancelled`], [`ErrorKind::NoSpace`],
/// [`ErrorKind::Io`].
pub fn write_layout<R: ReadAt>(
    image: &LayoutImage<'_, R>,
    output: impl Write,
    cancel: &Cancel,
) -> Result<WrittenLayout> {
    let measure = |layer| write_blob(layer, image.compression, io::sink(), cancel);
    let layers: Vec<WrittenLayer> = image.layers.iter().map(measure).collect::<Result<_>>()?;
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    let config = rebuilt_config(image.config, &diff_ids)?;
    let blobs: Vec<(Digest, u64)> = layers.iter().map(|layer| (layer.digest, layer.size)).collect();
    let manifest = plain_manifest(&config, &blobs, image.compression)?;

    let mut tar = Writer::new(Measured::new(output));
    let file = |tar: &mut Writer<_>, path: &str, bytes: &[u8]| {
        tar.entry(&entry(path, bytes.len() as u64))?;
        tar.data(bytes)
    };
    file(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    file(&mut tar, "index.json", &index(image.names, &manifest)?)?;
    let docker = json!([{
        "Config": blob_path(config.digest),
        "RepoTags": image.names.iter().filter(|name| !is_digest(name)).collect::<Vec<_>>(),
        "Layers": diff_paths(&layers),
    }]);
    file(&mut tar, "manifest.json", &text(&docker)?)?;
    file(&mut tar, &blob_path(manifest.digest), &manifest.bytes)?;
    file(&mut tar, &blob_path(config.digest), &config.bytes)?;
    let mut written: Vec<Digest> = Vec::new();
    for (layer, promised) in image.layers.iter().zip(&layers) {
        if written.contains(&promised.digest) {
            continue;
        }
        written.push(promised.digest);
        tar.entry(&entry(&blob_path(promised.digest), promised.size))?;
        let payload = Payload { tar: &mut tar, left: promised.size };
        if write_blob(layer, image.compression, payload, cancel)? != *promised {
            return Err(changed());
        }
    }
    let size = tar.finish()?.size;
    Ok(WrittenLayout { manifest: manifest.digest, config: config.digest, layers, size })
}

fn index(names: &[String], manifest: &Document) -> Result<Vec<u8>> {
    let mut entries = Vec::new();
    let names: Vec<&String> = names.iter().filter(|name| !is_digest(name)).collect();
    for name in &names {
        let mut descriptor = Descriptor::of(manifest);
        let tag = match name.rsplit_once(':') {
            Some((_, tag)) if !tag.contains(['/', '@']) => tag,
            _ => name,
        };
        descriptor.annotations.insert(IMAGE_NAME.to_owned(), (*name).clone());
        descriptor.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        entries.push(descriptor);
    }
    if names.is_empty() {
        entries.push(Descriptor::of(manifest));
    }
    text(&json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }))
}

/// An image without a name is known by its digest, which is no name for others.
fn is_digest(name: &str) -> bool {
    name.parse::<Digest>().is_ok()
}

fn text(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::invalid("writing an index").because(error))
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn diff_paths(layers: &[WrittenLayer]) -> Vec<String> {
    layers.iter().map(|layer| blob_path(layer.digest)).collect()
}

fn entry(path: &str, size: u64) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind: EntryKind::Regular { size, segments: None },
        permissions: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
        offset: 0,
    }
}

/// Writes a layer's blob and measures it on the way.
fn write_blob<R: ReadAt>(
    layer: &Image<R>,
    compression: Compression,
    output: impl Write,
    cancel: &Cancel,
) -> Result<WrittenLayer> {
    let writing = |error| Error::io("writing a layer", error);
    let mut blob = Measured::new(output);
    let diff_id = match compression {
        Compression::None => write_layer_tar(layer, &mut blob, cancel)?.diff_id,
        Compression::Gzip => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(&mut blob, level);
            let tar = write_layer_tar(layer, &mut encoder, cancel)?;
            encoder.finish().map_err(writing)?;
            tar.diff_id
        }
        Compression::Zstd => {
            let mut encoder =
                zstd::Encoder::new(&mut blob, zstd::DEFAULT_COMPRESSION_LEVEL).map_err(writing)?;
            let tar = write_layer_tar(layer, &mut encoder, cancel)?;
            encoder.finish().map_err(writing)?;
            tar.diff_id
        }
    };
    Ok(WrittenLayer { diff_id, digest: blob.digester.finish(), size: blob.size })
}

fn changed() -> Error {
    Error::corrupt("a layer image changed while it was written")
}

/// Hashes and counts what goes through it.
struct Measured<W> {
    output: W,
    digester: Digester,
    size: u64,
}

impl<W: Write> Measured<W> {
    fn new(output: W) -> Self {
        Self { output, digester: Digester::default(), size: 0 }
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.digester.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The data of one file of the outer tar, not a byte more than announced.
struct Payload<'a, W> {
    tar: &'a mut Writer<W>,
    left: u64,
}

impl<W: Write> Write for Payload<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left =
            self.left.checked_sub(bytes.len() as u64).ok_or_else(|| io::Error::other(changed()))?;
        self.tar.data(bytes).map_err(|error| match error.kind() {
            ErrorKind::NoSpace => io::Error::new(io::ErrorKind::StorageFull, error),
            _ => io::Error::other(error),
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
