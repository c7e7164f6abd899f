//! The life of snapshots: prepare, view, commit, remove, and looking at them.

use std::path::{Path, PathBuf};

use crate::db::{Records, Write};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::layers::{Layer, LayerId};
use crate::layout::UNNUMBERED;
use crate::snapshot::{
    Chain, Kind, LABEL_LIMIT, Labels, Scratch, ScratchPaths, Snapshot, Timestamp, Usage, shown,
};
use crate::store::Store;

/// Smallest scratch image: ext4 with a journal needs about this much.
pub const SCRATCH_MINIMUM: u64 = 4 << 20;

impl Store {
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
        let parent = parent.filter(|parent| !parent.is_empty());
        if key.is_empty() {
            return Err(Error::invalid("a snapshot needs a key that is not empty"));
        }
        if let Some(Scratch::Image { size }) = scratch
            && size < SCRATCH_MINIMUM
        {
            return Err(Error::invalid(format!(
                "a scratch image of {size} bytes is below the least of {SCRATCH_MINIMUM}"
            )));
        }
        let labels = cleaned(labels)?;
        makeable(&self.read()?, key, parent)?;
        let now = Timestamp::now();
        let mut snapshot = Snapshot {
            key: key.to_vec(),
            id: 0,
            kind,
            parent: parent.map(<[u8]>::to_vec),
            labels,
            created: now,
            updated: now,
            layer: None,
            scratch,
            imported: false,
            usage: Usage::default(),
        };

        let _kept = self.not_sweeping();
        let needs_directory = kind == Kind::Active || parent.is_none();
        let temporary = needs_directory.then(|| self.make_unnumbered(&snapshot)).transpose()?;
        let made = self.write().and_then(|mut write| {
            let parent = makeable(&write, key, parent)?;
            snapshot.id = self.next_number(&mut write)?;
            write.put_snapshot(&snapshot, parent)?;
            Ok(write)
        });
        let numbered = self.layout().snapshot(snapshot.id);
        let renamed = made.and_then(|write| {
            if let Some(temporary) = &temporary {
                // A leftover of that number was not swept: whatever it is, no record refers to it.
                self.bury(&numbered)?;
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
                    self.discard(temporary);
                }
                if snapshot.id != 0 {
                    self.spend(snapshot.id);
                }
                return Err(error);
            }
        }
        sys::failpoint::hit("prepare-done");
        Ok(snapshot)
    }

    /// Records a number whose transaction was rolled back. Where that fails too, the process remembers it.
    fn spend(&self, number: u64) {
        if let Ok(mut write) = self.write()
            && write.sequence().is_ok_and(|recorded| recorded < number)
            && write.put_sequence(number).is_ok()
        {
            drop(write.commit());
        }
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
        make(directory, 0o700)?;
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
        make(&directory.join("fs"), 0o755)?;
        sys::failpoint::hit("prepare-half");
        if snapshot.kind == Kind::Active {
            make(&directory.join("work"), 0o711)?;
        }
        Ok(())
    }

    /// A snapshot's layers and scratch: what its mounts are made of. Stable for as long as the snapshot lives.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a committed snapshot; `Corrupt` if a parent or layer is missing.
    pub fn chain(&self, key: &[u8]) -> Result<Chain> {
        let read = self.read()?;
        let snapshot = existing(&read, key)?;
        if snapshot.kind == Kind::Committed {
            return Err(Error::precondition(format!(
                "snapshot {} is committed and has no mounts; make a view of it",
                snapshot.name()
            )));
        }
        let layers = self.layers_below(&read, snapshot.parent.as_deref())?;
        let directory = self.layout().snapshot(snapshot.id);
        let scratch = match (snapshot.kind, snapshot.scratch) {
            (Kind::Active, Some(Scratch::Image { size })) => {
                Some(ScratchPaths::Image { path: directory.join("scratch.img"), size })
            }
            (Kind::Active, _) => Some(ScratchPaths::Directory {
                upper: directory.join("fs"),
                work: directory.join("work"),
            }),
            _ => None,
        };
        let empty = (snapshot.kind == Kind::View && snapshot.parent.is_none())
            .then(|| directory.join("fs"));
        Ok(Chain { snapshot, scratch, empty, layers })
    }

    /// Layers of a committed snapshot and of those below it, top first.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a snapshot that is not committed; `Corrupt`.
    pub fn committed_layers(&self, name: &[u8]) -> Result<Vec<Layer>> {
        let read = self.read()?;
        let snapshot = existing(&read, name)?;
        if snapshot.kind != Kind::Committed {
            return Err(Error::precondition(format!(
                "snapshot {} is not committed",
                snapshot.name()
            )));
        }
        self.layers_below(&read, Some(name))
    }

    /// A layer that is in a chain twice (images repeat the empty one) counts once, at its topmost place: all that the
    /// lower one holds is covered by the same names of the upper one, and overlayfs refuses one directory twice.
    fn layers_below(&self, records: &impl Records, top: Option<&[u8]>) -> Result<Vec<Layer>> {
        let mut layers: Vec<Layer> = Vec::new();
        let mut next = top.map(<[u8]>::to_vec);
        let mut seen = std::collections::BTreeSet::new();
        while let Some(name) = next {
            let snapshot = records.snapshot(&name)?.ok_or_else(|| {
                Error::corrupt(format!("snapshot {} is missing from the chain", shown(&name)))
            })?;
            if !seen.insert(snapshot.id) {
                return Err(Error::corrupt(format!(
                    "the parents of snapshot {} go in a circle",
                    shown(&name)
                )));
            }
            if let Some(id) = snapshot.layer
                && !layers.iter().any(|layer| layer.id == id)
            {
                let record = records.layer(&id)?.ok_or_else(|| {
                    Error::corrupt(format!("layer {id} of snapshot {} has no record", shown(&name)))
                })?;
                let last = record.hides_lower;
                layers.push(self.located(id, record));
                if last {
                    break;
                }
            }
            next = snapshot.parent;
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
        if name.is_empty() {
            return Err(Error::invalid("a snapshot needs a name that is not empty"));
        }
        let labels = cleaned(labels)?;
        let below = committed_parent(write, parent)?;
        if let Some(snapshot) = write.snapshot(name)? {
            let same = snapshot.kind == Kind::Committed
                && snapshot.parent.as_deref() == parent
                && snapshot.layer.as_ref() == Some(layer);
            return if same {
                Ok(snapshot)
            } else {
                Err(Error::exists(format!("snapshot {} exists", shown(name))))
            };
        }
        let Some(record) = write.layer(layer)? else {
            return Err(Error::not_found(format!("layer {layer} is not in the store")));
        };
        let now = Timestamp::now();
        let snapshot = Snapshot {
            key: name.to_vec(),
            id: self.next_number(write)?,
            kind: Kind::Committed,
            parent: parent.map(<[u8]>::to_vec),
            labels,
            created: now,
            updated: now,
            layer: Some(layer.clone()),
            scratch: None,
            imported: true,
            usage: self.layer_usage(layer, record.image_size),
        };
        write.put_snapshot(&snapshot, below)?;
        Ok(snapshot)
    }

    /// One file, with the bytes it has on disk.
    pub(crate) fn layer_usage(&self, id: &LayerId, length: u64) -> Usage {
        match sys::file::disk_usage(&self.layout().layer(id)) {
            Ok(usage) => Usage { size: usage.bytes, inodes: usage.inodes },
            Err(_) => Usage { size: length, inodes: 1 },
        }
    }

    /// Removes a snapshot of any kind; its layer goes with the next gc.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while another snapshot or an image refers to it.
    pub fn remove(&self, key: &[u8]) -> Result<()> {
        // Off with useless waiting for the write transaction.
        existing(&self.read()?, key)?;
        // A sweep that has read the record would make the directory again after it is gone.
        let _kept = self.not_sweeping();
        let mut write = self.write()?;
        let snapshot = existing(&write, key)?;
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
        write.delete_snapshot(&snapshot, parent)?;
        write.commit()?;
        sys::failpoint::hit("remove-committed");
        self.discard(&self.layout().snapshot(snapshot.id));
        Ok(())
    }

    /// A snapshot's record.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Io`.
    pub fn stat(&self, key: &[u8]) -> Result<Snapshot> {
        existing(&self.read()?, key)
    }

    /// What a snapshot costs: stored for committed ones and views, added up now for active ones.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn usage(&self, key: &[u8]) -> Result<Usage> {
        let snapshot = self.stat(key)?;
        if snapshot.kind != Kind::Active {
            return Ok(snapshot.usage);
        }
        let directory = self.layout().snapshot(snapshot.id);
        let path = match snapshot.scratch {
            Some(Scratch::Image { .. }) => directory.join("scratch.img"),
            _ => directory.join("fs"),
        };
        let usage = sys::file::disk_usage(&path).map_err(|source| {
            Error::sys(format!("adding up snapshot {}", snapshot.name()), source)
        })?;
        Ok(Usage { size: usage.bytes, inodes: usage.inodes })
    }

    /// Changes labels. Without a mask (or with an empty one) all are replaced; a mask path is `labels` or
    /// `labels.<key>`, everything after the first dot being the key. A label without value is deleted.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for any other mask path, with nothing changed.
    pub fn update(&self, key: &[u8], labels: Labels, mask: &[&str]) -> Result<Snapshot> {
        let mut write = self.write()?;
        let mut snapshot = existing(&write, key)?;
        let mut updated = if mask.is_empty() { labels.clone() } else { snapshot.labels.clone() };
        for path in mask {
            match path.split_once('.') {
                None if *path == "labels" => updated.clone_from(&labels),
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
        snapshot.labels = cleaned(updated)?;
        snapshot.updated = Timestamp::now();
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
        let mut snapshots = self.read()?.snapshots()?;
        snapshots.retain(|snapshot| filter.matches(snapshot));
        Ok(snapshots)
    }
}

/// The checks of prepare and view in containerd's order; the parent's number.
fn makeable(records: &impl Records, key: &[u8], parent: Option<&[u8]>) -> Result<Option<u64>> {
    let parent = committed_parent(records, parent)?;
    match records.snapshot(key)? {
        Some(_) => Err(Error::exists(format!("snapshot {} exists", shown(key)))),
        None => Ok(parent),
    }
}

/// The number of a parent that must exist and be committed.
fn committed_parent(records: &impl Records, parent: Option<&[u8]>) -> Result<Option<u64>> {
    let Some(name) = parent else { return Ok(None) };
    match records.snapshot(name)? {
        None => Err(Error::not_found(format!("parent snapshot {} does not exist", shown(name)))),
        Some(snapshot) if snapshot.kind != Kind::Committed => Err(Error::invalid(format!(
            "parent snapshot {} is {}, not committed",
            shown(name),
            snapshot.kind
        ))),
        Some(snapshot) => Ok(Some(snapshot.id)),
    }
}

pub(crate) fn existing(records: &impl Records, key: &[u8]) -> Result<Snapshot> {
    records
        .snapshot(key)?
        .ok_or_else(|| Error::not_found(format!("snapshot {:?} does not exist", shown(key))))
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

/// Labels without empty ones, each within the limit.
pub(crate) fn cleaned(mut labels: Labels) -> Result<Labels> {
    labels.retain(|_, value| !value.is_empty());
    for (key, value) in &labels {
        if key.len() + value.len() > LABEL_LIMIT {
            let start: String = key.chars().take(40).collect();
            return Err(Error::invalid(format!(
                "label {start:?} is {} bytes long with its value, the limit is {LABEL_LIMIT}",
                key.len() + value.len()
            )));
        }
    }
    Ok(labels)
}
