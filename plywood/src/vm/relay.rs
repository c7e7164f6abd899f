//! A process's streams, between the files of whoever runs it and the sockets that its guest dials.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bridge::{Cancel, Deadline};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const BUFFER: usize = 64 << 10;

/// Waits for the guest to dial.
pub(super) trait Dialled:
    FnOnce(&Deadline) -> uvm::Result<UnixStream> + Send + 'static
{
}

impl<F: FnOnce(&Deadline) -> uvm::Result<UnixStream> + Send + 'static> Dialled for F {}

/// The streams of one process. They end when the guest closes them, or when they are told to.
pub(super) struct Relay {
    over: Arc<AtomicBool>,
    output: Vec<JoinHandle<io::Result<()>>>,
}

impl Relay {
    pub(super) fn new() -> Self {
        Self { over: Arc::default(), output: Vec::new() }
    }

    /// Passes on what is read from `file` to whoever dials.
    pub(super) fn input(&self, dialled: impl Dialled, file: OwnedFd) -> io::Result<()> {
        let over = Arc::clone(&self.over);
        spawn("stdin", move || {
            let Some(mut socket) = accept(dialled, &over) else { return Ok(()) };
            let mut file = File::from(file);
            let copied = copy(&mut file, &mut socket, &over);
            // The process reads to the end.
            let _ = socket.shutdown(Shutdown::Write);
            copied
        })?;
        Ok(())
    }

    /// Passes on what whoever dials says to `file`.
    pub(super) fn output(&mut self, dialled: impl Dialled, file: OwnedFd) -> io::Result<()> {
        let over = Arc::clone(&self.over);
        self.output.push(spawn("stdout", move || {
            let Some(mut socket) = accept(dialled, &over) else { return Ok(()) };
            copy(&mut socket, &mut File::from(file), &over)
        })?);
        Ok(())
    }

    /// Waits until everything that was said has arrived, but not for those that the process left behind and that keep
    /// its streams open. The input ends with it.
    pub(super) fn finish(self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline && !self.output.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.over.store(true, Ordering::Relaxed);
        for thread in self.output {
            // A reader that went away is the reader's own affair, as with any command.
            let _ = thread.join();
        }
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// Waits for something to read; `false` when it is over.
fn ready(file: impl AsFd, over: &AtomicBool) -> io::Result<bool> {
    loop {
        match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&SLICE)) {
            Ok(0) | Err(Errno::INTR) if over.load(Ordering::Relaxed) => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// `None` when it is over, or when nobody can dial any more.
fn accept(dialled: impl Dialled, over: &Arc<AtomicBool>) -> Option<UnixStream> {
    dialled(&Deadline::never().with_cancel(Cancel::shared(Arc::clone(over)))).ok()
}

fn copy<R: Read + AsFd>(
    from: &mut R,
    to: &mut impl io::Write,
    over: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while ready(&*from, over)? {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A pipe through which this process's standard input goes. The thread that fills it is not waited for: it may hang on
/// a terminal.
pub(crate) fn piped_input() -> io::Result<OwnedFd> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    spawn("standard input", move || {
        let mut writer = File::from(writer);
        let mut buffer = vec![0; BUFFER];
        loop {
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Ok(0) => break,
                Ok(count) if writer.write_all(&buffer[..count]).is_err() => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
    })?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn streams_go_both_ways_and_end() {
        let (guest_in, input) = UnixStream::pair().unwrap();
        let (guest_out, output) = UnixStream::pair().unwrap();
        let (mut said, speaker) = std::io::pipe().unwrap();
        let (hearer, mut says) = std::io::pipe().unwrap();
        let mut relay = Relay::new();
        relay.input(|_: &Deadline| Ok(input), hearer.into()).unwrap();
        relay.output(|_: &Deadline| Ok(output), speaker.into()).unwrap();
        let never = |deadline: &Deadline| loop {
            if let Err(error) = deadline.slice("be dialled") {
                return Err(uvm::Error::caused(uvm::ErrorKind::Cancelled, "over", error));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        relay.output(never, File::create("/dev/null").unwrap().into()).unwrap();
        let (mut guest_in, mut guest_out) = (guest_in, guest_out);
        says.write_all(b"question").unwrap();
        drop(says);
        let mut heard = String::new();
        guest_in.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "question");
        guest_out.write_all(b"answer").unwrap();
        drop(guest_out);
        // A stream that nobody ever dialled does not keep the end waiting.
        relay.finish(Duration::from_millis(300));
        let mut answer = String::new();
        said.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    }
}
