//! Metrics on a socket.

use std::io;
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

use crate::error::Result;
use crate::socket::{Made, Socket};

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    made: Option<Made>,
}

impl Listener {
    /// Listens, if the address is an absolute path.
    pub(super) fn bind(address: &str) -> Result<Option<Self>> {
        if !address.starts_with('/') {
            return Ok(None);
        }
        let (listener, made) = Socket::bind(Path::new(address))?.into_parts()?;
        Ok(Some(Self { listener, made }))
    }

    pub(super) fn address(&self) -> String {
        self.made.as_ref().map_or_else(String::new, |made| made.path().display().to_string())
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}
