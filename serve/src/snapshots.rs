//! `containerd.services.snapshots.v1`: the store's snapshots of containerd's, with mounts over volumes that the daemon
//! holds.
//!
//! Every call is checked before it changes anything; the store repeats its own checks inside the transaction. A
//! snapshot that was made holds its volumes from then on, under its own name, until it is removed or committed.

#[cfg(target_os = "linux")]
mod holding;
#[cfg(windows)]
#[path = "snapshots/no_holding.rs"]
mod holding;
mod host_mounts;
mod wire;

use std::pin::Pin;

use layer::Cancel;
use store::{CommitOptions, Kind, Origin, Remains, Scope, Snapshot};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use tracing::Span;

use crate::api::snapshots as api;
use crate::api::snapshots::snapshots_server::{Snapshots as Interface, SnapshotsServer};
use crate::api::{MESSAGE_LIMIT, types};
use crate::metrics::LayerWork;
use crate::service::Service;
use crate::{status, text};

#[cfg(target_os = "linux")]
pub use holding::key_of;
#[cfg(target_os = "linux")]
pub(crate) use holding::trim;

/// The service for the daemon's socket.
pub(crate) fn server(service: Service) -> SnapshotsServer<Snapshots> {
    SnapshotsServer::new(Snapshots { service })
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

/// The snapshots service.
#[derive(Debug)]
pub(crate) struct Snapshots {
    service: Service,
}

/// What containerd sees: nothing that was made by hand, because its collector removes what it does not know.
fn scope(service: &Service) -> Scope<'_> {
    service.store().scope(Origin::Containerd)
}

/// Raises the flag when the call that waits for the work is gone.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Snapshots {
    /// Runs brief `work` for the snapshot `key`, whose name goes into the log.
    async fn call<T: Send + 'static>(
        &self,
        key: &[u8],
        work: impl FnOnce(&Service) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        Span::current().record("key", text::key(key));
        self.service.brief(work).await
    }

    async fn make(
        &self,
        kind: Kind,
        key: Vec<u8>,
        parent: Vec<u8>,
        labels: store::Labels,
    ) -> Result<Vec<types::Mount>, Status> {
        self.call(&key.clone(), move |service| {
            let scope = scope(service);
            let parent = Some(parent.as_slice());
            // Looked at first: a label that means nothing makes no snapshot.
            let mapping = holding::mapping(&labels)?;
            let made = match kind {
                Kind::View => scope.view(&key, parent, labels),
                _ => {
                    let scratch = holding::scratch(service, &key, &labels, &service.config())?;
                    scope.prepare(&key, parent, labels, scratch)
                }
            };
            let made = made.map_err(|error| status::of_store(&error))?;
            holding::first_mounts(service, &made, mapping.as_ref())
                .inspect_err(|_| undo(service, &made))
        })
        .await
    }
}

/// Removes a snapshot that was made but whose mounts cannot be.
fn undo(service: &Service, made: &Snapshot) {
    holding::release(service, made);
    if let Err(error) = scope(service).remove(&made.key) {
        tracing::warn!("cannot undo snapshot {}: {}", text::key(&made.key), status::line(&error));
    }
}

/// Removes a snapshot but for its files.
fn unlink<'s>(service: &'s Service, key: &[u8]) -> Result<Remains<'s>, Status> {
    let scope = scope(service);
    let snapshot = scope.stat(key).map_err(|error| status::of_store(&error))?;
    let users = holding::users(service, &snapshot);
    if !users.is_empty() {
        let message =
            format!("cannot remove snapshot {}: in use by {}", text::key(key), users.join(", "));
        return Err(Status::failed_precondition(message));
    }
    if snapshot.kind != Kind::Committed {
        match holding::give_back(service, &snapshot) {
            Err(error) if error.kind() == mount::ErrorKind::Busy => {
                let message = format!("cannot remove snapshot {}: {error}", text::key(key));
                return Err(Status::failed_precondition(message));
            }
            Err(error) => {
                let error = status::line(&error);
                tracing::warn!("cannot release the volumes of {}: {error}", text::key(key));
            }
            Ok(()) => {}
        }
    }
    scope.unlink(key).map_err(|error| status::of_removal(key, &error))
}

fn commit(
    service: &Service,
    name: &[u8],
    key: &[u8],
    options: &mut CommitOptions,
) -> Result<(), Status> {
    let scope = scope(service);
    let active = scope.stat(key).map_err(|error| status::of_store(&error))?;
    // Only for a commit that can succeed: mounting is no check.
    if active.kind == Kind::Active && !name.is_empty() && scope.stat(name).is_err() {
        options.upper = holding::upper_of_image(service, &active)?;
    }
    let committed = scope.commit(name, key, options).map_err(|error| status::of_store(&error))?;
    if committed.layers.len() > active.layers.len() {
        service.metrics().layer_done(LayerWork::Commit, committed.usage.size);
    }
    holding::release(service, &active);
    Ok(())
}

/// Deletes what nothing needs: layers of removed snapshots, and leftovers.
fn cleanup(service: &Service) -> Result<Remains<'_>, Status> {
    // Only for layers that go. The others' volumes may be the next container's, which would read its programs from the
    // disk again; containerd asks for a clean-up after every few containers.
    if service.store().has_unneeded_layers().map_err(|error| status::of_store(&error))? {
        holding::trim(service)?;
    }
    let mounted = holding::mounted(service)?;
    let (collected, remains) = service
        .store()
        .unlink_unneeded(&|layer| mounted.contains(layer.as_str()))
        .map_err(|error| status::of_store(&error))?;
    service.metrics().collected(&collected);
    if !collected.layers.is_empty() || !collected.swept.is_empty() {
        tracing::info!(
            layers = collected.layers.len(),
            bytes = collected.bytes,
            kept = collected.kept.len(),
            removed = collected.swept.removed.len(),
            "cleaned up"
        );
    }
    Ok(remains)
}

/// Most infos in one message of a list.
const BATCH: usize = 100;

/// Bytes after which a message of a list is complete: many clients take no more than four times that.
const BATCH_BYTES: usize = 1 << 20;

#[tonic::async_trait]
impl Interface for Snapshots {
    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Result<Response<api::PrepareSnapshotResponse>, Status> {
        let request = request.into_inner();
        let mounts = self.make(Kind::Active, request.key, request.parent, request.labels).await?;
        Ok(Response::new(api::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<api::ViewSnapshotRequest>,
    ) -> Result<Response<api::ViewSnapshotResponse>, Status> {
        let request = request.into_inner();
        let mounts = self.make(Kind::View, request.key, request.parent, request.labels).await?;
        Ok(Response::new(api::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<api::MountsRequest>,
    ) -> Result<Response<api::MountsResponse>, Status> {
        let key = request.into_inner().key;
        let mounts = self.call(&key.clone(), move |service| holding::mounts(service, &key)).await?;
        Ok(Response::new(api::MountsResponse { mounts }))
    }

    async fn commit(
        &self,
        request: Request<api::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let api::CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
        let parent = Some(parent).filter(|parent| !parent.is_empty());
        let mut options = CommitOptions { labels, parent, ..CommitOptions::default() };
        // Converting a big scratch for nobody would only delay the retry.
        let _cancel = CancelOnDrop(options.cancel.clone());
        Span::current().record("key", text::key(&key));
        self.service.blocking(move |service| commit(service, &name, &key, &mut options)).await?;
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<api::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        Span::current().record("key", text::key(&key));
        self.service.removing(move |service| unlink(service, &key)).await?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<api::StatSnapshotRequest>,
    ) -> Result<Response<api::StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let snapshot = self
            .call(&key.clone(), move |service| {
                scope(service).stat(&key).map_err(|error| status::of_store(&error))
            })
            .await?;
        Ok(Response::new(api::StatSnapshotResponse { info: Some(wire::info(snapshot)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Result<Response<api::UpdateSnapshotResponse>, Status> {
        let api::UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let info = info.ok_or_else(|| Status::invalid_argument("an update needs an info"))?;
        let mask = update_mask.map(|mask| mask.paths).unwrap_or_default();
        let snapshot = self
            .call(&info.name.clone(), move |service| {
                let mask: Vec<&str> = mask.iter().map(String::as_str).collect();
                let updated = scope(service).update(&info.name, info.labels, &mask);
                updated.map_err(|error| status::of_store(&error))
            })
            .await?;
        Ok(Response::new(api::UpdateSnapshotResponse { info: Some(wire::info(snapshot)) }))
    }

    type ListStream =
        Pin<Box<dyn Stream<Item = Result<api::ListSnapshotsResponse, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        let snapshots = self
            .service
            .blocking(move |service| {
                let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
                scope(service).list(&filters).map_err(|error| status::of_store(&error))
            })
            .await?;
        Ok(Response::new(Box::pin(tokio_stream::iter(Batches {
            snapshots: snapshots.into_iter(),
        }))))
    }

    async fn usage(
        &self,
        request: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        let key = request.into_inner().key;
        Span::current().record("key", text::key(&key));
        let usage = self
            .service
            .blocking(move |service| {
                scope(service).usage(&key).map_err(|error| status::of_store(&error))
            })
            .await?;
        let number = |value| i64::try_from(value).unwrap_or(i64::MAX);
        let (size, inodes) = (number(usage.size), number(usage.inodes));
        Ok(Response::new(api::UsageResponse { size, inodes }))
    }

    async fn cleanup(
        &self,
        _request: Request<api::CleanupRequest>,
    ) -> Result<Response<()>, Status> {
        self.service.removing(cleanup).await?;
        Ok(Response::new(()))
    }
}

/// Messages of a list, made as they are asked for.
struct Batches {
    snapshots: std::vec::IntoIter<Snapshot>,
}

impl Iterator for Batches {
    type Item = Result<api::ListSnapshotsResponse, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut info = Vec::new();
        let mut bytes = 0;
        while info.len() < BATCH && bytes < BATCH_BYTES {
            let Some(next) = self.snapshots.next().map(wire::info) else { break };
            bytes += prost::Message::encoded_len(&next);
            info.push(next);
        }
        (!info.is_empty()).then(|| Ok(api::ListSnapshotsResponse { info }))
    }
}
