//! What every call works with.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use mount::Registry;
use store::{Remains, Store};
use tokio::sync::{Semaphore, oneshot};
use tonic::Status;

use crate::config::Config;
use crate::metrics::Metrics;

/// Answered calls that still delete files.
const DELETIONS: usize = 4;

/// The daemon's state, shared by all calls; a clone is another handle to the same.
#[derive(Debug, Clone)]
pub(crate) struct Service(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    registry: Registry,
    config: RwLock<Arc<Config>>,
    metrics: Metrics,
    idle_volumes: AtomicBool,
    deletions: Semaphore,
}

impl Service {
    pub(crate) fn new(store: Store, registry: Registry, config: Config) -> Self {
        let config = RwLock::new(Arc::new(config));
        Self(Arc::new(Shared {
            store,
            registry,
            config,
            metrics: Metrics::default(),
            idle_volumes: AtomicBool::new(true),
            deletions: Semaphore::new(DELETIONS),
        }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
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

    /// Sends the answer and then deletes what is left of what was removed: containerd's collector removes one after the
    /// other, and waits for each. Where many are at it already the answer comes last, and so waits whoever removes so fast.
    pub(crate) fn answer_and_delete(
        &self,
        result: Result<Remains<'_>, Status>,
        answer: oneshot::Sender<Result<(), Status>>,
    ) {
        // Nobody may be there to hear it.
        let tell = |result| drop(answer.send(result));
        let remains = match result {
            Ok(remains) => remains,
            Err(status) => return tell(Err(status)),
        };
        match self.0.deletions.try_acquire() {
            Ok(_permit) => {
                tell(Ok(()));
                remains.delete();
            }
            Err(_) => {
                remains.delete();
                tell(Ok(()));
            }
        }
    }

    /// Runs library code, which blocks, away from the threads that serve connections. It runs to its end even if the
    /// caller goes away meanwhile; what should stop then watches a cancel flag.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        // Nobody may be there to hear it.
        self.answering(move |service, answer| drop(answer.send(work(service)))).await
    }

    /// As [`Self::blocking`], for work that goes on after it has sent its answer.
    pub(crate) async fn answering<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, oneshot::Sender<Result<T, Status>>) + Send + 'static,
    ) -> Result<T, Status> {
        let (service, span) = (self.clone(), tracing::Span::current());
        let (answer, answered) = oneshot::channel();
        tokio::task::spawn_blocking(move || span.in_scope(|| work(&service, answer)));
        answered.await.unwrap_or_else(|_| Err(Status::internal("the call ended early")))
    }
}
