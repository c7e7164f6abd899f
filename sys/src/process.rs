//! Who a process is, in a way that survives the reuse of its number: boot id, process id and start time.

use std::fmt;
use std::fs;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The kernel's id of this boot (`/proc/sys/kernel/random/boot_id`); a new one after every start of the machine.
pub fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text =
        fs::read_to_string(PATH).map_err(|source| Error::new(format!("read({PATH})"), source))?;
    Ok(text.trim().to_owned())
}

/// A process of this boot: its id and its start time in clock ticks since boot (field 22 of `/proc/PID/stat`,
/// proc(5)), which together never come back within one boot. Its text form is `PID:START`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Process id in our pid namespace.
    pub pid: u32,
    /// Clock ticks since boot at which it started.
    pub start: u64,
}

impl Process {
    /// This process.
    pub fn current() -> Result<Self> {
        let pid = std::process::id();
        Self::of(pid)?.ok_or_else(|| {
            Error::new(
                format!("read(/proc/{pid}/stat)"),
                std::io::Error::from(std::io::ErrorKind::NotFound),
            )
        })
    }

    /// The process that has this id now; `None` if there is none or if it is dead and only waits for its parent.
    pub fn of(pid: u32) -> Result<Option<Self>> {
        let path = format!("/proc/{pid}/stat");
        let stat = match fs::read(&path) {
            Ok(stat) => stat,
            // ESRCH: it died between open and read.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ESRCH) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::new(format!("read({path})"), error)),
        };
        let (state, start) = parse_stat(&stat).ok_or_else(|| {
            Error::new(
                format!("parse({path})"),
                std::io::Error::from(std::io::ErrorKind::InvalidData),
            )
        })?;
        Ok((!matches!(state, b'Z' | b'X' | b'x')).then_some(Self { pid, start }))
    }

    /// Whether that very process still runs.
    pub fn is_alive(&self) -> Result<bool> {
        Ok(Self::of(self.pid)? == Some(*self))
    }

    /// Ends that very process by KILL; fine if it has ended. Another one that got its number is not touched: the
    /// process is held (pidfd_open(2)) while it is compared.
    #[cfg(target_os = "linux")]
    pub fn kill(&self) -> Result<()> {
        use rustix::io::Errno;
        use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
        let failed = |call: &str, errno: Errno| Error::new(format!("{call}({})", self.pid), errno);
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        let Some(pid) = pid else { return Ok(()) };
        let held = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(held) => held,
            Err(Errno::SRCH) => return Ok(()),
            Err(errno) => return Err(failed("pidfd_open", errno)),
        };
        if !self.is_alive()? {
            return Ok(());
        }
        match pidfd_send_signal(held, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(failed("pidfd_send_signal", errno)),
        }
    }
}

/// State letter and start time. The command name (field 2) may hold spaces and parentheses, so fields are counted
/// from the last closing one.
fn parse_stat(stat: &[u8]) -> Option<(u8, u64)> {
    let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let text = std::str::from_utf8(stat.get(after..)?).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // State is field 3, so field 22 is 18 further on.
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pid, self.start)
    }
}

/// Makes the program that `command` starts end (by KILL) when the thread that starts it does, however that happens.
/// The program's own children are not affected.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "code between fork and exec")]
pub fn kill_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let parent = rustix::process::getpid();
    let arrange = move || {
        let signal = rustix::process::Signal::KILL;
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        // Should the parent have died before the call, nobody would send the signal any more.
        match rustix::process::getppid() == Some(parent) {
            true => Ok(()),
            false => Err(rustix::io::Errno::SRCH.into()),
        }
    };
    // SAFETY: prctl and getppid are async-signal-safe, and nothing here allocates or takes a lock.
    unsafe {
        command.pre_exec(arrange);
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

    #[test]
    #[cfg(target_os = "linux")]
    fn a_program_ends_with_the_thread_that_started_it() {
        let mut child = std::thread::spawn(|| {
            let mut command = std::process::Command::new("sleep");
            kill_with_parent(command.arg("1000"));
            command.spawn().unwrap()
        })
        .join()
        .unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
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
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
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
    #[cfg(target_os = "linux")]
    fn only_that_very_process_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Process::of(child.id()).unwrap().unwrap();
        Process { start: identity.start + 1, ..identity }.kill().unwrap();
        assert!(identity.is_alive().unwrap());
        identity.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        identity.kill().unwrap();
    }

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let stat = b"7 (a) b (x) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_stat(stat), Some((b'S', 4242)));
        assert_eq!(parse_stat(b"7 (a"), None);
        assert_eq!(parse_stat(b"7 (a) S 1 2"), None);
    }

    #[test]
    fn the_boot_has_an_id() {
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
