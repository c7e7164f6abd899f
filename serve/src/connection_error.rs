//! What a command says when it does not reach the daemon.

use std::fmt;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no connection to a daemon, or none any more.
#[derive(Debug)]
pub struct ConnectionError {
    kind: ConnectionErrorKind,
    message: String,
    pub(crate) source: Option<Cause>,
}

/// What a [`ConnectionError`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionErrorKind {
    /// This user may not talk to the daemon.
    Denied,
    /// It is a daemon of another version.
    Incompatible,
    /// It ended before it answered.
    Lost,
    /// It does not do what it should.
    Broken,
}

impl ConnectionError {
    pub(crate) fn new(kind: ConnectionErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn because(mut self, source: impl Into<Cause>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What it is about.
    pub fn kind(&self) -> ConnectionErrorKind {
        self.kind
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConnectionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
