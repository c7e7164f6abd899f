//! containerd's socket.

use std::io;
use std::path::Path;

pub(super) async fn dial(address: &Path) -> io::Result<tokio::net::UnixStream> {
    tokio::net::UnixStream::connect(address).await
}
