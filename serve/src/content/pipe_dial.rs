//! containerd's pipe.

use std::io;
use std::path::Path;

use tokio::net::windows::named_pipe::NamedPipeClient;

pub(super) async fn dial(address: &Path) -> io::Result<NamedPipeClient> {
    crate::windows::open_pipe(address.as_os_str()).await
}
