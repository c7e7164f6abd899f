//! What a container has taken in a virtual machine, and giving it back.

use std::fs;
use std::path::{Path, PathBuf};

use sys::file::FileIdentity;
use uvm::{ScsiGuard, ShareGuard};

use crate::error::{Error, Result};
use crate::lcow::MountedLayers;

/// What a container has taken, in the order in which it was taken. Dropping it gives back as
/// [`release_resources`] does, with nobody to tell what failed; files are deleted only by that.
#[derive(Debug, Default)]
pub struct Resources {
    pub(crate) layers: Option<MountedLayers>,
    taken: Vec<Resource>,
}

#[derive(Debug)]
enum Resource {
    Share(ShareGuard),
    Disk { guard: ScsiGuard, delete: Option<OwnedFile> },
}

/// A disk's file that is deleted with the container: that file, and not one that has taken its name.
#[derive(Debug)]
pub(crate) struct OwnedFile {
    path: PathBuf,
    identity: FileIdentity,
}

/// Gives back everything that a container has taken: mounts in the reverse of the order in which they were added, then
/// the layers, whatever failed before. A disk whose file is the container's own is deleted when it is detached.
/// Once more does nothing.
///
/// # Errors
///
/// The first failure, with the texts of all others. What could not be undone is in the machine's journal, and is tried
/// again when the machine is settled.
pub fn release_resources(resources: &mut Resources) -> Result<()> {
    let errors = resources.give_back(true);
    Error::all("after that", errors)
}

impl Resources {
    pub(crate) fn push_share(&mut self, guard: ShareGuard) {
        self.taken.push(Resource::Share(guard));
    }

    pub(crate) fn push_disk(&mut self, guard: ScsiGuard, delete: Option<OwnedFile>) {
        self.taken.push(Resource::Disk { guard, delete });
    }

    /// After a failure: the container has not run, so its files stay.
    pub(crate) fn undo_allocation(&mut self) -> Vec<Error> {
        self.give_back(false)
    }

    fn give_back(&mut self, delete_files: bool) -> Vec<Error> {
        let mut errors = Vec::new();
        while let Some(resource) = self.taken.pop() {
            let (result, file) = match resource {
                Resource::Share(guard) => (guard.release(), None),
                Resource::Disk { guard, delete } => (guard.release(), delete),
            };
            match (result, file) {
                (Err(error), _) => errors.push(Error::vm("cannot give back a mount", error)),
                (Ok(()), Some(file)) if delete_files => errors.extend(file.delete().err()),
                (Ok(()), _) => {}
            }
        }
        errors.extend(self.layers.take().and_then(|layers| layers.release().err()));
        errors
    }
}

impl Drop for Resources {
    fn drop(&mut self) {
        // Nobody to tell; what the machine could not undo is in its journal.
        self.give_back(false);
    }
}

impl OwnedFile {
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let identity = sys::file::identity(path).map_err(|error| {
            Error::io(format!("cannot look at the disk {}", path.display()), error)
        })?;
        Ok(Self { path: path.to_owned(), identity })
    }

    fn delete(&self) -> Result<()> {
        match sys::file::identity(&self.path) {
            Ok(now) if now == self.identity => fs::remove_file(&self.path).map_err(|error| {
                Error::io(format!("cannot delete the disk {}", self.path.display()), error)
            }),
            _ => Ok(()),
        }
    }
}
