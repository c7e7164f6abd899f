//! Empty scratches of removed snapshots, kept for the next: most snapshots of an unpack are never written to, and making
//! and deleting their three directories is the better part of what the file system does for them.

use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use crate::error::Result;
use crate::snapshot::{ScratchPaths, Snapshot};
use crate::store::Store;
use crate::sweep::Grave;

/// Modes of a scratch's directories.
pub(crate) const SCRATCH_MODE: u32 = 0o700;
pub(crate) const UPPER_MODE: u32 = 0o755;
pub(crate) const WORK_MODE: u32 = 0o711;

/// Scratches under their names for deletion, which sweeps leave alone while they are here.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    paths: Vec<PathBuf>,
    most: usize,
}

impl Store {
    /// Keeps up to `most` scratches of removed snapshots for new ones, for a process that has the store open for long. A
    /// sweep deletes them.
    #[must_use]
    pub fn with_spares(self, most: usize) -> Self {
        self.spares().most = most;
        self
    }

    fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renames what a snapshot has on disk for deletion; `None` if it has nothing.
    pub(crate) fn bury_scratch(&self, snapshot: &Snapshot) -> Result<Option<Grave<'_>>> {
        let grave = self.bury(&self.layout().snapshot(snapshot.id))?;
        // Without a parent it was bound, at least at first, and a bind mount leaves no trace.
        let overlaid = snapshot.parent.is_some()
            && matches!(self.scratch_of(snapshot), Some(ScratchPaths::Directory { .. }));
        Ok(grave.map(|grave| if overlaid { grave.of_overlay() } else { grave }))
    }

    /// Keeps what `grave` holds if it is a scratch like a new one and there is room.
    pub(crate) fn spare(&self, grave: &mut Grave<'_>) -> bool {
        let is_full = |spares: &Spares| spares.paths.len() >= spares.most;
        if is_full(&self.spares()) || !is_untouched(grave.path()) {
            return false;
        }
        let mut spares = self.spares();
        // Somebody else's may have come meanwhile.
        if is_full(&spares) {
            return false;
        }
        spares.paths.push(grave.path().to_owned());
        grave.stay();
        true
    }

    /// A scratch to be renamed, by a caller that holds off sweeps.
    pub(crate) fn take_spare(&self) -> Option<PathBuf> {
        let path = self.spares().paths.pop()?;
        self.graves().remove(&path);
        // A container sees these times, and they are no other's.
        match sys::file::set_times_to_now(&path.join("fs")) {
            Ok(()) => Some(path),
            Err(_) => {
                self.discard(&path);
                None
            }
        }
    }

    /// Gives up all spares, for deletion.
    pub(crate) fn take_spares(&self) -> Vec<Grave<'_>> {
        let paths = std::mem::take(&mut self.spares().paths);
        paths.into_iter().map(|path| self.grave(path)).collect()
    }
}

/// Whether nobody has written to a scratch, or mounted it: an overlay leaves a directory in `work`.
fn is_untouched(scratch: &Path) -> bool {
    let like_new = |name, mode| sys::file::is_like_new(&scratch.join(name), mode).unwrap_or(false);
    like_new("fs", UPPER_MODE) && like_new("work", WORK_MODE)
}
