//! A layer's tar into a layer image: options, result, and the function that does it.

use crate::compression::Compression;
use crate::digest::{Checksum, Digest};

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
    /// Whether a hard link was resolved through the parents, so that the image depends on them and not on the
    /// diffID alone.
    pub used_parents: bool,
}
