//! How many descriptors the server may hold open at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::process::Resource;

/// Descriptors that are left, of all connections together.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

/// A descriptor's place in the budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<Budget>);

impl Budget {
    pub(super) fn new(descriptors: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(descriptors)))
    }

    /// Three quarters of what this process may open: guests must not leave its owner without any.
    pub(super) fn of_process() -> usize {
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
        usize::try_from(limit / 4 * 3).unwrap_or(usize::MAX)
    }

    /// `ENFILE` if there is none left.
    pub(super) fn take(budget: &Arc<Self>) -> Result<Slot, Errno> {
        budget
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .map(|_| Slot(budget.clone()))
            .map_err(|_| Errno::NFILE)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}
