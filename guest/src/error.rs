//! The crate's one error: a stable kind, what was being done, and the cause.

use std::fmt;

use bridge::ResultCode;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse and stable. It decides the result code a host gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request makes no sense.
    Invalid,
    /// The request's JSON is not understood.
    InvalidJson,
    /// The request is not supported, or not now.
    NotImplemented,
    /// No such container.
    NoContainer,
    /// A container with that id exists.
    ContainerExists,
    /// No such process.
    NoProcess,
    /// A device, a process or a tool took longer than it may.
    TimedOut,
    /// Something else is there, or it is in use.
    Busy,
    /// It failed; the cause says why.
    Failed,
}

/// An error with its kind, a message and optionally a cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn failed(
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let message = message.into();
        Self(Box::new(Inner { kind: ErrorKind::Failed, message, source: Some(Box::new(source)) }))
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The code a host gets: those of the genuine agent, which says [`ResultCode::FAIL`] for most.
    pub fn result(&self) -> ResultCode {
        match self.kind() {
            ErrorKind::InvalidJson => ResultCode::INVALID_JSON,
            ErrorKind::NotImplemented => ResultCode::NOT_IMPLEMENTED,
            ErrorKind::NoContainer => ResultCode::SYSTEM_NOT_FOUND,
            ErrorKind::ContainerExists => ResultCode::SYSTEM_ALREADY_EXISTS,
            ErrorKind::NoProcess => ResultCode::NOT_FOUND,
            ErrorKind::TimedOut => ResultCode::TIMEOUT,
            ErrorKind::Invalid | ErrorKind::Busy | ErrorKind::Failed => ResultCode::FAIL,
        }
    }

    /// The message and its causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    }
}

impl From<Error> for bridge::Error {
    fn from(error: Error) -> Self {
        Self::refused(error.result(), error.chain())
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
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
