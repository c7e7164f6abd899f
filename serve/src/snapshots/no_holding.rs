//! Windows hosts, where the daemon mounts nothing: the calls of `holding.rs` that find nothing to hold or to give back.

use std::collections::HashSet;
use std::convert::Infallible;
use std::path::PathBuf;

use store::{Labels, Scratch, Snapshot};
use tonic::Status;

use super::host_mounts::host_mounts;
use crate::api::types;
use crate::config::Config;
use crate::service::Service;

/// Owners are Windows' own, and cannot be mapped: labels that ask for it mean nothing.
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(super) fn mapping(_labels: &Labels) -> Result<Option<Infallible>, Status> {
    Ok(None)
}

/// The store reads the labels, for its disks.
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(super) fn scratch(
    _service: &Service,
    _key: &[u8],
    _labels: &Labels,
    config: &Config,
) -> Result<Scratch, Status> {
    Ok(config.scratch_size.map_or(Scratch::Directory, |size| Scratch::Image { size }))
}

/// The mounts of a snapshot that was just made.
pub(super) fn first_mounts(
    service: &Service,
    made: &Snapshot,
    _mapping: Option<&Infallible>,
) -> Result<Vec<types::Mount>, Status> {
    host_mounts(service, &made.key)
}

/// The mounts of an active snapshot or view.
pub(super) fn mounts(service: &Service, key: &[u8]) -> Result<Vec<types::Mount>, Status> {
    host_mounts(service, key)
}

/// The store asks Windows itself whether a snapshot is in use.
pub(super) fn users(_service: &Service, _snapshot: &Snapshot) -> Vec<String> {
    Vec::new()
}

/// A CIM that is mounted cannot be renamed, which the store finds out.
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(super) fn mounted(_service: &Service) -> Result<HashSet<String>, Status> {
    Ok(HashSet::new())
}

#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(super) fn give_back(_service: &Service, _snapshot: &Snapshot) -> mount::Result<()> {
    Ok(())
}

pub(super) fn release(_service: &Service, _snapshot: &Snapshot) {}

#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(super) fn trim(_service: &Service) -> Result<(), Status> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(super) fn upper_of_image(
    _service: &Service,
    _active: &Snapshot,
) -> Result<Option<PathBuf>, Status> {
    Ok(None)
}
