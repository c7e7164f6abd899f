//! Waiting for children one by one, and for those nobody waits for.

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use crate::{Error, Result};

fn pid_of(pid: u32) -> Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::new(format!("pid {pid}"), rustix::io::Errno::SRCH))
}

fn code(status: WaitStatus) -> Option<i32> {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
}

/// Waits for the child `pid` to end; its exit code, or 128 and the signal's number.
///
/// # Errors
/// `ECHILD` if it is no child of ours.
pub fn wait_for_child(pid: u32) -> Result<i32> {
    let id = pid_of(pid)?;
    loop {
        match rustix::process::waitpid(Some(id), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                if let Some(code) = code(status) {
                    return Ok(code);
                }
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::new(format!("waitpid({pid})"), errno)),
        }
    }
}

/// Takes the status of the child `pid` if it has ended.
///
/// # Errors
/// `ECHILD` if it is no child of ours.
pub fn reap_child(pid: u32) -> Result<Option<i32>> {
    match rustix::process::waitpid(Some(pid_of(pid)?), WaitOptions::NOHANG) {
        Ok(status) => Ok(status.and_then(|(_, status)| code(status))),
        Err(errno) => Err(Error::new(format!("waitpid({pid}, nohang)"), errno)),
    }
}

/// Waits until some child has ended and tells which, without taking its status; `None` without children.
///
/// # Errors
/// Those of `waitid(2)`.
#[expect(unsafe_code, reason = "rustix does not tell the process that waitid(2) found")]
pub fn peek_ended_child() -> Result<Option<u32>> {
    // SAFETY: all zero bytes are a valid siginfo_t.
    let mut information: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a siginfo_t that lives through the call.
    let result = unsafe {
        libc::waitid(libc::P_ALL, 0, &raw mut information, libc::WEXITED | libc::WNOWAIT)
    };
    if result == 0 {
        // SAFETY: waitid fills the fields of SIGCHLD, of which the process is one.
        let pid = unsafe { information.si_pid() };
        return Ok(u32::try_from(pid).ok());
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ECHILD) => Ok(None),
        _ => Err(Error::new("waitid(all, exited, nowait)", error)),
    }
}

/// Makes orphans among our descendants our children, as those of process 1 are.
///
/// # Errors
/// Those of `prctl(2)`.
pub fn adopt_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| Error::new("prctl(PR_SET_CHILD_SUBREAPER)", errno))
}

/// Sends a signal, by its number, to a process, or to every process but ourselves and process 1 for `None`.
///
/// # Errors
/// `EINVAL` for a number that is no signal, `ESRCH` without such a process.
#[expect(unsafe_code, reason = "signals by number, real-time ones too")]
pub fn signal_process(pid: Option<u32>, signal: i32) -> Result<()> {
    let target = match pid {
        Some(pid) => pid_of(pid)?.as_raw_nonzero().get(),
        None => -1,
    };
    // SAFETY: kill(2) touches no memory of ours.
    match unsafe { libc::kill(target, signal) } {
        0 => Ok(()),
        _ => {
            let error = std::io::Error::last_os_error();
            Err(Error::new(format!("kill({target}, {signal})"), error))
        }
    }
}

/// The number of KILL.
pub const SIGNAL_KILL: i32 = Signal::KILL.as_raw();
/// The number of TERM.
pub const SIGNAL_TERM: i32 = Signal::TERM.as_raw();

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[expect(clippy::zombie_processes, reason = "what is tested is waiting by number")]
    fn a_child_is_waited_for_by_its_number() {
        let child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        assert_eq!(wait_for_child(child.id()).unwrap(), 7);
        assert_eq!(wait_for_child(child.id()).unwrap_err().errno(), Some(libc::ECHILD));
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(reap_child(child.id()).unwrap(), None);
        signal_process(Some(child.id()), SIGNAL_KILL).unwrap();
        assert_eq!(wait_for_child(child.id()).unwrap(), 128 + 9);
        assert_eq!(signal_process(Some(0), 0).unwrap_err().errno(), Some(libc::ESRCH));
    }
}
