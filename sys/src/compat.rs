//! Kernel fallbacks of this crate, each with the kernel that removes it.

/// Settings of a loop device's direct I/O to try in order: since Linux 6.15 the driver refuses it with EINVAL
/// for files whose file system has none (tmpfs), where it quietly went without before. Stays until every file
/// system has direct I/O.
pub(crate) fn loop_direct_io(wanted: bool) -> &'static [bool] {
    if wanted { &[true, false] } else { &[false] }
}
