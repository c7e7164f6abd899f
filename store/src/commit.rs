//! Commit: a scratch becomes a layer image, an active snapshot a committed one.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

use std::fs::File;
use std::path::{Path, PathBuf};

use layer::{Cancel, LayerOptions};

use crate::below::Below;
use crate::cim::{check_fit, make_cim, top_of};
use crate::db::Records;
use crate::error::{Error, Result};
use crate::layers::{LayerId, LayerRecord};
use crate::scope::Scope;
use crate::snapshot::{DeferredLayer, Kind, Labels, Scratch, Snapshot, Timestamp, shown};
use crate::snapshots::{check_key, cleaned, parent_number};
use crate::staging::Staging;

#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(not(target_os = "linux"))]
use other as imp;

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
const DEFERRED: &str = "deferred.erofs";
const DEFERRED_CIM: &str = "deferred.cim";

impl Scope<'_> {
    /// Turns the active snapshot `key` into the committed snapshot `name` with the same number. A deferred layer and
    /// what was written to the scratch become layer images before anything is changed, so a commit that fails or is
    /// killed leaves the active snapshot as it was, and can be tried again. Where layers were applied and nothing was
    /// written over them, they are all that is committed.
    ///
    /// # Errors
    /// In this order: `NotFound` for a missing key; `FailedPrecondition` if it is not active; `Invalid` for an empty or
    /// too long name; `AlreadyExists` for a taken one (also `key` itself); for a given parent `Invalid` if the snapshot
    /// has a different one, `NotFound` if it is missing, `FailedPrecondition` if it is not committed. Then `Invalid` for
    /// labels over the limit or an `upper` that is missing or not wanted; `FailedPrecondition` if the snapshot was
    /// changed meanwhile; `NoSpace`, `Corrupt`, `Io`.
    pub fn commit(&self, name: &[u8], key: &[u8], options: &CommitOptions) -> Result<Snapshot> {
        let store = self.store;
        let labels = cleaned(options.labels.clone());
        let read = store.read()?;
        let Committable { active, parent, parent_number: number, .. } =
            self.committable(&read, name, key, options)?;
        let labels = labels?;
        if let Some(host) = store.host()
            && matches!(active.scratch, Some(Scratch::Disk { .. } | Scratch::Folder))
        {
            drop(read);
            return self.commit_on_host(host, name, key, labels, options);
        }
        let below = match active.deferred {
            Some(_) => {
                let above = Snapshot { parent, ..active.clone() };
                Some(self.below_layer_of(&read, above)?)
            }
            None => None,
        };
        self.refuse_scratch_on_cim(&read, &active, options)?;
        drop(read);
        let staging = Staging::new(store.root())?;
        let made = match self.make_layers(&active, below.as_ref(), &staging, options) {
            Ok(made) => made,
            // Removed or committed by another thread meanwhile: say that, not that a file is missing.
            Err(error) => {
                let now = self.committable(&store.read()?, name, key, options);
                return Err(now.err().unwrap_or(error));
            }
        };

        let kept = store.not_sweeping();
        let mut write = store.write()?;
        let again = self.committable(&write, name, key, options)?;
        // Labels may have changed, but they are not inherited.
        let changed = again.active.layers != active.layers
            || again.active.deferred != active.deferred
            || again.parent_number != number;
        if changed {
            return Err(Error::precondition(format!(
                "snapshot {} was changed while it was committed; try again",
                active.name()
            )));
        }
        let Committable { active, parent, parent_number, old_parent_number } = again;
        let mut below = top_of(&write, parent.as_deref())?;
        for id in active.layers.iter().rev() {
            if let Some(record) = write.layer(id)? {
                check_fit(id, &record, below.as_ref())?;
            }
            below = Some(id.clone());
        }
        for layer in made.iter().rev() {
            if let Some((_, record)) = &layer.staged {
                check_fit(&layer.id, record, below.as_ref())?;
            }
            below = Some(layer.id.clone());
        }
        let mut layers = Vec::new();
        for layer in made {
            match layer.staged {
                Some((staged, record)) => {
                    store.place_layer(&mut write, &staged, &layer.id, &record)?;
                }
                None if !store.holds_layer(&write, &layer.id)? => {
                    return Err(Error::precondition(format!(
                        "layer {} was removed while snapshot {} was committed; try again",
                        layer.id,
                        active.name()
                    )));
                }
                None => {}
            }
            layers.push(layer.id);
        }
        layers.extend_from_slice(&active.layers);
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
        let grave = store.bury_scratch(&active);
        drop(kept);
        if let Ok(Some(grave)) = grave {
            sys::failpoint::hit("buried");
            drop(grave.delete());
        }
        Ok(committed)
    }

    /// Nothing makes a CIM of a scratch directory: on a Windows image only applied layers can be committed.
    fn refuse_scratch_on_cim(
        &self,
        records: &impl Records,
        active: &Snapshot,
        options: &CommitOptions,
    ) -> Result<()> {
        let parent = options.parent.as_deref().or(active.parent.as_deref());
        let below = match active.layers.first() {
            Some(layer) => Some(layer.clone()),
            None => top_of(records, parent.filter(|parent| !parent.is_empty()))?,
        };
        let directory = self.store.layout().snapshot(active.id);
        if below.is_some_and(|below| below.is_cim())
            && upper_to_convert(active, &directory, options.upper.as_deref())?.is_some()
        {
            return Err(Error::precondition(format!(
                "snapshot {} is based on a Windows image: only layers that were applied to it can be committed, not what \
                 was written",
                active.name()
            )));
        }
        Ok(())
    }

    /// The layers that a commit adds to those applied, top first: what was written, then what was deferred.
    fn make_layers(
        &self,
        active: &Snapshot,
        below: Option<&Below>,
        staging: &Staging,
        options: &CommitOptions,
    ) -> Result<Vec<MadeLayer>> {
        let store = self.store;
        let directory = store.layout().snapshot(active.id);
        let mut made = Vec::new();
        if let Some(upper) = upper_to_convert(active, &directory, options.upper.as_deref())? {
            let (id, record) = imp::convert(&upper, staging, &options.cancel)?;
            sys::failpoint::hit("commit-converted");
            let staged = store.stage_layer(staging, IMAGE, &record)?;
            made.push(MadeLayer { id, staged: Some((staged, record)) });
        }
        if let (Some(layer), Some(below)) = (&active.deferred, below) {
            // Made for another snapshot already: kept until our transaction, and looked for after that is sure.
            let id = match below.is_windows() {
                true => LayerId::of_cim(&below.chain_id(&layer.diff_id)),
                false => below.layer_id(&layer.diff_id, true),
            };
            staging.pin(&id)?;
            if store.has_layer(&id)? {
                made.push(MadeLayer { id, staged: None });
            } else {
                let blob = store.layout().deferred(active.id);
                let (id, record) = convert_deferred(&blob, layer, below, staging, &options.cancel)
                    .map_err(|error| {
                        let doing =
                            format!("turning the layer applied to {} into an image", active.name());
                        Error::caused(error.kind(), doing, error)
                    })?;
                sys::failpoint::hit("commit-converted");
                let staged = store.stage_layer(staging, DEFERRED, &record)?;
                made.push(MadeLayer { id, staged: Some((staged, record)) });
            }
        }
        Ok(made)
    }
}

/// A layer for a commit to add.
struct MadeLayer {
    id: LayerId,
    /// Its file, fsynced, and record; `None` if the store has it.
    staged: Option<(PathBuf, LayerRecord)>,
}

/// The upper directory that has to become a layer; `None` if nothing was written over the layers applied.
fn upper_to_convert(
    active: &Snapshot,
    directory: &Path,
    mounted: Option<&Path>,
) -> Result<Option<PathBuf>> {
    let applied = !active.layers.is_empty() || active.deferred.is_some();
    let upper = match (active.scratch, mounted) {
        (Some(Scratch::Image { .. }), Some(upper)) => upper.to_owned(),
        // Never formatted, so never mounted.
        (Some(Scratch::Image { .. }), None)
            if applied && is_all_hole(&directory.join("scratch.img"))? =>
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
    Ok(if applied && imp::is_as_prepared(&upper)? { None } else { Some(upper) })
}

/// A commit that passed the checks.
pub(crate) struct Committable {
    pub(crate) active: Snapshot,
    pub(crate) parent: Option<Vec<u8>>,
    pub(crate) parent_number: Option<u64>,
    pub(crate) old_parent_number: Option<u64>,
}

impl Scope<'_> {
    pub(crate) fn committable(
        &self,
        records: &impl Records,
        name: &[u8],
        key: &[u8],
        options: &CommitOptions,
    ) -> Result<Committable> {
        let active = self.existing(records, key)?;
        if active.kind != Kind::Active {
            return Err(Error::precondition(format!(
                "snapshot {} is of kind {}, not active",
                active.name(),
                active.kind
            )));
        }
        check_key(name)?;
        if records.snapshot(name)?.is_some() {
            return Err(Error::exists(format!("snapshot {} exists", shown(name))));
        }
        let (parent, parent_number) =
            self.parent_to_be(records, &active, options.parent.as_deref())?;
        let old_parent_number = match active.parent == parent {
            true => parent_number,
            false => None,
        };
        Ok(Committable { active, parent, parent_number, old_parent_number })
    }

    /// The parent, and its number, that an active snapshot will have when it is committed with the parent given.
    pub(crate) fn parent_to_be(
        &self,
        records: &impl Records,
        active: &Snapshot,
        given: Option<&[u8]>,
    ) -> Result<(Option<Vec<u8>>, Option<u64>)> {
        let Some(wanted) = given.filter(|parent| !parent.is_empty()) else {
            return Ok((active.parent.clone(), parent_number(records, active)?));
        };
        if let Some(parent) = active.parent.as_deref().filter(|parent| *parent != wanted) {
            return Err(Error::invalid(format!(
                "snapshot {} is based on {}, it cannot be committed on {}",
                active.name(),
                shown(parent),
                shown(wanted)
            )));
        }
        // The key is gone once the commit is done, so it cannot be its own parent.
        let parent =
            self.find(records, wanted)?.filter(|parent| parent.id != active.id).ok_or_else(
                || Error::not_found(format!("parent snapshot {} does not exist", shown(wanted))),
            )?;
        if parent.kind != Kind::Committed {
            return Err(Error::precondition(format!(
                "parent snapshot {} is of kind {}, not committed",
                parent.name(),
                parent.kind
            )));
        }
        Ok((Some(parent.key), Some(parent.id)))
    }
}

/// Makes the layer image of a deferred layer on top of those below it.
fn convert_deferred(
    blob: &Path,
    deferred: &DeferredLayer,
    below: &Below,
    staging: &Staging,
    cancel: &Cancel,
) -> Result<(LayerId, LayerRecord)> {
    let doing = || format!("converting {}", blob.display());
    let options = LayerOptions {
        compression: Some(deferred.compression),
        digest: Some(deferred.digest),
        size: Some(deferred.size),
        diff_id: Some(deferred.diff_id),
        max_size: Some(deferred.tar_size),
    };
    let source = File::open(blob).map_err(|source| Error::io(doing(), source))?;
    if below.is_windows() {
        let made = make_cim(source, staging, DEFERRED_CIM, below, &options, &(), cancel)?;
        return Ok((made.id, made.record));
    }
    let output = staging.create(DEFERRED)?;
    let image = layer::write_layer_image(source, &output, &options, Some(below), &(), cancel)
        .map_err(|source| Error::layer(doing(), source))?;
    let id = below.layer_id(&image.diff_id, image.depends_on_parents);
    Ok((id, LayerRecord::of(&image)))
}

fn is_all_hole(image: &Path) -> Result<bool> {
    let usage = sys::file::disk_usage(image)
        .map_err(|source| Error::sys(format!("looking at {}", image.display()), source))?;
    Ok(usage.bytes == 0)
}
