//! Images by reference, and the small JSON blobs (manifests, configs) that belong to them.

use layer::Digest;
use serde::{Deserialize, Serialize};

use crate::db::Records as _;
use crate::error::{Error, Result};
use crate::layers::LayerId;
use crate::reference::canonical_reference;
use crate::snapshot::Timestamp;
use crate::store::Store;

/// Largest manifest or config taken: registries refuse larger ones as well.
pub const BLOB_LIMIT: usize = 8 << 20;

/// A container image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Its name, unique in the store.
    pub reference: String,
    /// Digest of its manifest, a blob of the store.
    pub manifest: Digest,
    /// Digest of its config, a blob of the store.
    pub config: Digest,
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// Names of its committed snapshots (the chainIDs), base first.
    pub chain: Vec<String>,
    /// Its layers, base first.
    pub layers: Vec<LayerId>,
    /// When it was imported.
    pub created: Timestamp,
}

impl Store {
    /// Names an image, in the [canonical form](canonical_reference); one of the same name is replaced. Its blobs and
    /// its chain must be there.
    ///
    /// # Errors
    /// `Invalid` for a reference that is none, `FailedPrecondition` if a blob, layer or snapshot of it is missing.
    pub fn put_image(&self, image: &ImageRecord) -> Result<()> {
        let reference = canonical_reference(&image.reference)?;
        let image = &ImageRecord { reference, ..image.clone() };
        let mut write = self.write()?;
        for digest in [&image.manifest, &image.config] {
            if write.blob(digest)?.is_none() {
                return Err(Error::precondition(format!(
                    "image {}: blob {digest} is not in the store",
                    image.reference
                )));
            }
        }
        for id in &image.layers {
            if write.layer(id)?.is_none() {
                return Err(Error::precondition(format!(
                    "image {}: layer {id} is not in the store",
                    image.reference
                )));
            }
        }
        for name in &image.chain {
            if write.snapshot(name.as_bytes())?.is_none() {
                return Err(Error::precondition(format!(
                    "image {}: snapshot {name} is not in the store",
                    image.reference
                )));
            }
        }
        write.put_image(image)?;
        write.commit()
    }

    /// An image by reference, or by its manifest's digest (`sha256:<hex>`).
    ///
    /// # Errors
    /// `Invalid` for a reference that is none, `Corrupt`, `Io`.
    pub fn image(&self, reference: &str) -> Result<Option<ImageRecord>> {
        let reference = canonical_reference(reference)?;
        let read = self.read()?;
        if let Some(image) = read.image(&reference)? {
            return Ok(Some(image));
        }
        let Ok(digest) = reference.parse::<Digest>() else { return Ok(None) };
        Ok(read.images()?.into_iter().find(|image| image.manifest == digest))
    }

    /// All images, in the order of their references.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        self.read()?.images()
    }

    /// Forgets an image's name; what only it needed goes with the next [`gc`](Self::gc).
    ///
    /// # Errors
    /// `NotFound`, `ReadOnly`, `Io`.
    pub fn remove_image(&self, reference: &str) -> Result<()> {
        let canonical = canonical_reference(reference)?;
        let mut write = self.write()?;
        if !write.delete_image(&canonical)? {
            return Err(Error::not_found(format!("image {reference:?} is not in the store")));
        }
        write.commit()
    }

    /// Keeps a small blob under its digest, which is returned.
    ///
    /// # Errors
    /// `TooLarge` above [`BLOB_LIMIT`], `ReadOnly`, `NoSpace`, `Io`.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        if bytes.len() > BLOB_LIMIT {
            return Err(Error::new(
                crate::ErrorKind::TooLarge,
                format!("a blob of {} bytes is over the limit of {BLOB_LIMIT}", bytes.len()),
            ));
        }
        let digest = Digest::of(bytes);
        // A stored blob that was damaged is written anew.
        if self.read()?.blob(&digest)?.as_deref() == Some(bytes) {
            return Ok(digest);
        }
        let mut write = self.write()?;
        write.put_blob(&digest, bytes)?;
        write.commit()?;
        Ok(digest)
    }

    /// A blob by digest.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        self.read()?.blob(digest)
    }
}
