//! The daemon on a Windows host: the same services as on Linux on a named pipe, as a Windows service or in a console.
//! **Never run on a real HCS host**; the pipe and the services' calls are tested under Wine.

mod log_file;
mod pipe;
mod service_control;

use std::sync::Arc;
use std::time::Duration;

use store::{OpenOptions, Store, WindowsHost};
use sys::windows::{Host, System};
use tokio::sync::watch;

use crate::config::Config;
use crate::control::Note;
use crate::error::{Error, ErrorKind, Result};
use crate::host_activations;
use crate::metrics::Exporter;
use crate::service::{Service, connection_threads};
use crate::services::{HEALTHY, router};

pub use pipe::connect;
pub(crate) use pipe::open as open_pipe;

/// Where the volumes of a Linux host are on record; on this one the accounts of [`host_activations`] are.
#[derive(Debug)]
pub(crate) struct Registry;

impl Registry {
    #[expect(clippy::unused_self, reason = "as on Linux")]
    pub(crate) fn volumes(&self) -> mount::Result<Vec<mount::windows::CimVolume>> {
        Ok(Vec::new())
    }
}

/// How long the start waits for a command that has the store open.
const WAIT: Duration = Duration::from_secs(10);
/// How long calls may go on after the daemon was told to stop.
const LAST_CALLS: Duration = Duration::from_secs(20);

/// Runs the daemon until it is told to stop: by the service manager if that has started it, else by Ctrl-C.
///
/// # Errors
/// `AddressTaken`, `Store`, `Io`; `Configuration` if this Windows cannot keep layers as it is told to.
pub fn run(config: Config) -> Result<()> {
    let _logging = log_file::start(&config)?;
    match service_control::run_as_service(config)? {
        // Started in a console.
        Some(config) => run_until(config, &mut |stop| stop.by_console()),
        None => Ok(()),
    }
}

/// What ends the daemon.
pub(crate) struct Stop(watch::Sender<bool>);

impl Stop {
    pub(crate) fn now(&self) {
        let _ = self.0.send(true);
    }

    fn by_console(self) {
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                tracing::info!("stopping on Ctrl-C");
                self.now();
            }
            // Kept: a closed channel would stop the daemon too.
            std::future::pending::<()>().await;
        });
    }
}

/// Serves until the [`Stop`] that `ready` is given says so; `ready` is called when the pipe listens.
pub(crate) fn run_until(config: Config, ready: &mut dyn FnMut(Stop)) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(connection_threads())
        .enable_all()
        .build()
        .map_err(|error| Error::io("cannot start the daemon's threads", error))?;
    let ended = runtime.block_on(async {
        let host = host(&config, Arc::new(System::new()))?;
        pipe::check(&config.address)?;
        let service = tokio::task::spawn_blocking(move || open(config, Some(host)))
            .await
            .map_err(|error| Error::caused(ErrorKind::Io, "the start ended early", error))??;
        // Only now: a pipe that is there is called.
        let listener = pipe::Listener::bind(&service.config().address)?;
        tracing::info!("listening on {}", service.config().address.display());
        let (stop, stopping) = watch::channel(false);
        ready(Stop(stop));
        serve(service, listener, stopping).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// The host that the store is on, in the form that the configuration names.
fn host(config: &Config, api: Arc<dyn Host>) -> Result<WindowsHost> {
    let version = api.version().map_err(|error| {
        Error::caused(ErrorKind::Io, "cannot find out the version of Windows", error)
    })?;
    let form = config.windows_layers;
    form.check_build(version.build, version.revision).map_err(|error| {
        let doing = format!("windows.layers = {:?} cannot be had here", form.name());
        Error::caused(ErrorKind::Configuration, doing, error)
    })?;
    Ok(WindowsHost::new(form, api))
}

fn open(config: Config, host: Option<WindowsHost>) -> Result<Service> {
    let options = OpenOptions { wait: WAIT, create: true, read_only: false };
    let activations =
        host.as_ref().map(|host| host_activations::open(&config.run, host)).transpose()?;
    let store = Store::open_on(&config.root, options, host)
        .map_err(|error| Error::caused(ErrorKind::Store, "cannot open the store", error))?;
    let swept = store.swept().clone();
    if !swept.is_empty() {
        tracing::info!(removed = swept.removed.len(), kept = ?swept.kept, "swept the store");
    }
    let service = Service::new(store, Registry, activations, config);
    service.metrics().swept(&swept);
    Ok(service)
}

async fn serve(
    service: Service,
    listener: pipe::Listener,
    mut stopping: watch::Receiver<bool>,
) -> Result<()> {
    let config = service.config();
    // For commands that look for the daemon elsewhere.
    let _note = Note::leave(&config.root, &config.address)?;
    if let Some(address) = &config.metrics_address {
        let exporter = Exporter::listen(address).await?;
        tracing::info!("metrics on {}", exporter.address());
        tokio::spawn(exporter.serve(service.clone()));
    }
    let (mut health, router) = router(&service).await;
    let mut told = stopping.clone();
    let serving =
        tokio::spawn(router.serve_with_incoming_shutdown(listener.accept(), async move {
            let _ = told.wait_for(|stop| *stop).await;
        }));
    let _ = stopping.wait_for(|stop| *stop).await;
    for name in HEALTHY {
        health.set_service_status(name, tonic_health::ServingStatus::NotServing).await;
        // Ends the streams of those who watch it, which would be waited for.
        health.clear_service_status(name).await;
    }
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::caused(ErrorKind::Io, "serving failed", error)
    };
    match tokio::time::timeout(LAST_CALLS, serving).await {
        Ok(ended) => {
            ended.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
        }
        Err(_) => {
            tracing::warn!("calls still ran after {LAST_CALLS:?} and were cut");
            Ok(())
        }
    }
}

/// The services over a pipe, for tests: on any host that answers for Windows.
///
/// # Errors
/// As [`run`].
pub async fn serve_on(
    config: Config,
    host: WindowsHost,
    stopping: watch::Receiver<bool>,
) -> Result<()> {
    pipe::check(&config.address)?;
    let service = open(config, Some(host))?;
    let listener = pipe::Listener::bind(&service.config().address)?;
    serve(service, listener, stopping).await
}
