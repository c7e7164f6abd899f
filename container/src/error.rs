//! The crate's one error: a stable kind, what was being done, and the cause.

use std::fmt;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse and stable, for callers that must branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was given does not go together: containerd's word for it, which its clients act on.
    FailedPrecondition,
    /// An argument, a specification or an annotation makes no sense.
    Invalid,
    /// A file that is named does not exist.
    NotFound,
    /// Neither this virtual machine nor this version can do it.
    NotSupported,
    /// A file is not the kind of image that it should be, or is cut short.
    Corrupt,
    /// No slot, device or share is left in the virtual machine.
    NoLocation,
    /// The virtual machine, or the guest in it, refused or failed.
    Vm,
    /// The guest did not answer in time.
    Timeout,
    /// A system call on the host failed in another way.
    Io,
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

    pub(crate) fn precondition(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FailedPrecondition, message)
    }

    pub(crate) fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let message = message.into();
        Self(Box::new(Inner { kind, message, source: Some(Box::new(source)) }))
    }

    /// A failure of the virtual machine or of its table of devices; the kind follows from its own.
    pub(crate) fn vm(doing: impl Into<String>, source: uvm::Error) -> Self {
        use uvm::ErrorKind as Vm;
        let kind = match source.kind() {
            Vm::NoAvailableLocation => ErrorKind::NoLocation,
            Vm::Unsupported => ErrorKind::NotSupported,
            Vm::Deadline => ErrorKind::Timeout,
            Vm::NotFound => ErrorKind::NotFound,
            Vm::Invalid | Vm::TooLarge => ErrorKind::Invalid,
            Vm::Io => ErrorKind::Io,
            _ => ErrorKind::Vm,
        };
        Self::caused(kind, doing, source)
    }

    /// A failure of mounting on a Windows host; the kind follows from its own.
    pub(crate) fn mount(doing: impl Into<String>, source: mount::Error) -> Self {
        use mount::ErrorKind as Mount;
        let kind = match source.kind() {
            Mount::Invalid | Mount::TooManyLayers => ErrorKind::Invalid,
            Mount::NotFound => ErrorKind::NotFound,
            Mount::NotSupported | Mount::ToolMissing => ErrorKind::NotSupported,
            Mount::Corrupt | Mount::NewerVersion => ErrorKind::Corrupt,
            Mount::Busy | Mount::AlreadyExists => ErrorKind::FailedPrecondition,
            _ => ErrorKind::Io,
        };
        Self::caused(kind, doing, source)
    }

    /// A call of Windows that failed.
    pub(crate) fn native(doing: impl Into<String>, source: sys::windows::Error) -> Self {
        use sys::windows::HResult;
        let kind = match source.code() {
            _ if source.missing_binding().is_some() => ErrorKind::NotSupported,
            HResult::FILE_NOT_FOUND | HResult::PATH_NOT_FOUND => ErrorKind::NotFound,
            HResult::INVALID_PARAMETER => ErrorKind::Invalid,
            HResult::SHARING_VIOLATION | HResult::BUSY => ErrorKind::FailedPrecondition,
            HResult::TIMEOUT => ErrorKind::Timeout,
            _ => ErrorKind::Io,
        };
        Self::caused(kind, doing, source)
    }

    /// One result for things that were all tried: the kind and the cause of the first error, the texts of all others.
    pub(crate) fn all(doing: &str, errors: Vec<Self>) -> Result<()> {
        let mut errors = errors.into_iter();
        let Some(first) = errors.next() else { return Ok(()) };
        Err(first.and(doing, errors.collect()))
    }

    /// This error, with what also failed while it was dealt with.
    pub(crate) fn and(self, doing: &str, others: Vec<Self>) -> Self {
        if others.is_empty() {
            return self;
        }
        let others: Vec<String> = others.iter().map(Self::chain).collect();
        let Inner { kind, message, source } = *self.0;
        let message = format!("{message} ({doing}, this also failed: {})", others.join("; "));
        Self(Box::new(Inner { kind, message, source }))
    }

    fn chain(&self) -> String {
        let mut text = self.0.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    pub(crate) fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Self::caused(kind, doing, source)
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
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
