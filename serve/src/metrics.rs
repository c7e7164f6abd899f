//! What is counted.

/// The daemon's counters.
#[derive(Debug, Default)]
pub(crate) struct Metrics {}
