//! Signals on their way from our caller to the container.

use std::os::fd::AsFd as _;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::{Handle, Signals};

use super::runtime::Runtime;

/// The container that signals go to.
struct Target {
    runtime: Runtime,
    name: String,
    /// The runtime's process, which passes signals on to the container's first process.
    process: Pid,
    stop_signal: String,
    stop_timeout: Duration,
    /// Whether somebody asked for an end already.
    stopping: bool,
}

#[derive(Default)]
struct State {
    target: Option<Target>,
    /// A signal to end that came while there was no container.
    interrupted: Option<i32>,
    finished: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    finished: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Catches signals from its making to its end. While a container runs they are passed on to it; before and after
/// that, those that ask for an end are only noted, so that what was set up is also taken down.
pub(super) struct Forwarder {
    shared: Arc<Shared>,
    handle: Handle,
}

impl Forwarder {
    pub(super) fn new() -> Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])
            .context("cannot catch signals")?;
        let handle = signals.handle();
        let shared = Arc::new(Shared::default());
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

    /// The signal that asked for an end while no container was there to get it.
    pub(super) fn interrupted(&self) -> Option<i32> {
        self.shared.lock().interrupted
    }

    /// Waits for the runtime to end, passing signals on meanwhile.
    pub(super) fn wait(
        &self,
        mut child: Child,
        runtime: &Runtime,
        name: &str,
        stop_signal: &str,
        stop_timeout: Duration,
    ) -> Result<ExitStatus> {
        let process = Pid::from_child(&child);
        self.shared.lock().target = Some(Target {
            runtime: runtime.clone(),
            name: name.to_owned(),
            process,
            stop_signal: stop_signal.to_owned(),
            stop_timeout,
            stopping: false,
        });
        // Without reaping, so that the number stays ours until nobody can signal it any more.
        let waited = loop {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            match rustix::process::waitid(WaitId::Pid(process), options) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        let mut state = self.shared.lock();
        state.target = None;
        state.finished = true;
        drop(state);
        self.shared.finished.notify_all();
        waited.context("cannot wait for the runtime")?;
        child.wait().context("cannot wait for the runtime")
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.handle.close();
    }
}

fn forward(shared: &Arc<Shared>, signal: i32) {
    let mut state = shared.lock();
    let Some(target) = &mut state.target else {
        if ![SIGUSR1, SIGUSR2].contains(&signal) {
            state.interrupted = Some(signal);
        }
        return;
    };
    let ends = [SIGTERM, SIGINT].contains(&signal);
    if ends && target.stopping {
        // Asked twice: no more patience.
        let _ = target.runtime.kill(&target.name, "KILL");
        return;
    }
    if signal == SIGTERM {
        target.stopping = true;
        kill_later(Arc::clone(shared), target.stop_timeout);
        if target.runtime.kill(&target.name, &target.stop_signal).is_ok() {
            return;
        }
        // The container is not there yet or no more: the runtime decides.
    }
    target.stopping |= ends;
    if let Some(signal) = Signal::from_named_raw(signal) {
        let _ = rustix::process::kill_process(target.process, signal);
    }
}

fn kill_later(shared: Arc<Shared>, patience: Duration) {
    let watch = move || {
        let state = shared.lock();
        let (state, _) = shared
            .finished
            .wait_timeout_while(state, patience, |state| !state.finished)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = &state.target {
            let _ = target.runtime.kill(&target.name, "KILL");
        }
    };
    // Without the thread the container is still killed when asked a second time.
    let _ = std::thread::Builder::new().name("stop timeout".to_owned()).spawn(watch);
}

/// Whether `--tty` can work: runtimes put the terminal that they inherit into raw mode.
pub(super) fn has_terminal() -> bool {
    [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()]
        .into_iter()
        .any(rustix::termios::isatty)
}
