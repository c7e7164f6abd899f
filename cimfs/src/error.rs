//! The crate's one error: a stable kind, where in the image it happened, and the cause.

use std::fmt;

use crate::format::RegionOffset;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse and stable, for callers that must branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file is not the filesystem file of a CIM.
    NotCim,
    /// The image breaks the format's rules.
    Corrupt,
    /// The image uses something that this crate does not read; the message names it.
    Unsupported,
    /// A file that the image consists of is not there.
    Missing,
    /// What the caller asks for cannot be stored or makes no sense; the message says why.
    Invalid,
    /// A limit of the format or of this crate is exceeded.
    TooLarge,
    /// A path, stream or file does not exist.
    NotFound,
    /// Something of that name exists already.
    Exists,
    /// Reading or writing failed below us; the source is the `std::io::Error`.
    Io,
}

/// An error with its kind, a message, optionally the region offset it is about, and optionally a cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    offset: Option<RegionOffset>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), offset: None, source: None }))
    }

    pub(crate) fn corrupt(offset: RegionOffset, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message).at(offset)
    }

    pub(crate) fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        let mut error = Self::new(ErrorKind::Io, doing);
        error.0.source = Some(Box::new(source));
        error
    }

    pub(crate) fn at(mut self, offset: RegionOffset) -> Self {
        self.0.offset = Some(offset);
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

    /// Where in the image, if it is about a place there.
    pub fn offset(&self) -> Option<RegionOffset> {
        self.0.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match self.0.offset {
            Some(offset) => write!(f, " (at {offset})"),
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
