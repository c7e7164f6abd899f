//! The services of the daemon's socket or pipe.

use tonic::transport::server::Router;

use crate::calls::CallLayer;
use crate::control::ControlService;
use crate::service::Service;
use crate::{diff, mounts, snapshots};

/// Names that the health service knows: each service, and the daemon as a whole.
pub(crate) const HEALTHY: [&str; 4] = [
    "",
    "containerd.services.diff.v1.Diff",
    "containerd.services.mounts.v1.Mounts",
    "containerd.services.snapshots.v1.Snapshots",
];

/// All services of the socket.
pub(crate) async fn router(
    service: &Service,
) -> (
    tonic_health::server::HealthReporter,
    Router<tower::layer::util::Stack<CallLayer, tower::layer::util::Identity>>,
) {
    let (health, health_server) = tonic_health::server::health_reporter();
    for name in HEALTHY {
        health.set_service_status(name, tonic_health::ServingStatus::Serving).await;
    }
    let router = tonic::transport::Server::builder()
        // Requests are small, except where the command line streams an image.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_concurrent_streams(1024)
        .layer(CallLayer { service: service.clone() })
        .add_service(health_server)
        .add_service(diff::server(service.clone()))
        .add_service(mounts::server(service.clone()))
        .add_service(snapshots::server(service.clone()))
        .add_service(ControlService::server(service.clone()));
    (health, router)
}
