//! What containerd's `Cleanup` wants: layers that nothing needs any more, and leftovers.

use std::collections::BTreeSet;

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
            let referred = referred(&write)?;
            let pinned = pinned(self.layout())?;
            for candidate in &candidates {
                let id = &candidate.id;
                let wanted = referred.contains(id) || pinned.contains(&id.file_name());
                if candidate.kept.is_none() && !wanted && write.layer(id)?.is_some() {
                    write.delete_layer(id)?;
                    collected.layers.push(id.clone());
                    collected.bytes += candidate.bytes;
                }
            }
            if !collected.layers.is_empty() {
                write.commit()?;
                sys::failpoint::hit("collect-committed");
            }
            // Still alone: nobody can put the same layer back between the record's end and the file's.
            for id in &collected.layers {
                graves.extend(self.bury(&self.layout().layer(id))?);
            }
        }
        let kept = candidates.into_iter().filter(|candidate| candidate.kept.is_some());
        collected.kept = kept.map(|candidate| candidate.id).collect();
        collected.swept = self.sweep(Depth::Names)?;
        Ok((collected, Remains(graves)))
    }

    /// Layers that are not among `needed`.
    pub(crate) fn unneeded_layers(
        &self,
        records: &impl Records,
        needed: &BTreeSet<LayerId>,
        in_use: &dyn Fn(&LayerId) -> bool,
    ) -> Result<Vec<Unneeded>> {
        let pinned = pinned(self.layout())?;
        let unneeded = records.layers()?.into_iter().filter(|(id, _)| !needed.contains(id));
        Ok(unneeded
            .map(|(id, record)| {
                let kept = if in_use(&id) {
                    Some("no snapshot or image refers to it, but it is mounted")
                } else if pinned.contains(&id.file_name()) {
                    Some(
                        "no snapshot or image refers to it yet, but a running import has pinned it",
                    )
                } else {
                    None
                };
                let bytes = self.layer_usage(&id, record.image_size).size;
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
