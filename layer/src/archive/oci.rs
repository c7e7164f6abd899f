//! OCI image layouts: from `index.json` down to the layers.

use std::collections::HashMap;

use super::document::{
    Config, DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, DockerImage, Document, Index, Layout,
    MAX_DOCUMENT, MAX_LAYERS, Manifest, OCI_CONFIG, OCI_MANIFEST, parse,
};
use super::platform::Platform;
use super::storage::{Location, Storage};
use super::{ArchiveImage, ArchiveLayer};
use crate::compression::Compression;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};

/// Most indexes inside one another.
const MAX_DEPTH: usize = 8;
/// Most manifests of one archive.
const MAX_MANIFESTS: usize = 100_000;
/// The full name of an image (containerd, BuildKit, Docker since 25).
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";
/// OCI's: a name, or by old habit only a tag.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) fn images(storage: &Storage, wanted: &Platform) -> Result<Vec<ArchiveImage>> {
    if let Some(bytes) = storage.read("oci-layout", MAX_DOCUMENT)? {
        let layout: Layout = parse(&bytes, "oci-layout")?;
        if layout.image_layout_version != "1.0.0" {
            let version = layout.image_layout_version;
            let message = format!("OCI image layout version {version:?} is not supported");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
    }
    let Some(bytes) = storage.read("index.json", MAX_DOCUMENT)? else {
        return Err(Error::corrupt("index.json is missing"));
    };
    let index = parse_index(&bytes, "index.json")?;
    let docker_names = docker_names(storage);

    let mut images: Vec<ArchiveImage> = Vec::new();
    let mut artifact = None;
    for group in groups(storage, index)? {
        let candidate = match group.choose(storage, wanted)? {
            Choice::Image(candidate) => candidate,
            Choice::Artifact(error) => {
                artifact.get_or_insert(error);
                continue;
            }
        };
        let mut image = candidate.load(storage)?;
        image.names = match (group.name, docker_names.get(&image.config.digest)) {
            (Some(Name::Reference(_)) | None, Some(tags)) if !tags.is_empty() => tags.clone(),
            (Some(Name::Full(name) | Name::Reference(name)), _) => vec![name],
            (None, _) => Vec::new(),
        };
        let same = |other: &&mut ArchiveImage| other.manifest == image.manifest;
        match images.iter_mut().find(same) {
            Some(other) => {
                image.names.retain(|name| !other.names.contains(name));
                other.names.extend(image.names);
            }
            None => images.push(image),
        }
    }
    match artifact {
        Some(error) if images.is_empty() => Err(error),
        _ if images.is_empty() => Err(Error::corrupt("index.json names no image")),
        _ => Ok(images),
    }
}

/// The names that `docker save` gives in the `manifest.json` beside the layout, by config digest. They are a
/// help, so a `manifest.json` that is something else does no harm.
fn docker_names(storage: &Storage) -> HashMap<Digest, Vec<String>> {
    let bytes = storage.read("manifest.json", MAX_DOCUMENT).ok().flatten().unwrap_or_default();
    let images: Vec<DockerImage> = serde_json::from_slice(&bytes).unwrap_or_default();
    let digest = |image: &DockerImage| {
        let hex = image.config.rsplit('/').next()?.trim_end_matches(".json");
        format!("sha256:{hex}").parse().ok()
    };
    images
        .into_iter()
        .filter_map(|image| Some((digest(&image)?, image.repo_tags.unwrap_or_default())))
        .collect()
}

enum Name {
    Full(String),
    Reference(String),
}

/// The manifests that are one image for several platforms.
struct Group {
    name: Option<Name>,
    candidates: Vec<Descriptor>,
}

/// What the top index names: entries of one name belong together; so do an unnamed index's, and unnamed manifests
/// of different platforms.
fn groups(storage: &Storage, index: Index) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    let mut unnamed = Vec::new();
    let mut budget = MAX_MANIFESTS;
    for descriptor in index.manifests {
        if descriptor.is_attestation() {
            continue;
        }
        let annotation =
            |key| descriptor.annotations.get(key).filter(|name| !name.is_empty()).cloned();
        let name = annotation(IMAGE_NAME)
            .map(Name::Full)
            .or_else(|| annotation(REF_NAME).map(Name::Reference));
        let is_index = descriptor.is_index();
        let mut candidates = Vec::new();
        flatten(storage, descriptor, MAX_DEPTH, &mut budget, &mut candidates)?;
        let key = |name: &Option<Name>| match name {
            Some(Name::Full(name) | Name::Reference(name)) => Some(name.clone()),
            None => None,
        };
        let same = |group: &&mut Group| key(&group.name) == key(&name);
        match groups.iter_mut().find(same) {
            Some(group) if name.is_some() => group.candidates.extend(candidates),
            _ if name.is_none() && !is_index => unnamed.extend(candidates),
            _ => groups.push(Group { name, candidates }),
        }
    }
    let mut platforms = Vec::new();
    for candidate in &unnamed {
        platforms
            .push(Candidate::read(storage, candidate).map(|candidate| candidate.platform).ok());
    }
    let known = platforms.iter().all(Option::is_some);
    platforms.sort();
    platforms.dedup();
    if known && platforms.len() == unnamed.len() && !unnamed.is_empty() {
        groups.push(Group { name: None, candidates: unnamed });
    } else {
        let single = |descriptor| Group { name: None, candidates: vec![descriptor] };
        groups.extend(unnamed.into_iter().map(single));
    }
    Ok(groups)
}

fn flatten(
    storage: &Storage,
    descriptor: Descriptor,
    depth: usize,
    budget: &mut usize,
    candidates: &mut Vec<Descriptor>,
) -> Result<()> {
    if descriptor.is_attestation() {
        return Ok(());
    }
    let message = if *budget == 0 {
        format!("the archive names more than {MAX_MANIFESTS} manifests")
    } else if depth == 0 {
        format!("more than {MAX_DEPTH} indexes inside one another")
    } else if descriptor.is_index() {
        let document = blob(storage, &descriptor, "index")?;
        for inner in parse_index(&document.bytes, &descriptor.digest)?.manifests {
            flatten(storage, inner, depth - 1, budget, candidates)?;
        }
        return Ok(());
    } else {
        *budget -= 1;
        candidates.push(descriptor);
        return Ok(());
    };
    Err(Error::new(ErrorKind::TooLarge, message))
}

fn parse_index(bytes: &[u8], what: &str) -> Result<Index> {
    let index: Index = parse(bytes, what)?;
    let media_type = index.media_type.as_deref().unwrap_or_default();
    if index.schema_version != 2 {
        let version = index.schema_version;
        let message = format!("{what} has schema version {version}; only 2 is supported");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let descriptor = Descriptor { media_type: media_type.to_owned(), ..empty() };
    if !media_type.is_empty() && !descriptor.is_index() {
        let message = format!("{what} has media type {media_type:?}, which is not an index's");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(index)
}

fn empty() -> Descriptor {
    Descriptor::plain("", Digest::of(b""), 0)
}

enum Choice {
    Image(Box<Candidate>),
    /// Nothing but artifacts that are no images; the error says what the first is.
    Artifact(Error),
}

impl Group {
    fn choose(&self, storage: &Storage, wanted: &Platform) -> Result<Choice> {
        let mut best: Option<(u32, &Descriptor)> = None;
        let mut offered = Vec::new();
        let mut artifact = None;
        for descriptor in &self.candidates {
            let platform = match &descriptor.platform {
                Some(platform) => platform.platform(),
                None => match Candidate::read(storage, descriptor) {
                    Ok(candidate) => candidate.platform,
                    Err(error) if error.kind() == ErrorKind::Unsupported => {
                        artifact.get_or_insert(error);
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            if let Some(rank) = wanted.rank(&platform)
                && best.is_none_or(|(other, _)| rank > other)
            {
                best = Some((rank, descriptor));
            }
            offered.push(platform);
        }
        if let Some((_, descriptor)) = best {
            let candidate = Candidate::read(storage, descriptor)?;
            // The config decides: it is what a runtime will see.
            if wanted.rank(&candidate.platform).is_none() {
                let platform = [candidate.platform];
                return Err(no_match(self.label().as_deref(), wanted, &platform));
            }
            return Ok(Choice::Image(Box::new(candidate)));
        }
        match artifact {
            Some(error) if offered.is_empty() => Ok(Choice::Artifact(error)),
            _ => Err(no_match(self.label().as_deref(), wanted, &offered)),
        }
    }

    fn label(&self) -> Option<String> {
        match &self.name {
            Some(Name::Full(name) | Name::Reference(name)) => Some(name.clone()),
            None => None,
        }
    }
}

/// The error of an image that has nothing for the platform.
pub(super) fn no_match(name: Option<&str>, wanted: &Platform, offered: &[Platform]) -> Error {
    let mut offered: Vec<String> = offered.iter().map(Platform::to_string).collect();
    offered.sort();
    offered.dedup();
    let name = name.map_or_else(|| "the image".to_owned(), |name| format!("image {name:?}"));
    let message = match offered.as_slice() {
        [] => {
            let message = format!("{name} has no manifest for any platform");
            return Error::new(ErrorKind::Unsupported, message);
        }
        offered => format!("{name} is not for {wanted}, only for {}", offered.join(", ")),
    };
    Error::new(ErrorKind::OtherPlatform, message)
}

/// A manifest with its config.
struct Candidate {
    document: Document,
    manifest: Manifest,
    config_document: Document,
    config: Config,
    platform: Platform,
}

impl Candidate {
    fn read(storage: &Storage, descriptor: &Descriptor) -> Result<Self> {
        let unsupported = |message| Err(Error::new(ErrorKind::Unsupported, message));
        if ![OCI_MANIFEST, DOCKER_MANIFEST, ""].contains(&descriptor.media_type.as_str()) {
            return unsupported(format!(
                "{} has media type {:?}, which is not an image manifest's",
                descriptor.digest, descriptor.media_type
            ));
        }
        let mut document = blob(storage, descriptor, "manifest")?;
        let head: SchemaVersion = document.parse("the manifest")?;
        if head.schema_version != 2 {
            return unsupported(format!(
                "manifest {} has schema version {}; only 2 is supported",
                descriptor.digest, head.schema_version
            ));
        }
        let manifest: Manifest = document.parse("the manifest")?;
        let inner = manifest.media_type.as_deref().unwrap_or(OCI_MANIFEST);
        if ![OCI_MANIFEST, DOCKER_MANIFEST].contains(&inner) {
            return unsupported(format!(
                "manifest {} calls itself {inner:?}, which is not an image manifest",
                descriptor.digest
            ));
        }
        if document.media_type.is_empty() {
            document.media_type = inner.to_owned();
        }
        let config_type = manifest.config.media_type.as_str();
        if ![OCI_CONFIG, DOCKER_CONFIG].contains(&config_type) {
            return unsupported(format!(
                "{} is an artifact of type {config_type:?}, not a container image",
                descriptor.digest
            ));
        }
        let config_document = blob(storage, &manifest.config, "config")?;
        let config: Config = config_document.parse("the image config")?;
        let platform = config.platform();
        Ok(Self { document, manifest, config_document, config, platform })
    }

    fn load(self, storage: &Storage) -> Result<ArchiveImage> {
        let diff_ids = self.config.diff_ids()?;
        let layers = &self.manifest.layers;
        if layers.len() > MAX_LAYERS {
            let message = format!("{} layers are more than {MAX_LAYERS}", layers.len());
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        if layers.len() != diff_ids.len() {
            return Err(Error::corrupt(format!(
                "the manifest has {} layers but the config has {} diffIDs",
                layers.len(),
                diff_ids.len()
            )));
        }
        let layers = layers.iter().zip(diff_ids);
        let layers = layers.map(|(descriptor, diff_id)| layer(storage, descriptor, diff_id));
        Ok(ArchiveImage {
            names: Vec::new(),
            manifest: Some(self.document),
            config: self.config_document,
            platform: self.platform,
            layers: layers.collect::<Result<_>>()?,
        })
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct SchemaVersion {
    schema_version: u64,
}

fn layer(storage: &Storage, descriptor: &Descriptor, diff_id: Digest) -> Result<ArchiveLayer> {
    let media_type = &descriptor.media_type;
    if media_type.ends_with("+encrypted") {
        let message = format!("layer {} is encrypted ({media_type})", descriptor.digest);
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    // Only whether it is a layer at all: how it is compressed is seen by its content, as other tools do it.
    Compression::from_media_type(media_type)?;
    let digest = descriptor.digest()?;
    let location = match find(storage, descriptor, digest, "layer") {
        Ok(location) => location,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let foreign = media_type.contains("nondistributable") || media_type.contains("foreign");
            if foreign {
                let urls = descriptor.urls.join(", ");
                let reason = format!(
                    "layer {digest} is a foreign one that is not in the archive (it is offered at: {urls})"
                );
                Location::Missing(ErrorKind::Unsupported, reason)
            } else {
                Location::Missing(error.kind(), error.to_string())
            }
        }
        Err(error) => return Err(error),
    };
    Ok(ArchiveLayer {
        label: digest.to_string(),
        digest: Some(digest),
        size: Some(descriptor.size),
        diff_id: Some(diff_id),
        location,
    })
}

/// The place of a blob whose size is the promised one.
fn find(
    storage: &Storage,
    descriptor: &Descriptor,
    digest: Digest,
    what: &str,
) -> Result<Location> {
    let Some(location) = storage.find(&format!("blobs/sha256/{}", digest.hex()))? else {
        return Err(Error::corrupt(format!("{what} {digest} is missing from the archive")));
    };
    match location.size() {
        Some(size) if size != descriptor.size => Err(Error::new(
            ErrorKind::DigestMismatch,
            format!("{what} {digest} has {size} bytes, not {} as promised", descriptor.size),
        )),
        _ => Ok(location),
    }
}

/// A small blob, verified.
fn blob(storage: &Storage, descriptor: &Descriptor, what: &str) -> Result<Document> {
    let digest = descriptor.digest()?;
    find(storage, descriptor, digest, what)?;
    let name = format!("blobs/sha256/{}", digest.hex());
    let bytes = storage.read(&name, MAX_DOCUMENT)?.unwrap_or_default();
    let document = Document::new(descriptor.media_type.clone(), bytes);
    if document.digest != digest {
        let message = format!("{what} {digest} has the digest {}", document.digest);
        return Err(Error::new(ErrorKind::DigestMismatch, message));
    }
    Ok(document)
}
