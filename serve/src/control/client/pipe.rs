//! A daemon's pipe.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::windows::named_pipe::NamedPipeClient;
use tokio::runtime::Runtime;

/// How long all instances may be busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody answers.
pub(super) struct Reached {
    runtime: Runtime,
    pipe: NamedPipeClient,
}

impl Reached {
    pub(super) fn at(address: &Path) -> io::Result<Self> {
        let runtime = super::runtime()?;
        let opened = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, crate::windows::open_pipe(address.as_os_str())).await
        });
        let pipe = opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Self { runtime, pipe })
    }

    /// Not known before it says so.
    #[expect(clippy::unused_self, reason = "as on a socket")]
    pub(super) fn pid(&self) -> u32 {
        0
    }

    #[expect(clippy::unnecessary_wraps, reason = "as on a socket")]
    pub(super) fn into_parts(self) -> io::Result<(Runtime, NamedPipeClient)> {
        Ok((self.runtime, self.pipe))
    }
}
