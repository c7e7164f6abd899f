//! What can go wrong with the server itself; what goes wrong with a request is told to the guest by its number.

use std::fmt;
use std::io;

/// Result of the server's own calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with what was being done, and its cause.
#[derive(Debug)]
pub struct Error {
    doing: String,
    source: io::Error,
}

impl Error {
    pub(super) fn new(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { doing: doing.into(), source: source.into() }
    }

    /// The standard library's classification: `NotFound` of a directory or share that is not there, `AlreadyExists`
    /// of a share's name, `InvalidData` of a guest that does not speak the protocol.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
