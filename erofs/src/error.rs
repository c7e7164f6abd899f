//! The crate's one error: a stable kind, where in the image it happened, and the cause.

use std::fmt;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse and stable, for callers that must branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes are not an EROFS image at all.
    NotErofs,
    /// The image breaks the format's rules.
    Corrupt,
    /// The image uses a feature that this crate does not read; the message names it.
    Unsupported,
    /// The tree or option given to the writer cannot be stored; the message says why.
    Invalid,
    /// A limit of the format or of this crate is exceeded.
    TooLarge,
    /// A path or inode does not exist.
    NotFound,
    /// Reading or writing failed below us; the source is the `std::io::Error`.
    Io,
}

/// An error with its kind, a message, optionally the byte offset in the image, and optionally a cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    offset: Option<u64>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), offset: None, source: None }))
    }

    pub(crate) fn corrupt(offset: u64, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message).at(offset)
    }

    pub(crate) fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        let mut error = Self::new(ErrorKind::Io, doing);
        error.0.source = Some(Box::new(source));
        error
    }

    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// The same with an offset, unless it already has one.
    pub(crate) fn or_at(mut self, offset: u64) -> Self {
        self.0.offset = self.0.offset.filter(|known| *known != 0).or(Some(offset));
        self
    }

    /// The same with the path that it is about in front.
    pub(crate) fn within(mut self, path: impl fmt::Display) -> Self {
        self.0.message = format!("{path}: {}", self.0.message);
        self
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Byte offset in the image that the error is about, where there is one.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match self.0.offset {
            Some(offset) => write!(f, " (at byte {offset:#x})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
