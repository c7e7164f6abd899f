//! Where things are by default on Linux.

pub(super) const ROOT: &str = "/var/lib/plywood";
pub(super) const RUN: &str = "/run/plywood";
