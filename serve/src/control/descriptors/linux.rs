//! The open files of whoever asks for an operation.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use layer::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use store::import::Source;
use tonic::transport::server::UdsConnectInfo;

use crate::control::operations::Failed;
use crate::control::{Fault, Input};

/// Where the numbers of descriptors in an operation are looked up.
#[derive(Debug)]
pub enum Descriptors {
    /// Files of this process.
    Own(BTreeMap<i32, OwnedFd>),
    /// Those of the process at the other end of the connection, as the kernel names it.
    Peer(Peer),
}

/// A process whose files can be had.
#[derive(Debug)]
pub struct Peer {
    pid: i32,
    process: Option<OwnedFd>,
}

impl Peer {
    /// The process of that id, which must still be at the other end of its connection.
    fn new(pid: i32) -> Self {
        let id = Pid::from_raw(pid);
        let process = id.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Self { pid, process }
    }

    /// The very file, with its position, where we may trace the process; where not, the same file opened anew.
    fn get(&self, number: i32) -> io::Result<OwnedFd> {
        let process = self.process.as_ref().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("process {} cannot be seen from here", self.pid),
            )
        })?;
        match pidfd_getfd(process, number, PidfdGetfdFlags::empty()) {
            Err(Errno::PERM | Errno::NOSYS) => {
                File::open(format!("/proc/{}/fd/{number}", self.pid)).map(OwnedFd::from)
            }
            other => Ok(other?),
        }
    }
}

impl Descriptors {
    /// No files.
    pub fn none() -> Self {
        Self::Own(BTreeMap::new())
    }

    /// Those of whoever sent a request.
    pub(in crate::control) fn of_caller(extensions: &http::Extensions) -> Self {
        let peer = extensions.get::<UdsConnectInfo>();
        let pid = peer.and_then(|peer| peer.peer_cred).and_then(|peer| peer.pid());
        pid.map_or_else(Self::none, |pid| Self::Peer(Peer::new(pid)))
    }

    /// What an import reads, and what has to stay open meanwhile.
    pub(in crate::control) fn source(
        &self,
        input: &Input,
        cancel: &Cancel,
    ) -> Result<(Source, Option<OwnedFd>), Fault> {
        let taking = |error| Failed::because("taking over the open file", error);
        let file = self.get(input.descriptor).map_err(taking)?;
        let kind = rustix::fs::fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode));
        Ok(match kind.map_err(io::Error::from)? {
            FileType::RegularFile | FileType::Directory if !input.is_stream => {
                let source = Source::Opened { name: input.name.clone(), path: path_of(&file) };
                (source, Some(file))
            }
            _ => {
                let name = input.name.display().to_string();
                (Source::Reader { name, reader: Box::new(Patient::new(file, cancel)) }, None)
            }
        })
    }

    /// A file of our own that is the same as the caller's of that number.
    ///
    /// # Errors
    /// `NotFound` if there is none of that number, what the kernel says.
    pub fn get(&self, number: i32) -> io::Result<OwnedFd> {
        match self {
            Self::Own(files) => match files.get(&number) {
                Some(file) => file.try_clone(),
                None => Err(Errno::BADF.into()),
            },
            Self::Peer(peer) => peer.get(number),
        }
    }
}

/// A file of which a read ends when the work is cancelled: a pipe whose other end says nothing would hold a plain read
/// for ever.
#[derive(Debug)]
struct Patient {
    file: OwnedFd,
    cancel: Cancel,
}

impl Patient {
    fn new(file: OwnedFd, cancel: &Cancel) -> Self {
        Self { file, cancel: cancel.clone() }
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            let file = self.file.as_fd();
            match poll(&mut [PollFd::from_borrowed_fd(file, PollFlags::IN)], Some(&PATIENCE)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => match rustix::io::read(file, &mut *buffer) {
                    // Others may read from the same pipe; one that does not wait may find nothing left.
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    other => return other.map_err(io::Error::from),
                },
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The path by which this process finds an open file again.
fn path_of(file: &OwnedFd) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom, Write as _};

    use super::*;

    #[test]
    fn a_peers_file_keeps_its_position() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        file.seek(SeekFrom::Start(4)).unwrap();
        let number = file.as_raw_fd();
        let us = Descriptors::Peer(Peer::new(rustix::process::getpid().as_raw_nonzero().get()));
        let mut rest = String::new();
        let same = us.get(number).unwrap();
        Patient::new(same, &Cancel::new()).read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "456789");
        assert!(us.get(9999).is_err());
        assert!(Descriptors::none().get(0).is_err());
        assert!(Descriptors::Peer(Peer::new(0)).get(0).is_err());
        assert!(Descriptors::Peer(Peer::new(i32::MAX)).get(0).is_err());
    }

    #[test]
    fn a_silent_pipe_is_given_up() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        let cancel = Cancel::new();
        let mut patient = Patient::new(read, &cancel);
        cancel.cancel();
        assert!(patient.read(&mut [0]).is_err());
    }
}
