//! `containerd.services.diff.v1`: layers straight from the content store into layer images, and differences of images
//! and scratch straight into the content store. Nothing is unpacked and nothing mounted for it.
//!
//! Mounts that are not this daemon's, media types that are no layers, encrypted layers and snapshots that were
//! written to already are `Unimplemented`: that makes containerd ask its next differ.

mod apply;
mod compare;
mod located;

use std::collections::BTreeMap;
use std::sync::Arc;

use layer::{Cancel, Digest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::Span;

use crate::api::diff::diff_server::{Diff, DiffServer};
use crate::api::diff::{ApplyRequest, ApplyResponse, DiffRequest, DiffResponse};
use crate::api::{MESSAGE_LIMIT, types};
use crate::content::Connection;
use crate::service::Service;

/// Label of a blob: digest of what is in it.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// The differ's service, to be added to a server.
pub(crate) fn server(service: Service) -> DiffServer<Differ> {
    let permits = service.config().differ_concurrency.max(1);
    let differ = Differ(Arc::new(Shared {
        service,
        connection: Connection::default(),
        permits: Arc::new(Semaphore::new(permits)),
    }));
    DiffServer::new(differ)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

/// Answers Apply and Diff.
#[derive(Debug, Clone)]
pub(crate) struct Differ(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    service: Service,
    connection: Connection,
    /// Every conversion has its threads and buffers: the others wait.
    permits: Arc<Semaphore>,
}

/// One call's work, on a thread for that.
struct Job {
    differ: Arc<Shared>,
    metadata: MetadataMap,
    stop: Stop,
    /// Of the call, for the log.
    span: Span,
    _permit: OwnedSemaphorePermit,
}

impl Job {
    /// The call's line in the log names the snapshot.
    fn says_key(&self, key: &[u8]) {
        self.span.record("key", crate::text::key(key));
    }
}

/// What ends a job whose caller has gone away: a flag for the layer library and a token for streams.
#[derive(Debug, Clone, Default)]
struct Stop {
    cancel: Cancel,
    token: CancellationToken,
}

/// Stops the job when it is dropped, as the call's future is when the client goes away.
struct StopOnDrop {
    cancel: Cancel,
    _token: DropGuard,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Stop {
    fn on_drop(&self) -> StopOnDrop {
        StopOnDrop { cancel: self.cancel.clone(), _token: self.token.clone().drop_guard() }
    }
}

impl Differ {
    /// Runs a job when its turn has come.
    async fn run<T: Send + 'static>(
        &self,
        metadata: MetadataMap,
        work: impl FnOnce(Job) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let permits = Arc::clone(&self.0.permits);
        let closed = |_| Status::unavailable("the daemon stops");
        let permit = permits.acquire_owned().await.map_err(closed)?;
        let stop = Stop::default();
        let _stop_on_drop = stop.on_drop();
        let (differ, span) = (Arc::clone(&self.0), Span::current());
        let job = Job { differ, metadata, stop, span, _permit: permit };
        self.0.service.blocking(move |_| work(job)).await
    }
}

#[tonic::async_trait]
impl Diff for Differ {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let wanted = apply::Wanted::of(request)?;
        let applied = self.run(metadata, move |job| apply::apply(&job, &wanted)).await?;
        Ok(Response::new(ApplyResponse { applied: Some(applied) }))
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let wanted = compare::Wanted::of(request)?;
        let diff = self.run(metadata, move |job| compare::compare(&job, wanted)).await?;
        Ok(Response::new(DiffResponse { diff: Some(diff) }))
    }
}

/// The status of a failure of the layer library: that of the stream behind it, where there is one.
fn of_layer(error: &layer::Error) -> Status {
    crate::content::status_behind(error).unwrap_or_else(|| crate::status::of_layer(error))
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Result<types::Descriptor, Status> {
    let size = i64::try_from(size).map_err(|_| Status::out_of_range("over 2^63 bytes"))?;
    Ok(types::Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.to_string(),
        size,
        annotations: BTreeMap::new(),
    })
}
