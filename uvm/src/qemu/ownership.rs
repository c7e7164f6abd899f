//! Whose a run directory is: one machine's, as long as its owner lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sys::process::Process;

use crate::machine::JOURNAL;
use crate::{Error, ErrorKind, Result};

/// Locked by the owner; the lock goes with its process.
const LOCK: &str = "owner.lock";
/// The machine's processes, one `PID:START` a line.
const PROCESSES: &str = "processes";
/// For a killed process to be gone.
const END_TIME: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Ownership {
    run: PathBuf,
    /// Unlocked when it is closed.
    _lock: File,
}

impl Ownership {
    /// Takes a directory, or refuses one that is in use. What an owner before us has left ends here: its processes, should any
    /// have outlived it, and the journal of devices that are gone with them.
    pub(super) fn take(run: &Path) -> Result<Self> {
        let path = run.join(LOCK);
        let failed = |error| Error::io(format!("cannot lock {}", path.display()), error);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("another virtual machine runs in {}", run.display());
                return Err(Error::new(ErrorKind::Busy, message));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        end_processes(&run.join(PROCESSES))?;
        remove(&run.join(JOURNAL))?;
        Ok(Self { run: run.to_owned(), _lock: lock })
    }

    /// Notes the machine's processes for the next owner.
    pub(super) fn record(&self, pids: &[u32]) -> Result<()> {
        let path = self.run.join(PROCESSES);
        let mut text = String::new();
        for pid in pids {
            let process = Process::of(*pid)
                .map_err(|error| Error::caused(ErrorKind::Io, "cannot look at a process", error))?;
            // One that has ended already is noticed soon.
            if let Some(process) = process {
                text.push_str(&format!("{process}\n"));
            }
        }
        std::fs::write(&path, text)
            .map_err(|error| Error::io(format!("cannot write {}", path.display()), error))
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// They end with their owner by themselves; this waits for it, and sees to it where that failed.
fn end_processes(list: &Path) -> Result<()> {
    let text = match std::fs::read_to_string(list) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(format!("cannot read {}", list.display()), error)),
    };
    let until = Instant::now() + END_TIME;
    for process in text.lines().filter_map(|line| line.parse::<Process>().ok()) {
        while process
            .is_alive()
            .map_err(|error| Error::caused(ErrorKind::Io, "cannot look at a process", error))?
        {
            process
                .kill()
                .map_err(|error| Error::caused(ErrorKind::Io, "cannot end a process", error))?;
            if Instant::now() > until {
                let message = format!("process {} of an earlier machine does not end", process.pid);
                return Err(Error::new(ErrorKind::Busy, message));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    remove(list)
}
