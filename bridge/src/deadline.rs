//! How long a call may take, and how it is given up before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{Error, ErrorKind, Result};

/// How often a waiting call looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// A flag that ends the calls that were given it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The flag of another crate's kind, shared.
    pub fn shared(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// Sets it; there is no way back.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// When a call is given up: at an instant, when a [`Cancel`] is set, or both.
#[derive(Debug, Clone, Default)]
pub struct Deadline {
    until: Option<Instant>,
    cancel: Option<Cancel>,
}

impl Deadline {
    /// `after` from now. A time beyond what the clock can hold is no limit.
    pub fn after(after: Duration) -> Self {
        Self { until: Instant::now().checked_add(after), cancel: None }
    }

    /// Never: for waiting until a process ends. The end of the connection still ends the call.
    pub fn never() -> Self {
        Self::default()
    }

    /// The same, and when `cancel` is set.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// What is left; `None` without a limit.
    pub fn remaining(&self) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// How long to sleep before looking again; an error when it is over.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] or [`ErrorKind::TimedOut`], with `doing` in the message.
    pub fn slice(&self, doing: &str) -> Result<Duration> {
        if self.cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            return Err(Error::new(ErrorKind::Cancelled, format!("{doing}: cancelled")));
        }
        let remaining = self.remaining();
        if remaining == Some(Duration::ZERO) {
            return Err(Error::new(ErrorKind::TimedOut, format!("{doing}: no answer in time")));
        }
        let longest = match self.cancel {
            Some(_) => LOOK,
            None => Duration::from_secs(3600),
        };
        Ok(remaining.map_or(longest, |remaining| remaining.min(longest)))
    }
}
