//! The host's end: many calls at once over one connection.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::frame::{frame, write_frame};
use crate::message::{ContainerNotification, Request, ResponseBase};
use crate::{
    Connection, Deadline, Error, ErrorKind, Header, Kind, MAX_TO_GUEST, MAX_TO_HOST, Method,
    Result, ResultCode, read_message,
};

/// Is told what the guest says unasked. It runs on the thread that reads, so it must neither wait nor call the guest.
pub type NotificationHandler = Box<dyn FnMut(ContainerNotification) + Send>;

/// Frames that may wait for a guest that does not read; calls wait for room, within their deadlines.
const QUEUE: usize = 64;

/// The host's end of a bridge. Clones share the connection; it is closed with the last of them.
#[derive(Clone)]
pub struct Client(Arc<Handle>);

/// Closes the connection when the last [`Client`] goes; the threads hold [`Shared`] only.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.end("the bridge was closed");
    }
}

struct Shared {
    state: Mutex<State>,
    /// A frame was queued, or the connection ended.
    queued: Condvar,
    /// An answer came, room was made in the queue, or the connection ended.
    changed: Condvar,
    shutdown: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    /// Calls that wait; the answer once it is there.
    calls: HashMap<u64, (Method, Option<Vec<u8>>)>,
    queue: VecDeque<(u64, Vec<u8>)>,
    /// Why the connection ended.
    ended: Option<String>,
}

/// A call's place among those that wait. Dropping it forgets the call: a frame that was not sent yet is not sent, and
/// the answer is dropped when it comes.
struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.calls.remove(&self.id);
        state.queue.retain(|(id, _)| *id != self.id);
    }
}

impl Client {
    /// Serves `connection` with two threads of its own.
    ///
    /// # Errors
    /// If threads cannot be made.
    pub fn new(connection: Connection, mut notify: NotificationHandler) -> Result<Self> {
        let Connection { mut reader, mut writer, shutdown } = connection;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            queued: Condvar::new(),
            changed: Condvar::new(),
            shutdown,
        });
        // From here on an error closes the connection, which ends the thread that was made.
        let client = Self(Arc::new(Handle(shared.clone())));
        let reading = shared.clone();
        spawn("bridge-read", move || {
            let why = loop {
                match read_message(&mut *reader, MAX_TO_HOST) {
                    Ok(Some((header, body))) => reading.received(header, body, &mut notify),
                    Ok(None) => break "the guest closed the bridge".to_owned(),
                    Err(error) => break chain(&error),
                }
            };
            reading.end(&why);
        })?;
        spawn("bridge-write", move || {
            while let Some(message) = shared.next_frame() {
                if let Err(error) = write_frame(&mut *writer, &message) {
                    shared.end(&chain(&error));
                }
            }
        })?;
        Ok(client)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] with the guest's result code and words; [`ErrorKind::TimedOut`] and
    /// [`ErrorKind::Cancelled`] by `deadline`, after which the guest may still do what it was asked;
    /// [`ErrorKind::Closed`] when the connection ends; [`ErrorKind::Malformed`] for an answer that is none;
    /// [`ErrorKind::TooLarge`] for a request the guest would not accept.
    pub fn call<R: Request>(&self, request: &R, deadline: &Deadline) -> Result<R::Response> {
        let method = R::METHOD;
        let mut body = serde_json::to_vec(request)
            .map_err(|error| Error::caused(ErrorKind::Malformed, format!("{method}"), error))?;
        // hcsshim's encoder ends every request like this.
        body.push(b'\n');
        let body = self.exchange(method, &body, deadline)?;
        let malformed = |error| {
            let message = format!("{method}: the guest's answer is not understood");
            Error::caused(ErrorKind::Malformed, message, error)
        };
        // A refusal need not have the other fields.
        let base: ResponseBase = serde_json::from_slice(&body).map_err(malformed)?;
        if !base.result.is_ok() {
            return Err(refusal(method, &base));
        }
        serde_json::from_slice(&body).map_err(malformed)
    }

    /// Sends a message of any method and waits for the bytes of its answer.
    ///
    /// # Errors
    /// As [`call`](Self::call), but for what is in the answer.
    pub fn exchange(&self, method: Method, body: &[u8], deadline: &Deadline) -> Result<Vec<u8>> {
        let shared = &*self.0.0;
        let doing = method.to_string();
        let (waiting, mut state) = {
            let mut state = shared.lock();
            state.next_id += 1;
            let id = state.next_id;
            let message = frame(Kind::Request, method, id, body, MAX_TO_GUEST)?;
            while state.ended.is_none() && state.queue.len() >= QUEUE {
                state = shared.wait(state, deadline, &doing)?;
            }
            state.calls.insert(id, (method, None));
            state.queue.push_back((id, message));
            drop(state);
            shared.queued.notify_one();
            (Waiting { shared, id }, shared.lock())
        };
        loop {
            if let Some(answer) = state.calls.get_mut(&waiting.id).and_then(|call| call.1.take()) {
                drop(state);
                return Ok(answer);
            }
            if let Some(why) = &state.ended {
                let error = Error::new(ErrorKind::Closed, format!("{doing}: {why}"));
                drop(state);
                return Err(error);
            }
            state = shared.wait(state, deadline, &doing)?;
        }
    }

    /// Ends the connection; every waiting call fails.
    pub fn close(&self) {
        self.0.0.end("the bridge was closed");
    }

    /// Why the connection ended; `None` while it has not.
    pub fn ended(&self) -> Option<String> {
        self.0.0.lock().ended.clone()
    }

    /// Waits until the connection ends, and tells why.
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] or [`ErrorKind::Cancelled`] by `deadline`.
    pub fn wait_for_end(&self, deadline: &Deadline) -> Result<String> {
        let shared = &*self.0.0;
        let mut state = shared.lock();
        loop {
            if let Some(why) = &state.ended {
                return Ok(why.clone());
            }
            state = shared.wait(state, deadline, "waiting for the bridge's end")?;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code can panic while it holds the lock half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: &Deadline,
        doing: &str,
    ) -> Result<MutexGuard<'a, State>> {
        let slice = deadline.slice(doing)?;
        let (state, _) =
            self.changed.wait_timeout(state, slice).unwrap_or_else(PoisonError::into_inner);
        Ok(state)
    }

    fn end(&self, why: &str) {
        let mut state = self.lock();
        if state.ended.is_none() {
            state.ended = Some(why.to_owned());
            state.queue.clear();
        }
        drop(state);
        self.queued.notify_all();
        self.changed.notify_all();
        (self.shutdown)();
    }

    fn next_frame(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        loop {
            if state.ended.is_some() {
                return None;
            }
            if let Some((_, message)) = state.queue.pop_front() {
                drop(state);
                self.changed.notify_all();
                return Some(message);
            }
            state = self.queued.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn received(&self, header: Header, body: Vec<u8>, notify: &mut NotificationHandler) {
        match header.kind {
            Kind::Response => {
                let mut state = self.lock();
                // An answer to a call nobody waits for any more, or to none, or a second one, is dropped.
                if let Some((method, answer @ None)) = state.calls.get_mut(&header.id) {
                    // The answer of another method would be read as what it is not.
                    *answer = Some(if *method == header.method { body } else { Vec::new() });
                    drop(state);
                    self.changed.notify_all();
                }
            }
            Kind::Notification => {
                if header.method == Method::CREATE
                    && let Ok(notification) = serde_json::from_slice(&body)
                {
                    notify(notification);
                }
            }
            Kind::Request => {
                let refusal = ResponseBase {
                    result: ResultCode::NOT_IMPLEMENTED,
                    error_message: format!("{}: a host answers no requests", header.method),
                    ..ResponseBase::default()
                };
                let mut state = self.lock();
                // A guest that asks more than it reads gets no more answers.
                if state.ended.is_none()
                    && state.queue.len() < QUEUE
                    && let Ok(body) = serde_json::to_vec(&refusal)
                    && let Ok(message) =
                        frame(Kind::Response, header.method, header.id, &body, MAX_TO_GUEST)
                {
                    // Ids of calls begin at 1: no call's drop takes this frame back.
                    state.queue.push_back((0, message));
                    drop(state);
                    self.queued.notify_one();
                }
            }
        }
    }
}

fn refusal(method: Method, base: &ResponseBase) -> Error {
    let words = [base.error_message.as_str()]
        .into_iter()
        .chain(base.error_records.iter().map(|record| record.message.as_str()))
        .find(|words| !words.is_empty())
        .or_else(|| base.result.meaning())
        .unwrap_or("failed");
    Error::refused(base.result, format!("{method}: the guest answered {}: {words}", base.result))
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(256 << 10).spawn(work).map_err(
        |error| Error::caused(ErrorKind::Io, format!("starting the thread {name}"), error),
    )?;
    Ok(())
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("ended", &self.ended()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
