//! What commands and the process that owns a virtual machine say to each other: open files, then one JSON object a line.

use std::io::{self, BufRead, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A specification with everything in it is far smaller.
const LONGEST_LINE: u64 = 16 << 20;

/// Standard input, output and error.
const MOST_FILES: usize = 3;

/// What is asked of an owner, once per connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
    /// What the machine is and what runs in it.
    Inspect,
    /// What is attached.
    Slots,
    /// Attach a disk and keep it until it is detached.
    Attach(AttachAsk),
    /// Detach a disk that was attached so, by its slot, its file or its place in the guest.
    Detach { what: String },
    /// End every container, and with that the machine.
    Stop { seconds: u32 },
    /// Run a container; its streams are the open files that came with it.
    Run(Box<RunAsk>),
}

/// A disk to attach.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AttachAsk {
    pub(crate) path: PathBuf,
    pub(crate) read_only: bool,
    /// A block device of the host instead of an image.
    pub(crate) pass_through: bool,
    /// Whether it is mounted.
    pub(crate) mount: bool,
    /// Where, if that was said.
    pub(crate) at: Option<String>,
    /// Make a file system if there is none.
    pub(crate) format: bool,
}

/// A container to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunAsk {
    pub(crate) name: String,
    /// Layer images, topmost first.
    pub(crate) layers: Vec<LayerAsk>,
    pub(crate) scratch: PathBuf,
    /// With a key that ends with the container.
    pub(crate) encrypted: bool,
    /// An OCI runtime specification with paths of the host.
    pub(crate) spec: Value,
    pub(crate) tty: bool,
    /// Rows and columns.
    pub(crate) size: Option<(u16, u16)>,
}

/// A layer image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerAsk {
    pub(crate) path: PathBuf,
    pub(crate) verity: Option<TreeAsk>,
}

/// Its hash tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TreeAsk {
    pub(crate) path: PathBuf,
    /// Bytes of the layer image.
    pub(crate) data_size: u64,
    /// In hexadecimal digits, as the salt.
    pub(crate) root_hash: String,
    pub(crate) salt: String,
}

/// What is said about a container while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tell {
    /// Send its first process a signal.
    Signal(i32),
    /// Its terminal has rows and columns.
    Size(u16, u16),
}

/// What an owner answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The result.
    Done(Value),
    /// It failed: the exit code that stands for it, and the texts.
    Failed { exit: u8, message: String, hints: Vec<String> },
    /// The container runs.
    Started,
    /// The container has ended and given back what it had.
    Ended { code: u8 },
}

/// Sends open files, and says how many they are.
pub(crate) fn send_files(stream: &UnixStream, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many open files to send"));
    }
    let count = [u8::try_from(files.len()).unwrap_or(u8::MAX)];
    rustix::net::sendmsg(stream, &[IoSlice::new(&count)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives open files.
pub(crate) fn receive_files(stream: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut count = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let read =
        rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut count)], &mut ancillary, flags)?;
    let files: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    match read.bytes == 1 && usize::from(count[0]) == files.len() {
        true => Ok(files),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "this is no command of plywood")),
    }
}

/// Writes one object.
pub(crate) fn send(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Reads one object; `None` at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(stream: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    stream.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a message was cut")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::BufReader;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn files_and_messages() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        send_files(&ours, &[file.as_fd(), file.as_fd()]).unwrap();
        send(&ours, &Ask::Stop { seconds: 5 }).unwrap();
        send(&ours, &Tell::Size(24, 80)).unwrap();
        assert_eq!(receive_files(&theirs).unwrap().len(), 2);
        let mut theirs = BufReader::new(theirs);
        assert!(matches!(receive(&mut theirs).unwrap(), Some(Ask::Stop { seconds: 5 })));
        assert_eq!(receive(&mut theirs).unwrap(), Some(Tell::Size(24, 80)));
        drop(ours);
        assert_eq!(receive::<Tell>(&mut theirs).unwrap(), None);
    }

    #[test]
    fn what_is_no_command() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(b"GET / HTTP/1.1\r\n").unwrap();
        assert!(receive_files(&theirs).is_err());
        let mut cut = &b"{\"stop\""[..];
        assert!(receive::<Ask>(&mut cut).is_err());
        let mut nonsense = &b"[]\n"[..];
        assert!(receive::<Ask>(&mut nonsense).is_err());
    }
}
