//! Signals on their way from our caller to a container in a virtual machine.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bridge::Cancel;
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::{Handle, Signals};

use crate::vm::RawTerminal;
use crate::vm::protocol::{self, Tell};

/// The container that signals go to.
struct Target {
    teller: UnixStream,
    stop_signal: i32,
    stop_timeout: Duration,
    tty: bool,
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
    changed: Condvar,
    cancel: Cancel,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Catches signals from its making to its end. Before a container runs they give up what is under way.
pub(super) struct VmSignals {
    shared: Arc<Shared>,
    handle: Handle,
}

impl VmSignals {
    pub(super) fn new() -> Result<Self> {
        let caught = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH];
        let mut signals = Signals::new(caught).context("cannot catch signals")?;
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

    /// Raised by a signal to end that comes while no container runs.
    pub(super) fn cancel(&self) -> &Cancel {
        &self.shared.cancel
    }

    pub(super) fn interrupted(&self) -> Option<i32> {
        self.shared.lock().interrupted
    }

    /// From now on signals go to a container, to which a signal that came before is passed on.
    pub(super) fn pass_to(
        &self,
        teller: UnixStream,
        stop_signal: i32,
        stop_timeout: Duration,
        tty: bool,
    ) {
        let mut state = self.shared.lock();
        state.target = Some(Target { teller, stop_signal, stop_timeout, tty, stopping: false });
        let before = state.interrupted;
        drop(state);
        if let Some(signal) = before {
            forward(&self.shared, signal);
        }
    }

    /// The container has ended.
    pub(super) fn finish(&self) {
        let mut state = self.shared.lock();
        state.target = None;
        state.finished = true;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits until something is to end, or `time` has passed.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, time, |state| state.interrupted.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.interrupted.is_some()
    }
}

impl Drop for VmSignals {
    fn drop(&mut self) {
        self.handle.close();
    }
}

fn forward(shared: &Arc<Shared>, signal: i32) {
    let mut state = shared.lock();
    let Some(target) = &mut state.target else {
        if ![SIGUSR1, SIGUSR2, SIGWINCH].contains(&signal) {
            state.interrupted = Some(signal);
            shared.cancel.cancel();
            shared.changed.notify_all();
        }
        return;
    };
    if signal == SIGWINCH {
        if target.tty
            && let Some((rows, columns)) = RawTerminal::size()
        {
            tell(target, Tell::Size(rows, columns));
        }
        return;
    }
    let ends = [SIGTERM, SIGINT].contains(&signal);
    if ends && target.stopping {
        // Asked twice: no more patience.
        tell(target, Tell::Signal(SIGKILL));
        return;
    }
    target.stopping |= ends;
    if signal == SIGTERM {
        tell(target, Tell::Signal(target.stop_signal));
        kill_later(Arc::clone(shared), target.stop_timeout);
    } else {
        tell(target, Tell::Signal(signal));
    }
}

fn tell(target: &Target, what: Tell) {
    // If the owner is gone, so is the container.
    let _ = protocol::send(&target.teller, &what);
}

fn kill_later(shared: Arc<Shared>, patience: Duration) {
    let watch = move || {
        let state = shared.lock();
        let (state, _) = shared
            .changed
            .wait_timeout_while(state, patience, |state| !state.finished)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = &state.target {
            tell(target, Tell::Signal(SIGKILL));
        }
    };
    // Without the thread the container is still killed when asked a second time.
    let _ = std::thread::Builder::new().name("stop timeout".to_owned()).spawn(watch);
}

/// A signal's number, from its name with or without `SIG`, or from its number.
pub(super) fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // glibc's real-time signals: it keeps the first two for itself.
    let real_time = |rest: &str, base: i32, step: i32| match rest {
        "" => Some(base),
        rest => rest[1..].parse::<i32>().ok().map(|number| base + step * number),
    };
    if let Some(rest) =
        name.strip_prefix("RTMIN").filter(|rest| rest.is_empty() || rest.starts_with('+'))
    {
        return real_time(rest, 34, 1).filter(|number| (34..=64).contains(number));
    }
    if let Some(rest) =
        name.strip_prefix("RTMAX").filter(|rest| rest.is_empty() || rest.starts_with('-'))
    {
        return real_time(rest, 64, -1).filter(|number| (34..=64).contains(number));
    }
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let place = NAMES.iter().position(|known| *known == name)?;
    i32::try_from(place + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn signal_names() {
        for (text, signal) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGWINCH", Some(28)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMIN+99", None),
            ("0", None),
            ("65", None),
            ("", None),
            ("SIGRTMINx", None),
            ("NONSENSE", None),
        ] {
            assert_eq!(number(text), signal, "{text}");
        }
    }
}
