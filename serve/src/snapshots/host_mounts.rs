//! The mounts of snapshots on Windows hosts. Nothing is held for them: they are mounted by who asks, for a container.

use tonic::Status;

use super::{scope, wire};
use crate::api::types;
use crate::service::Service;
use crate::status;

/// The mounts of an active snapshot or view.
pub(super) fn host_mounts(service: &Service, key: &[u8]) -> Result<Vec<types::Mount>, Status> {
    let chain = scope(service).windows_chain(key).map_err(|error| status::of_store(&error))?;
    let mounts = mount::describe_windows(&chain).map_err(|error| status::of_mount(&error))?;
    Ok(mounts.into_iter().map(wire::mount).collect())
}
