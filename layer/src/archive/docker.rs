//! What `docker save` writes: `manifest.json` names configs and layers by their path in the tar. A layer that
//! several images share may be a symlink to the first one's.

use super::document::{Config, DockerImage, Document, MAX_DOCUMENT, OCI_CONFIG, parse};
use super::oci::no_match;
use super::platform::Platform;
use super::storage::{Location, Storage};
use super::{ArchiveImage, ArchiveLayer};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};

pub(super) fn images(storage: &Storage, wanted: &Platform) -> Result<Vec<ArchiveImage>> {
    let Some(bytes) = storage.read("manifest.json", MAX_DOCUMENT)? else {
        return Err(Error::corrupt("manifest.json is missing"));
    };
    let entries: Vec<DockerImage> = parse(&bytes, "manifest.json")?;
    if entries.is_empty() {
        return Err(Error::corrupt("manifest.json names no image"));
    }
    let mut images: Vec<ArchiveImage> = Vec::new();
    for entry in entries {
        let mut image = load(storage, entry, wanted)?;
        match images.iter_mut().find(|other| other.config == image.config) {
            Some(other) => {
                image.names.retain(|name| !other.names.contains(name));
                other.names.extend(image.names);
            }
            None => images.push(image),
        }
    }
    Ok(images)
}

fn load(storage: &Storage, entry: DockerImage, wanted: &Platform) -> Result<ArchiveImage> {
    let Some(bytes) = storage.read(&entry.config, MAX_DOCUMENT)? else {
        return Err(Error::corrupt(format!("config {} is missing from the archive", entry.config)));
    };
    // What other tools write for OCI must stay an OCI config; Docker's own has the same fields.
    let config = Document::new(OCI_CONFIG, bytes);
    if let Some(digest) = named_digest(&entry.config)
        && digest != config.digest
    {
        let message = format!("config {} has the digest {}", entry.config, config.digest);
        return Err(Error::new(ErrorKind::DigestMismatch, message));
    }
    let parsed: Config = config.parse("the image config")?;
    let platform = parsed.platform();
    let names = entry.repo_tags.unwrap_or_default();
    if wanted.rank(&platform).is_none() {
        return Err(no_match(names.first().map(String::as_str), wanted, &[platform]));
    }
    let diff_ids = parsed.diff_ids()?;
    let paths = entry.layers.unwrap_or_default();
    if paths.len() != diff_ids.len() {
        return Err(Error::corrupt(format!(
            "manifest.json has {} layers but the config has {} diffIDs",
            paths.len(),
            diff_ids.len()
        )));
    }
    let layers = paths.into_iter().zip(diff_ids);
    let layers = layers.map(|(path, diff_id)| layer(storage, path, diff_id));
    let layers = layers.collect::<Result<_>>()?;
    Ok(ArchiveImage { names, manifest: None, config, platform, layers })
}

fn layer(storage: &Storage, path: String, diff_id: Digest) -> Result<ArchiveLayer> {
    let location = storage.find(&path)?.unwrap_or_else(|| {
        Location::Missing(ErrorKind::Corrupt, format!("layer {path} is missing from the archive"))
    });
    Ok(ArchiveLayer {
        label: path,
        digest: None,
        size: location.size(),
        diff_id: Some(diff_id),
        location,
    })
}

/// The digest that a config's name promises: `<hex>.json`, `sha256:<hex>` or `blobs/sha256/<hex>`.
fn named_digest(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next()?;
    let hex = name.strip_suffix(".json").unwrap_or(name);
    let hex = hex.strip_prefix("sha256:").unwrap_or(hex);
    format!("sha256:{hex}").parse().ok()
}
