//! The server: shares by their names, and connections.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::budget::Budget;
use super::channel::Channel;
use super::connection::{self, Reading, Writing};
use super::error::{Error, Result};
use super::lock::Locks;
use super::message::HEADER;
use super::session::{Answer, Session, header};
use super::share::{Export, Share};

/// Bounds of what guests can make a server use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once. A mount is one connection.
    pub connections: usize,
    /// Threads of one connection, and so the requests of a guest that are worked on at once. Each
    /// holds up to two messages in memory (1 MiB).
    pub threads: usize,
    /// Descriptors of all connections together; a guest is answered `ENFILE` beyond. By default three quarters of
    /// what the process may open.
    pub descriptors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, threads: 8, descriptors: Budget::of_process() }
    }
}

/// Serves shares to guests that speak 9P2000.L. Clones are the same server.
#[derive(Debug, Clone)]
pub struct Server {
    shares: Arc<Shares>,
    limits: Limits,
}

/// What connections share.
#[derive(Debug)]
pub(super) struct Shares {
    descriptors: Arc<OwnedFd>,
    budget: Arc<Budget>,
    state: Mutex<State>,
    locks: Locks,
}

#[derive(Debug, Default)]
struct State {
    shares: HashMap<Vec<u8>, Arc<Share>>,
    connections: HashMap<u64, Connected>,
    next: u64,
    closed: bool,
}

#[derive(Debug)]
struct Connected {
    by: By,
    attached: Vec<Vec<u8>>,
}

/// What a connection ends with.
#[derive(Debug)]
enum By {
    Stream(UnixStream),
    /// Nothing can end a channel but the machine; who has mounted by it has no files any more.
    Channel(Weak<Session>),
    /// Tests.
    Nothing,
}

impl Server {
    /// A server without shares.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn new(limits: Limits) -> Result<Self> {
        const PATH: &str = "/proc/self/fd";
        let failed = |errno: Errno| Error::new(format!("cannot open {PATH}"), errno);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptors = rustix::fs::open(PATH, flags, Mode::empty()).map_err(failed)?;
        let file_system = rustix::fs::fstatfs(&descriptors).map_err(failed)?.f_type;
        if file_system != rustix::fs::PROC_SUPER_MAGIC {
            return Err(failed(Errno::NODEV));
        }
        let shares = Arc::new(Shares {
            descriptors: Arc::new(descriptors),
            budget: Budget::new(limits.descriptors),
            state: Mutex::default(),
            locks: Locks::default(),
        });
        Ok(Self { shares, limits })
    }

    /// Begins to share a directory under a name, by which a guest attaches (`aname`).
    ///
    /// # Errors
    /// The directory cannot be opened; `AlreadyExists` if the name is taken.
    pub fn share(&self, name: &str, export: &Export) -> Result<()> {
        let shares = &self.shares;
        let share = Share::open(export, shares.descriptors.clone(), shares.budget.clone())?;
        let mut state = shares.state();
        if state.shares.contains_key(name.as_bytes()) {
            return Err(Error::new(format!("cannot share as {name:?}"), Errno::EXIST));
        }
        state.shares.insert(name.into(), Arc::new(share));
        Ok(())
    }

    /// Ends a share. Connections that use it are cut; the guest should have unmounted it before.
    ///
    /// # Errors
    /// `NotFound` if there is no share of that name.
    pub fn unshare(&self, name: &str) -> Result<()> {
        let mut state = self.shares.state();
        if state.shares.remove(name.as_bytes()).is_none() {
            return Err(Error::new(format!("cannot end the share {name:?}"), Errno::NOENT));
        }
        for connection in state.connections.values() {
            if connection.attached.iter().any(|attached| attached == name.as_bytes()) {
                connection.cut();
            }
        }
        Ok(())
    }

    /// The names of the shares, in no order.
    pub fn shares(&self) -> Vec<String> {
        let state = self.shares.state();
        state.shares.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Serves a connection until the guest closes it or it is cut. Takes any stream socket, one of vsock too, as
    /// `UnixStream::from(OwnedFd)`. Needs a thread of the caller's and uses up to [`Limits::threads`] of its own.
    ///
    /// # Errors
    /// The stream fails, or `InvalidData`: the guest does not speak the protocol. `QuotaExceeded` with too many
    /// connections.
    pub fn serve(&self, stream: UnixStream) -> Result<()> {
        let failed = |error| Error::new("cannot serve a connection of the guest", error);
        let (reader, other) =
            (stream.try_clone().map_err(failed)?, stream.try_clone().map_err(failed)?);
        let number = self.connect(By::Stream(other))?;
        let session = Session::new(self.shares.clone(), number);
        let (requests, answers) = (Reading::new(reader), Writing(&stream));
        let served = connection::serve(&session, requests, answers, self.limits.threads.max(1));
        session.end();
        self.shares.state().connections.remove(&number);
        // Clones of the stream keep it open; the guest is to see the end.
        let _ = stream.shutdown(Shutdown::Both);
        served.map_err(failed)
    }

    /// Serves a channel, a virtio-9p device of this name, until the machine's process closes the socket by which it has it
    /// (vhost-user). Needs a thread of the caller's; the rest is as with [`serve`](Self::serve).
    ///
    /// # Errors
    /// The machine's process does not speak the protocol. `QuotaExceeded` with too many connections.
    pub fn serve_channel(&self, stream: &UnixStream, tag: &str) -> Result<()> {
        let failed = |error| Error::new("cannot serve a channel of the guest", error);
        let number = self.connect(By::Nothing)?;
        let session = Arc::new(Session::new(self.shares.clone(), number));
        if let Some(connected) = self.shares.state().connections.get_mut(&number) {
            connected.by = By::Channel(Arc::downgrade(&session));
        }
        let threads = self.limits.threads.max(1);
        let channel = Channel { session: session.clone(), tag: tag.to_owned(), threads };
        let served = crate::virtio::serve(stream, Arc::new(channel));
        session.end();
        self.shares.state().connections.remove(&number);
        served.map_err(failed)
    }

    /// Cuts all connections and refuses new ones. Does not wait for the threads that serve.
    pub fn close(&self) {
        let mut state = self.shares.state();
        state.closed = true;
        state.connections.values().for_each(Connected::cut);
    }

    fn connect(&self, by: By) -> Result<u64> {
        let mut state = self.shares.state();
        if state.closed {
            return Err(Error::new("the server of shares is closed", Errno::SHUTDOWN));
        }
        if state.connections.len() >= self.limits.connections {
            return Err(Error::new("too many connections to shares", Errno::DQUOT));
        }
        state.next += 1;
        let number = state.next;
        state.connections.insert(number, Connected { by, attached: Vec::new() });
        Ok(number)
    }

    /// Answers one message after another without a stream, for tests and fuzzing: the whole message in, the whole answer
    /// out.
    ///
    /// # Errors
    /// Too many connections.
    pub fn messages(&self) -> Result<impl FnMut(&[u8]) -> Option<Vec<u8>> + use<>> {
        let number = self.connect(By::Nothing)?;
        let session = Session::new(self.shares.clone(), number);
        let mut answer = Answer::default();
        Ok(move |message: &[u8]| {
            let (head, body) = message.split_first_chunk::<HEADER>()?;
            let (length, kind, tag) = header(head);
            if length as usize != message.len() || length > session.msize() {
                return None;
            }
            session.answer(kind, tag, body, &mut answer, &mut || {});
            Some([&answer.message, answer.payload()].concat())
        })
    }
}

impl Connected {
    fn cut(&self) {
        match &self.by {
            By::Stream(stream) => {
                // It may have ended already.
                let _ = stream.shutdown(Shutdown::Both);
            }
            By::Channel(session) => {
                if let Some(session) = session.upgrade() {
                    session.end();
                }
            }
            By::Nothing => {}
        }
    }
}

impl Shares {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn locks(&self) -> &Locks {
        &self.locks
    }

    /// A client begins anew: nothing is attached by this connection.
    pub(super) fn begin(&self, connection: u64) {
        if let Some(connected) = self.state().connections.get_mut(&connection) {
            connected.attached.clear();
        }
    }

    /// The share of this name, noting that the connection uses it.
    pub(super) fn attach(&self, connection: u64, name: &[u8]) -> Result<Arc<Share>, Errno> {
        let mut state = self.state();
        if state.closed {
            return Err(Errno::SHUTDOWN);
        }
        let share = state.shares.get(name).cloned().ok_or(Errno::NOENT)?;
        if let Some(connected) = state.connections.get_mut(&connection)
            && !connected.attached.iter().any(|attached| attached == name)
        {
            connected.attached.push(name.to_vec());
        }
        Ok(share)
    }
}
