//! Assembling an OCI image: layer tars are compressed and described, then put into one layout archive.
//!
//! Deliberately independent of Plywood's own crates: the demo and the benchmarks must not feed Plywood with
//! what Plywood itself would have written.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// How a layer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    /// Level 6, as most builders do.
    Gzip,
    /// Level 3, zstd's default.
    Zstd,
}

impl Compression {
    fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// A layer blob on disk and what the manifest and the config say of it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// The blob, compressed as said.
    pub(crate) path: PathBuf,
    /// Its compression.
    pub(crate) compression: Compression,
    /// SHA-256 of the blob, lower-case hexadecimal.
    pub(crate) digest: String,
    /// SHA-256 of the uncompressed tar, lower-case hexadecimal.
    pub(crate) diff_id: String,
    /// The blob's length in bytes.
    pub(crate) size: u64,
    /// The uncompressed tar's length in bytes.
    pub(crate) tar_size: u64,
}

/// Passes bytes on and digests them.
pub(crate) struct Hashing<W> {
    inner: W,
    digest: Sha256,
    length: u64,
}

impl<W: Write> Hashing<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, digest: Sha256::new(), length: 0 }
    }

    /// The writer, the SHA-256 in hexadecimal, and the number of bytes.
    pub(crate) fn finish(self) -> (W, String, u64) {
        (self.inner, hexadecimal(&self.digest.finalize()), self.length)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a file in hexadecimal, and its length.
pub(crate) fn digest_of(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut sink = Hashing::new(io::sink());
    copy(&mut file, &mut sink).with_context(|| format!("cannot read {}", path.display()))?;
    let (_, digest, length) = sink.finish();
    Ok((digest, length))
}

/// Compresses a layer tar into `blob` and describes it.
pub(crate) fn pack_layer(tar: &Path, blob: &Path, compression: Compression) -> Result<Layer> {
    let doing = || format!("cannot pack {} into {}", tar.display(), blob.display());
    let mut tar = BufReader::new(File::open(tar).with_context(doing)?);
    let out = Hashing::new(BufWriter::new(File::create(blob).with_context(doing)?));
    let (out, diff_id, tar_size) = match compression {
        Compression::Plain => {
            let mut plain = Hashing::new(out);
            copy(&mut tar, &mut plain).with_context(doing)?;
            plain.finish()
        }
        Compression::Gzip => {
            let encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(6));
            let mut hashing = Hashing::new(encoder);
            copy(&mut tar, &mut hashing).with_context(doing)?;
            let (encoder, diff_id, size) = hashing.finish();
            (encoder.finish().with_context(doing)?, diff_id, size)
        }
        Compression::Zstd => {
            let encoder = zstd::Encoder::new(out, 3).with_context(doing)?;
            let mut hashing = Hashing::new(encoder);
            copy(&mut tar, &mut hashing).with_context(doing)?;
            let (encoder, diff_id, size) = hashing.finish();
            (encoder.finish().with_context(doing)?, diff_id, size)
        }
    };
    let (mut out, digest, size) = out.finish();
    out.flush().with_context(doing)?;
    Ok(Layer { path: blob.to_owned(), compression, digest, diff_id, size, tar_size })
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
    }
}

/// Whom an image is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Platform {
    pub(crate) os: &'static str,
    pub(crate) architecture: &'static str,
    /// Windows only.
    pub(crate) os_version: Option<&'static str>,
}

impl Platform {
    fn host() -> Self {
        Self { os: "linux", architecture: architecture(), os_version: None }
    }

    /// Sets the properties in an object of OCI's.
    fn describe(self, object: &mut Value) {
        object["os"] = json!(self.os);
        object["architecture"] = json!(self.architecture);
        if let Some(version) = self.os_version {
            object["os.version"] = json!(version);
        }
    }
}

/// Writes an archive of an image for this machine.
pub(crate) fn write_archive(
    archive: &Path,
    reference: &str,
    layers: &[Layer],
    config: &Value,
    created: &str,
) -> Result<()> {
    write_archive_for(archive, reference, Platform::host(), layers, config, created)
}

/// Writes the layout archive: `oci-layout`, `index.json` and the blobs. `config` is the image config's
/// `config` object. Both naming annotations are set: the one of the specification and containerd's.
pub(crate) fn write_archive_for(
    archive: &Path,
    reference: &str,
    platform: Platform,
    layers: &[Layer],
    config: &Value,
    created: &str,
) -> Result<()> {
    let diff_ids: Vec<String> =
        layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
    let mut config = json!({
        "created": created,
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": layers.iter().map(|_| json!({ "created": created })).collect::<Vec<_>>(),
    });
    platform.describe(&mut config);
    let config = serde_json::to_vec(&config)?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": layers.iter().map(|layer| json!({
            "mediaType": layer.compression.media_type(),
            "digest": format!("sha256:{}", layer.digest),
            "size": layer.size,
        })).collect::<Vec<_>>(),
    }))?;
    let mut entry = descriptor(MANIFEST, &manifest);
    entry["platform"] = json!({});
    platform.describe(&mut entry["platform"]);
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": reference,
        "io.containerd.image.name": reference,
    });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [entry],
    }))?;

    let doing = || format!("cannot write {}", archive.display());
    let part = archive.with_extension("part");
    let mut tar = tar::Builder::new(BufWriter::new(File::create(&part).with_context(doing)?));
    let mut bytes = |name: &str, bytes: &[u8]| {
        tar.append_data(&mut header(bytes.len() as u64), name, bytes).with_context(doing)
    };
    bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    bytes("index.json", &index)?;
    bytes(&blob_name(&hexadecimal(&Sha256::digest(&manifest))), &manifest)?;
    bytes(&blob_name(&hexadecimal(&Sha256::digest(&config))), &config)?;
    for layer in layers {
        let file = BufReader::new(File::open(&layer.path).with_context(doing)?);
        tar.append_data(&mut header(layer.size), blob_name(&layer.digest), file)
            .with_context(doing)?;
    }
    tar.into_inner().and_then(|mut out| out.flush()).with_context(doing)?;
    std::fs::rename(&part, archive).with_context(doing)
}

fn blob_name(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    header
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": format!("sha256:{}", hexadecimal(&Sha256::digest(bytes))),
        "size": bytes.len(),
    })
}

/// This machine's architecture in OCI's words, which are Go's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
