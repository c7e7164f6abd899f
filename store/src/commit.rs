//! Commit: a scratch becomes a layer image, an active snapshot a committed one.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use layer::Cancel;

use crate::apply::is_empty;
use crate::db::Records;
use crate::error::{Error, Result};
use crate::layers::{LayerId, LayerRecord};
use crate::scope::Scope;
use crate::snapshot::{Kind, Labels, Scratch, Snapshot, Timestamp, shown};
use crate::snapshots::{check_key, cleaned, parent_number};
use crate::staging::Staging;

/// How to commit.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Labels of the committed snapshot; nothing is inherited from the active one.
    pub labels: Labels,
    /// A parent for a snapshot that was prepared without one. One that has a parent must have this one.
    pub parent: Option<Vec<u8>>,
    /// Where the upper directory of a scratch image is mounted; needed for those and wrong for others.
    pub upper: Option<PathBuf>,
    /// Stops the conversion.
    pub cancel: Cancel,
}

const IMAGE: &str = "layer.erofs";

impl Scope<'_> {
    /// Turns the active snapshot `key` into the committed snapshot `name` with the same number. The scratch is
    /// converted to a layer image before anything is changed, so a commit that fails or is killed leaves the active
    /// snapshot as it was, and can be tried again.
    ///
    /// # Errors
    /// In this order: `NotFound` for a missing key; `FailedPrecondition` if it is not active; `Invalid` for an empty
    /// name; `AlreadyExists` for a taken one (also `key` itself); for a given parent `Invalid` if the snapshot has a
    /// different one, `NotFound` if it is missing, `FailedPrecondition` if it is not committed. Then `Invalid` for
    /// labels over the limit or an `upper` that is missing or not wanted; `NoSpace`, `Corrupt`, `Io`.
    pub fn commit(&self, name: &[u8], key: &[u8], options: &CommitOptions) -> Result<Snapshot> {
        let store = self.store;
        let labels = cleaned(options.labels.clone());
        let active = self.committable(&store.read()?, name, key, options)?.active;
        let labels = labels?;
        let directory = store.layout().snapshot(active.id);
        let staging = Staging::new(store.root())?;
        let made = match self.upper_to_convert(&active, &directory, options.upper.as_deref()) {
            Ok(None) => Ok(None),
            Ok(Some(upper)) => convert(&upper, &staging, &options.cancel).map(Some),
            Err(error) => Err(error),
        };
        let made = match made {
            Ok(made) => made,
            // Removed or committed by another thread meanwhile: say that, not that a file is missing.
            Err(error) => {
                let now = self.committable(&store.read()?, name, key, options);
                return Err(now.err().unwrap_or(error));
            }
        };
        sys::failpoint::hit("commit-converted");
        let staged = match &made {
            Some((_, record)) => Some(store.stage_layer(&staging, IMAGE, record)?),
            None => None,
        };

        let kept = store.not_sweeping();
        let mut write = store.write()?;
        let again = self.committable(&write, name, key, options)?;
        if again.active != active {
            return Err(Error::precondition(format!(
                "snapshot {} was changed while it was committed; try again",
                active.name()
            )));
        }
        let Committable { active, parent, parent_number, old_parent_number } = again;
        let mut layers = active.layers.clone();
        if let (Some((id, record)), Some(staged)) = (made, staged) {
            store.place_layer(&mut write, &staged, &id, &record)?;
            layers.insert(0, id);
        }
        let now = Timestamp::now();
        let committed = Snapshot {
            key: name.to_vec(),
            id: active.id,
            kind: Kind::Committed,
            parent,
            labels,
            created: now,
            updated: now,
            usage: store.usage_of_layers(&write, &layers)?,
            layers,
            deferred: None,
            scratch: None,
            origin: active.origin,
            imported: false,
        };
        write.delete_snapshot(&active, old_parent_number)?;
        write.put_snapshot(&committed, parent_number)?;
        write.commit()?;
        sys::failpoint::hit("commit-done");
        drop(kept);
        store.discard(&directory);
        Ok(committed)
    }

    /// The upper directory that has to become a layer; `None` if nothing was written over the layers applied.
    fn upper_to_convert(
        &self,
        active: &Snapshot,
        directory: &Path,
        mounted: Option<&Path>,
    ) -> Result<Option<PathBuf>> {
        let upper = match (active.scratch, mounted) {
            (Some(Scratch::Image { .. }), Some(upper)) => upper.to_owned(),
            // Never formatted, so never mounted.
            (Some(Scratch::Image { .. }), None)
                if !active.layers.is_empty() && is_all_hole(&directory.join("scratch.img"))? =>
            {
                return Ok(None);
            }
            (Some(Scratch::Image { .. }), None) => {
                return Err(Error::invalid(format!(
                    "snapshot {} writes to a disk image; committing it needs the mounted upper directory",
                    active.name()
                )));
            }
            (_, Some(upper)) => {
                return Err(Error::invalid(format!(
                    "snapshot {} writes to a directory of the store, not to {}",
                    active.name(),
                    upper.display()
                )));
            }
            (_, None) => directory.join("fs"),
        };
        let applied = !active.layers.is_empty();
        Ok(if applied && is_as_prepared(&upper)? { None } else { Some(upper) })
    }
}

/// A commit that passed the checks.
struct Committable {
    active: Snapshot,
    parent: Option<Vec<u8>>,
    parent_number: Option<u64>,
    old_parent_number: Option<u64>,
}

impl Scope<'_> {
    fn committable(
        &self,
        records: &impl Records,
        name: &[u8],
        key: &[u8],
        options: &CommitOptions,
    ) -> Result<Committable> {
        let active = self.existing(records, key)?;
        if active.kind != Kind::Active {
            return Err(Error::precondition(format!(
                "snapshot {} is {}, not active",
                active.name(),
                active.kind
            )));
        }
        check_key(name)?;
        if records.snapshot(name)?.is_some() {
            return Err(Error::exists(format!("snapshot {} exists", shown(name))));
        }
        let wanted = options.parent.as_deref().filter(|parent| !parent.is_empty());
        let old_parent_number = parent_number(records, &active)?;
        let Some(wanted) = wanted else {
            return Ok(Committable {
                parent: active.parent.clone(),
                parent_number: old_parent_number,
                old_parent_number,
                active,
            });
        };
        match active.parent.as_deref() {
            Some(parent) if parent != wanted => {
                return Err(Error::invalid(format!(
                    "snapshot {} is based on {}, it cannot be committed on {}",
                    active.name(),
                    shown(parent),
                    shown(wanted)
                )));
            }
            _ => {}
        }
        // The key is gone once the commit is done, so it cannot be its own parent.
        let parent =
            self.find(records, wanted)?.filter(|parent| parent.id != active.id).ok_or_else(
                || Error::not_found(format!("parent snapshot {} does not exist", shown(wanted))),
            )?;
        if parent.kind != Kind::Committed {
            return Err(Error::precondition(format!(
                "parent snapshot {} is {}, not committed",
                parent.name(),
                parent.kind
            )));
        }
        Ok(Committable {
            active,
            parent: Some(parent.key),
            parent_number: Some(parent.id),
            old_parent_number,
        })
    }
}

/// Writes the upper directory as a layer image into `staging`.
fn convert(upper: &Path, staging: &Staging, cancel: &Cancel) -> Result<(LayerId, LayerRecord)> {
    let output = staging.create(IMAGE)?;
    let image = layer::write_directory_image(upper, &output, cancel).map_err(|source| {
        Error::layer(format!("turning {} into a layer image", upper.display()), source)
    })?;
    let id = LayerId::of_commit(&image.checksum);
    let record = LayerRecord {
        diff_id: None,
        image_size: image.image_size,
        checksum: image.checksum,
        uuid: image.uuid,
        tar_size: 0,
        entries: image.entries,
        hides_lower: false,
        blobs: Vec::new(),
        created: Timestamp::now(),
    };
    Ok((id, record))
}

/// Whether an upper directory is as prepare made it: nothing in it, and nothing changed about the root.
fn is_as_prepared(upper: &Path) -> Result<bool> {
    let metadata = std::fs::symlink_metadata(upper)
        .map_err(|source| Error::io(format!("looking at {}", upper.display()), source))?;
    let root = metadata.mode() & 0o7777 == 0o755 && metadata.uid() == 0 && metadata.gid() == 0;
    Ok(root && is_empty(upper)?)
}

fn is_all_hole(image: &Path) -> Result<bool> {
    let metadata = std::fs::symlink_metadata(image)
        .map_err(|source| Error::io(format!("looking at {}", image.display()), source))?;
    Ok(metadata.blocks() == 0)
}
