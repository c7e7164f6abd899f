//! The guest's end: reads requests, serves each on its own thread, answers.

use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::frame::{frame, write_frame};
use crate::message::{Answer, ContainerNotification, ErrorRecord, ResponseBase};
use crate::{
    Connection, Error, ErrorKind, Kind, MAX_TO_GUEST, MAX_TO_HOST, Method, Result, ResultCode,
    read_message,
};

/// Longest message of an error in an answer, so that the answer stays below what a host accepts.
const LONGEST_MESSAGE: usize = 8 << 10;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// What is asked.
    pub method: Method,
    /// The JSON.
    pub body: Vec<u8>,
}

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request, on a thread of its own; see [`answer`] and [`decode`]. `Ok(None)` is for requests that end
    /// the agent and get no answer.
    ///
    /// # Errors
    /// Becomes the answer: [`Error::refused`] chooses its code, others are [`ResultCode::FAIL`].
    fn handle(&self, request: &Incoming) -> Result<Option<Vec<u8>>>;
}

/// The request's message.
///
/// # Errors
/// A refusal with [`ResultCode::INVALID_JSON`].
pub fn decode<T: DeserializeOwned>(request: &Incoming) -> Result<T> {
    serde_json::from_slice(&request.body).map_err(|error| {
        Error::refused(ResultCode::INVALID_JSON, format!("{}: {error}", request.method))
    })
}

/// The bytes of `response` as the answer to `request`, of its activity.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn answer<A: Answer>(request: &Incoming, mut response: A) -> Result<Option<Vec<u8>>> {
    response.base_mut().activity_id = activity_id(&request.body);
    serde_json::to_vec(&response).map(Some).map_err(|error| {
        Error::caused(ErrorKind::Malformed, format!("{}: the answer", request.method), error)
    })
}

fn activity_id(body: &[u8]) -> String {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "PascalCase", default)]
    struct Activity {
        activity_id: String,
    }
    let mut id = serde_json::from_slice::<Activity>(body).unwrap_or_default().activity_id;
    // It is a GUID; whatever else it is must not swell the answer.
    if id.len() > 64 {
        id.clear();
    }
    id
}

/// How much is served at once.
#[derive(Debug, Clone, Copy)]
pub struct ServeLimits {
    /// Requests at once; one more is refused with [`ResultCode::NO_RESOURCES`]. Waiting for a process counts.
    pub requests: usize,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self { requests: 1024 }
    }
}

struct Out {
    writer: Mutex<Box<dyn Write + Send>>,
    running: Mutex<usize>,
}

/// Tells the host what it did not ask. Clones share the connection.
#[derive(Clone)]
pub struct Notifier(Arc<Out>);

impl Notifier {
    /// Sends a notification about a container.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn notify(&self, notification: &ContainerNotification) -> Result<()> {
        let body = serde_json::to_vec(notification)
            .map_err(|error| Error::caused(ErrorKind::Malformed, "a notification", error))?;
        self.send(Kind::Notification, Method::CREATE, 0, &body)
    }

    fn send(&self, kind: Kind, method: Method, id: u64, body: &[u8]) -> Result<()> {
        let message = frame(kind, method, id, body, MAX_TO_HOST)?;
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        write_frame(&mut **writer, &message)
    }

    fn respond(&self, request: &Incoming, id: u64, outcome: Result<Option<Vec<u8>>>) -> Result<()> {
        let refuse = |error: &Error| serde_json::to_vec(&refusal(request, error));
        let body = match outcome {
            Ok(None) => return Ok(()),
            Ok(Some(body)) => body,
            Err(error) => refuse(&error).unwrap_or_default(),
        };
        match self.send(Kind::Response, request.method, id, &body) {
            Err(error) if error.kind() == ErrorKind::TooLarge => {
                let body = refuse(&error).unwrap_or_default();
                self.send(Kind::Response, request.method, id, &body)
            }
            sent => sent,
        }
    }
}

fn refusal(request: &Incoming, error: &Error) -> ResponseBase {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    if message.len() > LONGEST_MESSAGE {
        let mut end = LONGEST_MESSAGE;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(" …");
    }
    let result = error.result().unwrap_or(ResultCode::FAIL);
    ResponseBase {
        result,
        activity_id: activity_id(&request.body),
        error_records: vec![ErrorRecord {
            result,
            message: message.clone(),
            module_name: "plywood-guest".to_owned(),
            ..ErrorRecord::default()
        }],
        error_message: message,
    }
}

/// The guest's end of a bridge.
pub struct Server {
    reader: Box<dyn std::io::Read + Send>,
    shutdown: Box<dyn Fn() + Send + Sync>,
    out: Notifier,
}

impl Server {
    /// On `connection`, which is not read yet.
    pub fn new(connection: Connection) -> Self {
        let Connection { reader, writer, shutdown } = connection;
        let out = Out { writer: Mutex::new(writer), running: Mutex::new(0) };
        Self { reader, shutdown, out: Notifier(Arc::new(out)) }
    }

    /// What tells the host things unasked.
    pub fn notifier(&self) -> Notifier {
        self.out.clone()
    }

    /// Serves until the host closes the connection or it breaks, then shuts it down. Requests that are under way are
    /// not waited for: one may wait for a process that never ends.
    ///
    /// # Errors
    /// What broke the connection. Bytes that are no frame break it, for what follows them cannot be told from them.
    pub fn serve(mut self, handler: Arc<dyn Handler>, limits: ServeLimits) -> Result<()> {
        let outcome = loop {
            match read_message(&mut *self.reader, MAX_TO_GUEST) {
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
                // Nobody asks a guest for answers, and it asks nothing itself.
                Ok(Some((header, _))) if header.kind != Kind::Request => {}
                Ok(Some((header, body))) => {
                    let request = Incoming { method: header.method, body };
                    if let Err(error) = self.start(header.id, request, &handler, limits) {
                        break Err(error);
                    }
                }
            }
        };
        (self.shutdown)();
        outcome
    }

    fn start(
        &self,
        id: u64,
        request: Incoming,
        handler: &Arc<dyn Handler>,
        limits: ServeLimits,
    ) -> Result<()> {
        let Some(turn) = Turn::take(&self.out, limits) else {
            let words = "the agent serves as many requests as it can";
            let error = Error::refused(ResultCode::NO_RESOURCES, words);
            return self.out.respond(&request, id, Err(error));
        };
        let handler = handler.clone();
        let out = self.out.clone();
        let name = request.method.name().unwrap_or("unknown").to_owned();
        let request = Arc::new(request);
        let served = request.clone();
        let spawned = thread::Builder::new().name(name).stack_size(512 << 10).spawn(move || {
            let _turn = turn;
            // A bug in one request must not leave the host without an answer.
            let outcome = catch_unwind(AssertUnwindSafe(|| handler.handle(&served)))
                .unwrap_or_else(|_| {
                    Err(Error::refused(ResultCode::FAIL, format!("{}: a panic", served.method)))
                });
            // A host that is gone is noticed by the thread that reads.
            let _ = out.respond(&served, id, outcome);
        });
        match spawned {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = Error::refused(ResultCode::NO_RESOURCES, format!("a thread: {error}"));
                self.out.respond(&request, id, Err(error))
            }
        }
    }
}

/// One of the requests that may run at once.
struct Turn(Notifier);

impl Turn {
    fn take(out: &Notifier, limits: ServeLimits) -> Option<Self> {
        let mut running = out.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        (*running < limits.requests).then(|| {
            *running += 1;
            Self(out.clone())
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let out = &self.0.0;
        *out.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
