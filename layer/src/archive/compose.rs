//! Documents for images that come without them: a docker archive's manifest, a bare layer's image, an export.
//! No clock is asked: the same input gives the same digest.

use serde_json::{Map, Value, json};

use super::document::{Descriptor, Document, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, parse};
use super::platform::Platform;
use crate::compression::Compression;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// A manifest of layers given by digest and size, bottom first, all compressed in one way.
pub fn plain_manifest(
    config: &Document,
    layers: &[(Digest, u64)],
    compression: Compression,
) -> Result<Document> {
    let media_type = match compression {
        Compression::None => OCI_LAYER.to_owned(),
        Compression::Gzip => format!("{OCI_LAYER}+gzip"),
        Compression::Zstd => format!("{OCI_LAYER}+zstd"),
    };
    let layers = layers.iter().map(|(digest, size)| Descriptor::plain(&media_type, *digest, *size));
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config: Descriptor::of(config),
        layers: layers.collect(),
    };
    document(OCI_MANIFEST, &manifest)
}

/// The config of an image that is one layer and nothing else.
pub fn bare_config(platform: &Platform, diff_id: Digest) -> Result<Document> {
    let mut config = json!({
        "os": platform.os,
        "architecture": platform.architecture,
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [history()],
    });
    if let (Some(variant), Value::Object(config)) = (&platform.variant, &mut config) {
        config.insert("variant".to_owned(), json!(variant));
    }
    document(OCI_CONFIG, &config)
}

/// The config of an image with one more layer on top. Its history, if it has one, gets one more entry.
pub fn stacked_config(base: &Document, diff_id: Digest) -> Result<Document> {
    let mut config = object(base)?;
    list(rootfs(&mut config)?, "diff_ids")?.push(json!(diff_id));
    if config.get("history").is_some_and(Value::is_array) {
        list(&mut config, "history")?.push(history());
    }
    document(OCI_CONFIG, &config)
}

/// The config of an image whose layers were written anew, bottom first.
pub fn rebuilt_config(config: &Document, diff_ids: &[Digest]) -> Result<Document> {
    let mut config = object(config)?;
    rootfs(&mut config)?.insert("diff_ids".to_owned(), json!(diff_ids));
    document(OCI_CONFIG, &config)
}

fn history() -> Value {
    json!({ "created_by": "plywood image import" })
}

fn object(config: &Document) -> Result<Map<String, Value>> {
    parse(&config.bytes, "the image config")
}

fn rootfs(config: &mut Map<String, Value>) -> Result<&mut Map<String, Value>> {
    config
        .get_mut("rootfs")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| Error::corrupt("the image config has no rootfs"))
}

fn list<'a>(object: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Vec<Value>> {
    let value = object.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value
        .as_array_mut()
        .ok_or_else(|| Error::corrupt(format!("{key:?} of the image config is not a list")))
}

fn document(media_type: &str, value: &impl serde::Serialize) -> Result<Document> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::invalid(format!("writing a {media_type}")).because(error))?;
    Ok(Document::new(media_type, bytes))
}
