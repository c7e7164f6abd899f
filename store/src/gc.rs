//! Which snapshots, layers and blobs nothing needs any more, and removing them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use layer::Digest;
use serde::{Deserialize, Serialize};

use crate::collect::Unneeded;
use crate::db::Records as _;
use crate::error::Result;
use crate::layers::LayerId;
use crate::snapshot::{Kind, Snapshot};
use crate::snapshots::parent_number;
use crate::store::Store;
use crate::sweep::Depth;

/// How to collect.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct GcOptions {
    /// Only say what would go.
    pub dry_run: bool,
}

/// Something that a gc looked at and did not leave in peace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcItem {
    /// What it is.
    pub what: GcObject,
    /// Why it goes, or why it has to stay.
    pub why: String,
    /// Bytes on disk that it frees.
    pub bytes: u64,
    /// It stays although nothing in the store needs it.
    pub kept: bool,
}

/// What a [`GcItem`] is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GcObject {
    /// A committed snapshot that an import made, by key.
    Snapshot(#[serde(with = "crate::snapshot::name")] Vec<u8>),
    /// A layer and its image file.
    Layer(LayerId),
    /// A manifest or config.
    Blob(Digest),
    /// A file or directory that no record knows.
    Leftover(#[serde(with = "crate::snapshot::name::path")] PathBuf),
}

impl Store {
    /// Removes everything that neither an image nor a snapshot of a user needs: snapshots made by imports, layers,
    /// blobs, and leftovers on disk. Active snapshots, views and what users committed stay, with all below them.
    /// Layers for which `in_use` is true (they are mounted) or that a running import has pinned are kept and reported.
    ///
    /// # Errors
    /// `ReadOnly` (not for a dry run), `Corrupt`, `Io`; then nothing was removed.
    pub fn gc(&self, options: GcOptions, in_use: &dyn Fn(&LayerId) -> bool) -> Result<Vec<GcItem>> {
        if options.dry_run {
            let _alone = self.exclusively();
            return Ok(self.garbage(&self.read()?, in_use)?.items);
        }
        let mut graves = Vec::new();
        let items = {
            let _alone = self.exclusively();
            let mut write = self.write()?;
            let garbage = self.garbage(&write, in_use)?;
            // All numbers before the first deletion: a parent may go before its child.
            let numbers: Vec<Option<u64>> = garbage
                .snapshots
                .iter()
                .map(|snapshot| parent_number(&write, snapshot))
                .collect::<Result<_>>()?;
            for (snapshot, parent) in garbage.snapshots.iter().zip(numbers) {
                write.delete_snapshot(snapshot, parent)?;
            }
            let mut files = Vec::new();
            for id in &garbage.layers {
                if let Some(record) = write.layer(id)? {
                    files.extend(self.layout().layer_files(id, &record).into_iter().rev());
                }
                write.delete_layer(id)?;
            }
            for digest in &garbage.blobs {
                write.delete_blob(digest)?;
            }
            if !garbage.snapshots.is_empty()
                || !garbage.layers.is_empty()
                || !garbage.blobs.is_empty()
            {
                write.commit()?;
                sys::failpoint::hit("gc-committed");
            }
            // Still alone: no import can put the same layer back between the record's end and the file's.
            for path in &files {
                graves.extend(self.bury(path)?);
            }
            garbage.items
        };
        for grave in graves {
            drop(grave.delete());
            sys::failpoint::hit("gc-removed");
        }
        if items.iter().any(|item| matches!(item.what, GcObject::Leftover(_))) {
            self.cleanup()?;
        }
        Ok(items)
    }

    fn garbage(
        &self,
        records: &impl crate::db::Records,
        in_use: &dyn Fn(&LayerId) -> bool,
    ) -> Result<Garbage> {
        let snapshots: BTreeMap<Vec<u8>, Snapshot> = records
            .snapshots()?
            .into_iter()
            .map(|snapshot| (snapshot.key.clone(), snapshot))
            .collect();
        let images = records.images()?;
        let mut needed = BTreeSet::new();
        let roots = snapshots
            .values()
            .filter(|snapshot| snapshot.kind != Kind::Committed || !snapshot.imported)
            .map(|snapshot| snapshot.key.as_slice())
            .chain(images.iter().flat_map(|image| &image.chain).map(String::as_bytes));
        for root in roots {
            let mut next = Some(root);
            while let Some(key) = next {
                // Seen before: so is everything below it.
                if !needed.insert(key) {
                    break;
                }
                next = snapshots.get(key).and_then(|snapshot| snapshot.parent.as_deref());
            }
        }
        let mut garbage = Garbage::default();
        let mut layers: BTreeSet<&LayerId> =
            images.iter().flat_map(|image| &image.layers).collect();
        // Children have higher numbers than the parents they were made on, except after a rebase, so the order of
        // removal is by need: it does not matter inside one transaction.
        for snapshot in snapshots.values() {
            if needed.contains(snapshot.key.as_slice()) {
                layers.extend(&snapshot.layers);
            } else {
                garbage.snapshots.push(snapshot.clone());
                garbage.items.push(GcItem {
                    what: GcObject::Snapshot(snapshot.key.clone()),
                    why: "imported, and no image or snapshot is based on it".to_owned(),
                    bytes: 0,
                    kept: false,
                });
            }
        }
        let layers = layers.into_iter().cloned().collect();
        for candidate in self.unneeded_layers(records, &layers, in_use)? {
            let Unneeded { id, bytes, kept } = candidate;
            garbage.items.push(GcItem {
                what: GcObject::Layer(id.clone()),
                why: kept.unwrap_or("no snapshot or image refers to it").to_owned(),
                bytes,
                kept: kept.is_some(),
            });
            if kept.is_none() {
                garbage.layers.push(id);
            }
        }
        let blobs: BTreeSet<&Digest> =
            images.iter().flat_map(|image| [&image.manifest, &image.config]).collect();
        for (digest, bytes) in records.blobs()? {
            if !blobs.contains(&digest) {
                garbage.items.push(GcItem {
                    what: GcObject::Blob(digest),
                    why: "no image refers to it".to_owned(),
                    bytes: bytes.len() as u64,
                    kept: false,
                });
                garbage.blobs.push(digest);
            }
        }
        for path in self.leftovers(records, true, Depth::Inside)?.paths() {
            let bytes = sys::file::disk_usage(path).map_or(0, |usage| usage.bytes);
            garbage.items.push(GcItem {
                what: GcObject::Leftover(path.clone()),
                why: "left behind by an operation that was cut short".to_owned(),
                bytes,
                kept: false,
            });
        }
        Ok(garbage)
    }
}

#[derive(Default)]
struct Garbage {
    items: Vec<GcItem>,
    snapshots: Vec<Snapshot>,
    layers: Vec<LayerId>,
    blobs: Vec<Digest>,
}
