//! Where things are under the store's root.

use std::path::{Path, PathBuf};

/// First part of the name of everything renamed for deletion.
pub(crate) const REMOVED: &str = "rm-";
/// First part of the name of a snapshot directory that has no number yet.
pub(crate) const UNNUMBERED: &str = "new-";

/// The paths of one store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn metadata(&self) -> PathBuf {
        self.root.join("metadata.redb")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn cim_layers(&self) -> PathBuf {
        self.root.join("cim-layers")
    }

    /// The template of scratch disks on CIMs.
    pub(crate) fn scratch_template(&self) -> PathBuf {
        self.root.join("scratch")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    pub(crate) fn snapshot(&self, id: u64) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    /// The blob of an active snapshot's deferred layer.
    pub(crate) fn deferred(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("deferred")
    }
}
