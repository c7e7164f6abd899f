//! Bringing the journal, the kernel's mount table and the run directory in line after a crash.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sys::{MountEntry, MountTable};

use crate::journal::Journal;
use crate::record::{Identity, Record};
use crate::rootfs::detach;
use crate::volume::Place;
use crate::volumes::{Undone, take_down};
use crate::{Error, ErrorKind, Holder, HolderKind, Registry, Result};

/// What [`Registry::reconcile`] did and what it left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Intended but never finished, or nobody's: unmounted and removed.
    pub undone: Vec<String>,
    /// In the journal, but no longer mounted: forgotten.
    pub forgotten: Vec<String>,
    /// Holders that are dead: released.
    pub released: Vec<Holder>,
    /// In use, so left as it is.
    pub kept_busy: Vec<String>,
}

impl ReconcileReport {
    /// Nothing was done and nothing is in the way.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl Registry {
    /// Brings journal, mount table and directories in line. Undone are: what was intended and not finished,
    /// what is held only by the dead (`alive` says who lives), and mounts below the run directory that the
    /// journal does not know. Whatever is in use stays and is reported; nothing is ever unmounted lazily.
    ///
    /// # Errors
    /// Those of the journal and of reading the mount table; a mount that cannot be undone for another reason
    /// than being in use.
    pub fn reconcile(&self, alive: &dyn Fn(&Holder) -> bool) -> Result<ReconcileReport> {
        let mut locked = self.locked()?;
        let mut pass = Pass {
            registry: self,
            journal: &mut locked.journal,
            report: ReconcileReport::default(),
        };
        pass.targets(alive)?;
        pass.activations(alive)?;
        pass.holders(alive)?;
        pass.volumes()?;
        pass.strangers()?;
        pass.directories()?;
        let report = pass.report;
        locked.journal.compact()?;
        Ok(report)
    }
}

struct Pass<'a> {
    registry: &'a Registry,
    journal: &'a mut Journal,
    report: ReconcileReport,
}

impl Pass<'_> {
    /// Targets that are gone, were never finished, or whose holder is dead.
    fn targets(&mut self, alive: &dyn Fn(&Holder) -> bool) -> Result<()> {
        let table = read_table()?;
        for (path, known) in self.journal.state().targets.clone() {
            let shown = format!("{} at {}", known.what, path.display());
            let present = table.entries().iter().any(|entry| is_at(entry, &path, known.identity));
            if present && known.attached && alive(&known.holder) {
                continue;
            }
            if present {
                match detach(&path, &known) {
                    Ok(_) => self.report.undone.push(shown),
                    Err(error) if error.kind() == ErrorKind::Busy => {
                        // Finished after all, and in use: from now on it counts as mounted.
                        if !known.attached {
                            self.journal.append(vec![Record::Attached { path: path.clone() }])?;
                        }
                        self.report.kept_busy.push(shown);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            } else if known.attached {
                self.report.forgotten.push(shown);
            } else {
                self.report.undone.push(shown);
            }
            self.journal.append(vec![Record::Detached { path }])?;
            sys::failpoint::hit("reconcile-target");
        }
        Ok(())
    }

    /// Activations that were never finished, that somebody took apart, or that nobody wants any more.
    fn activations(&mut self, alive: &dyn Fn(&Holder) -> bool) -> Result<()> {
        let table = read_table()?;
        for (name, activation) in self.journal.state().activations.clone() {
            let whole = activation.done.as_ref().is_some_and(|done| {
                done.active.iter().all(|active| match active.identity {
                    Some(identity) => {
                        table.entries().iter().any(|entry| is_at(entry, &active.point, identity))
                    }
                    None => true,
                })
            });
            let holder = Holder::new(HolderKind::Activation, &name);
            if whole && alive(&holder) {
                continue;
            }
            let shown = holder.to_string();
            match self.registry.dismantle(self.journal, &name) {
                Ok(()) if activation.done.is_some() && !whole => self.report.forgotten.push(shown),
                Ok(()) => self.report.undone.push(shown),
                Err(error) if error.kind() == ErrorKind::Busy => self.report.kept_busy.push(shown),
                Err(error) => return Err(error),
            }
            sys::failpoint::hit("reconcile-activation");
        }
        Ok(())
    }

    fn holders(&mut self, alive: &dyn Fn(&Holder) -> bool) -> Result<()> {
        let state = self.journal.state();
        // What an activation holds goes with it, or stays with it if it is in use.
        let stays = |holder: &Holder| match holder.kind {
            HolderKind::Activation => state.activations.contains_key(&holder.name),
            _ => alive(holder),
        };
        let holds = state.holds.values();
        let dead: Vec<Holder> =
            holds.map(|hold| hold.holder.clone()).filter(|holder| !stays(holder)).collect();
        for holder in dead {
            let release = Record::Release { kind: holder.kind, name: holder.name.clone() };
            self.journal.append(vec![release])?;
            sys::failpoint::hit("reconcile-holder");
            self.report.released.push(holder);
        }
        Ok(())
    }

    /// Volumes that are gone, were never finished, or that nobody holds.
    fn volumes(&mut self) -> Result<()> {
        let table = read_table()?;
        let state = self.journal.state();
        let idle = state.idle().clone();
        for (id, volume) in state.volumes.clone() {
            let mount_point = self.registry.mount_point(&id, volume.place);
            let shown = format!("volume {id} of {}", volume.layer);
            let there = volume.done.is_some_and(|done| {
                table.entries().iter().any(|entry| is_at(entry, &mount_point, done.identity))
            });
            if there && !idle.contains(&id) {
                continue;
            }
            // An overlay that somebody else made of it goes on without the volume's mount, but the next holder
            // would mount the image a second time.
            if there && table.overlay_uses(&mount_point) {
                self.report.kept_busy.push(shown);
                continue;
            }
            match take_down(&mount_point)? {
                Undone::Busy => {
                    self.report.kept_busy.push(shown);
                    continue;
                }
                Undone::Yes if volume.done.is_some() && !there => {
                    self.report.forgotten.push(shown);
                }
                Undone::Yes => self.report.undone.push(shown),
            }
            self.journal.append(vec![Record::Gone { id }])?;
            sys::failpoint::hit("reconcile-volume");
        }
        Ok(())
    }

    /// Mounts below the run directory that the journal does not know: of a journal that was lost.
    fn strangers(&mut self) -> Result<()> {
        let run = self.registry.run_dir();
        let table = read_table()?;
        for entry in table.tree(run) {
            if entry.mount_point == run || self.is_known(entry) {
                continue;
            }
            let shown = format!("{} at {}", entry.file_system, entry.mount_point.display());
            if table.overlay_uses(&entry.mount_point) {
                self.report.kept_busy.push(shown);
                continue;
            }
            match sys::unmount(&entry.mount_point) {
                Ok(()) => self.report.undone.push(shown),
                Err(error) if error.errno() == Some(libc::EBUSY) => {
                    self.report.kept_busy.push(shown);
                }
                // It went with another one, or is hidden below one that stays.
                Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENOENT)) => {}
                Err(error) => return Err(Error::sys(format!("cannot unmount {shown}"), error)),
            }
        }
        Ok(())
    }

    /// Ours by the journal, or mounted by someone inside a target of ours.
    fn is_known(&self, entry: &MountEntry) -> bool {
        let state = self.journal.state();
        let by_target = state.targets.keys().any(|path| entry.mount_point.starts_with(path));
        let by_activation = || {
            let mut names = state.activations.keys();
            names
                .any(|name| entry.mount_point.starts_with(self.registry.activation_directory(name)))
        };
        by_target
            || by_activation()
            || state.volumes.iter().any(|(id, volume)| {
                let mount_point = self.registry.mount_point(id, volume.place);
                entry.mount_point.starts_with(&mount_point)
            })
    }

    /// Empty directories of volumes that are no more.
    fn directories(&mut self) -> Result<()> {
        let state = self.journal.state();
        let known: BTreeSet<PathBuf> = state
            .volumes
            .iter()
            .map(|(id, volume)| self.registry.mount_point(id, volume.place))
            .collect();
        for place in Place::ALL {
            let parent = self.registry.run_dir().join(place.directory());
            let failed = |error| Error::io(format!("cannot list {}", parent.display()), error);
            let entries = match std::fs::read_dir(&parent) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.map_err(failed)?,
            };
            for entry in entries {
                let path = entry.map_err(failed)?.path();
                if known.contains(&path) {
                    continue;
                }
                // Only an empty directory that is no mount point goes; anything else is not ours to remove.
                if std::fs::remove_dir(&path).is_ok() {
                    self.report.undone.push(format!("directory {}", path.display()));
                }
            }
        }
        self.registry.clear_strange_activations(&self.journal.state().activations, |path| {
            self.report.undone.push(format!("directory {}", path.display()));
        })
    }
}

fn is_at(entry: &MountEntry, path: &Path, identity: Identity) -> bool {
    let (major, minor) = entry.device;
    entry.mount_point == path && identity == Identity { id: entry.id, major, minor }
}

fn read_table() -> Result<MountTable> {
    MountTable::read().map_err(|error| Error::sys("cannot read the mount table", error))
}
