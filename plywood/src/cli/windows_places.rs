//! Where things are by default on Windows.

pub(super) const ROOT: &str = r"C:\ProgramData\Plywood\root";
pub(super) const RUN: &str = r"C:\ProgramData\Plywood\run";
