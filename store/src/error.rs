//! The crate's one error: a stable kind, what was being done to what, and the cause.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use sys::windows::HResult;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse and stable, for callers that must branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such snapshot, layer, image, blob or store.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The object is not in the state that the operation needs (a committed snapshot has no mounts, a parent cannot
    /// be removed, …).
    FailedPrecondition,
    /// An argument makes no sense or cannot be stored.
    Invalid,
    /// Another process has the store open; the message names it.
    Busy,
    /// The store, a layer image in it, or an input is damaged, or an input's digest is not the promised one.
    Corrupt,
    /// A newer version of Plywood wrote this store.
    NewerVersion,
    /// The store was opened for reading, or its directory cannot be written.
    ReadOnly,
    /// No space is left on the store's file system.
    NoSpace,
    /// A valid input that is not handled; the message names what.
    Unsupported,
    /// A limit is exceeded.
    TooLarge,
    /// A bare layer links to a file of layers below it, and was imported without a base.
    NeedsBase,
    /// The caller cancelled.
    Cancelled,
    /// A system call failed in another way; the source shows it.
    Io,
}

/// An error with its kind, a message that says what was being done, and optionally a cause.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// An error with a cause; `message` must not repeat it.
    pub fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: Some(source.into()) }))
    }

    /// A failed input or output; the kind follows from the error.
    pub fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::caused(kind_of(&source), doing, source)
    }

    /// A failed system call; the kind follows from the error number.
    pub fn sys(doing: impl Into<String>, source: sys::Error) -> Self {
        let kind = match source.errno() {
            Some(errno) => kind_of(&io::Error::from_raw_os_error(errno)),
            None => ErrorKind::Io,
        };
        Self::caused(kind, doing, source)
    }

    /// An error of the `layer` crate, its kind carried over.
    pub fn layer(doing: impl Into<String>, source: layer::Error) -> Self {
        let kind = match source.kind() {
            layer::ErrorKind::Corrupt | layer::ErrorKind::DigestMismatch => ErrorKind::Corrupt,
            layer::ErrorKind::Unsupported | layer::ErrorKind::OtherPlatform => {
                ErrorKind::Unsupported
            }
            layer::ErrorKind::Invalid | layer::ErrorKind::MissingParent => ErrorKind::Invalid,
            layer::ErrorKind::TooLarge => ErrorKind::TooLarge,
            layer::ErrorKind::NotFound => ErrorKind::NotFound,
            layer::ErrorKind::NoSpace => ErrorKind::NoSpace,
            layer::ErrorKind::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Io,
        };
        Self::caused(kind, doing, source)
    }

    /// A failed function of Windows; the kind follows from its code.
    pub(crate) fn windows(doing: impl Into<String>, source: sys::windows::Error) -> Self {
        let kind = match source.code() {
            _ if source.missing_binding().is_some() => ErrorKind::Unsupported,
            HResult::FILE_NOT_FOUND | HResult::PATH_NOT_FOUND => ErrorKind::NotFound,
            HResult::SHARING_VIOLATION | HResult::BUSY => ErrorKind::FailedPrecondition,
            _ => ErrorKind::Io,
        };
        Self::caused(kind, doing, source)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub(crate) fn exists(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::AlreadyExists, message)
    }

    pub(crate) fn precondition(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FailedPrecondition, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

/// A directory that cannot be written, whatever the reason, makes the store read-only for us.
fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => ErrorKind::ReadOnly,
        io::ErrorKind::FileTooLarge => ErrorKind::TooLarge,
        _ => ErrorKind::Io,
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
