//! The volume registry: what is mounted, for whom, and how it is found again after a crash.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use store::{Chain, Layer, ScratchPaths};
use sys::MountWatch;

use crate::clock::{time_of, unix_time_now};
use crate::journal::{self, Journal};
use crate::record::Record;
use crate::volume::Place;
use crate::volumes::{Seen, Volumes, Wanted};
use crate::{
    Backing, Error, ErrorKind, Holder, IdMapping, MountedTarget, Result, ScratchDirs, Volume,
    VolumeId,
};

/// Everything that Plywood has mounted on this host, by run directory.
///
/// Any number of processes and threads may have one open: the lock is held for the length of one call.
#[derive(Debug)]
pub struct Registry {
    run: PathBuf,
    wait: Duration,
    pub(crate) backing: Backing,
    pub(crate) old_overlay: bool,
    lock: File,
    journal: Mutex<Journal>,
    /// The mount table, for questions that need no lock.
    pub(crate) watch: Mutex<MountWatch>,
    pub(crate) seen: Mutex<Seen>,
}

impl Registry {
    /// Opens the registry of run directory `run`, making what is missing. Calls wait at most `wait` for another
    /// process that is using it.
    ///
    /// # Errors
    /// What making the directories says; `NewerVersion`, `Corrupt` and `Busy` come from the first call.
    pub fn open(run: &Path, wait: Duration) -> Result<Self> {
        let run = std::path::absolute(run)
            .map_err(|error| Error::io(format!("cannot find {}", run.display()), error))?;
        let lock_path = run.join("mounts.lock");
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock_path)
        };
        let lock = match open() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                make_directory(&run, 0o755, true)?;
                open()
            }
            other => other,
        };
        let lock =
            lock.map_err(|error| Error::io(format!("cannot open {}", lock_path.display()), error))?;
        // Mount points are compared with the kernel's table, which has no symbolic links.
        let run = run
            .canonicalize()
            .map_err(|error| Error::io(format!("cannot find {}", run.display()), error))?;
        let failed = |error| Error::sys("cannot open the mount registry", error);
        let boot = boot_id().map_err(failed)?;
        let namespace = sys::mount_namespace().map_err(failed)?;
        let journal = Mutex::new(Journal::new(journal::path_in(&run), boot, namespace));
        let watch = Mutex::new(MountWatch::new());
        let seen = Mutex::new(Seen::default());
        Ok(Self {
            run,
            wait,
            backing: Backing::Auto,
            old_overlay: false,
            lock,
            journal,
            watch,
            seen,
        })
    }

    /// The run directory, absolute and without symbolic links.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// Chooses how layer images get to the kernel.
    #[must_use]
    pub fn with_backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// Makes overlays as on a kernel without `lowerdir+` (before 6.5), for tests of that way.
    #[must_use]
    pub fn with_old_overlay(mut self) -> Self {
        self.old_overlay = true;
        self
    }

    /// Mounts each of `layers` once per host for `holder`; the mount points come in the order of `layers`.
    /// Holding again adds to what the holder has already.
    ///
    /// # Errors
    /// `Corrupt` if a file is not the layer it should be; what the kernel says. Nothing stays mounted then that
    /// was not before.
    pub fn hold(&self, layers: &[Layer], holder: &Holder) -> Result<Vec<PathBuf>> {
        let mut locked = self.locked()?;
        let wanted: Vec<Wanted> = layers.iter().map(Wanted::layer).collect();
        let ids = self.hold_volumes(&mut locked, &wanted, holder)?;
        Ok(ids.iter().map(|id| self.layer_mount_point(id)).collect())
    }

    /// As [`Self::hold`], with the files' owners shifted by `mapping`: for containers in user namespaces. The
    /// volumes are clones of the layers' own, which are held too, and shared by all who want the same mapping.
    /// The upper directory has to belong to the mapped root ([`ScratchDirs::give_to`]).
    ///
    /// # Errors
    /// `NotSupported` if the kernel cannot map the owners of EROFS (before Linux 5.19); those of
    /// [`Self::hold`].
    pub fn hold_mapped(
        &self,
        layers: &[Layer],
        mapping: &IdMapping,
        holder: &Holder,
    ) -> Result<Vec<PathBuf>> {
        let mapped = layers.iter().map(|layer| Wanted::mapped(layer, mapping));
        // Each after the layer's own volume, of which it is made.
        let wanted: Vec<Wanted> = layers.iter().map(Wanted::layer).chain(mapped).collect();
        let mut locked = self.locked()?;
        let ids = self.hold_volumes(&mut locked, &wanted, holder)?;
        let mapped = ids.iter().skip(layers.len());
        Ok(mapped.map(|id| self.mount_point(id, Place::Mapped)).collect())
    }

    /// Mounts the scratch image of `chain` for `holder`, making its file system on first use, and gives its
    /// directories; those of a directory scratch are given as they are.
    ///
    /// # Errors
    /// `NotFound` if the chain is a view; `ToolMissing` without `mkfs.ext4`; what the kernel says.
    pub fn hold_scratch(&self, chain: &Chain, holder: &Holder) -> Result<ScratchDirs> {
        match &chain.scratch {
            None => Err(Error::new(ErrorKind::NotFound, "a view has no scratch")),
            Some(ScratchPaths::Directory { upper, work }) => {
                Ok(ScratchDirs { upper: upper.clone(), work: work.clone() })
            }
            Some(ScratchPaths::Image { path, size }) => {
                let mut locked = self.locked()?;
                let wanted = Wanted::scratch(path, *size)?;
                let dirs = self.scratch_dirs(&wanted.id);
                self.hold_volumes(&mut locked, &[wanted], holder)?;
                Ok(dirs)
            }
        }
    }

    fn hold_volumes(
        &self,
        locked: &mut Locked<'_>,
        wanted: &[Wanted],
        holder: &Holder,
    ) -> Result<Vec<VolumeId>> {
        let mut volumes = Volumes::new(self, &mut locked.journal);
        volumes.ensure(wanted)?;
        let ids: Vec<VolumeId> = wanted.iter().map(|wanted| wanted.id.clone()).collect();
        let hold = match volumes.state().holds_all(holder, &ids) {
            true => Vec::new(),
            false => {
                let (holder, volumes) = (holder.clone(), ids.clone());
                vec![Record::Hold { holder, volumes, since: unix_time_now() }]
            }
        };
        volumes.finish(hold)?;
        sys::failpoint::hit("held");
        locked.journal.compact()?;
        Ok(ids)
    }

    /// Ends everything that `holder` holds; volumes that nobody holds any more are unmounted and returned.
    /// Targets that were mounted for it stay, with their volumes, until they are unmounted.
    ///
    /// # Errors
    /// Those of the journal. A volume that is in use stays, and the next release or reconcile tries again.
    pub fn release(&self, holder: &Holder) -> Result<Vec<VolumeId>> {
        let mut locked = self.locked()?;
        if !locked.end_hold(holder)? {
            return Ok(Vec::new());
        }
        sys::failpoint::hit("released");
        let dropped = Volumes::new(self, &mut locked.journal).drop_idle()?;
        locked.journal.compact()?;
        Ok(dropped)
    }

    /// Ends everything that `holder` holds, as [`Self::release`] does, but leaves layers mounted for the next who
    /// wants them, until [`Self::trim`] (or somebody's release, or reconcile). `false` if it held nothing. A
    /// snapshot that lives for a moment then costs no mounts. A scratch image that nobody else holds is unmounted.
    ///
    /// # Errors
    /// `Busy` if such a scratch image is in use, by whatever: it is held still then, and nothing has changed.
    /// Those of the journal.
    pub fn let_go(&self, holder: &Holder) -> Result<bool> {
        let mut locked = self.locked()?;
        let scratches = locked.journal.state().scratches_of(holder);
        if let Some(busy) = Volumes::new(self, &mut locked.journal).drop_held(scratches)? {
            let message = format!("scratch image {} of {holder} is in use", busy.display());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let held = locked.end_hold(holder)?;
        sys::failpoint::hit("released");
        locked.journal.compact()?;
        Ok(held)
    }

    /// Unmounts the volumes that nobody holds, and tells which.
    ///
    /// # Errors
    /// Those of the journal. A volume that is in use stays.
    pub fn trim(&self) -> Result<Vec<VolumeId>> {
        let mut locked = self.locked()?;
        let dropped = Volumes::new(self, &mut locked.journal).drop_idle()?;
        locked.journal.compact()?;
        Ok(dropped)
    }

    /// Volumes mounted now, as the journal knows them.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn volumes(&self) -> Result<Vec<Volume>> {
        let locked = self.locked()?;
        let state = locked.journal.state();
        let volumes = state.volumes.keys().filter_map(|id| self.volume(state, id));
        Ok(volumes.collect())
    }

    /// Ids of the layers whose images are mounted now, which must not be deleted; cheaper than [`Self::volumes`].
    ///
    /// # Errors
    /// Those of the journal.
    pub fn mounted_layers(&self) -> Result<HashSet<String>> {
        let locked = self.locked()?;
        let volumes = locked.journal.state().volumes.values();
        let layers = volumes.filter(|volume| volume.place != Place::Scratch);
        Ok(layers.map(|volume| volume.layer.clone()).collect())
    }

    /// Targets mounted now, as the journal knows them.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn mounts(&self) -> Result<Vec<MountedTarget>> {
        let locked = self.locked()?;
        let targets = locked.journal.state().targets.iter().filter(|(_, target)| target.attached);
        let targets = targets.map(|(path, target)| MountedTarget {
            target: path.clone(),
            kind: target.kind,
            holder: target.holder.clone(),
            what: target.what.clone(),
            volumes: target.volumes.clone(),
            read_only: target.read_only,
            since: time_of(target.since),
        });
        Ok(targets.collect())
    }

    pub(crate) fn layer_mount_point(&self, id: &VolumeId) -> PathBuf {
        self.mount_point(id, Place::Layer)
    }

    /// Where a volume is mounted.
    pub(crate) fn mount_point(&self, id: &VolumeId, place: Place) -> PathBuf {
        self.run.join(place.directory()).join(id.as_str())
    }

    pub(crate) fn scratch_dirs(&self, id: &VolumeId) -> ScratchDirs {
        let mount_point = self.mount_point(id, Place::Scratch);
        ScratchDirs {
            upper: mount_point.join(crate::scratch::UPPER),
            work: mount_point.join(crate::scratch::WORK),
        }
    }

    /// Takes the lock and takes in what others have written meanwhile.
    pub(crate) fn locked(&self) -> Result<Locked<'_>> {
        // A thread that panicked under the lock left at worst an intention, as a killed process does.
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock_file()?;
        let mut locked = Locked { lock: &self.lock, journal };
        locked.journal.catch_up()?;
        Ok(locked)
    }

    fn lock_file(&self) -> Result<()> {
        let deadline = Instant::now() + self.wait;
        let mut pause = Duration::from_micros(200);
        loop {
            match self.lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => {
                    return Err(Error::io("cannot lock the mount registry", error));
                }
                Err(TryLockError::WouldBlock) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(self.busy());
                    }
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
            }
        }
        self.sign_lock();
        Ok(())
    }

    /// Leaves our process id in the lock file for those who wait. Only for their message, so failing to is
    /// nothing; and not written again where it stands already, because that is all a short call would write.
    fn sign_lock(&self) {
        let line = format!("{:>10}\n", std::process::id());
        let mut present = [0; 11];
        if self.lock.read_exact_at(&mut present, 0).is_err() || present != *line.as_bytes() {
            let _ = self.lock.write_all_at(line.as_bytes(), 0);
        }
    }

    fn busy(&self) -> Error {
        let mut line = [0; 11];
        let pid = match self.lock.read_exact_at(&mut line, 0) {
            Ok(()) => String::from_utf8_lossy(&line).trim().to_owned(),
            Err(_) => "unknown".to_owned(),
        };
        Error::new(
            ErrorKind::Busy,
            format!("process {pid} is using the mount registry of {}", self.run.display()),
        )
    }
}

/// The registry's lock with the journal as it is now.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    lock: &'a File,
    pub(crate) journal: MutexGuard<'a, Journal>,
}

impl Locked<'_> {
    /// Writes that `holder` holds nothing any more; `false` if it held nothing.
    fn end_hold(&mut self, holder: &Holder) -> Result<bool> {
        let key = (holder.kind, holder.name.clone());
        if !self.journal.state().holds.contains_key(&key) {
            return Ok(false);
        }
        let (kind, name) = key;
        self.journal.append(vec![Record::Release { kind, name }])?;
        Ok(true)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // It cannot fail on an open file; closing it would release it too.
        let _ = self.lock.unlock();
    }
}

/// The boot's id, which no process outlives.
fn boot_id() -> sys::Result<String> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(boot.clone());
    }
    let boot = sys::process::boot_id()?;
    Ok(BOOT.get_or_init(|| boot).clone())
}

/// Makes `path`; an existing directory is fine.
pub(crate) fn make_directory(path: &Path, mode: u32, parents: bool) -> Result<()> {
    match DirBuilder::new().mode(mode).recursive(parents).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(Error::io(format!("cannot make directory {}", path.display()), error)),
        Ok(()) => Ok(()),
    }
}
