//! Reading container images out of files: which images there are, their documents, and where their layers are.
//!
//! An OCI image layout is a directory or a tar of one; what `docker save` writes is a tar with `manifest.json`;
//! anything else that is a tar is a bare layer. A tar in a plain file is indexed by its headers alone, and its
//! layers are then read in place, several at a time. An archive that comes through a pipe or is compressed as a
//! whole is copied once into a temporary file ([`OpenOptions::spool`]), except for a bare layer whose first entry
//! shows that it is one: that is read as it comes.
//!
//! Index, manifest and config are verified here, against the digest and the size of the descriptor that names
//! them. A layer is verified by who reads it.

mod compose;
mod docker;
mod document;
mod headers;
mod input;
mod layout;
mod oci;
mod platform;
mod storage;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use compose::{bare_config, plain_manifest, rebuilt_config, stacked_config};
pub use document::Document;
pub use layout::{LayoutImage, WrittenLayer, WrittenLayout, write_layout};
pub use platform::Platform;
pub use storage::LayerReader;

use self::input::Opened;
use self::storage::Location;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::progress::Cancel;

/// What an archive needs from who opens it.
pub struct OpenOptions<'a> {
    /// Makes an empty temporary file, readable and writable, for an archive that must be copied to be read. The
    /// file's name may be gone already.
    pub spool: &'a dyn Fn() -> io::Result<File>,
    /// Most bytes of such a copy.
    pub max_size: Option<u64>,
    /// Stops the copying.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for OpenOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenOptions").field("max_size", &self.max_size).finish_non_exhaustive()
    }
}

/// What kind of archive it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An OCI image layout.
    OciLayout,
    /// What `docker save` writes.
    DockerArchive,
    /// One layer, and no word about an image.
    Layer,
}

/// An opened archive.
#[derive(Debug)]
pub struct Archive(Opened);

impl Archive {
    /// Opens a file or a directory.
    pub fn open(path: &Path, options: &OpenOptions<'_>) -> Result<Self> {
        input::open_path(path, path, options).map(Self)
    }

    /// As [`open`](Self::open), with what messages call the path: for one such as `/proc/self/fd/3`, which would say
    /// nothing to a user.
    pub fn open_shown(path: &Path, shown: &Path, options: &OpenOptions<'_>) -> Result<Self> {
        input::open_path(path, shown, options).map(Self)
    }

    /// Opens what comes through a pipe.
    pub fn from_reader(
        reader: impl Read + Send + 'static,
        options: &OpenOptions<'_>,
    ) -> Result<Self> {
        input::open_stream(Box::new(reader), options).map(Self)
    }

    /// What kind of archive it is.
    pub fn format(&self) -> Format {
        match &self.0 {
            Opened::Images(format, _) => *format,
            Opened::Layer(_) => Format::Layer,
        }
    }

    /// The images for a platform, the host's by default, in the archive's order. An image that comes under
    /// several names is one image. Attestations are passed over, and so are other artifacts if there is any
    /// image. An image that has nothing for the platform is
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    pub fn images(&self, platform: Option<&Platform>) -> Result<Vec<ArchiveImage>> {
        let platform = platform.cloned().unwrap_or_else(Platform::host);
        match &self.0 {
            Opened::Images(Format::DockerArchive, storage) => docker::images(storage, &platform),
            Opened::Images(_, storage) => oci::images(storage, &platform),
            Opened::Layer(_) => Err(Error::invalid("the archive is a bare layer, not an image")),
        }
    }

    /// The layer, if the archive is a bare one.
    pub fn layer(&self) -> Option<ArchiveLayer> {
        match &self.0 {
            Opened::Images(..) => None,
            Opened::Layer(location) => Some(ArchiveLayer {
                label: "the layer".to_owned(),
                digest: None,
                size: location.size(),
                diff_id: None,
                location: location.clone(),
            }),
        }
    }
}

/// One image of an archive, for one platform.
#[derive(Debug)]
pub struct ArchiveImage {
    /// The names that the archive gives it, possibly none.
    pub names: Vec<String>,
    /// The manifest; a docker archive has none.
    pub manifest: Option<Document>,
    /// The image config.
    pub config: Document,
    /// The platform that the config names.
    pub platform: Platform,
    /// The layers, bottom first.
    pub layers: Vec<ArchiveLayer>,
}

/// One layer of an archive.
#[derive(Debug, Clone)]
pub struct ArchiveLayer {
    /// What to call it in messages: its digest or its name in the archive.
    pub label: String,
    /// Promised digest of the blob as it is in the archive.
    pub digest: Option<Digest>,
    /// Length of the blob in bytes, where it is known before reading.
    pub size: Option<u64>,
    /// Promised digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    location: Location,
}

impl ArchiveLayer {
    /// The blob from its start. One that comes through a pipe can be opened once.
    pub fn open(&self) -> Result<LayerReader> {
        self.location.open()
    }

    /// Whether the blob is there, without reading it. An image may come without layers that its reader is
    /// expected to have.
    pub fn check(&self) -> Result<()> {
        match &self.location {
            Location::Missing(kind, reason) => Err(Error::new(*kind, reason.clone())),
            Location::Path { .. } | Location::Range { .. } | Location::Stream(_) => Ok(()),
        }
    }
}
