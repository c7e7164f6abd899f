//! Layers of Windows images. The layer image is a CIM, and one is a fork of that of the layer below: all of them lie in
//! one directory, and none can be without those below it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use cimfs::{DirectorySet, FileSet as _, Image};
use layer::windows::WindowsOptions;
use layer::{Cancel, Checksum, Digest, LayerImage, LayerOptions, Progress};
use serde::{Deserialize, Serialize};

use crate::below::Below;
use crate::db::Records;
use crate::error::{Error, ErrorKind, Result};
use crate::layers::{LayerId, LayerRecord};
use crate::snapshot::Timestamp;
use crate::staging::Staging;

/// What a CIM consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CimParts {
    /// The layer below, which it was forked from; `None` for a base layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<LayerId>,
    /// Its own files: regions, lists of objects, and the filesystem file last.
    pub files: Vec<CimFile>,
}

/// One file of a CIM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CimFile {
    /// Its name in `cim-layers/`.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
}

/// A Windows layer that was made in [`Staging::cims`] and can be taken from there.
#[derive(Debug, Clone)]
pub struct MadeCim {
    /// Its id on the layers below.
    pub id: LayerId,
    /// Its record.
    pub record: LayerRecord,
    /// What was made of the blob, as of other layers.
    pub image: LayerImage,
}

/// Makes a CIM of a Windows layer's blob in `staging`, under the temporary `name`: a fork of the nearest of the layers
/// `below`, which are in the store or were made in the same staging directory.
///
/// # Errors
/// Those of [`layer::windows::write_windows_layer`]; `FailedPrecondition` if a layer below is no CIM; `Io`.
pub fn make_cim(
    source: impl Read + Send,
    staging: &Staging,
    name: &str,
    below: &Below,
    blob: &LayerOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<MadeCim> {
    let doing = || "making a CIM";
    let directory = staging.make_cims()?;
    for layer in below.nearest_first() {
        if !layer.id.is_cim() {
            return Err(Error::precondition(format!("a Windows layer cannot lie on {}", layer.id)));
        }
        if layer.path.parent() != Some(&directory) {
            staging.lend(layer)?;
        }
    }
    let parent = below.nearest_first().first().map(|layer| layer.id.clone());
    let parent_name = parent.as_ref().map(LayerId::file_name);
    let set = DirectorySet::new(&directory);
    let options = WindowsOptions { blob: blob.clone(), ..WindowsOptions::default() };
    let made = layer::windows::write_windows_layer(
        source,
        &set,
        name,
        parent_name.as_deref(),
        &options,
        progress,
        cancel,
    )
    .map_err(|source| Error::layer(doing(), source))?;
    let id = LayerId::of_cim(&below.chain_id(&made.blob.diff_id));
    std::fs::rename(directory.join(name), directory.join(id.file_name()))
        .map_err(|source| Error::io(doing(), source))?;
    let origin = CimOrigin {
        diff_id: made.blob.diff_id,
        tar_size: made.blob.tar_size,
        entries: made.entries,
        parent,
    };
    let record = LayerRecord::of_cim(staging, &id, origin)?;
    let image = LayerImage {
        digest: made.blob.digest,
        size: made.blob.size,
        diff_id: made.blob.diff_id,
        tar_size: made.blob.tar_size,
        image_size: record.image_size,
        checksum: record.checksum,
        uuid: record.uuid,
        entries: made.entries,
        depends_on_parents: true,
        hides_lower: false,
    };
    Ok(MadeCim { id, record, image })
}

/// What a conversion tells of a Windows layer beside the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CimOrigin {
    /// Digest of the layer's uncompressed tar.
    pub diff_id: Digest,
    /// Length of the layer's uncompressed tar in bytes.
    pub tar_size: u64,
    /// Names in the layer.
    pub entries: u64,
    /// The layer below.
    pub parent: Option<LayerId>,
}

impl LayerRecord {
    /// The record of a CIM that was just made in [`Staging::cims`]: its files are measured and read once.
    ///
    /// # Errors
    /// `Corrupt` if it is no CIM or a file is missing, `Io`.
    pub fn of_cim(staging: &Staging, id: &LayerId, origin: CimOrigin) -> Result<Self> {
        let directory = staging.cims();
        let doing = || format!("looking at the CIM of layer {id}");
        let set = DirectorySet::new(&directory);
        let name = id.file_name();
        let image = Image::open(&set, &name)
            .map_err(|source| Error::caused(ErrorKind::Corrupt, doing(), source))?;
        let guid = image.guid();
        let prefixes = [format!("region_{guid}_"), format!("objectid_{guid}_")];
        let mut names = set.names().map_err(|source| Error::io(doing(), source))?;
        names.retain(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
        names.sort_unstable();
        names.push(name);
        let mut files = Vec::new();
        for name in names {
            let metadata = std::fs::symlink_metadata(directory.join(&name));
            let length = metadata.map_err(|source| Error::io(doing(), source))?.len();
            files.push(CimFile { name, length });
        }
        let parts = CimParts { parent: origin.parent, files };
        Ok(Self {
            diff_id: Some(origin.diff_id),
            image_size: parts.files.iter().map(|file| file.length).sum(),
            checksum: parts.checksum(&directory).map_err(|source| Error::io(doing(), source))?,
            uuid: uuid::Uuid::try_parse(&guid.to_string()).map_or([0; 16], uuid::Uuid::into_bytes),
            tar_size: origin.tar_size,
            entries: origin.entries,
            hides_lower: false,
            // The same blob gives another layer on another chain.
            blobs: Vec::new(),
            cim: Some(parts),
            verity: None,
            created: Timestamp::now(),
        })
    }
}

impl CimParts {
    /// BLAKE3 over the files in their order.
    pub(crate) fn checksum(&self, directory: &Path) -> io::Result<Checksum> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        for CimFile { name, .. } in &self.files {
            let mut file = File::open(directory.join(name))?;
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => _ = hasher.update(&buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Checksum::from_bytes(hasher.finalize().into()))
    }
}

/// The first of what is wrong inside a CIM whose files are as they were made.
pub(crate) fn fault_inside(directory: &Path, id: &LayerId) -> Option<String> {
    let report = match cimfs::check(&DirectorySet::new(directory), &id.file_name()) {
        Ok(report) => report,
        Err(error) => return Some(crate::sweep::reason(&error)),
    };
    let is_error = |code: cimfs::Code| code.severity() == cimfs::Severity::Error;
    let worst = report.findings.iter().find(|finding| is_error(finding.code))?;
    Some(format!("errors inside its CIM, first: {worst}"))
}

/// Refuses a layer that cannot lie on the one below: kinds do not mix, and a CIM lies on the one it was forked from.
pub(crate) fn check_fit(id: &LayerId, record: &LayerRecord, below: Option<&LayerId>) -> Result<()> {
    let fork_of = record.cim.as_ref().and_then(|parts| parts.parent.as_ref());
    let fits = match id.is_cim() {
        true => fork_of == below,
        false => !below.is_some_and(LayerId::is_cim),
    };
    let shown = |id: Option<&LayerId>| id.map_or_else(|| "nothing".to_owned(), LayerId::to_string);
    match fits {
        true => Ok(()),
        false if id.is_cim() => Err(Error::precondition(format!(
            "layer {id} is a CIM on {}, it cannot lie on {}",
            shown(fork_of),
            shown(below)
        ))),
        false => Err(Error::precondition(format!(
            "layer {id} is none of a Windows image, it cannot lie on {}",
            shown(below)
        ))),
    }
}

/// The top layer of a committed snapshot.
pub(crate) fn top_of(records: &impl Records, snapshot: Option<&[u8]>) -> Result<Option<LayerId>> {
    let Some(key) = snapshot else { return Ok(None) };
    Ok(records.snapshot(key)?.and_then(|snapshot| snapshot.layers.into_iter().next()))
}

/// The layers, and those that CIMs among them were forked from.
pub(crate) fn with_those_below(
    records: &impl Records,
    layers: BTreeSet<LayerId>,
) -> Result<BTreeSet<LayerId>> {
    let mut all = BTreeSet::new();
    for id in layers {
        let mut next = Some(id);
        while let Some(id) = next {
            // Seen before: so is everything below it.
            if all.contains(&id) {
                break;
            }
            next = match id.is_cim() {
                true => records.layer(&id)?.and_then(|record| record.cim?.parent),
                false => None,
            };
            all.insert(id);
        }
    }
    Ok(all)
}
