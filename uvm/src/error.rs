//! The crate's one error: a stable kind, what was being done, and the cause.

use std::fmt;
use std::sync::Arc;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, coarse and stable, for callers that must branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Every slot or device of the kind that was asked for is taken.
    NoAvailableLocation,
    /// What is to be released has been released before.
    AlreadyReleased,
    /// Nothing of that name or at that place is attached.
    NotAttached,
    /// The file is larger than such a device can be.
    TooLarge,
    /// This back end, or what it was set up with, cannot do this.
    Unsupported,
    /// The time for it was over.
    Deadline,
    /// The caller gave up.
    Cancelled,
    /// The virtual machine has ended, or its connection has.
    Dead,
    /// The guest answered with a failure; [`Error::guest_result`] is its code.
    Guest,
    /// Another thing is at that guest path, or has that name.
    AlreadyExists,
    /// Arguments that cannot be attached.
    Invalid,
    /// A file that is needed does not exist.
    NotFound,
    /// Another process has it in use.
    Busy,
    /// The journal is damaged, or was written by a newer version.
    Corrupt,
    /// A program that is needed is not installed.
    ToolMissing,
    /// Not permitted.
    NotPermitted,
    /// No space left.
    NoSpace,
    /// The machine or its guest said something that cannot be understood.
    Protocol,
    /// A system call or the machine failed in another way; the source shows it.
    Io,
}

/// An error with its kind, a message and optionally a cause. Cloned for all who waited for the same thing.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    guest_result: Option<i32>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    more: Vec<Error>,
}

impl Error {
    /// An error without a cause. Public for back ends outside of this crate.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            guest_result: None,
            source: None,
            more: Vec::new(),
        }))
    }

    /// An error with the one that caused it.
    pub fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            guest_result: None,
            source: Some(Box::new(source)),
            more: Vec::new(),
        }))
    }

    /// The guest's refusal: its HRESULT and its text.
    pub fn guest(doing: impl Into<String>, result: i32, text: &str) -> Self {
        let doing = doing.into();
        #[expect(clippy::cast_sign_loss, reason = "an HRESULT is known by its bits")]
        let code = result as u32;
        let message = match text {
            "" => format!("{doing}: the guest answered 0x{code:08x}"),
            text => format!("{doing}: the guest answered 0x{code:08x}: {text}"),
        };
        Self(Arc::new(Inner {
            kind: ErrorKind::Guest,
            message,
            guest_result: Some(result),
            source: None,
            more: Vec::new(),
        }))
    }

    pub(crate) fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::PermissionDenied => ErrorKind::NotPermitted,
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::NoSpace,
            Io::TimedOut | Io::WouldBlock => ErrorKind::Deadline,
            Io::ConnectionReset | Io::BrokenPipe | Io::UnexpectedEof => ErrorKind::Dead,
            _ => ErrorKind::Io,
        };
        Self::caused(kind, doing, source)
    }

    /// One result for things that were all tried: the only error as it is; of several, the kind of the first and
    /// the texts of all ([`Self::errors`] has them one by one).
    pub fn all(doing: impl Into<String>, errors: Vec<Self>) -> Result<()> {
        let mut errors = errors;
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            count => {
                let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Err(Self(Arc::new(Inner {
                    kind: errors[0].kind(),
                    message: format!("{}: {count} errors: {}", doing.into(), texts.join("; ")),
                    guest_result: errors[0].guest_result(),
                    source: None,
                    more: errors,
                })))
            }
        }
    }

    /// An error of the bridge; a refusal keeps its code.
    pub(crate) fn from_bridge(error: bridge::Error) -> Self {
        use bridge::ErrorKind as Bridge;
        let kind = match error.kind() {
            Bridge::Closed => ErrorKind::Dead,
            Bridge::TimedOut => ErrorKind::Deadline,
            Bridge::Cancelled => ErrorKind::Cancelled,
            Bridge::TooLarge => ErrorKind::TooLarge,
            Bridge::Refused => ErrorKind::Guest,
            Bridge::Malformed => ErrorKind::Protocol,
            _ => ErrorKind::Io,
        };
        let guest_result = error.result().map(|result| result.0);
        Self::with(kind, error.to_string(), guest_result, &error)
    }

    /// The same with what was being done before its text.
    pub(crate) fn doing(self, doing: &str) -> Self {
        let message = format!("cannot {doing}");
        let (kind, guest_result) = (self.kind(), self.guest_result());
        let source: Option<Box<dyn std::error::Error + Send + Sync>> = Some(Box::new(self));
        Self(Arc::new(Inner { kind, message, guest_result, source, more: Vec::new() }))
    }

    /// The same with more to say behind its text.
    pub(crate) fn with_more(self, more: &str) -> Self {
        let message = format!("{self}; {more}");
        let cause = std::error::Error::source(&self).map(|cause| cause.to_string().into());
        let (kind, guest_result) = (self.kind(), self.guest_result());
        Self(Arc::new(Inner { kind, message, guest_result, source: cause, more: Vec::new() }))
    }

    fn with(
        kind: ErrorKind,
        message: String,
        guest_result: Option<i32>,
        error: &dyn std::error::Error,
    ) -> Self {
        let source = error.source().map(|cause| cause.to_string().into());
        Self(Arc::new(Inner { kind, message, guest_result, source, more: Vec::new() }))
    }

    /// What went wrong, coarsely.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The HRESULT that the guest answered with, for [`ErrorKind::Guest`].
    pub fn guest_result(&self) -> Option<i32> {
        self.0.guest_result
    }

    /// Every single error of one that stands for several; otherwise just this one.
    pub fn errors(&self) -> Vec<&Self> {
        if self.0.more.is_empty() { vec![self] } else { self.0.more.iter().collect() }
    }

    /// Whether what failed may have happened nevertheless, or may happen yet.
    pub(crate) fn is_uncertain(&self) -> bool {
        matches!(self.kind(), ErrorKind::Deadline | ErrorKind::Cancelled | ErrorKind::Protocol)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Error");
        text.field("kind", &self.0.kind).field("message", &self.0.message);
        if let Some(source) = &self.0.source {
            text.field("source", source);
        }
        text.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_errors_are_one_and_still_all_there() {
        assert!(Error::all("x", Vec::new()).is_ok());
        let first = Error::guest("cannot mount", -2_147_467_259, "EBUSY");
        let second = Error::new(ErrorKind::Dead, "it is gone");
        let one = Error::all("release", vec![first.clone()]).unwrap_err();
        assert_eq!(one.to_string(), "cannot mount: the guest answered 0x80004005: EBUSY");
        let both = Error::all("release", vec![first, second]).unwrap_err();
        assert_eq!((both.kind(), both.errors().len()), (ErrorKind::Guest, 2));
        assert_eq!(both.guest_result(), Some(-2_147_467_259));
        assert!(both.to_string().ends_with("EBUSY; it is gone"), "{both}");
    }
}
