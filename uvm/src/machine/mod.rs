//! The devices of one virtual machine: who uses what, and what has to be undone.
//!
//! ```text
//!  attach ─▶ table: an equal one? ──yes──▶ count, wait until it is made
//!                │ no: a place, phase "making"
//!                ▼            (no lock from here …)
//!             for each step: journal "intend" ─▶ host or guest ─▶ journal "done"
//!                │ failure: the steps before it are undone, last first
//!                ▼            (… to here)
//!             table: "ready", everybody who waits wakes up
//! ```
//!
//! Releasing goes the other way when the last user is gone: the guest first, then the host. What cannot be undone
//! keeps its place and stays in the journal; the next equal request, [`Machine::settle`] and the next
//! [`Machine::open`] try again.

mod guards;
mod inventory;
mod kinds;
mod steps;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::journal::{Journal, StepId};
use crate::step::Step;
use crate::table::{Claim, EntryId, Outcome};
use crate::{
    Capabilities, CombineRequest, Deadline, Error, ErrorKind, PMEM_MAX, Result, ScsiDisk, ScsiKind,
    ScsiMount, ShareRequest, Vm,
};

pub use guards::{CombinedGuard, PmemGuard, ScsiGuard, ShareGuard};
pub use inventory::{AttachedDisk, AttachedPmem, AttachedShare, Inventory, MountedDisk};
use kinds::{Combination, Combined, Disks, Kind, MountKey, Mounts, Pmem, PmemFile, Shares, Tables};

/// How long undoing one thing may take, if not said otherwise.
const UNDO_TIME: Duration = Duration::from_secs(60);

/// A virtual machine's device table. Clones are the same table.
#[derive(Clone)]
pub struct Machine(Arc<Inner>);

struct Inner {
    vm: Arc<dyn Vm>,
    can: Capabilities,
    tables: Mutex<Tables>,
    /// Some phase has changed.
    changed: Condvar,
    journal: Mutex<Journal>,
    undo_time: Duration,
    combinations: std::sync::atomic::AtomicU64,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("can", &self.0.can).finish_non_exhaustive()
    }
}

/// The journal's name in a machine's run directory.
pub(crate) const JOURNAL: &str = "devices.journal";

impl Machine {
    /// The table of a machine, with its journal in `run`, a directory of this machine alone. What an owner before us
    /// has left attached is detached first, newest first; what resists keeps its place, and the errors are returned
    /// beside the table.
    pub fn open(vm: Arc<dyn Vm>, run: &Path) -> Result<(Self, Vec<Error>)> {
        Self::open_with(vm, run, UNDO_TIME)
    }

    /// The same, with another time for undoing one thing.
    pub fn open_with(
        vm: Arc<dyn Vm>,
        run: &Path,
        undo_time: Duration,
    ) -> Result<(Self, Vec<Error>)> {
        let journal = Journal::<Step>::open(&run.join(JOURNAL))?;
        let left: Vec<(StepId, Step)> =
            journal.live().iter().map(|(id, step)| (*id, step.clone())).collect();
        let machine = Self(Arc::new(Inner {
            can: vm.capabilities(),
            vm,
            tables: Mutex::default(),
            changed: Condvar::new(),
            journal: Mutex::new(journal),
            undo_time,
            combinations: std::sync::atomic::AtomicU64::default(),
        }));
        let errors = machine.0.reconcile(left);
        Ok((machine, errors))
    }

    /// The machine itself.
    pub fn vm(&self) -> &Arc<dyn Vm> {
        &self.0.vm
    }

    /// Attaches a disk, and mounts it in the guest if `mount` is given. An equal disk that is attached already, and
    /// an equal mount of it, are shared; the mount's path is then the one it has.
    ///
    /// # Errors
    /// [`NoAvailableLocation`](ErrorKind::NoAvailableLocation), [`Unsupported`](ErrorKind::Unsupported),
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) for a path where something else is mounted, and what the host and the
    /// guest answer. Nothing stays attached.
    pub fn attach_scsi(
        &self,
        disk: &ScsiDisk,
        mount: Option<&ScsiMount>,
        deadline: &Deadline,
    ) -> Result<ScsiGuard> {
        self.0.check_disk(disk)?;
        if let Some(path) = mount.and_then(|mount| mount.path.as_deref()) {
            check_guest_path(path)?;
        }
        let attached = self.0.acquire::<Disks>(disk, &(), deadline)?;
        let slot = self.0.place_of::<Disks>(attached)?;
        let Some(mount) = mount else {
            return Ok(ScsiGuard::new(self.clone(), slot, None, guards::Held::Disk(attached)));
        };
        let mut key = MountKey { slot, mount: ScsiMount { path: None, ..mount.clone() } };
        key.mount.options.sort();
        let mounted = self.0.acquire::<Mounts>(&key, &(mount.path.clone(), attached), deadline);
        // A mount keeps the disk by itself. Without one this detaches; whatever comes of that is in the journal, and
        // the caller needs the first error.
        let _ = self.0.release::<Disks>(attached);
        let mounted = mounted?;
        let path = self.0.place_of::<Mounts>(mounted)?.path;
        Ok(ScsiGuard::new(self.clone(), slot, Some(path), guards::Held::Mount(mounted)))
    }

    /// Attaches a layer's image as a read-only pmem device, whole or packed with others as the machine can, and
    /// mounts it. Equal files share.
    ///
    /// # Errors
    /// [`TooLarge`](ErrorKind::TooLarge) and [`NoAvailableLocation`](ErrorKind::NoAvailableLocation), after which SCSI may
    /// still do; and others as for disks.
    pub fn attach_pmem(&self, path: &Path, deadline: &Deadline) -> Result<PmemGuard> {
        check_host_path(path)?;
        let meta = std::fs::metadata(path)
            .map_err(|error| Error::io(format!("cannot attach {}", path.display()), error))?;
        let size = meta.len();
        if self.0.can.pmem_devices > 0 && size > self.0.can.pmem_max.min(PMEM_MAX) {
            let message =
                format!("{} has {size} bytes, more than a pmem device holds", path.display());
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        if !meta.is_file() || size == 0 {
            let message = format!("{} is not a file with something in it", path.display());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let key = PmemFile { path: path.to_owned(), size };
        let id = self.0.acquire::<Pmem>(&key, &(), deadline)?;
        let place = self.0.place_of::<Pmem>(id)?;
        Ok(PmemGuard::new(self.clone(), id, &place))
    }

    /// Serves a directory of the host and mounts it in the guest. Equal requests share.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where there are no shares, [`Invalid`](ErrorKind::Invalid) for a path that is
    /// no directory, and others as for disks.
    pub fn share(&self, request: &ShareRequest, deadline: &Deadline) -> Result<ShareGuard> {
        check_host_path(&request.host)?;
        check_guest_path(&request.guest_path)?;
        let unsupported = |what: &str| {
            let message = format!("cannot share {}: {what}", request.host.display());
            Err(Error::new(ErrorKind::Unsupported, message))
        };
        if !self.0.can.shares {
            return unsupported("this virtual machine has no shares");
        }
        if !request.read_only && !self.0.can.writable_shares {
            return unsupported("this virtual machine has no writable shares");
        }
        let meta = std::fs::metadata(&request.host).map_err(|error| {
            Error::io(format!("cannot share {}", request.host.display()), error)
        })?;
        if !meta.is_dir() {
            let message = format!("cannot share {}: it is not a directory", request.host.display());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let id = self.0.acquire::<Shares>(request, &(), deadline)?;
        Ok(ShareGuard::new(self.clone(), id, request.guest_path.clone()))
    }

    /// Combines layers to a root file system in the guest. Never shared: a second one on the same root is refused.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) without layers, [`AlreadyExists`](ErrorKind::AlreadyExists) if the root is taken, and
    /// what the guest answers.
    pub fn combine(&self, request: &CombineRequest, deadline: &Deadline) -> Result<CombinedGuard> {
        check_guest_path(&request.root)?;
        if request.layers.is_empty() {
            let message = format!("there are no layers to combine on {}", request.root);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        for path in request.layers.iter().chain(&request.scratch) {
            check_guest_path(path)?;
        }
        let number = self.0.combinations.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let key = Combination { request: request.clone(), number };
        let id = self.0.acquire::<Combined>(&key, &(), deadline)?;
        Ok(CombinedGuard::new(self.clone(), id, request.root.clone()))
    }

    /// Tries again what could not be undone before; every error that is left.
    pub fn settle(&self) -> Result<()> {
        self.0.settle()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        // A panic elsewhere leaves the tables as they were: they are only changed by code that cannot panic midway.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place_of<K: Kind>(&self, id: EntryId) -> Result<K::Place> {
        let mut tables = self.lock();
        let entry = K::table(&mut tables).get(id);
        entry.map(|entry| entry.place.clone()).ok_or_else(|| {
            Error::new(ErrorKind::NotAttached, "what was attached is not in the table")
        })
    }

    /// Counts the caller as a user of what has this key, making it first if nobody has.
    fn acquire<K: Kind>(
        &self,
        key: &K::Key,
        wish: &K::Wish,
        deadline: &Deadline,
    ) -> Result<EntryId> {
        loop {
            look(deadline, "attach")?;
            let mut tables = self.lock();
            match K::table(&mut tables).claim(key) {
                Claim::Ready(id) => return Ok(id),
                Claim::Wait(id, outcome) => match self
                    .await_outcome::<K>(tables, id, &outcome, deadline)
                {
                    Ok(()) => return Ok(id),
                    // The one who made it gave up; that is no reason for others to.
                    Err(Waited::Theirs(error))
                        if matches!(error.kind(), ErrorKind::Deadline | ErrorKind::Cancelled) => {}
                    Err(Waited::Theirs(error) | Waited::Ours(error)) => return Err(error),
                },
                Claim::Leaving => drop(self.await_change(tables, deadline)?),
                Claim::Stuck(id) => {
                    drop(tables);
                    self.remove::<K>(id)?;
                }
                Claim::Parked(id) => {
                    drop(tables);
                    return self.make::<K>(id, deadline);
                }
                Claim::Absent => {
                    let place = K::place(&mut tables, &self.can, key, wish)?;
                    let id = K::table(&mut tables).insert(key.clone(), place);
                    drop(tables);
                    return self.make::<K>(id, deadline);
                }
            }
        }
    }

    /// Waits for any change, as long as the deadline allows.
    fn await_change<'a>(
        &'a self,
        tables: MutexGuard<'a, Tables>,
        deadline: &Deadline,
    ) -> Result<MutexGuard<'a, Tables>> {
        let time = look(deadline, "wait for another caller")?;
        let waited = self.changed.wait_timeout(tables, time);
        Ok(waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn await_outcome<'a, K: Kind>(
        &'a self,
        mut tables: MutexGuard<'a, Tables>,
        id: EntryId,
        outcome: &Outcome,
        deadline: &Deadline,
    ) -> Result<(), Waited> {
        loop {
            if let Some(outcome) = outcome.get() {
                return outcome.clone().map_err(Waited::Theirs);
            }
            let time = match look(deadline, "wait for another caller") {
                Ok(time) => time,
                Err(error) => {
                    K::table(&mut tables).give_up(id);
                    return Err(Waited::Ours(error));
                }
            };
            let waited = self.changed.wait_timeout(tables, time);
            tables = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes the steps of an entry that the caller has in phase "making".
    fn make<K: Kind>(&self, id: EntryId, deadline: &Deadline) -> Result<EntryId> {
        let (key, place, mut steps) = {
            let mut tables = self.lock();
            let entry = K::table(&mut tables).get(id).ok_or_else(|| {
                Error::new(ErrorKind::NotAttached, "what was to be attached is not in the table")
            })?;
            (entry.key.clone(), entry.place.clone(), entry.steps.clone())
        };
        let kept = steps.len();
        let mut result = Ok(());
        let mut port = None;
        for mut step in K::steps(&key, &place).into_iter().skip(kept) {
            if let (Step::ShareMount { port: wanted, .. }, Some(port)) = (&mut step, port) {
                *wanted = port;
            }
            match self.take(step, deadline, &mut steps) {
                Ok(answer) => port = answer,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if result.is_err() {
            // The errors of undoing are in the journal; the caller needs the one that came first.
            let _ = self.undo_all(&mut steps);
        }
        let mut tables = self.lock();
        let left = self.phase_of_rest(&steps);
        let gone = result.is_err() && steps.is_empty();
        K::table(&mut tables).made(id, steps, result.clone(), left);
        if gone {
            K::vacate(&mut tables, &place);
        }
        drop(tables);
        self.changed.notify_all();
        if gone {
            let _ = K::let_go(self, &place);
        }
        result.map(|()| id)
    }

    /// One user less; the last one removes.
    fn release<K: Kind>(&self, id: EntryId) -> Result<()> {
        let last = K::table(&mut self.lock()).drop_one(id);
        if last { self.remove::<K>(id) } else { Ok(()) }
    }

    /// Undoes the steps of an entry that the caller has in phase "removing".
    fn remove<K: Kind>(&self, id: EntryId) -> Result<()> {
        let (place, mut steps) = {
            let mut tables = self.lock();
            let Some(entry) = K::table(&mut tables).get(id) else { return Ok(()) };
            (entry.place.clone(), entry.steps.clone())
        };
        let result = self.undo_all(&mut steps);
        let mut tables = self.lock();
        let left = self.phase_of_rest(&steps);
        let gone = steps.is_empty();
        if gone {
            K::vacate(&mut tables, &place);
        }
        K::table(&mut tables).removed(id, steps, left);
        drop(tables);
        self.changed.notify_all();
        if gone { result.and(K::let_go(self, &place)) } else { result }
    }

    fn settle(&self) -> Result<()> {
        let mut errors = Vec::new();
        // What lies on top first.
        for id in take_stuck::<Combined>(self) {
            errors.extend(self.remove::<Combined>(id).err());
        }
        for id in take_stuck::<Shares>(self) {
            errors.extend(self.remove::<Shares>(id).err());
        }
        for id in take_stuck::<Mounts>(self) {
            errors.extend(self.remove::<Mounts>(id).err());
        }
        for id in take_stuck::<Disks>(self) {
            errors.extend(self.remove::<Disks>(id).err());
        }
        for id in take_stuck::<Pmem>(self) {
            errors.extend(self.remove::<Pmem>(id).err());
        }
        let left = std::mem::take(&mut self.lock().leftover);
        errors.extend(self.reconcile(left));
        Error::all("cannot undo everything", errors)
    }

    fn check_disk(&self, disk: &ScsiDisk) -> Result<()> {
        check_host_path(&disk.path)?;
        let refused = |what: &str| {
            let message = format!("cannot attach {}: {what}", disk.path.display());
            Err(Error::new(ErrorKind::Unsupported, message))
        };
        match disk.kind {
            ScsiKind::PassThrough if !self.can.pass_through => {
                refused("this virtual machine cannot be given devices of the host")
            }
            ScsiKind::Extensible(_) if !self.can.extensible => {
                refused("this virtual machine has no extensible virtual disks")
            }
            _ if self.can.scsi_controllers == 0 => {
                refused("this virtual machine has no SCSI controller")
            }
            _ => Ok(()),
        }
    }
}

/// Why waiting for somebody else's making ended without it.
enum Waited {
    /// They failed.
    Theirs(Error),
    /// We gave up.
    Ours(Error),
}

fn take_stuck<K: Kind>(inner: &Inner) -> Vec<EntryId> {
    K::table(&mut inner.lock()).take_stuck()
}

/// How long to sleep before looking at the deadline again.
fn look(deadline: &Deadline, doing: &str) -> Result<Duration> {
    deadline.slice(doing).map_err(Error::from_bridge)
}

/// Paths in the guest are kept and compared as text, so there is one way to write each.
fn check_guest_path(path: &str) -> Result<()> {
    let plain = path.len() > 1
        && path.starts_with('/')
        && !path.contains('\0')
        && path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    if plain {
        return Ok(());
    }
    let message = format!("{path:?} is not an absolute path in the guest in its shortest form");
    Err(Error::new(ErrorKind::Invalid, message))
}

/// Host paths go into the journal and to QEMU as text.
fn check_host_path(path: &Path) -> Result<()> {
    if path.is_absolute() && path.to_str().is_some() {
        return Ok(());
    }
    let message = format!("{} is not an absolute path in UTF-8", path.display());
    Err(Error::new(ErrorKind::Invalid, message))
}
