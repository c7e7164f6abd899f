//! The daemon's life: open, bring in order, serve, stop.

use std::time::Duration;

use mount::{Holder, HolderKind, Registry};
use sd_notify::NotifyState;
use store::{OpenOptions, Store, WindowsHost};
use tokio::sync::watch;

use crate::config::Config;
use crate::control::Note;
use crate::error::{Error, ErrorKind, Result};
use crate::logging::Logging;
use crate::metrics::Exporter;
use crate::service::{Service, connection_threads};
use crate::services::{HEALTHY, router};
use crate::signals::{Event, Signals};
use crate::socket::{self, Socket};
use crate::{diff, host_activations, mounts, snapshots, status, text};

/// How long the start waits for a command that has the store or the journal open.
const WAIT: Duration = Duration::from_secs(10);

/// How long calls may go on after the daemon was told to stop. What is cut then is as after a kill: the next start
/// finishes or undoes it.
const LAST_CALLS: Duration = Duration::from_secs(20);

/// How often volumes that nobody holds any more are looked for.
const IDLE: Duration = Duration::from_secs(30);

/// Calls that block at a time; more wait. Differs wait for each other elsewhere and do not take all of these.
const BLOCKING_THREADS: usize = 128;

/// Empty scratches of removed snapshots that are kept for new ones.
const SPARES: usize = 64;

/// Runs the daemon until it is told to stop, by SIGTERM or SIGINT.
///
/// # Errors
/// `AddressTaken`, `Store` (the source names the process that has it open), `Mounts`, `Io`.
pub fn run(config: Config) -> Result<()> {
    // What is made for containers has the mode that they expect, whoever started the daemon.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let logging = Logging::start(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(connection_threads())
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Error::io("cannot start the daemon's threads", error))?;
    let ended = runtime.block_on(serve(config, &logging));
    // Library code that still runs is not waited for a second time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn serve(config: Config, logging: &Logging) -> Result<()> {
    let mut signals = Signals::listen()?;
    // Before the store is waited for: who serves already is the better answer.
    let passed = socket::passed()?;
    if passed.is_none() {
        socket::check_free(&config.address)?;
    }
    let service = tokio::task::spawn_blocking(move || open(config, None))
        .await
        .map_err(|error| Error::caused(ErrorKind::Io, "the start ended early", error))??;
    let config = service.config();
    // For commands that look for the daemon elsewhere.
    let _note = Note::leave(&config.root, &config.address)?;
    let exporter = match &config.metrics_address {
        Some(address) => Some(Exporter::listen(address).await?),
        None => None,
    };
    let socket = match passed {
        Some(socket) => socket,
        None => Socket::bind(&config.address)?,
    };
    match socket.is_ours() {
        true => tracing::info!("listening on {}", config.address.display()),
        false => tracing::info!("listening on the socket that systemd passed"),
    }
    if let Some(exporter) = exporter {
        tracing::info!("metrics on {}", exporter.address());
        tokio::spawn(exporter.serve(service.clone()));
    }

    let (stop, stopping) = watch::channel(false);
    let (mut health, router) = router(&service).await;
    let (incoming, made) = socket.accept()?;
    let mut told = stopping.clone();
    let mut serving = tokio::spawn(router.serve_with_incoming_shutdown(incoming, async move {
        // Also when the sender is gone.
        let _ = told.wait_for(|stop| *stop).await;
    }));
    notify(&[NotifyState::Ready]);
    tokio::spawn(trim_idle(service.clone()));
    let watchdog = tokio::spawn(watch_over(service.clone()));

    let ended = loop {
        tokio::select! {
            ended = &mut serving => break served(ended),
            event = signals.next() => match event {
                Event::Reload => reload(&service, logging),
                Event::Stop(signal) => {
                    tracing::info!("stopping on {signal}; volumes stay mounted");
                    notify(&[NotifyState::Stopping]);
                    for name in HEALTHY {
                        health.set_service_status(name, tonic_health::ServingStatus::NotServing).await;
                        // Ends the streams of those who watch it, which would be waited for.
                        health.clear_service_status(name).await;
                    }
                    // The name goes first, so that nobody connects to be turned away.
                    drop(made);
                    let _ = stop.send(true);
                    break match tokio::time::timeout(LAST_CALLS, serving).await {
                        Ok(ended) => served(ended),
                        Err(_) => {
                            tracing::warn!("calls still ran after {LAST_CALLS:?} and were cut");
                            Ok(())
                        }
                    };
                }
            },
        }
    };
    watchdog.abort();
    tracing::info!("stopped");
    ended
}

fn served(
    ended: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>,
) -> Result<()> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::caused(ErrorKind::Io, "serving failed", error)
    };
    ended.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
}

/// Opens the store and the journal, and brings them in line with each other.
fn open(config: Config, host: Option<WindowsHost>) -> Result<Service> {
    let mounts = |doing: &str, error: mount::Error| Error::caused(ErrorKind::Mounts, doing, error);
    let options = OpenOptions { wait: WAIT, create: true, read_only: false };
    let store = Store::open_on(&config.root, options, host)
        .map_err(|error| Error::caused(ErrorKind::Store, "cannot open the store", error))?
        .with_spares(SPARES);
    let registry = Registry::open(&config.run, WAIT)
        .map_err(|error| mounts("cannot open the journal of mounts", error))?;
    let report = registry
        .reconcile(&|holder| is_alive(&store, holder))
        .map_err(|error| mounts("cannot bring the mounts in line with their journal", error))?;
    if !report.is_clean() {
        tracing::info!(
            undone = ?report.undone,
            forgotten = ?report.forgotten,
            released = report.released.len(),
            kept_busy = ?report.kept_busy,
            "brought the mounts in line"
        );
    }
    let swept = store.swept().clone();
    if !swept.is_empty() {
        tracing::info!(
            removed = swept.removed.len(),
            restored = ?swept.restored,
            kept = ?swept.kept,
            "swept the store"
        );
    }
    let host = store.host().cloned();
    let activations = host.map(|host| host_activations::open(&config.run, &host)).transpose()?;
    let service = Service::new(store, registry, activations, config);
    service.metrics().swept(&swept);
    service.metrics().reconciled(&report);
    Ok(service)
}

/// Whether a holder of volumes is still needed: a snapshot that is in the store, a command that runs. Containers and
/// users are the command line's affair.
fn is_alive(store: &Store, holder: &Holder) -> bool {
    if holder.process.is_some() {
        return holder.is_alive().unwrap_or(true);
    }
    match holder.kind {
        HolderKind::Snapshot => match store.stat(&snapshots::key_of(&holder.name)) {
            Err(error) if error.kind() == store::ErrorKind::NotFound => {
                tracing::info!("releasing the volumes of {}", text::one_line(&holder.name));
                false
            }
            _ => true,
        },
        _ => true,
    }
}

/// The services of containerd's interfaces without a socket, for tests that call them inside their own process. Nobody's
/// rights are looked at, and nothing is logged.
///
/// # Errors
/// As [`run`].
pub fn in_process(config: Config) -> Result<tonic::service::Routes> {
    in_process_on(config, None)
}

/// [`in_process`] as on a Windows host.
///
/// # Errors
/// As [`run`].
pub fn in_process_on(config: Config, host: Option<WindowsHost>) -> Result<tonic::service::Routes> {
    let service = open(config, host)?;
    Ok(tonic::service::Routes::new(snapshots::server(service.clone()))
        .add_service(diff::server(service.clone()))
        .add_service(mounts::server(service)))
}

/// Takes in what can change while the daemon runs.
fn reload(service: &Service, logging: &Logging) {
    let mut state = vec![NotifyState::Reloading];
    state.extend(NotifyState::monotonic_usec_now());
    notify(&state);
    let present = service.config();
    match present.reload() {
        Ok(new) => {
            for key in present.needs_restart(&new) {
                tracing::warn!("{key} has changed, which takes a restart");
            }
            let config = present.taking_in(new);
            logging.reload(&config);
            service.replace_config(config);
            tracing::info!("took in the configuration");
        }
        Err(error) => {
            tracing::error!("the configuration stays as it was: {}", status::line(&error))
        }
    }
    notify(&[NotifyState::Ready]);
}

/// Unmounts volumes some time after the last who held them: containerd's collector, which asks for a clean-up too,
/// may not run for long.
async fn trim_idle(service: Service) {
    let mut ticks = tokio::time::interval(IDLE);
    loop {
        ticks.tick().await;
        if let Err(status) = service.blocking(snapshots::trim).await {
            tracing::warn!("cannot unmount idle volumes: {}", status.message());
        }
    }
}

/// Tells systemd that all is well, as often as it asks: only while the store answers.
async fn watch_over(service: Service) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(interval / 2);
    loop {
        ticks.tick().await;
        let answers = service.blocking(|service| {
            // No snapshot has an empty key, so NotFound is the right answer.
            match service.store().stat(b"") {
                Err(error) if error.kind() != store::ErrorKind::NotFound => {
                    Err(crate::status::of_store(&error))
                }
                _ => Ok(()),
            }
        });
        match answers.await {
            Ok(()) => notify(&[NotifyState::Watchdog]),
            Err(status) => tracing::error!("the store does not answer: {}", status.message()),
        }
    }
}

/// Without systemd nobody listens, which is fine.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("cannot notify systemd: {error}");
    }
}
