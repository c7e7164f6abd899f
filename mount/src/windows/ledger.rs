//! A small file that says what was made, for whoever comes after a crash.
//!
//! The whole state in one line, `CRC-32C JSON`, replaced as a file for every change: written beside, synced, renamed.
//! Unlike the journal of Linux mounts it outlives the boot, because volumes and attached scratches have names that do
//! too; what is true of it is for a reconcile to find out. A lock file beside it is held for the length of one call.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind as IoKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sys::checked_line;

use crate::{Error, ErrorKind, Result};

/// Version of the form below.
const VERSION: u32 = 1;

/// A ledger with the state `S`. Any number of processes and threads may have it open.
#[derive(Debug)]
pub(super) struct Ledger<S> {
    path: PathBuf,
    wait: Duration,
    /// Locked by one thread at a time, so that threads wait for each other without polling.
    lock: Mutex<File>,
    state: std::marker::PhantomData<fn() -> S>,
}

#[derive(Serialize, Deserialize)]
struct Form<S> {
    version: u32,
    state: S,
}

/// The lock, with what the ledger says.
pub(super) struct Locked<'a, S> {
    ledger: &'a Ledger<S>,
    lock: MutexGuard<'a, File>,
    pub(super) state: S,
}

impl<S: Serialize + DeserializeOwned + Default> Ledger<S> {
    /// The ledger at `path`; its directory is made. Calls wait at most `wait` for another process.
    pub(super) fn open(path: &Path, wait: Duration) -> Result<Self> {
        let failed = |error| Error::io(format!("cannot open the ledger {}", path.display()), error);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let lock = options.open(path.with_extension("lock")).map_err(failed)?;
        let (path, lock) = (path.to_owned(), Mutex::new(lock));
        Ok(Self { path, wait, lock, state: std::marker::PhantomData })
    }

    /// Takes the lock and reads what is written.
    ///
    /// # Errors
    /// `Busy`, `Corrupt`, `NewerVersion`.
    pub(super) fn locked(&self) -> Result<Locked<'_, S>> {
        // Whoever panicked under the lock has written what was true before each step.
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + self.wait;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => {
                    let message = format!("another process is using {}", self.path.display());
                    return Err(Error::new(ErrorKind::Busy, message));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(Error::io(format!("cannot lock {}", self.path.display()), error));
                }
            }
        }
        let mut locked = Locked { ledger: self, lock, state: S::default() };
        locked.state = self.read()?;
        Ok(locked)
    }

    fn read(&self) -> Result<S> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == IoKind::NotFound => return Ok(S::default()),
            Err(error) => {
                return Err(Error::io(format!("cannot read {}", self.path.display()), error));
            }
        };
        let damaged = || {
            let path = self.path.display();
            let message = format!(
                "{path} is damaged; remove it to forget what is mounted, and clean up by container id"
            );
            Error::new(ErrorKind::Corrupt, message)
        };
        let line = text.strip_suffix(b"\n").ok_or_else(damaged)?;
        let json = checked_line::payload(line).ok_or_else(damaged)?;
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(json).map_err(|_| damaged())?;
        if version > VERSION {
            let path = self.path.display();
            let message = format!(
                "{path} has version {version}; this program knows versions up to {VERSION}"
            );
            return Err(Error::new(ErrorKind::NewerVersion, message));
        }
        let form: Form<S> = serde_json::from_slice(json).map_err(|_| damaged())?;
        Ok(form.state)
    }
}

impl<S: Serialize> Locked<'_, S> {
    /// Makes the state last.
    ///
    /// # Errors
    /// Those of writing; the ledger says what it said before then.
    pub(super) fn write(&mut self) -> Result<()> {
        let path = &self.ledger.path;
        let failed = |error| Error::io(format!("cannot write {}", path.display()), error);
        let form = Form { version: VERSION, state: &self.state };
        let json = serde_json::to_vec(&form).map_err(|error| failed(error.into()))?;
        let mut text = Vec::with_capacity(json.len() + 16);
        checked_line::append(&mut text, &json);
        let new = path.with_extension("new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            drop(file);
            fs::rename(&new, path)
        };
        write().map_err(failed)
    }
}

impl<S> Drop for Locked<'_, S> {
    fn drop(&mut self) {
        // It cannot fail on an open file; closing it would release it too.
        let _ = self.lock.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbers = Ledger<Vec<u32>>;

    fn open(directory: &Path) -> Numbers {
        Ledger::open(&directory.join("run/some.ledger"), Duration::from_millis(20)).unwrap()
    }

    #[test]
    fn what_is_written_is_read_by_others() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (open(directory.path()), open(directory.path()));
        let mut locked = one.locked().unwrap();
        assert_eq!(two.locked().err().unwrap().kind(), ErrorKind::Busy);
        locked.state.push(7);
        locked.write().unwrap();
        locked.state.push(8);
        drop(locked);
        assert_eq!(two.locked().unwrap().state, [7], "what was not written is forgotten");
    }

    #[test]
    fn no_damage_is_read_as_something_else() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = open(directory.path());
        let mut locked = ledger.locked().unwrap();
        locked.state.extend([1, 2, 3]);
        locked.write().unwrap();
        drop(locked);
        let path = directory.path().join("run/some.ledger");
        let text = fs::read(&path).unwrap();
        for at in 0..text.len() {
            let mut bad = text.clone();
            bad[at] ^= 0x20;
            for bad in [&bad, &text[..at]] {
                fs::write(&path, bad).unwrap();
                let result = ledger.locked().map(|locked| locked.state.clone());
                // The checksum's own digits may be in either case.
                assert!(
                    matches!(&result, Err(error) if error.kind() == ErrorKind::Corrupt)
                        || at < 8 && result.as_ref().is_ok_and(|state| *state == [1, 2, 3]),
                    "{at}: {result:?}"
                );
            }
        }
        let json = br#"{"version":2,"state":"of another kind"}"#;
        let mut newer = Vec::new();
        checked_line::append(&mut newer, json);
        fs::write(&path, newer).unwrap();
        assert_eq!(ledger.locked().err().unwrap().kind(), ErrorKind::NewerVersion);
    }
}
