//! Ctrl-C during long work: the first stops and cleans up, the second ends at once.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use layer::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// The signal that cancelled this process's work; 0 if none did.
static SIGNAL: std::sync::LazyLock<Arc<AtomicUsize>> = std::sync::LazyLock::new(Arc::default);

/// A flag that INT, TERM and HUP raise. Once it is raised they have their usual effect again.
pub(crate) fn cancel_on_signal() -> Result<Cancel> {
    let cancel = Cancel::new();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order, so that the first signal finds the flag not yet raised.
        flag::register_conditional_default(signal, cancel.flag())
            .and_then(|_| {
                flag::register_usize(
                    signal,
                    Arc::clone(&SIGNAL),
                    usize::try_from(signal).unwrap_or(0),
                )
            })
            .and_then(|_| flag::register(signal, cancel.flag()))
            .context("cannot catch signals")?;
    }
    Ok(cancel)
}

/// Ends this process by the signal that cancelled its work, so that who started it sees that; returns if none did.
pub(crate) fn end_if_cancelled() {
    if let Ok(signal @ 1..) = i32::try_from(SIGNAL.load(Ordering::Relaxed)) {
        end_by(signal);
    }
}

/// Ends this process by `signal`.
pub(crate) fn end_by(signal: i32) -> ! {
    let _ = signal_hook::low_level::emulate_default_handler(signal);
    std::process::exit(1)
}

/// Standard input, of which a read ends when the work is cancelled: a pipe whose other end says nothing would hold
/// a plain read for ever.
pub(crate) struct StandardInput {
    cancel: Cancel,
}

impl StandardInput {
    pub(crate) fn new(cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone() }
    }
}

impl Read for StandardInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let input = rustix::stdio::stdin();
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            match poll(&mut [PollFd::from_borrowed_fd(input, PollFlags::IN)], Some(&PATIENCE)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return rustix::io::read(input, buffer).map_err(io::Error::from),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
