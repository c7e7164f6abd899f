//! The host's side of a guest's vsock ports. The vsock device's process turns a guest's connection to port P of the
//! host into one to the socket `vsock_P` in the run directory.

use std::io::ErrorKind as Io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::config::VSOCK;
use crate::{Deadline, Error, Result};

/// Between two looks for a connection.
const LOOK: Duration = Duration::from_millis(5);

/// A listening socket with a name, which goes with it.
#[derive(Debug)]
pub(super) struct Door {
    path: PathBuf,
    listener: UnixListener,
}

impl Drop for Door {
    fn drop(&mut self) {
        // A name without a listener refuses just as well.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Door {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let failed = |error| Error::io(format!("cannot listen on {}", path.display()), error);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { path, listener })
    }

    /// The next connection. `go_on` says how long to sleep before the next look, or why not to.
    pub(super) fn accept(&self, go_on: impl Fn() -> Result<Duration>) -> Result<UnixStream> {
        let failed = |error| Error::io(format!("cannot accept at {}", self.path.display()), error);
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(failed)?;
                    return Ok(stream);
                }
                Err(error) if matches!(error.kind(), Io::WouldBlock | Io::Interrupted) => {}
                Err(error) => return Err(failed(error)),
            }
            std::thread::sleep(go_on()?.min(LOOK));
        }
    }
}

/// Accepts connections of the guest to one port. Dropping it closes the port.
#[derive(Debug)]
pub struct GuestPort {
    number: u32,
    door: Door,
}

impl GuestPort {
    pub(super) fn open(run: &Path, number: u32) -> Result<Self> {
        let door = Door::open(run.join(format!("{VSOCK}_{number}")))?;
        Ok(Self { number, door })
    }

    /// The port's number, for the guest.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The next connection of the guest.
    ///
    /// # Errors
    /// [`Deadline`](crate::ErrorKind::Deadline) if there is none in time.
    pub fn accept(&self, deadline: &Deadline) -> Result<UnixStream> {
        let doing = format!("wait for the guest at port {}", self.number);
        self.door.accept(|| deadline.slice(&doing).map_err(Error::from_bridge))
    }
}
