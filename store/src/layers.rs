//! Layers of the store: ids, records, and adding an image file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use layer::{Checksum, Digest, LayerImage};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cim::{CimFile, CimParts};
use crate::db::Records as _;
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::Timestamp;
use crate::staging::{CIMS, Staging};
use crate::store::Store;
use crate::verity::LayerVerity;
use crate::{db, layout};

/// What identifies a layer image, so that the same layer is stored once:
///
/// * `sha256:<hex>`: the diffID, for an image that depends on nothing but the layer's tar;
/// * `chain:sha256:<hex>`: the chainID, for one that took files from its parents (a hard link to a lower file);
/// * `commit:<hex>`: the image's checksum, for a committed scratch;
/// * `cim:sha256:<hex>`: the chainID, for a layer of a Windows image. Its image is a CIM, a fork of the one below.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(String);

/// What ids of CIMs begin with.
const CIM: &str = "cim:";

impl LayerId {
    /// Of an image that depends on the layer's tar alone.
    pub fn of_diff(diff_id: &Digest) -> Self {
        Self(diff_id.to_string())
    }

    /// Of an image that depends on the layer and on those below.
    pub fn of_chain(chain_id: &Digest) -> Self {
        Self(format!("chain:{chain_id}"))
    }

    /// Of a Windows layer, whose image is a fork of that of the layer below.
    pub fn of_cim(chain_id: &Digest) -> Self {
        Self(format!("{CIM}{chain_id}"))
    }

    /// Of a committed scratch, by content.
    pub fn of_commit(checksum: &Checksum) -> Self {
        Self(format!("commit:{}", checksum.hex()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the image depends on nothing but the layer's tar.
    pub fn is_of_diff(&self) -> bool {
        self.0.starts_with("sha256:")
    }

    /// Whether the layer image is a CIM, else it is an EROFS file.
    pub fn is_cim(&self) -> bool {
        self.0.starts_with(CIM)
    }

    /// Name of its file in `layers/`, or of its filesystem file in `cim-layers/`; different for different ids.
    pub fn file_name(&self) -> String {
        if let Some(digits) = self.0.strip_prefix(CIM) {
            return format!("{}.cim", digits.trim_start_matches("sha256:"));
        }
        let stem = match self.0.strip_prefix("sha256:") {
            Some(digits) => digits.to_owned(),
            None => self.0.replace("sha256:", "").replace(':', "-"),
        };
        format!("{stem}.erofs")
    }

    /// The id whose file has this name.
    fn of_file_name(name: &str) -> Option<Self> {
        if let Some(digits) = name.strip_suffix(".cim") {
            return format!("{CIM}sha256:{digits}").parse().ok();
        }
        let stem = name.strip_suffix(".erofs")?;
        let text = match stem.split_once('-') {
            None => format!("sha256:{stem}"),
            Some(("chain", digits)) => format!("chain:sha256:{digits}"),
            Some((sort, digits)) => format!("{sort}:{digits}"),
        };
        text.parse().ok().filter(|id: &Self| id.file_name() == name)
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LayerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text
            .strip_prefix("commit:")
            .or_else(|| text.strip_prefix("chain:").unwrap_or(text).strip_prefix("sha256:"))
            .or_else(|| text.strip_prefix(CIM)?.strip_prefix("sha256:"));
        match digits {
            Some(digits)
                if digits.len() == 64
                    && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err(Error::invalid(format!(
                "{text:?} is not a layer id (sha256:…, chain:sha256:…, cim:sha256:… or commit:…, 64 hexadecimal digits)"
            ))),
        }
    }
}

impl Serialize for LayerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LayerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Most blobs that a layer remembers: one tar comes in a handful of compressions at most.
pub const BLOBS_PER_LAYER: usize = 8;

/// What is known about a layer image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the layer's uncompressed tar; `None` for a committed scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Digest>,
    /// Length of the image file in bytes; of all the files of a CIM.
    pub image_size: u64,
    /// Checksum of the image file; of a CIM that of all its own files in their order.
    pub checksum: Checksum,
    /// UUID in the image's superblock, GUID of a CIM.
    #[serde(with = "uuid_text")]
    pub uuid: [u8; 16],
    /// Length of the layer's uncompressed tar in bytes; zero for a committed scratch.
    pub tar_size: u64,
    /// Names in the image's tree, the root included.
    pub entries: u64,
    /// The layer's root is opaque: chains end here, since overlayfs does not honour the mark on a root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hides_lower: bool,
    /// Digests of the (compressed) blobs that are known to give this layer, at most [`BLOBS_PER_LAYER`] of them, the
    /// latest last; none for an image that depends on the layers below.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Digest>,
    /// What a CIM consists of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cim: Option<CimParts>,
    /// Its hash tree, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity: Option<LayerVerity>,
    /// When it was made.
    pub created: Timestamp,
}

impl LayerRecord {
    /// The record of what was just made of a layer's blob.
    pub fn of(image: &LayerImage) -> Self {
        Self {
            diff_id: Some(image.diff_id),
            image_size: image.image_size,
            checksum: image.checksum,
            uuid: image.uuid,
            tar_size: image.tar_size,
            entries: image.entries,
            hides_lower: image.hides_lower,
            // The same blob gives another layer on another chain.
            blobs: if image.depends_on_parents { Vec::new() } else { vec![image.digest] },
            cim: None,
            verity: None,
            created: Timestamp::now(),
        }
    }
}

/// A layer of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its id.
    pub id: LayerId,
    /// What is known about it.
    pub record: LayerRecord,
    /// The image file.
    #[serde(with = "crate::snapshot::name::path")]
    pub path: PathBuf,
}

mod uuid_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use uuid::Uuid;

    pub(super) fn serialize<S: Serializer>(
        bytes: &[u8; 16],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Uuid::from_bytes(*bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; 16], D::Error> {
        let text = String::deserialize(deserializer)?;
        Uuid::parse_str(&text).map(Uuid::into_bytes).map_err(serde::de::Error::custom)
    }
}

impl Store {
    /// Takes a finished image file out of `staging` into the store, durably: fsync, rename into `layers/`, fsync of
    /// that directory, then the record. A layer that is already there is kept as it is and the staged file left to
    /// `staging`'s drop.
    ///
    /// # Errors
    /// `Invalid` if the file's length is not the record's; `ReadOnly`, `NoSpace`, `Io`.
    pub fn add_layer(
        &self,
        staging: &Staging,
        file: &str,
        id: LayerId,
        record: LayerRecord,
    ) -> Result<LayerId> {
        let staged = self.stage_layer(staging, file, &record)?;
        let _kept = self.not_sweeping();
        let mut write = self.write()?;
        self.place_layer(&mut write, &staged, &id, &record)?;
        write.commit()?;
        sys::failpoint::hit("add-layer-done");
        Ok(id)
    }

    /// Checks and fsyncs a staged image file, or the files of a CIM, which lie in [`Staging::cims`].
    pub(crate) fn stage_layer(
        &self,
        staging: &Staging,
        file: &str,
        record: &LayerRecord,
    ) -> Result<PathBuf> {
        let staged = match &record.cim {
            None => self.stage_file(staging, file, record.image_size)?,
            Some(parts) => {
                for CimFile { name, length } in &parts.files {
                    self.stage_file(staging, &format!("{CIMS}/{name}"), *length)?;
                }
                staging.path().join(CIMS)
            }
        };
        sys::failpoint::hit("layer-synced");
        Ok(staged)
    }

    /// Checks the length of a staged file and fsyncs it.
    pub(crate) fn stage_file(
        &self,
        staging: &Staging,
        file: &str,
        promised: u64,
    ) -> Result<PathBuf> {
        let staged = staging.path().join(file);
        let doing = || format!("taking the file {}", staged.display());
        let open = sys::file::open_to_sync(&staged).map_err(|source| Error::io(doing(), source))?;
        let length = open.metadata().map_err(|source| Error::io(doing(), source))?.len();
        if length != promised {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{} is {length} bytes long, its record says {promised}", staged.display()),
            ));
        }
        sys::file::sync_file(&open, &staged).map_err(|source| Error::sys(doing(), source))?;
        Ok(staged)
    }

    /// Renames a fsynced image into place and writes its record into `write`; false if the layer is already there,
    /// which then learns only the blobs that give it. An unrecorded file of that name is a leftover and is replaced.
    pub(crate) fn place_layer(
        &self,
        write: &mut db::Write,
        staged: &std::path::Path,
        id: &LayerId,
        record: &LayerRecord,
    ) -> Result<bool> {
        // A tree comes when the image is there.
        let mut record = LayerRecord { verity: None, ..record.clone() };
        if !id.is_of_diff() {
            // The same blob gives another layer on another chain.
            record.blobs.clear();
        }
        // A record without a file of that length: whatever lost the file, this is the same layer again.
        if let Some(mut known) = write.layer(id)?.filter(|known| self.is_intact(id, known)) {
            let before = known.blobs.len();
            let new = record.blobs.iter().filter(|blob| !known.blobs.contains(blob));
            let new: Vec<Digest> = new.copied().collect();
            known.blobs.extend(new);
            if known.blobs.len() > before {
                write.put_layer(id, known)?;
            }
            return Ok(false);
        }
        let doing = || format!("adding layer {id}");
        for path in self.layout().layer_files(id, &record) {
            let staged = match &record.cim {
                None => staged.to_owned(),
                Some(_) => staged.join(path.file_name().unwrap_or_default()),
            };
            sys::file::rename(&staged, &path).map_err(|source| Error::sys(doing(), source))?;
            sys::failpoint::hit("layer-renamed");
        }
        sys::file::sync_directory(&self.layout().directory_of(id))
            .map_err(|source| Error::sys(doing(), source))?;
        sys::failpoint::hit("layer-directory-synced");
        write.put_layer(id, record)?;
        Ok(true)
    }

    /// The layer that a (compressed) blob is known to give, if its image is in the store: it need not be read again.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn layer_of_blob(&self, blob: &Digest) -> Result<Option<Layer>> {
        let read = self.read()?;
        let Some(id) = read.layer_of_blob(blob)? else { return Ok(None) };
        let record = read.layer(&id)?.filter(|record| self.is_intact(&id, record));
        Ok(record.map(|record| self.located(id, record)))
    }

    /// A layer by id.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn layer(&self, id: &LayerId) -> Result<Option<Layer>> {
        let record = self.read()?.layer(id)?;
        Ok(record.map(|record| self.located(id.clone(), record)))
    }

    /// The layer whose image file `path` is, by its place and name below the root; `None` for any other path.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn layer_at(&self, path: &Path) -> Result<Option<Layer>> {
        let name = path.file_name().and_then(|name| name.to_str());
        match name.and_then(LayerId::of_file_name) {
            Some(id) if path == self.layout().layer(&id) => self.layer(&id),
            _ => Ok(None),
        }
    }

    /// Whether the store has this layer, record and file: one that it has not (any more) must be added.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn has_layer(&self, id: &LayerId) -> Result<bool> {
        self.holds_layer(&self.read()?, id)
    }

    pub(crate) fn holds_layer(&self, records: &impl db::Records, id: &LayerId) -> Result<bool> {
        Ok(records.layer(id)?.is_some_and(|record| self.is_intact(id, &record)))
    }

    /// Whether all files are there and as long as they were made.
    pub(crate) fn is_intact(&self, id: &LayerId, record: &LayerRecord) -> bool {
        let is_there = |path: &Path, length: u64| {
            let metadata = std::fs::symlink_metadata(path);
            metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == length)
        };
        match &record.cim {
            None => is_there(&self.layout().layer(id), record.image_size),
            Some(parts) => {
                let directory = self.layout().cim_layers();
                parts.files.iter().all(|file| is_there(&directory.join(&file.name), file.length))
            }
        }
    }

    /// All layers, in the order of their ids.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn layers(&self) -> Result<Vec<Layer>> {
        let records = self.read()?.layers()?;
        Ok(records.into_iter().map(|(id, record)| self.located(id, record)).collect())
    }

    pub(crate) fn located(&self, id: LayerId, record: LayerRecord) -> Layer {
        let path = self.layout().layer(&id);
        Layer { id, record, path }
    }
}

impl layout::Layout {
    pub(crate) fn layer(&self, id: &LayerId) -> PathBuf {
        self.directory_of(id).join(id.file_name())
    }

    fn directory_of(&self, id: &LayerId) -> PathBuf {
        if id.is_cim() { self.cim_layers() } else { self.layers() }
    }

    /// All files of a layer image: the image and its hash tree, or a CIM's with the filesystem file last, without which
    /// the others are nobody's.
    pub(crate) fn layer_files(&self, id: &LayerId, record: &LayerRecord) -> Vec<PathBuf> {
        match &record.cim {
            None => {
                let tree = record.verity.as_ref().map(|_| self.layer_tree(id));
                std::iter::once(self.layer(id)).chain(tree).collect()
            }
            Some(parts) => {
                parts.files.iter().map(|file| self.cim_layers().join(&file.name)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_lead_back_to_ids() {
        let digits = "5".repeat(64);
        for id in [
            format!("sha256:{digits}"),
            format!("chain:sha256:{digits}"),
            format!("commit:{digits}"),
            format!("cim:sha256:{digits}"),
        ] {
            let id: LayerId = id.parse().unwrap();
            assert_eq!(LayerId::of_file_name(&id.file_name()), Some(id));
        }
        for name in
            ["", ".erofs", "5.erofs", &format!("{digits}.img"), &format!("x-{digits}.erofs")]
        {
            assert_eq!(LayerId::of_file_name(name), None, "{name}");
        }
    }
}
