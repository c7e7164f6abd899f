//! Removing snapshots whose disk Windows may have attached.

use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Scratch, Snapshot};
use crate::store::Store;

use super::WindowsHost;

/// First part of the name of a snapshot's directory that is being removed, while the removal may still be taken back. If
/// the record is there at the next opening, it is.
pub(crate) const ASIDE: &str = "going-";

impl Store {
    /// Renames a snapshot's directory before its record goes: what is in use cannot be renamed, and then nothing has
    /// changed. A disk that is attached for no one's use is detached, as after a crash of whoever attached it.
    pub(crate) fn set_aside(
        &self,
        host: &WindowsHost,
        snapshot: &Snapshot,
    ) -> Result<Option<PathBuf>> {
        let directory = self.layout().snapshot(snapshot.id);
        if directory.symlink_metadata().is_err() {
            return Ok(None);
        }
        let aside = self.layout().snapshots().join(format!("{ASIDE}{}", snapshot.id));
        let Err(first) = sys::file::rename(&directory, &aside) else { return Ok(Some(aside)) };
        let busy = |source: Box<dyn std::error::Error + Send + Sync>| {
            let name = snapshot.name();
            let doing = format!("cannot remove snapshot {name}: its layer is in use");
            Error::caused(ErrorKind::FailedPrecondition, doing, source)
        };
        if !matches!(snapshot.scratch, Some(Scratch::Disk { .. })) {
            return Err(busy(first.into()));
        }
        host.api().deactivate_layer(&directory).map_err(|error| busy(error.into()))?;
        match sys::file::rename(&directory, &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(error) => Err(busy(error.into())),
        }
    }

    /// Takes [`set_aside`](Self::set_aside) back. If it cannot be, the next opening does it.
    pub(crate) fn put_back(&self, aside: Option<PathBuf>, snapshot: &Snapshot) {
        if let Some(aside) = aside {
            drop(sys::file::rename(&aside, &self.layout().snapshot(snapshot.id)));
        }
    }
}
