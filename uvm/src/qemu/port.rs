//! The host's side of a guest's vsock ports. The vsock device's process turns a guest's connection to port P of the
//! host into one to the socket `vsock_P` in the run directory.

use std::io::ErrorKind as Io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::config::VSOCK;
use crate::{Deadline, Error, Result};

const LOOK: Duration = Duration::from_millis(20);

/// Accepts connections of the guest to one port. Dropping it closes the port.
#[derive(Debug)]
pub struct GuestPort {
    number: u32,
    path: PathBuf,
    listener: UnixListener,
}

impl Drop for GuestPort {
    fn drop(&mut self) {
        // A name without a listener refuses the guest just as well.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl GuestPort {
    pub(super) fn open(run: &Path, number: u32) -> Result<Self> {
        let path = run.join(format!("{VSOCK}_{number}"));
        let failed = |error| Error::io(format!("cannot listen on {}", path.display()), error);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { number, path, listener })
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
        self.accept_while(deadline, || Ok(()))
    }

    /// The same, giving up when `alive` fails.
    pub(super) fn accept_while(
        &self,
        deadline: &Deadline,
        alive: impl Fn() -> Result<()>,
    ) -> Result<UnixStream> {
        let doing = format!("wait for the guest at port {}", self.number);
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(|error| Error::io(&*doing, error))?;
                    return Ok(stream);
                }
                Err(error) if matches!(error.kind(), Io::WouldBlock | Io::Interrupted) => {}
                Err(error) => return Err(Error::io(doing, error)),
            }
            alive()?;
            let left = deadline.slice(&doing).map_err(Error::from_bridge)?;
            std::thread::sleep(left.min(LOOK));
        }
    }
}
