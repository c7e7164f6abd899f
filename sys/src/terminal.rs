//! Terminals for processes, and descriptors that come over a socket.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::{Error, Result};

/// A new terminal: the end for us and the end for a process.
///
/// # Errors
/// If `/dev/ptmx` cannot be opened.
pub fn open_terminal() -> Result<(File, OwnedFd)> {
    let failed = |errno| Error::new("open(/dev/ptmx)", errno);
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).map_err(failed)?;
    unlockpt(&ours).map_err(failed)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags).map_err(failed)?;
    Ok((File::from(ours), theirs))
}

/// Tells a terminal its size; its processes get WINCH.
///
/// # Errors
/// `ENOTTY` if it is none.
pub fn set_window_size(terminal: impl AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size)
        .map_err(|errno| Error::new(format!("ioctl(TIOCSWINSZ, {rows}x{columns})"), errno))
}

/// Receives one descriptor over a connected socket.
///
/// # Errors
/// `EPROTO` if a message comes without one.
pub fn receive_descriptor(socket: &UnixStream) -> Result<File> {
    let failed = |errno| Error::new("recvmsg(a descriptor)", errno);
    let mut byte = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [std::io::IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC).map_err(failed)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(File::from(descriptor));
        }
    }
    Err(failed(rustix::io::Errno::PROTO))
}

/// Makes the program that `command` starts lead a session whose terminal is its standard input.
#[expect(unsafe_code, reason = "code between fork and exec")]
pub fn lead_session(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    let arrange = || {
        rustix::process::setsid()?;
        // SAFETY: descriptor 0 is open: the standard library has put the program's input there.
        let terminal = unsafe { std::os::fd::BorrowedFd::borrow_raw(0) };
        debug_assert_eq!(terminal.as_raw_fd(), 0);
        rustix::process::ioctl_tiocsctty(terminal)?;
        Ok(())
    };
    // SAFETY: both calls are async-signal-safe, and nothing here allocates or takes a lock.
    unsafe {
        command.pre_exec(arrange);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_program_on_a_terminal_sees_its_size() {
        let (mut ours, theirs) = open_terminal().unwrap();
        set_window_size(&ours, 33, 77).unwrap();
        let mut command = Command::new("stty");
        command.arg("size").stdout(Stdio::from(theirs.try_clone().unwrap())).stdin(theirs);
        lead_session(&mut command);
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut text = [0; 64];
        let length = ours.read(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(String::from_utf8_lossy(&text[..length]).trim(), "33 77");
    }
}
