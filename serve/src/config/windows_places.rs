//! Where things are on Windows.

use std::path::{Path, PathBuf};

pub(super) const FILE: &str = r"C:\ProgramData\Plywood\config.toml";
pub(super) const ROOT: &str = r"C:\ProgramData\Plywood\root";
pub(super) const RUN: &str = r"C:\ProgramData\Plywood\run";
pub(super) const CONTAINERD: &str = r"\\.\pipe\containerd-containerd";

/// The pipe, which has a name space of its own.
pub(super) fn address(_run: &Path) -> PathBuf {
    r"\\.\pipe\plywood-containerd".into()
}
