//! How the agent reaches the host.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use crate::{Error, ErrorKind, Result};

/// A way to the host's ports.
pub trait Dial: Send + Sync {
    /// Connects to a port of the host.
    ///
    /// # Errors
    /// If nobody listens there, or there is no way.
    fn dial(&self, port: u32) -> Result<UnixStream>;
}

/// Over vsock.
#[derive(Debug, Clone, Copy)]
pub struct Vsock;

impl Dial for Vsock {
    fn dial(&self, port: u32) -> Result<UnixStream> {
        sys::connect_vsock(bridge::HOST_CID, port)
            .map_err(|error| Error::failed(format!("dialling the host's port {port}"), error))
    }
}

/// Over UNIX sockets named `PREFIX_PORT`, for an agent that runs without a VM.
#[derive(Debug, Clone)]
pub struct Sockets(pub PathBuf);

impl Dial for Sockets {
    fn dial(&self, port: u32) -> Result<UnixStream> {
        let mut path = self.0.clone().into_os_string();
        path.push(format!("_{port}"));
        UnixStream::connect(&path)
            .map_err(|error| Error::failed(format!("dialling {}", path.display()), error))
    }
}

/// No way: the bridge runs over a serial port, which has one opener.
#[derive(Debug, Clone, Copy)]
pub struct Nowhere;

impl Dial for Nowhere {
    fn dial(&self, port: u32) -> Result<UnixStream> {
        let message = format!(
            "this VM has no vsock device: standard streams and shares (here port {port}) need one"
        );
        Err(Error::new(ErrorKind::Failed, message))
    }
}
