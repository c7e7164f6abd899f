//! Processes by `/proc` and pidfds.

use std::fs;

use super::Process;
use crate::error::{Error, Result};

pub(super) fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text =
        fs::read_to_string(PATH).map_err(|source| Error::new(format!("read({PATH})"), source))?;
    Ok(text.trim().to_owned())
}

/// `None` if there is no such process or if it is dead and only waits for its parent.
pub(super) fn start_of(pid: u32) -> Result<Option<u64>> {
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
        Error::new(format!("parse({path})"), std::io::Error::from(std::io::ErrorKind::InvalidData))
    })?;
    Ok((!matches!(state, b'Z' | b'X' | b'x')).then_some(start))
}

pub(super) fn kill(process: &Process) -> Result<()> {
    use rustix::io::Errno;
    use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let failed = |call: &str, errno: Errno| Error::new(format!("{call}({})", process.pid), errno);
    let pid = i32::try_from(process.pid).ok().and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid else { return Ok(()) };
    let held = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(held) => held,
        Err(Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(failed("pidfd_open", errno)),
    };
    if !process.is_alive()? {
        return Ok(());
    }
    match pidfd_send_signal(held, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(failed("pidfd_send_signal", errno)),
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

/// Makes the program that `command` starts end (by KILL) when the thread that starts it does, however that happens.
/// The program's own children are not affected.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
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
    fn names_with_parentheses_do_not_confuse() {
        let stat = b"7 (a) b (x) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_stat(stat), Some((b'S', 4242)));
        assert_eq!(parse_stat(b"7 (a"), None);
        assert_eq!(parse_stat(b"7 (a) S 1 2"), None);
    }
}
