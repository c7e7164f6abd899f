//! The machine's two processes and the thread they live and die with.
//!
//! Linux ends a child when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG). So one thread starts both and does
//! nothing else but wait: when the owner's process ends, however, so do they.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::config::{Config, PROGRAMS_LOG, VHOST_SOCKET};
use crate::{Error, ErrorKind, Result};

/// How often the processes are looked at. The end of QEMU is noticed by its sockets at once; this is for the status.
const LOOK: Duration = Duration::from_millis(20);
/// Until the vsock device's process must have its socket.
const SOCKET_TIME: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct State {
    /// QEMU's exit status, once it has one.
    ended: Option<String>,
}

/// The processes. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<(Mutex<State>, Condvar)>,
    kill: Sender<()>,
    processes: [u32; 2],
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.kill();
        let _ = self.wait(Duration::from_secs(10));
    }
}

impl Keeper {
    pub(super) fn start(config: &Config) -> Result<Self> {
        let log = config.file(PROGRAMS_LOG);
        let (vsock, qemu) = (config.vsock_command(), config.qemu_command());
        let socket = config.file(VHOST_SOCKET);
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let (kill, killed) = channel();
        let (report, started) = channel();
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("vm-keeper".to_owned())
            .spawn(move || {
                let children = start_both(vsock, qemu, &log, &socket);
                match children {
                    Ok((vsock, qemu)) => {
                        let _ = report.send(Ok([vsock.id(), qemu.id()]));
                        let ended = keep(vsock, qemu, &killed);
                        lock(&theirs.0).ended = Some(ended);
                        theirs.1.notify_all();
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                    }
                }
            })
            .map_err(|error| Error::io("cannot start a thread", error))?;
        let processes = started.recv().map_err(|error| {
            Error::caused(ErrorKind::Io, "the keeper's thread has ended", error)
        })??;
        Ok(Self { shared, kill, processes })
    }

    /// The vsock device's process and QEMU's.
    pub(super) fn processes(&self) -> [u32; 2] {
        self.processes
    }

    pub(super) fn kill(&self) {
        // Nobody listens if it has ended.
        let _ = self.kill.send(());
    }

    /// Waits for QEMU's end; its status.
    pub(super) fn wait(&self, time: Duration) -> Option<String> {
        let until = Instant::now() + time;
        let mut state = lock(&self.shared.0);
        while state.ended.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.shared.1.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.ended.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start_both(vsock: Command, qemu: Command, log: &Path, socket: &Path) -> Result<(Child, Child)> {
    let mut vsock =
        start(vsock, log, "install it with `cargo install --locked vhost-device-vsock`")?;
    let until = Instant::now() + SOCKET_TIME;
    while !socket.exists() {
        if let Ok(Some(status)) = vsock.try_wait() {
            let message =
                format!("vhost-device-vsock ended with {status}: {}", super::console::tail(log));
            return Err(Error::new(ErrorKind::Io, message));
        }
        if Instant::now() > until {
            end(&mut vsock);
            let message = "vhost-device-vsock made no socket in time";
            return Err(Error::new(ErrorKind::Deadline, message));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    match start(qemu, log, "install the package qemu-system-x86") {
        Ok(qemu) => Ok((vsock, qemu)),
        Err(error) => {
            end(&mut vsock);
            Err(error)
        }
    }
}

fn start(mut command: Command, log: &Path, hint: &str) -> Result<Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = OpenOptions::new().append(true).create(true).open(log);
    let output = output.and_then(|file| Ok((file.try_clone()?, file)));
    let (output, errors) =
        output.map_err(|error| Error::io(format!("cannot write {}", log.display()), error))?;
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    sys::process::kill_with_parent(&mut command);
    command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::caused(ErrorKind::ToolMissing, format!("{name} is not installed; {hint}"), error)
        }
        _ => Error::io(format!("cannot start {name}"), error),
    })
}

/// Until QEMU ends or is to be killed. The vsock device never outlives it.
fn keep(mut vsock: Child, mut qemu: Child, killed: &Receiver<()>) -> String {
    let mut why = None;
    loop {
        if let Ok(Some(status)) = qemu.try_wait() {
            end(&mut vsock);
            return why.unwrap_or_else(|| said(status));
        }
        // Without it the guest cannot be reached any more.
        if why.is_none() && matches!(vsock.try_wait(), Ok(Some(_)) | Err(_)) {
            why = Some("the vsock device's process has ended".to_owned());
            end(&mut qemu);
            continue;
        }
        match killed.recv_timeout(LOOK) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                end(&mut qemu);
                end(&mut vsock);
                return why.unwrap_or_else(|| "it was killed".to_owned());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn said(status: ExitStatus) -> String {
    format!("QEMU ended with {status}")
}

fn end(child: &mut Child) {
    // Fails only if it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}
