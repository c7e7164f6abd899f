//! Apply: layers into an active snapshot, below its scratch.

use std::path::Path;

use crate::cim::{check_fit, top_of};
use crate::db::{Records, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::layers::{LayerId, LayerRecord};
use crate::scope::Scope;
use crate::snapshot::{DeferredLayer, Kind, Scratch, Snapshot};
use crate::staging::Staging;

impl Scope<'_> {
    /// Takes a finished layer image out of `staging` and puts the layer on top of those of the active snapshot `key`,
    /// in one transaction: a layer never is in the store without something that needs it. The snapshot's times stay.
    /// If the layer already is the top one nothing is changed, so that an apply can be tried again.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` if the snapshot is not active, was written to already (the layer would be
    /// below that) or has a deferred layer; `Invalid` if the file's length is not the record's; `ReadOnly`, `NoSpace`,
    /// `Io`.
    pub fn apply_layer(
        &self,
        key: &[u8],
        staging: &Staging,
        file: &str,
        id: &LayerId,
        record: &LayerRecord,
    ) -> Result<Snapshot> {
        let store = self.store;
        self.appliable(&store.read()?, key)?;
        let staged = store.stage_layer(staging, file, record)?;
        let _kept = store.not_sweeping();
        let mut write = store.write()?;
        let snapshot = self.appliable(&write, key)?;
        check_applicable(&write, &snapshot, id, record)?;
        store.place_layer(&mut write, &staged, id, record)?;
        self.push_layer(write, snapshot, id)
    }

    /// [`apply_layer`](Self::apply_layer) for a layer that is in the store.
    ///
    /// # Errors
    /// As there, and `NotFound` if the layer is not (any more) in the store: then it must be converted.
    pub fn apply_known_layer(&self, key: &[u8], id: &LayerId) -> Result<Snapshot> {
        let store = self.store;
        self.appliable(&store.read()?, key)?;
        let write = store.write()?;
        let snapshot = self.appliable(&write, key)?;
        if !store.holds_layer(&write, id)? {
            return Err(Error::not_found(format!("layer {id} is not in the store")));
        }
        if let Some(record) = write.layer(id)? {
            check_applicable(&write, &snapshot, id, &record)?;
        }
        self.push_layer(write, snapshot, id)
    }

    /// Keeps a layer's blob out of `staging` in the directory of the active snapshot `key`, for its commit to convert:
    /// for a layer that depends on its parents, applied before they are known. It lies above what was applied before,
    /// and nothing can be applied over it. Mounts do not show it. The same blob once more is success.
    ///
    /// # Errors
    /// As [`apply_layer`](Self::apply_layer).
    pub fn defer_layer(
        &self,
        key: &[u8],
        staging: &Staging,
        file: &str,
        layer: DeferredLayer,
    ) -> Result<Snapshot> {
        let store = self.store;
        if let Some(done) = self.deferred(&store.read()?, key, &layer)? {
            return Ok(done);
        }
        let staged = store.stage_file(staging, file, layer.size)?;
        sys::failpoint::hit("defer-synced");
        let _kept = store.not_sweeping();
        let mut write = store.write()?;
        if let Some(done) = self.deferred(&write, key, &layer)? {
            return Ok(done);
        }
        let mut snapshot = self.existing(&write, key)?;
        let doing = || format!("keeping the layer applied to {}", snapshot.name());
        sys::file::rename(&staged, &store.layout().deferred(snapshot.id))
            .and_then(|()| {
                sys::failpoint::hit("defer-renamed");
                sys::file::sync_directory(&store.layout().snapshot(snapshot.id))
            })
            .map_err(|source| Error::sys(doing(), source))?;
        snapshot.deferred = Some(layer);
        write.put_snapshot(&snapshot, None)?;
        write.commit()?;
        sys::failpoint::hit("defer-done");
        Ok(snapshot)
    }

    /// The snapshot if this layer is deferred in it already; `None` if it can be.
    fn deferred(
        &self,
        records: &impl Records,
        key: &[u8],
        layer: &DeferredLayer,
    ) -> Result<Option<Snapshot>> {
        let snapshot = self.existing(records, key)?;
        if snapshot.deferred.as_ref() == Some(layer) {
            // Whatever lost the file, this is the same blob again.
            let there = self.store.layout().deferred(snapshot.id).is_file();
            return Ok(there.then_some(snapshot));
        }
        self.appliable(records, key).map(|_| None)
    }

    fn push_layer(&self, mut write: Write, snapshot: Snapshot, id: &LayerId) -> Result<Snapshot> {
        let mut snapshot = snapshot;
        if snapshot.layers.first() != Some(id) {
            snapshot.layers.insert(0, id.clone());
            write.put_snapshot(&snapshot, None)?;
        }
        // Also where the snapshot stays as it is: a lost file may have been replaced.
        write.commit()?;
        sys::failpoint::hit("apply-done");
        Ok(snapshot)
    }

    /// An active snapshot that a layer can be applied to.
    fn appliable(&self, records: &impl Records, key: &[u8]) -> Result<Snapshot> {
        let snapshot = self.existing(records, key)?;
        if snapshot.kind != Kind::Active {
            return Err(Error::precondition(format!(
                "a layer cannot be applied to snapshot {}: it is of kind {}, not active",
                snapshot.name(),
                snapshot.kind
            )));
        }
        if snapshot.deferred.is_some() {
            return Err(Error::precondition(format!(
                "a layer cannot be applied to snapshot {}: the one before it waits for its parent",
                snapshot.name()
            )));
        }
        if let Some(Scratch::Disk { .. } | Scratch::Folder) = snapshot.scratch {
            return Err(Error::precondition(format!(
                "a layer image cannot be applied to snapshot {}: Windows' own tools unpack layer folders",
                snapshot.name()
            )));
        }
        let upper = self.store.layout().snapshot(snapshot.id).join("fs");
        if snapshot.scratch == Some(Scratch::Directory) && !is_empty(&upper)? {
            return Err(Error::precondition(format!(
                "a layer cannot be applied to snapshot {}: something was written to it already",
                snapshot.name()
            )));
        }
        Ok(snapshot)
    }
}

/// Refuses a layer that does not fit on what the snapshot shows.
fn check_applicable(
    records: &impl Records,
    snapshot: &Snapshot,
    id: &LayerId,
    record: &LayerRecord,
) -> Result<()> {
    let below = match snapshot.layers.first() {
        Some(top) if top == id => return Ok(()),
        Some(top) => Some(top.clone()),
        None => top_of(records, snapshot.parent.as_deref())?,
    };
    match below {
        Some(below) => check_fit(id, record, Some(&below)),
        // The commit may bring a parent.
        None => Ok(()),
    }
}

/// Whether a directory has no entries; one that is not there has none either.
pub(crate) fn is_empty(directory: &Path) -> Result<bool> {
    let doing = || format!("listing {}", directory.display());
    match std::fs::read_dir(directory) {
        Ok(mut entries) => match entries.next() {
            None => Ok(true),
            Some(Ok(_)) => Ok(false),
            Some(Err(error)) => Err(Error::io(doing(), error)),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::caused(ErrorKind::Io, doing(), error)),
    }
}
