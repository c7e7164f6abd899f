//! What containerd's `Cleanup` wants: layers that nothing needs any more, and leftovers.

use std::collections::BTreeSet;

use crate::cim::with_those_below;
use crate::db::Records;
use crate::error::Result;
use crate::layers::LayerId;
use crate::staging::pinned;
use crate::store::Store;
use crate::sweep::{Depth, Remains, Swept};

/// What [`Store::collect`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers removed.
    pub layers: Vec<LayerId>,
    /// Layers that nothing in the store needs, kept because they are mounted or a running import has pinned them.
    pub kept: Vec<LayerId>,
    /// Bytes on disk that the layers freed.
    pub bytes: u64,
    /// Leftovers of interrupted operations.
    pub swept: Swept,
}

/// A layer that no snapshot or image refers to.
pub(crate) struct Unneeded {
    pub(crate) id: LayerId,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Why it has to stay all the same.
    pub(crate) kept: Option<&'static str>,
}

impl Store {
    /// Removes the layers that no snapshot and no image refers to, and what interrupted operations left behind. Nothing
    /// else goes, also not what image imports made: that is [`gc`](Self::gc)'s. Layers for which `in_use` is true (they
    /// are mounted) or that a running import has pinned stay.
    ///
    /// # Errors
    /// `ReadOnly`, `Corrupt`, `Io`.
    pub fn collect(&self, in_use: &dyn Fn(&LayerId) -> bool) -> Result<Collected> {
        let (collected, remains) = self.unlink_unneeded(in_use)?;
        remains.delete();
        Ok(collected)
    }

    /// As [`Self::collect`], but the deletion of the layers' files is left to whoever has the answer: a file system takes
    /// its time with big ones.
    ///
    /// # Errors
    /// Those of [`Self::collect`].
    pub fn unlink_unneeded(
        &self,
        in_use: &dyn Fn(&LayerId) -> bool,
    ) -> Result<(Collected, Remains<'_>)> {
        let mut collected = Collected::default();
        let read = self.read()?;
        // Mostly there is nothing to do, which is found out without keeping anybody waiting.
        let candidates = self.unneeded_layers(&read, &referred(&read)?, in_use)?;
        drop(read);
        let mut graves = Vec::new();
        if candidates.iter().any(|candidate| candidate.kept.is_none()) {
            let _alone = self.exclusively();
            let mut write = self.write()?;
            let mut files = Vec::new();
            let mut wanted = referred(&write)?;
            let pinned = pinned(self.layout())?;
            let pinned = candidates.iter().filter(|one| pinned.contains(&one.id.file_name()));
            wanted.extend(pinned.map(|candidate| candidate.id.clone()));
            let wanted = with_those_below(&write, wanted)?;
            for candidate in &candidates {
                let id = &candidate.id;
                if candidate.kept.is_some() || wanted.contains(id) {
                    continue;
                }
                if let Some(record) = write.layer(id)? {
                    write.delete_layer(id)?;
                    files.extend(self.layout().layer_files(id, &record).into_iter().rev());
                    collected.layers.push(id.clone());
                    collected.bytes += candidate.bytes;
                }
            }
            if !collected.layers.is_empty() {
                write.commit()?;
                sys::failpoint::hit("collect-committed");
            }
            // Still alone: nobody can put the same layer back between the record's end and the file's.
            for path in &files {
                graves.extend(self.bury(path)?);
            }
        }
        let kept = candidates.into_iter().filter(|candidate| candidate.kept.is_some());
        collected.kept = kept.map(|candidate| candidate.id).collect();
        collected.swept = self.sweep(Depth::Names)?;
        Ok((collected, Remains(graves)))
    }

    /// Whether there are layers that no snapshot and no image refers to, mounted or not.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn has_unneeded_layers(&self) -> Result<bool> {
        let read = self.read()?;
        Ok(!self.unneeded_layers(&read, &referred(&read)?, &|_| false)?.is_empty())
    }

    /// Layers that are not among `needed`.
    pub(crate) fn unneeded_layers(
        &self,
        records: &impl Records,
        needed: &BTreeSet<LayerId>,
        in_use: &dyn Fn(&LayerId) -> bool,
    ) -> Result<Vec<Unneeded>> {
        let pinned = pinned(self.layout())?;
        let needed = with_those_below(records, needed.clone())?;
        let mut unneeded = records.layers()?;
        unneeded.retain(|(id, _)| !needed.contains(id));
        let holds = |id: &LayerId| in_use(id) || pinned.contains(&id.file_name());
        let held = unneeded.iter().map(|(id, _)| id).filter(|id| holds(id));
        let held = with_those_below(records, held.cloned().collect())?;
        Ok(unneeded
            .into_iter()
            .map(|(id, record)| {
                let kept = if in_use(&id) {
                    Some("no snapshot or image refers to it, but it is mounted")
                } else if pinned.contains(&id.file_name()) {
                    Some(
                        "no snapshot or image refers to it yet, but a running import has pinned it",
                    )
                } else if held.contains(&id) {
                    Some(
                        "no snapshot or image refers to it, but a CIM that is kept is a fork of it",
                    )
                } else {
                    None
                };
                let bytes = self.layer_usage(&id, &record).size;
                Unneeded { id, bytes, kept }
            })
            .collect())
    }
}

/// Layers that a snapshot or an image refers to.
fn referred(records: &impl Records) -> Result<BTreeSet<LayerId>> {
    let snapshots = records.snapshots()?.into_iter().flat_map(|snapshot| snapshot.layers);
    let images = records.images()?.into_iter().flat_map(|image| image.layers);
    Ok(snapshots.chain(images).collect())
}
