//! A failed system call, shown as the call with its arguments.

use std::fmt;
use std::io;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call: the call as text (`fsconfig(erofs, source=/a/b)`), the error number, and what the kernel
/// wrote to the file-system context's log, if anything.
#[derive(Debug)]
pub struct Error {
    call: String,
    source: io::Error,
    log: Vec<String>,
}

impl Error {
    /// An error of `call`, which is shown as given.
    pub fn new(call: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { call: call.into(), source: source.into(), log: Vec::new() }
    }

    /// Adds the messages drained from a file-system context.
    #[must_use]
    pub fn with_log(mut self, log: Vec<String>) -> Self {
        self.log = log;
        self
    }

    /// The error number, where the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// The standard library's classification of the error number.
    pub fn io_kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.call)?;
        for line in &self.log {
            write!(f, "; kernel: {}", line.trim_end())?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
