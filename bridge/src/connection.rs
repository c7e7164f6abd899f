//! A connection as the bridge needs it: two directions and a way to end both.

use std::fmt;
use std::io::{Read, Write};

/// A duplex connection in three parts. `shutdown` must make a blocked read and a blocked write return, and may be
/// called more than once.
pub struct Connection {
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) writer: Box<dyn Write + Send>,
    pub(crate) shutdown: Box<dyn Fn() + Send + Sync>,
}

impl Connection {
    /// A connection of any kind.
    pub fn new(
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
        shutdown: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self { reader: Box::new(reader), writer: Box::new(writer), shutdown: Box::new(shutdown) }
    }

    /// A connected UNIX socket.
    ///
    /// # Errors
    /// If its descriptor cannot be duplicated.
    #[cfg(unix)]
    pub fn unix(stream: std::os::unix::net::UnixStream) -> std::io::Result<Self> {
        let writer = stream.try_clone()?;
        let handle = stream.try_clone()?;
        Ok(Self::new(stream, writer, move || {
            // It may be shut down already, by us or by the peer.
            let _ = handle.shutdown(std::net::Shutdown::Both);
        }))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}
