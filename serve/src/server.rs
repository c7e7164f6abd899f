//! The daemon's life: open, serve, stop.

use std::time::Duration;

use mount::Registry;
use store::{OpenOptions, Store};
use tokio_stream::wrappers::UnixListenerStream;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::service::Service;

/// How long the start waits for a command that has the store or the journal open.
const WAIT: Duration = Duration::from_secs(10);

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// `AddressTaken`, `Store` (the source names the process that has it open), `Mounts`, `Io`.
pub fn run(config: Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("cannot start the daemon's threads", error))?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<()> {
    let store =
        Store::open(&config.root, OpenOptions { wait: WAIT, create: true, read_only: false })
            .map_err(|error| Error::caused(ErrorKind::Store, "cannot open the store", error))?;
    let registry = Registry::open(&config.run, WAIT).map_err(|error| {
        Error::caused(ErrorKind::Mounts, "cannot open the journal of mounts", error)
    })?;
    let address = config.address.clone();
    let service = Service::new(store, registry, config);
    let listener = tokio::net::UnixListener::bind(&address)
        .map_err(|error| Error::io(format!("cannot listen on {}", address.display()), error))?;
    let (_health, health) = tonic_health::server::health_reporter();
    let _ = (service.store(), service.registry(), service.metrics(), service.config());
    tonic::transport::Server::builder()
        .add_service(health)
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .map_err(|error| Error::caused(ErrorKind::Io, "serving failed", error))
}
