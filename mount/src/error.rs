//! The crate's one error: a stable kind, what was being done, and the cause.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

use std::fmt;

use serde::{Deserialize, Serialize};

#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(windows)]
use windows as imp;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse and stable, for callers that must branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// More lower layers than one overlay mount or one page of options can hold; merging layers helps.
    TooManyLayers,
    /// The kernel cannot do this.
    NotSupported,
    /// Another process holds the registry, or the object is in use.
    Busy,
    /// No such mount, volume or file.
    NotFound,
    /// Something is mounted there already.
    AlreadyExists,
    /// An image file is not the layer its record says, or the journal is damaged.
    Corrupt,
    /// The journal was written by a newer version.
    NewerVersion,
    /// Arguments that cannot be mounted.
    Invalid,
    /// No space left.
    NoSpace,
    /// Not permitted: mounting needs root.
    NotPermitted,
    /// A program that is needed is not installed.
    ToolMissing,
    /// The caller gave up.
    Cancelled,
    /// A system call failed in another way; the source shows it.
    Io,
}

/// An error with its kind, a message and optionally a cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// What was to be undone, and could not be.
    left: Vec<Error>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None, left: Vec::new() }))
    }

    pub(crate) fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        Self::caused(imp::kind_of(source.raw_os_error(), source.kind()), doing, source)
    }

    /// A failed system call; the kind follows from the error number.
    pub(crate) fn sys(doing: impl Into<String>, source: sys::Error) -> Self {
        Self::caused(imp::kind_of(source.errno(), source.io_kind()), doing, source)
    }

    pub(crate) fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let message = message.into();
        Self(Box::new(Inner { kind, message, source: Some(Box::new(source)), left: Vec::new() }))
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What failed after this while it was being undone, so that something is left.
    pub fn left(&self) -> &[Self] {
        &self.0.left
    }

    /// This error, with what also failed while it was dealt with.
    pub(crate) fn and(mut self, others: Vec<Self>) -> Self {
        for other in &others {
            self.0.message.push_str("; this also failed: ");
            self.0.message.push_str(&other.chain());
        }
        self.0.left.extend(others);
        self
    }

    /// The error with all its causes, as one text.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.0.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
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
