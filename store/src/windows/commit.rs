//! Commit on a Windows host: a folder that was filled, or what a container wrote to its disk, becomes a layer folder.

use std::io::Read;
use std::path::{Path, PathBuf};

use layer::{Cancel, LayerBlob, LayerOptions, Progress};
use sys::windows::{Host, LayerDescriptor};

use crate::commit::{CommitOptions, Committable};
use crate::error::{Error, Result};
use crate::scope::Scope;
use crate::snapshot::{Kind, Labels, Scratch, Snapshot, Timestamp, Usage};
use crate::staging::Staging;

use super::layer_folder::import_layer_folder;
use super::scratch::{forget_chain, write_chain};
use super::{HostForm, WindowsHost};

/// Names in a staging directory.
const EXPORT: &str = "export";
const LAYER: &str = "layer";

impl Scope<'_> {
    /// Turns the active snapshot into a committed one whose layer is a folder: the one that was filled, under the same
    /// number, or a new one that the host makes of the scratch disk, outside of any transaction.
    pub(crate) fn commit_on_host(
        &self,
        host: &WindowsHost,
        name: &[u8],
        key: &[u8],
        labels: Labels,
        options: &CommitOptions,
    ) -> Result<Snapshot> {
        let store = self.store;
        let before = self.committable(&store.read()?, name, key, options)?;
        let active = &before.active;
        if before.parent != active.parent {
            return Err(Error::precondition(format!(
                "snapshot {} was prepared without a parent: a layer folder is made on those below",
                active.name()
            )));
        }
        let staging = Staging::new(store.root())?;
        let made = match active.scratch {
            Some(Scratch::Folder) => {
                self.check_filled(active)?;
                None
            }
            _ if host.form() == HostForm::Cims => {
                return Err(Error::precondition(format!(
                    "snapshot {} cannot be committed: Windows makes no CIM of what a container wrote",
                    active.name()
                )));
            }
            _ => Some(self.layer_of_disk(host, active, &staging)?),
        };
        let folder = made.clone().unwrap_or_else(|| store.layout().snapshot(active.id));
        let usage = sys::file::disk_usage(&folder)
            .map_err(|error| Error::sys(format!("adding up snapshot {}", active.name()), error))?;

        let kept = store.not_sweeping();
        let mut write = store.write()?;
        let Committable { active, parent, parent_number, old_parent_number } =
            self.committable(&write, name, key, options)?;
        if active.id != before.active.id || parent_number != before.parent_number {
            return Err(Error::precondition(format!(
                "snapshot {} was changed while it was committed; try again",
                active.name()
            )));
        }
        let id = match &made {
            Some(_) => store.next_number(&mut write)?,
            None => active.id,
        };
        let now = Timestamp::now();
        let committed = Snapshot {
            key: name.to_vec(),
            id,
            kind: Kind::Committed,
            parent,
            labels,
            created: now,
            updated: now,
            layers: Vec::new(),
            deferred: None,
            scratch: Some(Scratch::Folder),
            origin: active.origin,
            imported: false,
            usage: Usage { size: usage.bytes, inodes: usage.inodes },
        };
        write.delete_snapshot(&active, old_parent_number)?;
        write.put_snapshot(&committed, parent_number)?;
        if let Some(made) = &made {
            let place = store.layout().snapshot(id);
            // A leftover of that number was not swept: whatever it is, no record refers to it.
            store.bury(&place)?;
            sys::file::rename(made, &place)
                .and_then(|()| sys::file::sync_directory(&store.layout().snapshots()))
                .map_err(|error| Error::sys(format!("committing {}", active.name()), error))?;
        }
        write.commit()?;
        sys::failpoint::hit("commit-done");
        let grave = match made {
            Some(_) => store.bury_scratch(&active),
            None => Ok(None),
        };
        drop(kept);
        if let Ok(Some(grave)) = grave {
            drop(grave.delete());
        }
        Ok(committed)
    }

    /// Unpacks the blob of a Windows layer into the folder of an active snapshot.
    ///
    /// # Errors
    /// `FailedPrecondition` for a snapshot that has no folder, or one with something in it; those of
    /// [`import_layer_folder`](crate::import_layer_folder).
    pub fn unpack_folder(
        &self,
        key: &[u8],
        source: impl Read + Send,
        options: &LayerOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<LayerBlob> {
        let store = self.store;
        let active = self.stat(key)?;
        let (Some(host), Kind::Active, Some(Scratch::Folder)) =
            (store.host(), active.kind, &active.scratch)
        else {
            let what = format!("snapshot {} has no folder for a layer", active.name());
            return Err(Error::precondition(what));
        };
        let staging = Staging::new(store.root())?;
        let below = store.parent_layers(&store.read()?, &active)?;
        let parents: Vec<PathBuf> = below.iter().map(|layer| layer.folder.clone()).collect();
        let folder = store.layout().snapshot(active.id);
        // Who is below is written down already, and the folder must be empty.
        forget_chain(&folder)?;
        let blob = import_layer_folder(
            host.api(),
            source,
            &folder,
            &parents,
            staging.path(),
            options,
            progress,
            cancel,
        );
        if !below.is_empty() {
            write_chain(&folder, &below)?;
        }
        blob
    }

    fn check_filled(&self, active: &Snapshot) -> Result<()> {
        let folder = self.store.layout().snapshot(active.id);
        match folder.join("Files").is_dir() {
            true => Ok(()),
            false => Err(Error::precondition(format!(
                "snapshot {} cannot be committed: no layer was unpacked into {}",
                active.name(),
                folder.display()
            ))),
        }
    }

    /// A new layer folder, in `staging`, of what was written to the disk of a snapshot.
    fn layer_of_disk(
        &self,
        host: &WindowsHost,
        active: &Snapshot,
        staging: &Staging,
    ) -> Result<PathBuf> {
        let store = self.store;
        let folder = store.layout().snapshot(active.id);
        let below = store.parent_layers(&store.read()?, active)?;
        let parents = host.descriptors(&below)?;
        let (export, layer) = (staging.path().join(EXPORT), staging.path().join(LAYER));
        for directory in [&export, &layer] {
            sys::file::create_directory(directory, crate::spares::SCRATCH_MODE)
                .map_err(|error| Error::sys(format!("committing {}", active.name()), error))?;
        }
        self::export(host.api(), &folder, &export, &parents).map_err(|error| {
            Error::windows(format!("exporting what was written to {}", active.name()), error)
        })?;
        host.api().import_layer(&layer, &export, &parents).map_err(|error| {
            Error::windows(format!("making a layer of snapshot {}", active.name()), error)
        })?;
        write_chain(&layer, &below)?;
        Ok(layer)
    }
}

/// Writes what is on a scratch disk into `target`. The filter is attached and detached once before, which makes sure
/// that the disk was initialized; nothing stays attached, whatever fails.
pub(super) fn export(
    api: &dyn Host,
    folder: &Path,
    target: &Path,
    parents: &[LayerDescriptor],
) -> sys::windows::Result<()> {
    api.activate_layer(folder)?;
    let exported = api
        .prepare_layer(folder, parents)
        .and_then(|()| api.unprepare_layer(folder))
        .and_then(|()| api.export_layer(folder, target, parents));
    let deactivated = api.deactivate_layer(folder);
    exported?;
    deactivated
}
