//! A connection: its stream, and the threads that answer what comes by it.
//!
//! One thread at a time reads. It answers what it has read and then reads on, so that a client that asks one thing after
//! another is served by one thread without any waking; before anything that may wait for a disk it hands the reading
//! to another thread.

use std::io::{self, IoSlice, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use rustix::io::Errno;

use super::message::HEADER;
use super::session::{Answer, Session, header};
use crate::virtio::Pieces;

/// Bytes that are read before a message's length is known. Most messages are shorter.
const FIRST_READ: usize = 4096;

/// Where messages come from.
pub(super) trait Requests: Send {
    /// What an answer takes to find back.
    type Back;

    /// Reads a message to the beginning of `bytes`, of at most `msize`. Nothing at the end.
    fn next(&mut self, bytes: &mut Vec<u8>, msize: u32) -> io::Result<Option<Inbound<Self::Back>>>;
}

/// Where answers go.
pub(super) trait Answers: Send {
    /// As [`Requests::Back`].
    type Back;

    /// Writes an answer.
    fn write(&mut self, answer: &Answer, back: Self::Back) -> io::Result<()>;
}

/// A message that came.
pub(super) struct Inbound<B> {
    pub(super) kind: u8,
    pub(super) tag: u16,
    pub(super) length: usize,
    /// Where its answer finds back.
    pub(super) back: B,
    /// The guest's own place for the answer, if it has one.
    pub(super) room: Option<Pieces>,
    /// Why it cannot be answered as it should.
    pub(super) refused: Option<Errno>,
}

struct Source<R> {
    requests: R,
    ended: bool,
}

struct Connection<'a, R, W> {
    session: &'a Session,
    source: Mutex<Source<R>>,
    writer: Mutex<W>,
    /// Requests being answered: the tag, and whether it is a flush.
    at_work: Mutex<Vec<(u16, bool)>>,
    done: Condvar,
    threads: usize,
    working: AtomicUsize,
    waiting: AtomicUsize,
    broken: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

/// Serves until the requests end. Returns why they did, unless the guest ended them.
pub(super) fn serve<R, W>(
    session: &Session,
    requests: R,
    writer: W,
    threads: usize,
) -> io::Result<()>
where
    R: Requests,
    W: Answers<Back = R::Back>,
{
    let connection = Connection {
        session,
        source: Mutex::new(Source { requests, ended: false }),
        writer: Mutex::new(writer),
        at_work: Mutex::new(Vec::new()),
        done: Condvar::new(),
        threads,
        working: AtomicUsize::new(1),
        waiting: AtomicUsize::new(0),
        broken: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| connection.work(scope));
    });
    match connection.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

impl<R: Requests, W: Answers<Back = R::Back>> Connection<'_, R, W> {
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        if let Err(error) = sys::thread_without_umask() {
            return self.fail(io::Error::other(error));
        }
        let mut bytes = Vec::new();
        let mut answer = Answer::default();
        let mut leading = None;
        loop {
            let mut source = leading.take().unwrap_or_else(|| self.lead());
            if source.ended || self.broken.load(Ordering::Relaxed) {
                return;
            }
            let inbound = match source.requests.next(&mut bytes, self.session.msize()) {
                Ok(Some(inbound)) => inbound,
                Ok(None) => {
                    source.ended = true;
                    return;
                }
                Err(error) => {
                    source.ended = true;
                    return self.fail(error);
                }
            };
            let Inbound { kind, tag, length, back, room, refused } = inbound;
            answer.room = room;
            self.begin(kind, tag);
            let body = &bytes[HEADER..length];
            let mut source = Some(source);
            let mut may_wait = || {
                if source.take().is_some() {
                    self.have_a_reader(scope);
                }
            };
            if kind == FLUSH {
                may_wait();
                self.await_end(body);
            }
            match refused {
                Some(errno) => answer.refuse(tag, errno),
                None => self.session.answer(kind, tag, body, &mut answer, &mut may_wait),
            }
            let written = self.writer().write(&answer, back);
            self.end(tag);
            if let Err(error) = written {
                return self.fail(error);
            }
            leading = source;
        }
    }

    fn lead(&self) -> MutexGuard<'_, Source<R>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        source
    }

    /// Makes sure that somebody reads on while this thread works, if there may be another thread.
    fn have_a_reader<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return;
        }
        let more = |working| (working < self.threads).then_some(working + 1);
        if self.working.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
            let started = std::thread::Builder::new()
                .name("plan9".to_owned())
                .spawn_scoped(scope, move || self.work(scope));
            if started.is_err() {
                self.working.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn writer(&self) -> MutexGuard<'_, W> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_work(&self) -> MutexGuard<'_, Vec<(u16, bool)>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, kind: u8, tag: u16) {
        self.at_work().push((tag, kind == FLUSH));
    }

    fn end(&self, tag: u16) {
        let mut at_work = self.at_work();
        if let Some(place) = at_work.iter().position(|&(other, _)| other == tag) {
            at_work.swap_remove(place);
        }
        self.done.notify_all();
    }

    /// A flush is answered after the request that it means. It does not wait for another flush: two could
    /// wait for each other.
    fn await_end(&self, body: &[u8]) {
        let Ok(flushed) = body.try_into().map(u16::from_le_bytes) else { return };
        let mut at_work = self.at_work();
        while at_work.contains(&(flushed, false)) {
            at_work = self.done.wait(at_work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn fail(&self, error: io::Error) {
        self.broken.store(true, Ordering::Relaxed);
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// `Tflush`
const FLUSH: u8 = 108;

/// A stream's requests.
pub(super) struct Reading<R> {
    reader: R,
    /// Bytes of the next message that came with the one before.
    surplus: Vec<u8>,
}

impl<R> Reading<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, surplus: Vec::new() }
    }
}

impl<R: Read + Send> Requests for Reading<R> {
    type Back = ();

    fn next(&mut self, bytes: &mut Vec<u8>, msize: u32) -> io::Result<Option<Inbound<()>>> {
        if bytes.len() < FIRST_READ {
            bytes.resize(FIRST_READ, 0);
        }
        let mut have = self.surplus.len();
        bytes[..have].copy_from_slice(&self.surplus);
        self.surplus.clear();
        while have < HEADER {
            match self.reader.read(&mut bytes[have..FIRST_READ]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => have += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut head = [0; HEADER];
        head.copy_from_slice(&bytes[..HEADER]);
        let (length, kind, tag) = header(&head);
        if length < 7 || length > msize {
            return Err(too_long(length, msize));
        }
        let length = length as usize;
        if have >= length {
            self.surplus.extend_from_slice(&bytes[length..have]);
        } else {
            if bytes.len() < length {
                bytes.resize(length, 0);
            }
            self.reader.read_exact(&mut bytes[have..length])?;
        }
        Ok(Some(Inbound { kind, tag, length, back: (), room: None, refused: None }))
    }
}

pub(super) fn too_long(length: u32, msize: u32) -> io::Error {
    let text = format!("a message of {length} bytes where at most {msize} are agreed on");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Answers by a stream.
pub(super) struct Writing<W>(pub(super) W);

impl<W: Write + Send> Answers for Writing<W> {
    type Back = ();

    fn write(&mut self, answer: &Answer, (): ()) -> io::Result<()> {
        let writer = &mut self.0;
        let (mut message, mut payload) = (&answer.message[..], answer.payload());
        while !message.is_empty() || !payload.is_empty() {
            let written =
                match writer.write_vectored(&[IoSlice::new(message), IoSlice::new(payload)]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => written,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
            let of_message = written.min(message.len());
            message = &message[of_message..];
            payload = &payload[written - of_message..];
        }
        writer.flush()
    }
}
