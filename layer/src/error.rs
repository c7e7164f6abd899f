//! The crate's one error: a stable kind, what was being done, where, and the cause.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse and stable, for callers that must branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input breaks the rules of its format: truncated, damaged, or contradicting itself.
    Corrupt,
    /// A digest or length differs from the promised one.
    DigestMismatch,
    /// A valid input that this crate does not handle; the message names what.
    Unsupported,
    /// The image is for other platforms only; the message names them.
    OtherPlatform,
    /// The input or an option cannot be stored or makes no sense; the message says why.
    Invalid,
    /// A limit is exceeded: that of the format, of this crate, or the caller's `max_size`.
    TooLarge,
    /// A hard link names a file that neither the layer nor its parents have.
    MissingParent,
    /// Something asked for by name is not in the input.
    NotFound,
    /// No space is left where the output goes.
    NoSpace,
    /// The caller cancelled.
    Cancelled,
    /// Reading or writing failed below us; the source says how.
    Io,
}

/// An error with its kind, a message, optionally where in the layer's tar, and optionally a cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    path: Option<Vec<u8>>,
    offset: Option<u64>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            path: None,
            offset: None,
            source: None,
        }))
    }

    /// An error of what a caller supplies, such as [`Parents`](crate::Parents).
    pub fn outside(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::new(kind, message).because(source)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A failed read or write; a full disk and an interruption by [`Cancel`](crate::Cancel) keep their kinds.
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Self::new(kind, doing).because(source)
    }

    /// A failed system call of the `sys` crate.
    pub(crate) fn sys(doing: impl Into<String>, source: sys::Error) -> Self {
        let kind = match source.io_kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Self::new(kind, doing).because(source)
    }

    /// What the EROFS writer or reader reported, in this crate's kinds.
    pub(crate) fn erofs(doing: impl Into<String>, source: erofs::Error) -> Self {
        let kind = match source.kind() {
            erofs::ErrorKind::NotErofs | erofs::ErrorKind::Corrupt => ErrorKind::Corrupt,
            erofs::ErrorKind::Unsupported => ErrorKind::Unsupported,
            erofs::ErrorKind::Invalid => ErrorKind::Invalid,
            erofs::ErrorKind::TooLarge => ErrorKind::TooLarge,
            erofs::ErrorKind::NotFound => ErrorKind::NotFound,
            erofs::ErrorKind::Io => {
                let full = std::error::Error::source(&source)
                    .and_then(|cause| cause.downcast_ref::<io::Error>())
                    .is_some_and(|cause| {
                        matches!(
                            cause.kind(),
                            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                        )
                    });
                if full { ErrorKind::NoSpace } else { ErrorKind::Io }
            }
            _ => ErrorKind::Io,
        };
        Self::new(kind, doing).because(source)
    }

    /// What the CIM writer or reader reported, in this crate's kinds.
    pub(crate) fn cimfs(doing: impl Into<String>, source: cimfs::Error) -> Self {
        let cause =
            std::error::Error::source(&source).and_then(|it| it.downcast_ref::<io::Error>());
        let kind = match source.kind() {
            cimfs::ErrorKind::NotCim | cimfs::ErrorKind::Corrupt => ErrorKind::Corrupt,
            cimfs::ErrorKind::Unsupported => ErrorKind::Unsupported,
            cimfs::ErrorKind::Invalid | cimfs::ErrorKind::Exists => ErrorKind::Invalid,
            cimfs::ErrorKind::TooLarge => ErrorKind::TooLarge,
            cimfs::ErrorKind::Missing | cimfs::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => match cause.map(io::Error::kind) {
                Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    ErrorKind::NoSpace
                }
                _ => ErrorKind::Io,
            },
        };
        Self::new(kind, doing).because(source)
    }

    pub(crate) fn because(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the byte offset in the uncompressed tar, unless one is there.
    pub(crate) fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Adds the path inside the layer, unless one is there.
    pub(crate) fn path(mut self, path: &[u8]) -> Self {
        self.0.path.get_or_insert_with(|| path.to_vec());
        self
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Byte offset in the uncompressed tar that the error is about, where there is one.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", path.escape_ascii())?;
        }
        f.write_str(&self.0.message)?;
        match self.0.offset {
            Some(offset) => write!(f, " (at byte {offset} of the tar)"),
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
