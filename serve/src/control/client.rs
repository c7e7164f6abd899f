//! The command's side: one connection, one call at a time, blocking.

#[cfg(windows)]
#[path = "client/pipe.rs"]
mod reached;
#[cfg(target_os = "linux")]
#[path = "client/socket.rs"]
mod reached;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use layer::Cancel;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::service_fn;

use self::reached::Reached;
use super::operations::{Hello, Request, Welcome};
use super::serving::identity;
use super::{Fault, Operation, PROTOCOL, Progress, Reply};
use crate::api::control::CallRequest;
use crate::api::control::control_client::ControlClient;
use crate::connection_error::{ConnectionError, ConnectionErrorKind};

/// How long a daemon may take to say who it is; one that systemd has to start first puts its mounts in order before.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a call looks whether it is cancelled.
const PERIOD: Duration = Duration::from_millis(50);

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    control: ControlClient<Channel>,
    address: PathBuf,
    pid: u32,
}

impl Client {
    /// Connects to the daemon at `address`, if one answers there for the store at `root`. `None` if nobody does, or it
    /// is somebody else, or one that just ends.
    ///
    /// # Errors
    /// `Denied`, `Incompatible`, `Broken`.
    pub fn connect(address: &Path, root: &Path) -> Result<Option<Self>, ConnectionError> {
        let broken = |message: &str| {
            let message = format!("cannot talk to the daemon at {}: {message}", address.display());
            ConnectionError::new(ConnectionErrorKind::Broken, message)
        };
        // The usual case, in which there is no daemon, must not cost more than this call.
        let reached = match Reached::at(address) {
            Ok(reached) => reached,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let message = format!("no permission to use the daemon at {}", address.display());
                return Err(
                    ConnectionError::new(ConnectionErrorKind::Denied, message).because(error)
                );
            }
            // Nobody listens, nothing or something else is there, or no socket can have such a name.
            Err(_) => return Ok(None),
        };
        let Some(root) = identity(root) else { return Ok(None) };
        let pid = reached.pid();
        let (runtime, stream) =
            reached.into_parts().map_err(|error| broken("no event loop").because(error))?;
        // A daemon that ends before it was asked for anything is as good as none.
        let Ok(channel) = runtime.block_on(channel(stream)) else { return Ok(None) };
        let control = ControlClient::new(channel).max_decoding_message_size(usize::MAX);
        let client = Self { runtime, control, address: address.to_owned(), pid };
        let welcome = client.runtime.block_on(async {
            let never = Cancel::new();
            let asked = client.ask(Hello {}, &never, &());
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(answer) => answer,
                Err(_) => Err(broken("it does not answer").into()),
            }
        });
        let Welcome { protocol, version, pid, root: theirs } = match welcome {
            Ok(welcome) => welcome,
            Err(fault) => match fault.downcast::<ConnectionError>() {
                // Something else than Plywood listens there.
                Ok(error) if error.kind() == ConnectionErrorKind::Broken && is_foreign(&error) => {
                    return Ok(None);
                }
                Ok(error) if error.kind() == ConnectionErrorKind::Lost => return Ok(None),
                Ok(error) => return Err(*error),
                Err(fault) => return Err(broken("it does not say who it is").because(fault)),
            },
        };
        if theirs != Some(root) {
            return Ok(None);
        }
        if protocol != PROTOCOL {
            let message = format!(
                "the daemon at {} (process {pid}) is of version {version}, this is {}",
                address.display(),
                env!("CARGO_PKG_VERSION")
            );
            return Err(ConnectionError::new(ConnectionErrorKind::Incompatible, message));
        }
        Ok(Some(Self { pid, ..client }))
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Has the daemon do something. Raising `cancel` ends the call, and the daemon's work on it.
    ///
    /// # Errors
    /// A [`RemoteCause`](super::RemoteCause) of what failed in the daemon, or a [`ConnectionError`].
    pub fn call<O: Operation>(
        &self,
        operation: O,
        cancel: &Cancel,
        progress: &dyn Progress,
    ) -> Result<O::Answer, Fault> {
        self.runtime.block_on(self.ask(operation, cancel, progress))
    }

    async fn ask<O: Operation>(
        &self,
        operation: O,
        cancel: &Cancel,
        progress: &dyn Progress,
    ) -> Result<O::Answer, Fault> {
        let request: Request = operation.into();
        let name = request.name();
        let mut control = self.control.clone();
        let json = serde_json::to_vec(&request)?;
        let mut replies = control
            .call(CallRequest { json })
            .await
            .map_err(|status| self.failed(name, status))?
            .into_inner();
        let mut clock = tokio::time::interval(PERIOD);
        loop {
            let message = tokio::select! {
                message = replies.message() => message.map_err(|status| self.failed(name, status))?,
                _ = clock.tick() => {
                    // Dropping the stream tells the daemon.
                    cancel.check()?;
                    continue;
                }
            };
            let Some(message) = message else {
                return Err(self.lost(name).into());
            };
            match serde_json::from_slice(&message.json)? {
                Reply::Event(event) => progress.report(event),
                Reply::Done(answer) => return Ok(answer),
                Reply::Failed(cause) => return Err(Box::new(cause)),
            }
        }
    }

    fn lost(&self, name: &str) -> ConnectionError {
        let message = format!(
            "the daemon at {} (process {}) ended before it answered {name}",
            self.address.display(),
            self.pid
        );
        ConnectionError::new(ConnectionErrorKind::Lost, message)
    }

    fn failed(&self, name: &str, status: Status) -> ConnectionError {
        let address = self.address.display();
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => {
                let message = format!("the daemon at {address} refuses this user");
                ConnectionError::new(ConnectionErrorKind::Denied, message).because(status)
            }
            Code::InvalidArgument => {
                let message = format!(
                    "the daemon at {address} (process {}) does not know {name}; is it of another version?",
                    self.pid
                );
                ConnectionError::new(ConnectionErrorKind::Incompatible, message).because(status)
            }
            // What tonic makes of a connection that broke depends on the moment.
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
                if std::error::Error::source(&status).is_some() =>
            {
                self.lost(name)
            }
            _ => {
                let message = format!("the daemon at {address} cannot do {name}");
                ConnectionError::new(ConnectionErrorKind::Broken, message).because(status)
            }
        }
    }
}

/// Whether whoever answered does not know our service.
fn is_foreign(error: &ConnectionError) -> bool {
    let status = error.source.as_ref().and_then(|source| source.downcast_ref::<Status>());
    status.is_some_and(|status| status.code() == Code::Unimplemented)
}

/// A channel over this one connection: what comes after its end is an error and not another daemon.
async fn channel(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Channel, Fault> {
    let stream = Mutex::new(Some(stream));
    let connector = service_fn(move |_| {
        let taken = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || io::Error::new(io::ErrorKind::ConnectionReset, "the connection has ended");
        std::future::ready(taken.map(TokioIo::new).ok_or_else(gone))
    });
    // The address is not used, but must be one.
    Ok(Endpoint::from_static("http://plywood.invalid").connect_with_connector(connector).await?)
}

/// What runs a command's one connection.
fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
