//! Undoing an activation, whatever there is of it.

use std::collections::BTreeMap;
use std::path::Path;

use sys::{LoopDevice, MountTable};

use crate::activation::making::loop_name;
use crate::activation::{ACTIVATIONS, holder_of};
use crate::journal::Journal;
use crate::record::Record;
use crate::state::ActivationState;
use crate::volumes::Volumes;
use crate::{Error, Registry, Result};

impl Registry {
    /// Takes the activation `name` down, complete or half done, and writes that it is gone.
    pub(crate) fn dismantle(&self, journal: &mut Journal, name: &str) -> Result<()> {
        let directory = self.activation_directory(name);
        unmount_all(&directory, name)?;
        sys::failpoint::hit("activation-unmounted");
        clear(&directory)?;
        sys::failpoint::hit("activation-cleared");
        let holder = holder_of(name);
        let mut records = Vec::new();
        if journal.state().holds.contains_key(&(holder.kind, holder.name.clone())) {
            records.push(Record::Release { kind: holder.kind, name: holder.name });
        }
        records.push(Record::Deactivated { name: name.to_owned() });
        journal.append(records)?;
        sys::failpoint::hit("deactivated");
        Volumes::new(self, journal).drop_idle().map(drop)
    }

    /// Clears directories of activations that the journal does not know, and in which nothing is mounted (any
    /// more): those of a journal that was lost.
    pub(crate) fn clear_strange_activations(
        &self,
        known: &BTreeMap<String, ActivationState>,
        mut cleared: impl FnMut(&Path),
    ) -> Result<()> {
        let all = self.run_dir().join(ACTIVATIONS);
        let failed = |error| Error::io(format!("cannot list {}", all.display()), error);
        let entries = match std::fs::read_dir(&all) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        let known: Vec<_> = known.keys().map(|name| self.activation_directory(name)).collect();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if !known.contains(&path) && path.is_dir() {
                clear(&path)?;
                if !path.exists() {
                    cleared(&path);
                }
            }
        }
        Ok(())
    }
}

/// Unmounts everything below `directory`, last first.
fn unmount_all(directory: &Path, name: &str) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let failed = |error| Error::sys(format!("cannot deactivate {name}"), error);
    let table = MountTable::read().map_err(failed)?;
    for entry in table.tree(directory) {
        match sys::unmount(&entry.mount_point) {
            Ok(()) => {}
            // It went with another one.
            Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENOENT)) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Removes links to loop devices, with the devices, and empty directories. Anything else is not ours.
fn clear(directory: &Path) -> Result<()> {
    let failed = |error| Error::io(format!("cannot clear {}", directory.display()), error);
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let result = match std::fs::read_link(&path) {
            Ok(device) => {
                end_loop(&path, &device)?;
                std::fs::remove_file(&path)
            }
            Err(_) => std::fs::remove_dir(&path),
        };
        match result {
            Err(error) if is_still_used(&error) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(failed)?,
        }
    }
    match std::fs::remove_dir(directory) {
        Err(error) if is_still_used(&error) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(failed),
    }
}

/// A mount that stays, or files that somebody put there.
fn is_still_used(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY | libc::ENOTDIR))
}

/// Lets the loop device that `link` leads to free itself, if it is still the one that was attached for the link.
fn end_loop(link: &Path, device: &Path) -> Result<()> {
    let name = device.to_str().and_then(|path| path.strip_prefix("/dev/loop"));
    let Some(number) = name.and_then(|digits| digits.parse().ok()) else { return Ok(()) };
    let ended = LoopDevice::find(number, &loop_name(link)).and_then(|found| match found {
        Some(device) => device.keep(false),
        None => Ok(()),
    });
    ended.map_err(|error| Error::sys(format!("cannot free {}", device.display()), error))
}
