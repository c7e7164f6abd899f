//! Where things are on Linux.

use std::path::{Path, PathBuf};

pub(super) const FILE: &str = "/etc/plywood/config.toml";
pub(super) const ROOT: &str = "/var/lib/plywood";
pub(super) const RUN: &str = "/run/plywood";
pub(super) const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// The socket, in the run directory.
pub(super) fn address(run: &Path) -> PathBuf {
    run.join("plywood.sock")
}
