//! The crate's one error: a stable kind, what was being done, and the cause.

use std::fmt;

use crate::ResultCode;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse and stable, for callers that must branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The connection ended: the peer closed it, it broke, or it was closed here.
    Closed,
    /// No answer within the deadline. The peer may still do what it was asked.
    TimedOut,
    /// The call was cancelled. The peer may still do what it was asked.
    Cancelled,
    /// A message is larger than the protocol or the receiver allows.
    TooLarge,
    /// Bytes that are no message of the protocol.
    Malformed,
    /// The peer answered with a result code other than success: see [`Error::result`].
    Refused,
    /// Reading or writing failed in another way.
    Io,
}

/// An error with its kind, a message, where the peer refused its result code, and optionally a cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    result: Option<ResultCode>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), result: None, source: None }))
    }

    pub(crate) fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let message = message.into();
        Self(Box::new(Inner { kind, message, result: None, source: Some(Box::new(source)) }))
    }

    /// A refusal with `result`; the answer a [`Handler`](crate::Handler) gives when it cannot do what it was asked.
    pub fn refused(result: ResultCode, message: impl Into<String>) -> Self {
        let message = message.into();
        let kind = ErrorKind::Refused;
        Self(Box::new(Inner { kind, message, result: Some(result), source: None }))
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The result code, where the peer (or a handler) refused.
    pub fn result(&self) -> Option<ResultCode> {
        self.0.result
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("result", &self.0.result)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
