//! Opening a store.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use sys::file::{Acquired, Lock};

use crate::db::{Database, Read, Records as _, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::Layout;
use crate::spares::Spares;
use crate::sweep::{Depth, Remains, Swept};
use crate::windows::WindowsHost;

/// How to open a store.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// How long to wait for another process that has the store open.
    pub wait: Duration,
    /// Make the store if there is none.
    pub create: bool,
    /// Change nothing, not even leftovers; works on a read-only file system, and beside other readers. Only a database
    /// that was killed while open for writing is recovered (and swept) first, where that is possible.
    pub read_only: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { wait: Duration::from_secs(10), create: true, read_only: false }
    }
}

/// An open store: one process at a time, any number of threads.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    database: Database,
    /// Highest number that this process has tried for a snapshot: one whose transaction was rolled back is not
    /// given out again.
    numbers: AtomicU64,
    /// Counter for the names of directories that have no number yet.
    unnumbered: AtomicU64,
    /// Held for reading while a file or directory exists without its record, for writing while leftovers are swept.
    sweeping: RwLock<()>,
    /// What threads of this process are deleting, under its new name: not a sweep's business.
    graves: Mutex<BTreeSet<PathBuf>>,
    pub(crate) spares: Mutex<Spares>,
    swept: Swept,
    host: Option<WindowsHost>,
    // Last, so that it is released only after the database is closed.
    _lock: Lock,
}

impl Store {
    /// Opens the store at `root`, waiting for another process if need be, and sweeps what a crash left behind.
    ///
    /// # Errors
    /// `NotFound` if there is none and none is to be made, `Busy` (naming the holder's process id) if the wait was
    /// too short, `NewerVersion`, `ReadOnly` if its directory cannot be written, `Corrupt`, `NoSpace`, `Io`.
    pub fn open(root: &Path, options: OpenOptions) -> Result<Self> {
        Self::open_on(root, options, None)
    }

    /// [`open`](Self::open) on a Windows host, which makes the scratches of snapshots. Whether the host can is
    /// [`HostForm::check_build`](crate::HostForm::check_build)'s to say.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(root: &Path, options: OpenOptions, host: Option<WindowsHost>) -> Result<Self> {
        let layout = Layout::new(root);
        let exists = layout.metadata().try_exists().map_err(|source| opening(root, source))?;
        if !exists && (options.read_only || !options.create) {
            return Err(Error::not_found(format!("there is no store at {}", root.display())));
        }
        if !options.read_only {
            make_directories(&layout)?;
        }
        let acquired = if options.read_only {
            Lock::acquire_shared(&layout.lock(), options.wait)
        } else {
            Lock::acquire(&layout.lock(), options.wait)
        };
        let lock = match acquired
            .map_err(|source| Error::sys(format!("opening the store {}", root.display()), source))?
        {
            Acquired::Held(lock) => lock,
            Acquired::Busy(holder) => {
                let holder = match holder {
                    Some(pid) => format!("process {pid}"),
                    None => "another process".to_owned(),
                };
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!(
                        "the store {} is in use by {holder} (waited {:?})",
                        root.display(),
                        options.wait
                    ),
                ));
            }
        };
        let database = if options.read_only {
            match Database::open_read_only(&layout.metadata()) {
                // Killed while it was open for writing. Recovery changes no record, so it is done even for a reader,
                // where the directory can be written.
                Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                    drop(lock);
                    let writing =
                        OpenOptions { create: false, read_only: false, ..options.clone() };
                    return match Self::open_on(root, writing, host.clone()) {
                        Ok(recovered) => {
                            drop(recovered);
                            Self::open_on(root, options, host)
                        }
                        Err(denied) if denied.kind() == ErrorKind::ReadOnly => Err(error),
                        Err(other) => Err(other),
                    };
                }
                database => database?,
            }
        } else {
            Database::open(&layout.metadata())?
        };
        let mut store = Self {
            layout,
            database,
            numbers: AtomicU64::new(0),
            unnumbered: AtomicU64::new(0),
            sweeping: RwLock::new(()),
            graves: Mutex::default(),
            spares: Mutex::default(),
            swept: Swept::default(),
            host,
            _lock: lock,
        };
        if !options.read_only {
            store.swept = store.sweep(Depth::Inside)?;
        }
        Ok(store)
    }

    /// The process that has the store at `root` open for writing now, where it said so.
    pub fn holder(root: &Path) -> Option<u32> {
        // One that cannot be asked has no holder that we could name.
        match Lock::acquire_shared(&Layout::new(root).lock(), Duration::ZERO).ok()? {
            Acquired::Busy(holder) => holder,
            Acquired::Held(_) => None,
        }
    }

    /// The Windows host that it is on.
    pub fn host(&self) -> Option<&WindowsHost> {
        self.host.as_ref()
    }

    /// The directory that holds everything.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// What opening found left over and removed.
    pub fn swept(&self) -> &Swept {
        &self.swept
    }

    /// Removes what interrupted operations left behind. containerd's `Cleanup` is [`collect`](Self::collect).
    ///
    /// # Errors
    /// `ReadOnly`, `Io`.
    pub fn cleanup(&self) -> Result<Swept> {
        self.sweep(Depth::Inside)
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.database.is_read_only()
    }

    pub(crate) fn check_integrity(&self) -> Result<bool> {
        self.database.check_integrity()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn read(&self) -> Result<Read> {
        self.database.read()
    }

    pub(crate) fn write(&self) -> Result<Write> {
        self.database.write()
    }

    /// Holds off sweeps for as long as there are files without records.
    pub(crate) fn not_sweeping(&self) -> RwLockReadGuard<'_, ()> {
        self.sweeping.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn exclusively(&self) -> RwLockWriteGuard<'_, ()> {
        self.sweeping.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn graves(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.graves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next snapshot number, written into `write`. It is spent even if `write` never commits.
    pub(crate) fn next_number(&self, write: &mut Write) -> Result<u64> {
        let number = write.sequence()?.max(self.numbers.load(Ordering::SeqCst)) + 1;
        self.numbers.store(number, Ordering::SeqCst);
        write.put_sequence(number)?;
        Ok(number)
    }

    pub(crate) fn next_unnumbered(&self) -> u64 {
        self.unnumbered.fetch_add(1, Ordering::SeqCst)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        Remains(self.take_spares()).delete();
    }
}

fn opening(root: &Path, source: io::Error) -> Error {
    Error::io(format!("opening the store {}", root.display()), source)
}

/// The root's parents are made with the usual mode, the store itself is for its owner alone: layer images hold files
/// of any owner, setuid ones too.
fn make_directories(layout: &Layout) -> Result<()> {
    let doing = || format!("making the store {}", layout.root().display());
    if let Some(parent) = layout.root().parent() {
        fs::create_dir_all(parent).map_err(|source| Error::io(doing(), source))?;
    }
    let mut made = false;
    let directories = [
        layout.root().to_owned(),
        layout.layers(),
        layout.cim_layers(),
        layout.snapshots(),
        layout.staging(),
    ];
    for directory in directories {
        match sys::file::create_directory(&directory, 0o700) {
            Ok(()) => made = true,
            Err(error) if error.io_kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {
            }
            Err(error) => return Err(Error::sys(doing(), error)),
        }
    }
    if made {
        sys::file::sync_directory(layout.root()).map_err(|source| Error::sys(doing(), source))?;
        if let Some(parent) = layout.root().parent().filter(|parent| !parent.as_os_str().is_empty())
        {
            sys::file::sync_directory(parent).map_err(|source| Error::sys(doing(), source))?;
        }
    }
    Ok(())
}
