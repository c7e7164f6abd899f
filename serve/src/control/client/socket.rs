//! A daemon's socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tokio::runtime::Runtime;

/// Somebody answers.
pub(super) struct Reached(UnixStream);

impl Reached {
    pub(super) fn at(address: &Path) -> io::Result<Self> {
        UnixStream::connect(address).map(Self)
    }

    /// The process that listens; 0 if the kernel does not say.
    pub(super) fn pid(&self) -> u32 {
        rustix::net::sockopt::socket_peercred(&self.0)
            .map_or(0, |peer| peer.pid.as_raw_nonzero().get().unsigned_abs())
    }

    pub(super) fn into_parts(self) -> io::Result<(Runtime, tokio::net::UnixStream)> {
        let runtime = super::runtime()?;
        self.0.set_nonblocking(true)?;
        let inside = runtime.enter();
        let stream = tokio::net::UnixStream::from_std(self.0)?;
        drop(inside);
        Ok((runtime, stream))
    }
}
