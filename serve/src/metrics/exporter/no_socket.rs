//! Windows serves metrics on a port only.

use std::convert::Infallible;
use std::io;

use tokio::net::TcpStream;

use crate::error::Result;

/// None.
#[derive(Debug)]
pub(crate) struct Listener(Infallible);

impl Listener {
    #[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
    pub(super) fn bind(_address: &str) -> Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn address(&self) -> String {
        match self.0 {}
    }

    pub(super) async fn accept(&self) -> io::Result<TcpStream> {
        match self.0 {}
    }
}
