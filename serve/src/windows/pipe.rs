//! The transport: a named pipe that SYSTEM and administrators may use, and nobody else.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::error::{Error, ErrorKind, Result};

/// Everything for SYSTEM and for administrators; nothing inherited, nothing for others.
const ACCESS: &str = "D:P(A;;GA;;;SY)(A;;GA;;;BA)";
const PREFIX: &str = r"\\.\pipe\";
/// `ERROR_PIPE_BUSY`: all instances have clients, and the next is being made.
const BUSY: i32 = 231;

/// The name of a pipe of this machine.
///
/// # Errors
/// `Configuration` for anything else.
pub(crate) fn check(address: &Path) -> Result<&str> {
    let name = address.to_str().filter(|name| {
        name.strip_prefix(PREFIX).is_some_and(|name| !name.is_empty() && !name.contains('\\'))
    });
    name.ok_or_else(|| {
        Error::configuration(format!("the address {} is no {PREFIX}NAME", address.display()))
    })
}

/// A pipe that listens. Between two clients there always is an instance of it, so its name is never free.
#[derive(Debug)]
pub(crate) struct Listener {
    name: String,
    next: NamedPipeServer,
}

impl Listener {
    /// A new pipe of this name.
    ///
    /// # Errors
    /// `Configuration` for a name that is none; `AddressTaken` if somebody has it; `Io`.
    pub(crate) fn bind(address: &Path) -> Result<Self> {
        let name = check(address)?.to_owned();
        match sys::windows::create_pipe(&name, ACCESS, true) {
            Ok(next) => Ok(Self { name, next }),
            // What Windows says of a name that another process has.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let message = format!("another process answers on {name} already");
                Err(Error::caused(ErrorKind::AddressTaken, message, error))
            }
            Err(error) => Err(Error::io(format!("cannot listen on {name}"), error)),
        }
    }

    /// Connections as they come, for as long as the stream lives.
    pub(crate) fn accept(self) -> impl Stream<Item = io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let Self { name, mut next } = self;
            loop {
                let connected = tokio::select! {
                    connected = next.connect() => connected,
                    () = sender.closed() => return,
                };
                // Of a client that went away at once nothing is left but a used instance.
                let instance = match again(&name, &sender).await {
                    Some(instance) => instance,
                    None => return,
                };
                let used = std::mem::replace(&mut next, instance);
                if connected.is_ok() && sender.send(Ok(Connection(used))).await.is_err() {
                    return;
                }
            }
        });
        ReceiverStream::new(receiver)
    }
}

/// The next instance. A failure passes: it is tried again a little later.
async fn again(
    name: &str,
    sender: &mpsc::Sender<io::Result<Connection>>,
) -> Option<NamedPipeServer> {
    loop {
        match sys::windows::create_pipe(name, ACCESS, false) {
            Ok(instance) => return Some(instance),
            Err(error) => tracing::warn!("cannot accept a connection: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        if sender.is_closed() {
            return None;
        }
    }
}

/// One client's end.
#[derive(Debug)]
pub(crate) struct Connection(NamedPipeServer);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Opens the pipe `name` when it has an instance for us.
pub(crate) async fn open(name: &OsStr) -> io::Result<NamedPipeClient> {
    loop {
        match ClientOptions::new().open(name) {
            Err(error) if error.raw_os_error() == Some(BUSY) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            opened => return opened,
        }
    }
}

/// A channel to the daemon behind the pipe `name`.
///
/// # Errors
/// Nobody listens, or this user may not.
pub async fn connect(name: &str) -> Result<Channel, tonic::transport::Error> {
    let name = OsString::from(name);
    let connector = service_fn(move |_| {
        let name = name.clone();
        async move { open(&name).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://plywood.invalid").connect_with_connector(connector).await
}
