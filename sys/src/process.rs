//! Who a process is, in a way that survives the reuse of its number: boot id, process id and start time.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(windows)]
use windows as imp;

#[cfg(target_os = "linux")]
pub use linux::kill_with_parent;

/// What names this boot: the kernel's id of it (`/proc/sys/kernel/random/boot_id`), on Windows the moment of the start.
/// Another one after every start of the machine.
pub fn boot_id() -> Result<String> {
    imp::boot_id()
}

/// A process of this boot: its id and its start time (clock ticks since boot, field 22 of `/proc/PID/stat` in proc(5); on
/// Windows its creation in units of 100 ns since 1601), which together never come back within one boot. Its text form is `PID:START`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Process id in our pid namespace.
    pub pid: u32,
    /// When it started, in the system's own units.
    pub start: u64,
}

impl Process {
    /// This process.
    pub fn current() -> Result<Self> {
        let pid = std::process::id();
        Self::of(pid)?.ok_or_else(|| {
            Error::new(format!("process {pid}"), std::io::Error::from(std::io::ErrorKind::NotFound))
        })
    }

    /// The process that has this id now; `None` if there is none or if it is dead and only waits for its parent.
    pub fn of(pid: u32) -> Result<Option<Self>> {
        Ok(imp::start_of(pid)?.map(|start| Self { pid, start }))
    }

    /// Whether that very process still runs.
    pub fn is_alive(&self) -> Result<bool> {
        Ok(Self::of(self.pid)? == Some(*self))
    }

    /// Ends that very process at once (KILL, `TerminateProcess`); fine if it has ended. Another one that got its number
    /// is not touched: the process is held while it is compared.
    pub fn kill(&self) -> Result<()> {
        imp::kill(self)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pid, self.start)
    }
}

/// A text that is not `PID:START`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseProcessError;

impl fmt::Display for ParseProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a process identity (PID:START)")
    }
}

impl std::error::Error for ParseProcessError {}

impl FromStr for Process {
    type Err = ParseProcessError;

    fn from_str(text: &str) -> Result<Self, ParseProcessError> {
        let (pid, start) = text.split_once(':').ok_or(ParseProcessError)?;
        Ok(Self {
            pid: pid.parse().map_err(|_| ParseProcessError)?,
            start: start.parse().map_err(|_| ParseProcessError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that a signal ended has no exit code.
    const KILLED: Option<i32> = if cfg!(windows) { Some(1) } else { None };

    /// This test program with a test that waits: a process that every system can start.
    fn sleeper() -> std::process::Child {
        let us = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(us);
        let test = ["--ignored", "--exact", "process::tests::sleeps", "--test-threads=1"];
        command.args(test).stdout(std::process::Stdio::null()).spawn().unwrap()
    }

    #[test]
    #[ignore = "started by other tests, which end it"]
    fn sleeps() {
        std::thread::sleep(std::time::Duration::from_secs(60));
    }

    #[test]
    fn a_process_is_known_by_pid_and_start_time() {
        let me = Process::current().unwrap();
        assert!(me.is_alive().unwrap());
        assert_eq!(me.to_string().parse::<Process>().unwrap(), me);
        let other = Process { start: me.start + 1, ..me };
        assert!(
            !other.is_alive().unwrap(),
            "the same number with another start time is another process"
        );
    }

    #[test]
    fn a_dead_child_is_dead_even_before_it_is_waited_for() {
        let mut child = sleeper();
        let identity = Process::of(child.id()).unwrap().unwrap();
        child.kill().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while identity.is_alive().unwrap() {
            assert!(std::time::Instant::now() < deadline, "the killed child still counts as alive");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert!(!identity.is_alive().unwrap());
    }

    #[test]
    fn only_that_very_process_is_killed() {
        let mut child = sleeper();
        let identity = Process::of(child.id()).unwrap().unwrap();
        Process { start: identity.start + 1, ..identity }.kill().unwrap();
        assert!(identity.is_alive().unwrap());
        identity.kill().unwrap();
        assert_eq!(child.wait().unwrap().code(), KILLED);
        identity.kill().unwrap();
        assert!(!identity.is_alive().unwrap());
    }

    #[test]
    fn the_boot_has_an_id() {
        assert!(!boot_id().unwrap().is_empty());
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
