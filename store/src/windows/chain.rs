//! A snapshot's folder and those of its parents.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::db::Records;
use crate::error::{Error, Result};
use crate::scope::Scope;
use crate::snapshot::{Kind, Scratch, Snapshot, shown};
use crate::store::Store;

use super::HostForm;

/// A layer below a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentLayer {
    /// Its folder. With CIMs only the name counts: Windows makes the layer's GUID of it, and there need not be a folder.
    pub folder: PathBuf,
    /// Its CIM, where layers are CIMs.
    pub cim: Option<PathBuf>,
}

/// What the mounts of an active snapshot or view on a Windows host are made of.
#[derive(Debug, Clone)]
pub struct WindowsChain {
    /// How the host keeps layers.
    pub form: HostForm,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its folder: with `sandbox.vhdx` in it, or the folder that a layer is unpacked into.
    pub folder: PathBuf,
    /// The layers below, nearest (top) first.
    pub parents: Vec<ParentLayer>,
    /// Of an active snapshot where layers are CIMs: the CIM that was made of a layer unpacked into it, or else where
    /// containerd's own differ would make one.
    pub cim: Option<PathBuf>,
}

impl Scope<'_> {
    /// What the mounts of a snapshot on a Windows host are made of. Stable for as long as the snapshot lives, but for the
    /// CIM of one that a layer is unpacked into.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a committed snapshot, or if the store is not on a Windows host; `Corrupt`.
    pub fn windows_chain(&self, key: &[u8]) -> Result<WindowsChain> {
        let store = self.store;
        let read = store.read()?;
        let snapshot = self.with_mounts(&read, key)?;
        let Some(host) = store.host() else {
            return Err(Error::precondition("the store is not on a Windows host"));
        };
        let form = host.form();
        let cim = (form == HostForm::Cims && snapshot.kind == Kind::Active).then(|| match snapshot
            .layers
            .first()
        {
            Some(layer) => store.layout().layer(layer),
            None => store.layout().cim_layers().join(format!("{}.cim", snapshot.id)),
        });
        Ok(WindowsChain {
            form,
            folder: store.layout().snapshot(snapshot.id),
            parents: store.parent_layers(&read, &snapshot)?,
            cim,
            snapshot,
        })
    }
}

impl Store {
    /// The layers below a snapshot, nearest first.
    pub(crate) fn parent_layers(
        &self,
        records: &impl Records,
        snapshot: &Snapshot,
    ) -> Result<Vec<ParentLayer>> {
        let mut layers = Vec::new();
        let mut seen = BTreeSet::from([snapshot.id]);
        let mut next = snapshot.parent.clone();
        while let Some(key) = next {
            let parent = records.snapshot(&key)?.filter(|parent| seen.insert(parent.id));
            let Some(parent) = parent else {
                return Err(Error::corrupt(format!(
                    "the parents of snapshot {} lead to {}, which is missing or among them twice",
                    snapshot.name(),
                    shown(&key)
                )));
            };
            let folder = self.layout().snapshot(parent.id);
            if parent.scratch == Some(Scratch::Folder) {
                layers.push(ParentLayer { folder, cim: None });
            } else {
                for layer in &parent.layers {
                    if !layer.is_cim() {
                        return Err(Error::precondition(format!(
                            "snapshot {} is of a Linux image, which a Windows host cannot mount",
                            parent.name()
                        )));
                    }
                    let cim = Some(self.layout().layer(layer));
                    layers.push(ParentLayer { folder: folder.clone(), cim });
                }
            }
            next = parent.parent;
        }
        Ok(layers)
    }
}
