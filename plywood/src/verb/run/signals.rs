//! Signals on their way from our caller to the container.

use std::os::fd::AsFd as _;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bridge::Cancel;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};

use super::runtime::Runtime;

/// A container that signals go to.
pub(super) trait Recipient: Send + 'static {
    /// Passes a signal on.
    fn pass(&self, signal: i32);

    /// Asks it to end, in the way that its image wants.
    fn stop(&self);

    /// Ends it.
    fn kill(&self);

    /// How long it may take to end when asked.
    fn patience(&self) -> Duration;
}

struct State<R> {
    recipient: Option<R>,
    /// Whether somebody asked for an end already.
    stopping: bool,
    /// A signal to end that came while there was no container.
    interrupted: Option<i32>,
    finished: bool,
}

struct Shared<R> {
    state: Mutex<State<R>>,
    changed: Condvar,
    cancel: Cancel,
}

impl<R> Shared<R> {
    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Catches signals from its making to its end. While a container runs they are passed on to it; before and after
/// that, those that ask for an end are only noted, so that what was set up is also taken down.
pub(super) struct Forwarder<R: Recipient> {
    shared: Arc<Shared<R>>,
    handle: Handle,
}

impl<R: Recipient> Forwarder<R> {
    /// Begins to catch the usual signals, and `more`.
    pub(super) fn new(more: &[i32]) -> Result<Self> {
        let usual = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];
        let mut signals = Signals::new(usual.iter().chain(more)).context("cannot catch signals")?;
        let handle = signals.handle();
        let state = State { recipient: None, stopping: false, interrupted: None, finished: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            cancel: Cancel::default(),
        });
        let forwarding = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for signal in signals.forever() {
                    forward(&forwarding, signal);
                }
            })
            .context("cannot start a thread for signals")?;
        Ok(Self { shared, handle })
    }

    /// Raised by a signal to end that comes while no container runs.
    pub(super) fn cancel(&self) -> &Cancel {
        &self.shared.cancel
    }

    /// The signal that asked for an end while no container was there to get it.
    pub(super) fn interrupted(&self) -> Option<i32> {
        self.shared.lock().interrupted
    }

    /// Waits until something is to end, or `time` has passed.
    pub(super) fn wait_for_end(&self, time: Duration) -> bool {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, time, |state| state.interrupted.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.interrupted.is_some()
    }

    /// From now on signals go to a container, to which a signal that came before is passed on.
    pub(super) fn pass_to(&self, recipient: R) {
        let mut state = self.shared.lock();
        state.recipient = Some(recipient);
        let before = state.interrupted;
        drop(state);
        if let Some(signal) = before {
            forward(&self.shared, signal);
        }
    }

    /// The container has ended.
    pub(super) fn finish(&self) {
        let mut state = self.shared.lock();
        state.recipient = None;
        state.finished = true;
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl<R: Recipient> Drop for Forwarder<R> {
    fn drop(&mut self) {
        self.handle.close();
    }
}

fn forward<R: Recipient>(shared: &Arc<Shared<R>>, signal: i32) {
    let mut state = shared.lock();
    let ends = [SIGTERM, SIGINT].contains(&signal);
    let again = state.stopping;
    let Some(recipient) = &state.recipient else {
        if ![SIGUSR1, SIGUSR2, SIGWINCH].contains(&signal) {
            state.interrupted = Some(signal);
            shared.cancel.cancel();
            shared.changed.notify_all();
        }
        return;
    };
    if ends && again {
        // Asked twice: no more patience.
        recipient.kill();
    } else if signal == SIGTERM {
        kill_later(Arc::clone(shared), recipient.patience());
        recipient.stop();
    } else {
        recipient.pass(signal);
    }
    state.stopping |= ends;
}

fn kill_later<R: Recipient>(shared: Arc<Shared<R>>, patience: Duration) {
    let watch = move || {
        let state = shared.lock();
        let (state, _) = shared
            .changed
            .wait_timeout_while(state, patience, |state| !state.finished)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(recipient) = &state.recipient {
            recipient.kill();
        }
    };
    // Without the thread the container is still killed when asked a second time.
    let _ = std::thread::Builder::new().name("stop timeout".to_owned()).spawn(watch);
}

/// A container of a runtime on this host.
pub(super) struct OfRuntime {
    runtime: Runtime,
    name: String,
    /// The runtime's process, which passes signals on to the container's first process.
    process: Pid,
    stop_signal: String,
    patience: Duration,
}

impl OfRuntime {
    pub(super) fn new(
        runtime: &Runtime,
        process: &Child,
        name: &str,
        stop_signal: &str,
        patience: Duration,
    ) -> Self {
        Self {
            runtime: runtime.clone(),
            name: name.to_owned(),
            process: Pid::from_child(process),
            stop_signal: stop_signal.to_owned(),
            patience,
        }
    }
}

impl Recipient for OfRuntime {
    fn pass(&self, signal: i32) {
        if let Some(signal) = Signal::from_named_raw(signal) {
            let _ = rustix::process::kill_process(self.process, signal);
        }
    }

    fn stop(&self) {
        if self.runtime.kill(&self.name, &self.stop_signal).is_err() {
            // The container is not there yet or no more: the runtime decides.
            self.pass(SIGTERM);
        }
    }

    fn kill(&self) {
        let _ = self.runtime.kill(&self.name, "KILL");
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

impl Forwarder<OfRuntime> {
    /// Waits for the runtime to end, passing signals on meanwhile.
    pub(super) fn wait(&self, mut child: Child, container: OfRuntime) -> Result<ExitStatus> {
        self.pass_to(container);
        // Without reaping, so that the number stays ours until nobody can signal it any more.
        let waited = loop {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            match rustix::process::waitid(WaitId::Pid(Pid::from_child(&child)), options) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        self.finish();
        waited.context("cannot wait for the runtime")?;
        child.wait().context("cannot wait for the runtime")
    }
}

/// Whether `--tty` can work: runtimes put the terminal that they inherit into raw mode.
pub(super) fn has_terminal() -> bool {
    [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()]
        .into_iter()
        .any(rustix::termios::isatty)
}
