//! The life of snapshots: prepare, view, commit, remove, and looking at them.

use std::path::{Path, PathBuf};

use crate::cim::{check_fit, top_of};
use crate::db::{Records, Write};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::layers::{Layer, LayerId, LayerRecord};
use crate::layout::UNNUMBERED;
use crate::scope::Scope;
use crate::snapshot::{
    Chain, KEY_LIMIT, Kind, LABEL_LIMIT, LABEL_OVERHEAD, LABELS_LIMIT, Labels, Origin, Scratch,
    ScratchPaths, Snapshot, Timestamp, Usage, shown,
};
use crate::spares::{SCRATCH_MODE, UPPER_MODE, WORK_MODE};
use crate::store::Store;
use crate::sweep::Remains;

/// Smallest scratch image: ext4 with a journal needs about this much.
pub const SCRATCH_MINIMUM: u64 = 4 << 20;

impl Scope<'_> {
    /// Makes a writable snapshot on `parent` (none or empty: on nothing).
    ///
    /// # Errors
    /// In this order: `Invalid` for an empty key, labels over the limit or a scratch image that is too small;
    /// `NotFound` if the parent is missing; `Invalid` if it is not committed; `AlreadyExists` if the key is taken.
    pub fn prepare(
        &self,
        key: &[u8],
        parent: Option<&[u8]>,
        labels: Labels,
        scratch: Scratch,
    ) -> Result<Snapshot> {
        self.make(key, parent, labels, Kind::Active, Some(scratch))
    }

    /// Makes a read-only snapshot of `parent` (none or empty: of nothing).
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn view(&self, key: &[u8], parent: Option<&[u8]>, labels: Labels) -> Result<Snapshot> {
        self.make(key, parent, labels, Kind::View, None)
    }

    fn make(
        &self,
        key: &[u8],
        parent: Option<&[u8]>,
        labels: Labels,
        kind: Kind,
        scratch: Option<Scratch>,
    ) -> Result<Snapshot> {
        let store = self.store;
        let parent = parent.filter(|parent| !parent.is_empty());
        check_key(key)?;
        if let Some(Scratch::Image { size }) = scratch
            && size < SCRATCH_MINIMUM
        {
            return Err(Error::invalid(format!(
                "a scratch image of {size} bytes is below the least of {SCRATCH_MINIMUM}"
            )));
        }
        let labels = cleaned(labels)?;
        self.makeable(&store.read()?, key, parent)?;
        let scratch = match store.host() {
            Some(host) => Some(host.scratch(key, kind, parent, &labels, scratch)?),
            None => scratch,
        };
        let now = Timestamp::now();
        let mut snapshot = Snapshot {
            key: key.to_vec(),
            id: 0,
            kind,
            parent: parent.map(<[u8]>::to_vec),
            labels,
            created: now,
            updated: now,
            layers: Vec::new(),
            deferred: None,
            scratch,
            origin: self.origin(),
            imported: false,
            usage: Usage::default(),
        };

        let _kept = store.not_sweeping();
        let needs_directory = kind == Kind::Active || parent.is_none() || scratch.is_some();
        let temporary = match needs_directory {
            true => Some(store.scratch_for(&snapshot)?),
            false => None,
        };
        let made = store.write().and_then(|mut write| {
            let parent = self.makeable(&write, key, parent)?;
            snapshot.id = store.next_number(&mut write)?;
            write.put_snapshot(&snapshot, parent)?;
            Ok(write)
        });
        let numbered = store.layout().snapshot(snapshot.id);
        let renamed = made.and_then(|write| {
            if let Some(temporary) = &temporary {
                // A leftover of that number was not swept: whatever it is, no record refers to it.
                store.bury(&numbered)?;
                sys::file::rename(temporary, &numbered)
                    .map_err(|source| Error::sys(format!("preparing {}", shown(key)), source))?;
                sys::failpoint::hit("prepare-renamed");
            }
            Ok(write)
        });
        match renamed {
            // If the commit itself fails, whether it took effect is known only after the next opening, which sweeps.
            Ok(write) => write.commit()?,
            Err(error) => {
                if let Some(temporary) = &temporary {
                    store.discard(temporary);
                }
                if snapshot.id != 0 {
                    store.spend(snapshot.id);
                }
                return Err(error);
            }
        }
        sys::failpoint::hit("prepare-done");
        Ok(snapshot)
    }

    /// The checks of prepare and view in containerd's order; the parent's number.
    fn makeable(
        &self,
        records: &impl Records,
        key: &[u8],
        parent: Option<&[u8]>,
    ) -> Result<Option<u64>> {
        let parent = self.committed_parent(records, parent)?;
        match records.snapshot(key)? {
            Some(_) => Err(Error::exists(format!("snapshot {} exists", shown(key)))),
            None => Ok(parent),
        }
    }
}

impl Store {
    /// Records a number whose transaction was rolled back. Where that fails too, the process remembers it.
    fn spend(&self, number: u64) {
        if let Ok(mut write) = self.write()
            && write.sequence().is_ok_and(|recorded| recorded < number)
            && write.put_sequence(number).is_ok()
        {
            drop(write.commit());
        }
    }

    /// A snapshot's directory under a name that no record can refer to.
    fn scratch_for(&self, snapshot: &Snapshot) -> Result<PathBuf> {
        let spare = match (snapshot.kind, snapshot.scratch) {
            (Kind::Active, Some(Scratch::Directory) | None) => self.take_spare(),
            _ => None,
        };
        spare.map_or_else(|| self.make_unnumbered(snapshot), Ok)
    }

    /// Makes a snapshot's directory under a name that no record can refer to.
    fn make_unnumbered(&self, snapshot: &Snapshot) -> Result<PathBuf> {
        let path = loop {
            let path =
                self.layout().snapshots().join(format!("{UNNUMBERED}{}", self.next_unnumbered()));
            // Left over when an earlier sweep could not remove it.
            if path.symlink_metadata().is_err() {
                break path;
            }
        };
        match self.make_scratch(&path, snapshot) {
            Ok(()) => Ok(path),
            Err(error) => {
                self.discard(&path);
                Err(error)
            }
        }
    }

    /// Makes what a snapshot has on disk, where it is missing.
    pub(crate) fn make_scratch(&self, directory: &Path, snapshot: &Snapshot) -> Result<()> {
        let make = |path: &Path, mode| match sys::file::create_directory(path, mode) {
            Err(error) if error.io_kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {
                Ok(())
            }
            other => {
                other.map_err(|source| Error::sys(format!("preparing {}", snapshot.name()), source))
            }
        };
        make(directory, SCRATCH_MODE)?;
        if self.make_host_scratch(directory, snapshot)? {
            return Ok(());
        }
        if let (Kind::Active, Some(Scratch::Image { size })) = (snapshot.kind, snapshot.scratch) {
            let path = directory.join("scratch.img");
            if path.exists() {
                return Ok(());
            }
            let image = sys::file::create_new(&path, 0o600)
                .map_err(|source| Error::sys(format!("preparing {}", snapshot.name()), source))?;
            return image.set_len(size).map_err(|source| {
                Error::io(
                    format!("making {}, {size} bytes, for {}", path.display(), snapshot.name()),
                    source,
                )
            });
        }
        make(&directory.join("fs"), UPPER_MODE)?;
        sys::failpoint::hit("prepare-half");
        if snapshot.kind == Kind::Active {
            make(&directory.join("work"), WORK_MODE)?;
        }
        Ok(())
    }
}

impl Scope<'_> {
    /// A snapshot's layers and scratch: what its mounts are made of. Stable for as long as the snapshot lives.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a committed snapshot; `Corrupt` if a parent or layer is missing.
    pub fn chain(&self, key: &[u8]) -> Result<Chain> {
        let store = self.store;
        let read = store.read()?;
        let snapshot = self.with_mounts(&read, key)?;
        let layers = store.layers_of(&read, &snapshot)?;
        let scratch = store.scratch_of(&snapshot);
        let empty = (snapshot.kind == Kind::View && snapshot.parent.is_none())
            .then(|| store.layout().snapshot(snapshot.id).join("fs"));
        Ok(Chain { snapshot, scratch, empty, layers })
    }

    /// Layers of a committed snapshot and of those below it, top first.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a snapshot that is not committed; `Corrupt`.
    pub fn committed_layers(&self, name: &[u8]) -> Result<Vec<Layer>> {
        let store = self.store;
        let read = store.read()?;
        let snapshot = self.existing(&read, name)?;
        if snapshot.kind != Kind::Committed {
            return Err(Error::precondition(format!(
                "snapshot {} is not committed",
                snapshot.name()
            )));
        }
        store.layers_of(&read, &snapshot)
    }
}

impl Store {
    /// Where an active snapshot of this store writes to; `None` for others.
    pub fn scratch_of(&self, snapshot: &Snapshot) -> Option<ScratchPaths> {
        let directory = self.layout().snapshot(snapshot.id);
        match (snapshot.kind, snapshot.scratch) {
            (Kind::Active, Some(Scratch::Image { size })) => {
                Some(ScratchPaths::Image { path: directory.join("scratch.img"), size })
            }
            (Kind::Active, Some(Scratch::Disk { .. } | Scratch::Folder)) => None,
            (Kind::Active, _) => Some(ScratchPaths::Directory {
                upper: directory.join("fs"),
                work: directory.join("work"),
            }),
            _ => None,
        }
    }

    /// A layer that is in a chain twice (images repeat the empty one) counts once, at its topmost place: all that the
    /// lower one holds is covered by the same names of the upper one, and overlayfs refuses one directory twice.
    pub(crate) fn layers_of(&self, records: &impl Records, top: &Snapshot) -> Result<Vec<Layer>> {
        let mut layers: Vec<Layer> = Vec::new();
        let mut known = std::collections::BTreeSet::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut next = Some(top.clone());
        while let Some(snapshot) = next {
            if !seen.insert(snapshot.id) {
                return Err(Error::corrupt(format!(
                    "the parents of snapshot {} go in a circle",
                    snapshot.name()
                )));
            }
            for id in &snapshot.layers {
                if !known.insert(id.clone()) {
                    continue;
                }
                let record = records.layer(id)?.ok_or_else(|| {
                    let name = snapshot.name();
                    Error::corrupt(format!("layer {id} of snapshot {name} has no record"))
                })?;
                let last = record.hides_lower;
                layers.push(self.located(id.clone(), record));
                if last {
                    return Ok(layers);
                }
            }
            next = match &snapshot.parent {
                None => None,
                Some(name) => Some(records.snapshot(name)?.ok_or_else(|| {
                    Error::corrupt(format!("snapshot {} is missing from the chain", shown(name)))
                })?),
            };
        }
        Ok(layers)
    }

    /// A snapshot straight from a layer, as an image import makes them. One that is there already and equal (parent,
    /// layer) is success.
    ///
    /// # Errors
    /// `Invalid` for an empty name, labels over the limit or a parent that is not committed; `NotFound` for a missing
    /// parent or layer; `AlreadyExists` if the name means something else.
    pub fn commit_layer(
        &self,
        name: &[u8],
        parent: Option<&[u8]>,
        layer: &LayerId,
        labels: Labels,
    ) -> Result<Snapshot> {
        let mut write = self.write()?;
        let snapshot = self.put_imported(&mut write, name, parent, layer, labels)?;
        write.commit()?;
        Ok(snapshot)
    }

    /// [`commit_layer`](Self::commit_layer) inside a transaction of the caller's.
    pub(crate) fn put_imported(
        &self,
        write: &mut Write,
        name: &[u8],
        parent: Option<&[u8]>,
        layer: &LayerId,
        labels: Labels,
    ) -> Result<Snapshot> {
        let parent = parent.filter(|parent| !parent.is_empty());
        check_key(name)?;
        let labels = cleaned(labels)?;
        let below = self.everything().committed_parent(write, parent)?;
        if let Some(snapshot) = write.snapshot(name)? {
            let same = snapshot.kind == Kind::Committed
                && snapshot.parent.as_deref() == parent
                && snapshot.layers == [layer.clone()]
                && snapshot.origin == Origin::Local;
            return if same {
                Ok(snapshot)
            } else {
                Err(Error::exists(format!("snapshot {} exists", shown(name))))
            };
        }
        let Some(record) = write.layer(layer)? else {
            return Err(Error::not_found(format!("layer {layer} is not in the store")));
        };
        check_fit(layer, &record, top_of(write, parent)?.as_ref())?;
        let now = Timestamp::now();
        let snapshot = Snapshot {
            key: name.to_vec(),
            id: self.next_number(write)?,
            kind: Kind::Committed,
            parent: parent.map(<[u8]>::to_vec),
            labels,
            created: now,
            updated: now,
            layers: vec![layer.clone()],
            deferred: None,
            scratch: None,
            origin: Origin::Local,
            imported: true,
            usage: self.layer_usage(layer, &record),
        };
        write.put_snapshot(&snapshot, below)?;
        Ok(snapshot)
    }

    /// What layers cost together.
    pub(crate) fn usage_of_layers(
        &self,
        records: &impl Records,
        layers: &[LayerId],
    ) -> Result<Usage> {
        let mut sum = Usage::default();
        for id in layers {
            let Some(record) = records.layer(id)? else { continue };
            let usage = self.layer_usage(id, &record);
            sum = Usage { size: sum.size + usage.size, inodes: sum.inodes + usage.inodes };
        }
        Ok(sum)
    }

    /// Its files, with the bytes they have on disk. What a CIM shares with the layers below is theirs.
    pub(crate) fn layer_usage(&self, id: &LayerId, record: &LayerRecord) -> Usage {
        let mut sum = Usage::default();
        for path in self.layout().layer_files(id, record) {
            match sys::file::disk_usage(&path) {
                Ok(usage) => {
                    sum.size += usage.bytes;
                    sum.inodes += usage.inodes;
                }
                Err(_) => return Usage { size: record.image_size, inodes: 1 },
            }
        }
        sum
    }

    /// The active snapshot whose directory has this number.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Io`.
    pub fn active_by_number(&self, number: u64) -> Result<Snapshot> {
        let snapshots = self.read()?.snapshots()?;
        snapshots
            .into_iter()
            .find(|snapshot| snapshot.id == number && snapshot.kind == Kind::Active)
            .ok_or_else(|| Error::not_found(format!("no active snapshot has the number {number}")))
    }
}

impl<'s> Scope<'s> {
    /// Removes a snapshot of any kind with its files; its layer goes with the next gc.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while another snapshot or an image refers to it.
    pub fn remove(&self, key: &[u8]) -> Result<()> {
        self.unlink(key)?.delete();
        Ok(())
    }

    /// Removes a snapshot as [`Self::remove`] does, but leaves the deletion of its files to whoever has the answer:
    /// a big tree takes a while, and the snapshot is gone.
    ///
    /// # Errors
    /// Those of [`Self::remove`].
    pub fn unlink(&self, key: &[u8]) -> Result<Remains<'s>> {
        // Off with useless waiting for the write transaction.
        self.existing(&self.store.read()?, key)?;
        // A sweep that has read the record would make the directory again after it is gone.
        let kept = self.store.not_sweeping();
        let mut write = self.store.write()?;
        let snapshot = self.existing(&write, key)?;
        if let Some(child) = write.child(snapshot.id)? {
            return Err(Error::precondition(format!(
                "cannot remove snapshot {}: snapshot {} is based on it",
                snapshot.name(),
                shown(&child)
            )));
        }
        if snapshot.imported
            && let Some(image) = write
                .images()?
                .iter()
                .find(|image| image.chain.iter().any(|name| name.as_bytes() == key))
        {
            return Err(Error::precondition(format!(
                "cannot remove snapshot {}: image {} uses it",
                snapshot.name(),
                image.reference
            )));
        }
        let parent = parent_number(&write, &snapshot)?;
        let aside = match self.store.host() {
            Some(host) => self.store.set_aside(host, &snapshot)?,
            None => None,
        };
        let removed = write.delete_snapshot(&snapshot, parent).and_then(|()| write.commit());
        if let Err(error) = removed {
            self.store.put_back(aside, &snapshot);
            return Err(error);
        }
        sys::failpoint::hit("remove-committed");
        // What cannot be renamed is the next sweep's: the removal has happened.
        let grave = match aside {
            Some(aside) => self.store.bury(&aside),
            None => self.store.bury_scratch(&snapshot),
        };
        let grave = grave.unwrap_or_default();
        drop(kept);
        Ok(Remains(grave.into_iter().collect()))
    }

    /// A snapshot's record.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Io`.
    pub fn stat(&self, key: &[u8]) -> Result<Snapshot> {
        self.existing(&self.store.read()?, key)
    }

    /// What a snapshot costs: stored for committed ones and views, added up now for active ones (the scratch, and what
    /// was applied).
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn usage(&self, key: &[u8]) -> Result<Usage> {
        let read = self.store.read()?;
        let snapshot = self.existing(&read, key)?;
        if snapshot.kind != Kind::Active {
            return Ok(snapshot.usage);
        }
        let directory = self.store.layout().snapshot(snapshot.id);
        let path = match snapshot.scratch {
            Some(Scratch::Image { .. }) => directory.join("scratch.img"),
            Some(Scratch::Disk { .. } | Scratch::Folder) => directory,
            _ => directory.join("fs"),
        };
        let usage = sys::file::disk_usage(&path).map_err(|source| {
            Error::sys(format!("adding up snapshot {}", snapshot.name()), source)
        })?;
        let applied = self.store.usage_of_layers(&read, &snapshot.layers)?;
        let deferred = match snapshot.deferred {
            Some(deferred) => Usage { size: deferred.size, inodes: 1 },
            None => Usage::default(),
        };
        Ok(Usage {
            size: usage.bytes + applied.size + deferred.size,
            inodes: usage.inodes + applied.inodes + deferred.inodes,
        })
    }

    /// Changes labels. Without a mask (or with an empty one) all are replaced; a mask path is `labels` or
    /// `labels.<key>`, everything after the first dot being the key. A label without value is deleted.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for any other mask path, with nothing changed.
    pub fn update(&self, key: &[u8], labels: Labels, mask: &[&str]) -> Result<Snapshot> {
        // A request that cannot succeed keeps nobody waiting.
        relabelled(&self.existing(&self.store.read()?, key)?, &labels, mask)?;
        let mut write = self.store.write()?;
        let snapshot = self.existing(&write, key)?;
        let labels = relabelled(&snapshot, &labels, mask)?;
        let snapshot = Snapshot { labels, updated: Timestamp::now(), ..snapshot };
        write.put_snapshot(&snapshot, None)?;
        write.commit()?;
        Ok(snapshot)
    }

    /// Snapshots that match any of the filters (all, if there are none), in byte order of the key.
    ///
    /// # Errors
    /// `Invalid` for a filter that cannot be parsed; `Corrupt`, `Io`.
    pub fn list(&self, filters: &[&str]) -> Result<Vec<Snapshot>> {
        let filter = Filter::parse_all(filters)?;
        let mut snapshots = self.store.read()?.snapshots()?;
        snapshots.retain(|snapshot| self.sees(snapshot) && filter.matches(snapshot));
        Ok(snapshots)
    }
}

/// The number of a recorded snapshot's parent.
pub(crate) fn parent_number(records: &impl Records, snapshot: &Snapshot) -> Result<Option<u64>> {
    let Some(parent) = &snapshot.parent else { return Ok(None) };
    match records.snapshot(parent)? {
        Some(parent) => Ok(Some(parent.id)),
        None => Err(Error::corrupt(format!(
            "parent {} of snapshot {} is missing; run fsck",
            shown(parent),
            snapshot.name()
        ))),
    }
}

/// The labels that a snapshot has after an update.
fn relabelled(snapshot: &Snapshot, labels: &Labels, mask: &[&str]) -> Result<Labels> {
    let mut updated = if mask.is_empty() { labels.clone() } else { snapshot.labels.clone() };
    for path in mask {
        match path.split_once('.') {
            None if *path == "labels" => updated.clone_from(labels),
            Some(("labels", label)) if !label.is_empty() => {
                match labels.get(label) {
                    Some(value) => updated.insert(label.to_owned(), value.clone()),
                    None => updated.remove(label),
                };
            }
            _ => {
                return Err(Error::invalid(format!(
                    "cannot update {path:?} of snapshot {}: only labels and labels.<key> can be updated",
                    snapshot.name()
                )));
            }
        }
    }
    cleaned(updated)
}

/// A key that a new snapshot can have: any bytes, but some and not too many.
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    match key.len() {
        0 => Err(Error::invalid("a snapshot needs a key that is not empty")),
        1..=KEY_LIMIT => Ok(()),
        length => Err(Error::invalid(format!(
            "a snapshot's key of {length} bytes is over the limit of {KEY_LIMIT}"
        ))),
    }
}

/// Labels without empty ones, within the limits.
pub(crate) fn cleaned(mut labels: Labels) -> Result<Labels> {
    labels.retain(|_, value| !value.is_empty());
    check_labels(&labels)?;
    Ok(labels)
}

/// Holds labels to the limits of snapshots: [`LABEL_LIMIT`], [`LABELS_LIMIT`], no empty key.
///
/// # Errors
/// `Invalid`.
pub fn check_labels(labels: &Labels) -> Result<()> {
    let mut total = 0;
    for (key, value) in labels {
        let length = key.len() + value.len();
        total += length + LABEL_OVERHEAD;
        if key.is_empty() {
            return Err(Error::invalid("a label needs a key that is not empty"));
        }
        if length > LABEL_LIMIT {
            let start: String = key.chars().take(40).collect();
            return Err(Error::invalid(format!(
                "label {start:?} is {length} bytes long with its value, the limit is {LABEL_LIMIT}"
            )));
        }
    }
    if total > LABELS_LIMIT {
        return Err(Error::invalid(format!(
            "{} labels of {total} bytes together are over the limit of {LABELS_LIMIT}",
            labels.len()
        )));
    }
    Ok(())
}
