//! The JSON documents of OCI (image-spec 1.1) and of `docker save`, as far as an import reads them. Unknown
//! fields are passed over, as the specification asks.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::platform::Platform;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};

/// Most bytes that an index, manifest or config may have. Registries allow 4 MiB for a manifest.
pub(super) const MAX_DOCUMENT: u64 = 8 << 20;
/// Most layers that an image may have. Docker stops at 128; 500 is the kernel's limit for one overlay.
pub(super) const MAX_LAYERS: usize = 10_000;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A manifest or config as it is in the archive, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its media type.
    pub media_type: String,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// The JSON text.
    pub bytes: Vec<u8>,
}

impl Document {
    /// A document of these bytes; the digest is computed.
    pub fn new(media_type: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { media_type: media_type.into(), digest: Digest::of(&bytes), bytes }
    }

    pub(super) fn parse<T: DeserializeOwned>(&self, what: &str) -> Result<T> {
        parse(&self.bytes, what)
    }
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::corrupt(format!("{what} is not what it should be")).because(error))
}

/// `oci-layout`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layout {
    pub(super) image_layout_version: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    /// Text: an unsupported algorithm matters only where the blob is read.
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<DescriptorPlatform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) urls: Vec<String>,
}

impl Descriptor {
    pub(super) fn of(document: &Document) -> Self {
        Self::plain(&document.media_type, document.digest, document.bytes.len() as u64)
    }

    pub(super) fn plain(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest.to_string(),
            size,
            platform: None,
            annotations: BTreeMap::new(),
            urls: Vec::new(),
        }
    }

    pub(super) fn digest(&self) -> Result<Digest> {
        self.digest.parse()
    }

    pub(super) fn is_index(&self) -> bool {
        [OCI_INDEX, DOCKER_LIST].contains(&self.media_type.as_str())
    }

    /// Build attestations ride along as manifests of no platform (BuildKit's convention).
    pub(super) fn is_attestation(&self) -> bool {
        let unknown = |platform: &DescriptorPlatform| {
            platform.os == "unknown" && platform.architecture == "unknown"
        };
        self.platform.as_ref().is_some_and(unknown)
            || self.annotations.get("vnd.docker.reference.type").map(String::as_str)
                == Some("attestation-manifest")
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DescriptorPlatform {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<String>,
}

impl DescriptorPlatform {
    pub(super) fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, self.variant.as_deref())
    }
}

/// An image index or a manifest list; a manifest that names others stays unread until it is chosen.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) schema_version: u64,
    pub(super) media_type: Option<String>,
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// What an import needs of an image config.
#[derive(Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: Option<String>,
    #[serde(default)]
    pub(super) rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
pub(super) struct RootFs {
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) diff_ids: Option<Vec<String>>,
}

impl Config {
    /// The platform; what an old or hand-made config leaves open is taken to be the host's.
    pub(super) fn platform(&self) -> Platform {
        let host = Platform::host();
        let or = |text: &str, default: &str| {
            if text.is_empty() { default.to_owned() } else { text.to_owned() }
        };
        let variant = match self.architecture.as_str() {
            "" => host.variant.as_deref(),
            _ => self.variant.as_deref(),
        };
        Platform::new(&or(&self.os, &host.os), &or(&self.architecture, &host.architecture), variant)
    }

    /// The digests of the uncompressed layers, bottom first.
    pub(super) fn diff_ids(&self) -> Result<Vec<Digest>> {
        let Some(rootfs) = &self.rootfs else {
            return Err(Error::corrupt("the image config has no rootfs"));
        };
        if !["layers", ""].contains(&rootfs.kind.as_str()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the image config has a rootfs of type {:?}, not layers", rootfs.kind),
            ));
        }
        // Go writes an empty list as null.
        let diff_ids = rootfs.diff_ids.as_deref().unwrap_or_default();
        if diff_ids.len() > MAX_LAYERS {
            let message = format!("{} layers are more than {MAX_LAYERS}", diff_ids.len());
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        diff_ids.iter().map(|text| text.parse()).collect()
    }
}

/// One image of `docker save`'s `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) layers: Option<Vec<String>>,
}
