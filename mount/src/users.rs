//! Who uses what: live mounts of a scratch, and the volume behind a path.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use store::ScratchPaths;

use crate::state::State;
use crate::volume::Place;
use crate::volumes::{Wanted, identity_at};
use crate::{Error, Registry, Result, Volume, VolumeId};

impl Registry {
    /// Live mounts that use `scratch`, each with its place, for messages. They are looked for in the mount namespace
    /// of this process: overlays that write to it and bind mounts of it, whoever made them. Cheap enough to be
    /// asked before every removal.
    ///
    /// # Errors
    /// Those of reading the mount table and of the journal.
    pub fn users_of(&self, scratch: &ScratchPaths) -> Result<Vec<String>> {
        let upper = match scratch {
            ScratchPaths::Directory { upper, .. } => upper.clone(),
            ScratchPaths::Image { path, size } => {
                self.scratch_dirs(&Wanted::scratch(path, *size)?.id).upper
            }
        };
        // The kernel's table has no symbolic links. A directory that is not there has no users.
        let Ok(upper) = upper.canonicalize() else { return Ok(Vec::new()) };
        let table = {
            let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
            watch.table().map_err(|error| Error::sys("cannot read the mount table", error))?
        };
        let overlays = table.overlays_writing_to(&upper);
        let mut users: Vec<String> =
            overlays.map(|entry| format!("overlay at {}", entry.mount_point.display())).collect();
        let binds = table.binds_of(&upper).into_iter();
        users.extend(binds.map(|entry| format!("bind mount at {}", entry.mount_point.display())));
        if users.is_empty() {
            // Before Linux 6.13 our own overlays show a descriptor's name in the table.
            let locked = self.locked()?;
            for (path, target) in &locked.journal.state().targets {
                if target.upper == upper && identity_at(path)? == Some(target.identity) {
                    users.push(format!("{} of {}", path.display(), target.holder));
                }
            }
        }
        Ok(users)
    }

    /// The volume that is mounted at `path` or above it, if `path` names one of this registry. The path is taken
    /// as it is written: one that a description gave.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn volume_at(&self, path: &Path) -> Result<Option<Volume>> {
        let Ok(rest) = path.strip_prefix(self.run_dir()) else { return Ok(None) };
        let mut names = rest.iter();
        let (Some(sort), Some(id)) = (names.next(), names.next().and_then(|id| id.to_str())) else {
            return Ok(None);
        };
        let id = VolumeId(id.to_owned());
        let locked = self.locked()?;
        let found = self.volume(locked.journal.state(), &id);
        Ok(found.filter(|volume| {
            let at: PathBuf = [self.run_dir().as_os_str(), sort, id.0.as_ref()].iter().collect();
            volume.mountpoint == at
        }))
    }

    /// What `state` tells about volume `id`, if it is mounted.
    pub(crate) fn volume(&self, state: &State, id: &VolumeId) -> Option<Volume> {
        let volume = state.volumes.get(id)?;
        let done = volume.done?;
        Some(Volume {
            id: id.clone(),
            layer: volume.layer.clone(),
            image: volume.image.clone(),
            mountpoint: self.mount_point(id, volume.place),
            uuid: volume.uuid,
            loop_device: done.loop_device.map(crate::image::loop_path),
            scratch: volume.place == Place::Scratch,
            mapping: volume.mapping.clone(),
            holders: state.holders(id),
            since: crate::clock::time_of(done.since),
        })
    }
}
