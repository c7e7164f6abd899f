//! From mounts back to what they show: the way that containerd names snapshots to a differ.

#[cfg(target_os = "linux")]
mod kernel_mounts;
#[cfg(windows)]
#[path = "located/no_kernel_mounts.rs"]
mod kernel_mounts;

use std::path::Path;

use store::{Layer, Snapshot, Store};
use tonic::Status;

use crate::api::types::Mount;
use crate::service::Service;
use crate::status;

/// What a list of mounts shows.
#[derive(Debug)]
pub(crate) enum Located {
    /// An active snapshot, by its upper directory.
    Active(Box<Snapshot>),
    /// Layers, top first.
    Layers(Vec<Layer>),
}

impl Located {
    /// Of mounts that this daemon has described.
    ///
    /// # Errors
    /// `Unimplemented` for all others.
    pub(crate) fn of(service: &Service, mounts: &[Mount]) -> Result<Self, Status> {
        let places = Places { service, store: service.store() };
        if mounts.iter().any(|mount| !mount.target.is_empty()) {
            return Err(foreign("a mount below the root"));
        }
        let Some((top, below)) = mounts.split_last() else { return Ok(Self::Layers(Vec::new())) };
        match top.r#type.as_str() {
            // As containerd's own snapshotters for Windows describe snapshots.
            "CimFS" | "windows-layer" if below.is_empty() => {
                let number = places.number(Path::new(&top.source));
                let number = number.ok_or_else(|| foreign(&top.source))?;
                if let Ok(active) = places.store.active_by_number(number) {
                    return Ok(Self::Active(Box::new(active)));
                }
                let views = places.store.list(&["kind==view"]);
                let views = views.map_err(|error| status::of_store(&error))?;
                let view = views.into_iter().find(|view| view.id == number);
                let view = view.ok_or_else(|| {
                    Status::not_found(format!("no snapshot has the directory {}", top.source))
                })?;
                let chain = places.store.chain(&view.key);
                Ok(Self::Layers(chain.map_err(|error| status::of_store(&error))?.layers))
            }
            _ => places.kernel_mounts(top, below),
        }
    }
}

fn foreign(what: impl std::fmt::Display) -> Status {
    Status::unimplemented(format!("these are not mounts of this daemon: {what}"))
}

struct Places<'s> {
    service: &'s Service,
    store: &'s Store,
}

impl Places<'_> {
    /// `<root>/snapshots/<number>`
    fn number(&self, directory: &Path) -> Option<u64> {
        let name =
            directory.strip_prefix(self.store.root()).ok()?.strip_prefix("snapshots").ok()?;
        let name = name.to_str()?;
        let number = name.parse::<u64>().ok()?;
        // One spelling only.
        (number.to_string() == name).then_some(number)
    }
}
