//! Archives made by hand. The store's tests of imports use this file too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::Digest;

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The files of an archive, by path.
#[derive(Clone, Default)]
pub(super) struct Files(pub(super) BTreeMap<String, Vec<u8>>);

/// A layer as a manifest and a config name it.
#[derive(Clone)]
pub(super) struct Layer {
    pub(super) descriptor: Value,
    pub(super) diff_id: Digest,
}

impl Files {
    /// An OCI layout without blobs.
    pub(super) fn layout() -> Self {
        let mut files = Self::default();
        files.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        files
    }

    pub(super) fn put(&mut self, path: &str, bytes: Vec<u8>) {
        self.0.insert(path.to_owned(), bytes);
    }

    pub(super) fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = Digest::of(&bytes);
        let size = bytes.len();
        self.put(&blob_path(digest), bytes);
        json!({ "mediaType": media_type, "digest": digest, "size": size })
    }

    pub(super) fn document(&mut self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, serde_json::to_vec(value).unwrap())
    }

    pub(super) fn layer(&mut self, tar: &[u8], suffix: &str) -> Layer {
        let bytes = match suffix {
            "" => tar.to_vec(),
            "+gzip" => gzip(tar),
            "+zstd" => zstd::encode_all(tar, 3).unwrap(),
            other => panic!("no compression {other}"),
        };
        let descriptor = self.blob(&format!("{LAYER}{suffix}"), bytes);
        Layer { descriptor, diff_id: Digest::of(tar) }
    }

    /// A manifest with its config; the descriptor carries the platform.
    pub(super) fn image(&mut self, platform: &str, layers: &[Layer]) -> Value {
        let config = config(platform, layers);
        let config = self.document(CONFIG, &config);
        let layers: Vec<&Value> = layers.iter().map(|layer| &layer.descriptor).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        let mut descriptor = self.document(MANIFEST, &manifest);
        descriptor["platform"] = platform_json(platform);
        descriptor
    }

    pub(super) fn index(&mut self, entries: &[Value]) -> &mut Self {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        self.put("index.json", serde_json::to_vec(&index).unwrap());
        self
    }

    pub(super) fn write(&self, directory: &Path) {
        for (path, bytes) in &self.0 {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    pub(super) fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in &self.0 {
            append(&mut tar, path, bytes);
        }
        tar.into_inner().unwrap()
    }
}

/// What `docker save` wrote before version 25: two images share a layer through a symlink.
pub(super) fn docker_archive(platform: &str, layers: &[Vec<u8>], tags: &[&str]) -> Vec<u8> {
    let named: Vec<Layer> = layers
        .iter()
        .map(|tar| Layer { descriptor: Value::Null, diff_id: Digest::of(tar) })
        .collect();
    let config = serde_json::to_vec(&config(platform, &named)).unwrap();
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let mut tar = tar::Builder::new(Vec::new());
    let mut paths = Vec::new();
    let mut first: BTreeMap<&Vec<u8>, String> = BTreeMap::new();
    for (number, layer) in layers.iter().enumerate() {
        let id = Digest::of(format!("layer {number}").as_bytes()).hex();
        append(&mut tar, &format!("{id}/VERSION"), b"1.0");
        append(&mut tar, &format!("{id}/json"), b"{}");
        let path = format!("{id}/layer.tar");
        match first.get(layer) {
            Some(other) => {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                header.set_mode(0o777);
                tar.append_link(&mut header, &path, format!("../{other}")).unwrap();
            }
            None => {
                append(&mut tar, &path, layer);
                first.insert(layer, path.clone());
            }
        }
        paths.push(path);
    }
    append(&mut tar, &config_name, &config);
    let manifest = json!([{ "Config": config_name, "RepoTags": tags, "Layers": paths }]);
    append(&mut tar, "manifest.json", &serde_json::to_vec(&manifest).unwrap());
    append(&mut tar, "repositories", b"{}");
    tar.into_inner().unwrap()
}

/// A layer of regular files.
pub(super) fn layer_tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    // A layer that describes its directories depends on no other.
    let mut described = BTreeSet::new();
    for (path, bytes) in files {
        for (at, _) in path.match_indices('/') {
            if described.insert(&path[..at]) {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                header.set_mode(0o755);
                tar.append_data(&mut header, &path[..at], &[][..]).unwrap();
            }
        }
        append(&mut tar, path, bytes);
    }
    tar.into_inner().unwrap()
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, path, bytes).unwrap();
}

pub(super) fn config(platform: &str, layers: &[Layer]) -> Value {
    let mut config = platform_json(platform);
    config["config"] = json!({ "Cmd": ["sh"], "Env": ["A=b"] });
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    config["history"] = diff_ids.iter().map(|_| json!({ "created_by": "test" })).collect();
    config
}

pub(super) fn platform_json(platform: &str) -> Value {
    let parts: Vec<&str> = platform.split('/').collect();
    let mut value = json!({ "os": parts[0], "architecture": parts[1] });
    if let Some(variant) = parts.get(2) {
        value["variant"] = json!(variant);
    }
    value
}

pub(super) fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    descriptor
}

pub(super) fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
