//! What every call works with.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

#[cfg(target_os = "linux")]
use mount::Registry;
use mount::windows::Activations;
use store::{Remains, Store};
use tokio::sync::{Semaphore, oneshot};
use tonic::Status;

use crate::config::Config;
use crate::metrics::Metrics;
#[cfg(windows)]
use crate::windows::Registry;

/// Answered calls that still delete files.
const DELETIONS: usize = 4;

/// Brief calls at a time that keep the thread on which they came.
const BRIEF: usize = 1;

/// Threads that serve connections; one is always left by brief calls.
pub(crate) fn connection_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(BRIEF + 1, 4)
}

/// The daemon's state, shared by all calls; a clone is another handle to the same.
#[derive(Debug, Clone)]
pub(crate) struct Service(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    registry: Registry,
    /// On a Windows host: what the mounts service performs there.
    activations: Option<Activations>,
    config: RwLock<Arc<Config>>,
    metrics: Metrics,
    idle_volumes: AtomicBool,
    deletions: Semaphore,
    brief: Semaphore,
}

impl Service {
    pub(crate) fn new(
        store: Store,
        registry: Registry,
        activations: Option<Activations>,
        config: Config,
    ) -> Self {
        let config = RwLock::new(Arc::new(config));
        Self(Arc::new(Shared {
            store,
            registry,
            activations,
            config,
            metrics: Metrics::default(),
            idle_volumes: AtomicBool::new(true),
            deletions: Semaphore::new(DELETIONS),
            brief: Semaphore::new(BRIEF),
        }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// What the mounts service performs on a Windows host.
    pub(crate) fn activations(&self) -> Option<&Activations> {
        self.0.activations.as_ref()
    }

    /// The configuration as of now; a reload replaces it.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.0.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace_config(&self, config: Config) {
        *self.0.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// There may be volumes that nobody holds.
    pub(crate) fn note_idle_volumes(&self) {
        self.0.idle_volumes.store(true, Ordering::Relaxed);
    }

    /// Whether there may be volumes that nobody holds, and has the caller see to them.
    pub(crate) fn take_idle_volumes(&self) -> bool {
        self.0.idle_volumes.swap(false, Ordering::Relaxed)
    }

    /// Runs library code, which blocks, away from the threads that serve connections. It runs to its end even if the
    /// caller goes away meanwhile; what should stop then watches a cancel flag.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        self.answering(|service, answer| drop(answer.send(work(service)))).await
    }

    /// As [`Self::blocking`], for work of about a millisecond: on this very thread, if there is no other such call. To
    /// change threads and come back takes longer than the work, most of all where all processors are busy.
    pub(crate) async fn brief<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let Ok(_permit) = self.0.brief.try_acquire() else { return self.blocking(work).await };
        let answer = catch_unwind(AssertUnwindSafe(|| work(self)));
        answer.unwrap_or_else(|_| Err(ended_early()))
    }

    /// As [`Self::blocking`], and deletes what is left of what was removed after the answer: containerd's collector removes
    /// one after the other, and waits for each. Where many are at it already the answer comes last, and so waits whoever
    /// removes so fast.
    pub(crate) async fn removing(
        &self,
        work: impl FnOnce(&Self) -> Result<Remains<'_>, Status> + Send + 'static,
    ) -> Result<(), Status> {
        self.answering(|service, answer| {
            let remains = match work(service) {
                Ok(remains) => remains,
                Err(status) => return drop(answer.send(Err(status))),
            };
            match service.0.deletions.try_acquire() {
                Ok(_permit) => {
                    drop(answer.send(Ok(())));
                    remains.delete();
                }
                Err(_) => {
                    remains.delete();
                    drop(answer.send(Ok(())));
                }
            }
        })
        .await
    }

    /// Runs work that sends its answer itself, and may go on after that. Nobody may be there to hear it.
    async fn answering<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, oneshot::Sender<Result<T, Status>>) + Send + 'static,
    ) -> Result<T, Status> {
        let (service, span) = (self.clone(), tracing::Span::current());
        let (answer, answered) = oneshot::channel();
        tokio::task::spawn_blocking(move || span.in_scope(|| work(&service, answer)));
        answered.await.unwrap_or_else(|_| Err(ended_early()))
    }
}

fn ended_early() -> Status {
    Status::internal("the call ended early")
}
