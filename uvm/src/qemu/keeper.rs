//! The machine's two processes and the thread they live and die with.
//!
//! Linux ends a child when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG). So one thread starts both and does
//! nothing else but wait: when the owner's process ends, however, so do they.

use std::io::PipeWriter;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::config::{Config, PROGRAMS_LOG, Transport, VHOST_SOCKET};
use super::log::Log;
use crate::{Error, ErrorKind, Result};

/// How often the processes are looked at. The end of QEMU is noticed by its sockets at once; this is for the status.
const LOOK: Duration = Duration::from_millis(50);
/// Looks between two at the threads of the vsock device's process.
const LOOKS_PER_CHECK: u32 = 20;
/// Its thread for the guest's queues. Version 0.3.0 goes on without it when an error has ended it, and the guest can then
/// not be reached any more.
const VSOCK_WORKER: &str = "vring_worker";
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
    processes: Vec<u32>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.kill();
        let _ = self.wait(Duration::from_secs(10));
    }
}

impl Keeper {
    pub(super) fn start(config: &Config) -> Result<Self> {
        let path = config.file(PROGRAMS_LOG);
        let failed = |error| Error::io(format!("cannot write {}", path.display()), error);
        let log = Log::create(&path).map_err(failed)?;
        let (reader, output) = std::io::pipe().map_err(failed)?;
        let logger = spawn("vm-log", move || log.take_from(reader))?;
        let vsock = matches!(config.transport, Transport::Vsock).then(|| config.vsock_command());
        let (qemu, socket) = (config.qemu_command(), config.file(VHOST_SOCKET));
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let (kill, killed) = channel();
        let (report, started) = channel();
        let theirs = Arc::clone(&shared);
        spawn("vm-keeper", move || {
            let children = start_all(vsock, qemu, &output, &socket);
            drop(output);
            match children {
                Ok(children) => {
                    let _ = report.send(Ok(children.ids()));
                    let ended = children.keep(&killed);
                    // What they said last is to be in the log before anybody looks.
                    let _ = logger.join();
                    lock(&theirs.0).ended = Some(ended);
                    theirs.1.notify_all();
                }
                Err(error) => {
                    let _ = logger.join();
                    let said = super::console::tail(&path);
                    let error = if said.is_empty() { error } else { error.with_more(&said) };
                    let _ = report.send(Err(error));
                }
            }
        })?;
        let processes = started.recv().map_err(|error| {
            Error::caused(ErrorKind::Io, "the keeper's thread has ended", error)
        })??;
        Ok(Self { shared, kill, processes })
    }

    /// QEMU's process and the vsock device's, where there is one.
    pub(super) fn processes(&self) -> &[u32] {
        &self.processes
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

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| Error::io("cannot start a thread", error))
}

/// What runs. Ended when it goes out of scope.
struct Children {
    vsock: Option<Child>,
    qemu: Option<Child>,
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in [&mut self.qemu, &mut self.vsock].into_iter().flatten() {
            // Fails only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_all(
    vsock: Option<Command>,
    qemu: Command,
    output: &PipeWriter,
    socket: &Path,
) -> Result<Children> {
    let mut children = Children { vsock: None, qemu: None };
    if let Some(vsock) = vsock {
        let hint = "install it with `cargo install --locked vhost-device-vsock`";
        let vsock = children.vsock.insert(start(vsock, output, hint)?);
        let until = Instant::now() + SOCKET_TIME;
        while !socket.exists() {
            if let Ok(Some(status)) = vsock.try_wait() {
                let message = format!("vhost-device-vsock ended with {status}");
                return Err(Error::new(ErrorKind::Io, message));
            }
            if Instant::now() > until {
                let message = "vhost-device-vsock made no socket in time";
                return Err(Error::new(ErrorKind::Deadline, message));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    children.qemu = Some(start(qemu, output, "install the package qemu-system-x86")?);
    Ok(children)
}

fn start(mut command: Command, output: &PipeWriter, hint: &str) -> Result<Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |error| Error::io(format!("cannot start {name}"), error);
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(failed)?)
        .stderr(output.try_clone().map_err(failed)?);
    sys::process::kill_with_parent(&mut command);
    command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::caused(ErrorKind::ToolMissing, format!("{name} is not installed; {hint}"), error)
        }
        _ => failed(error),
    })
}

impl Children {
    fn ids(&self) -> Vec<u32> {
        [&self.qemu, &self.vsock].into_iter().flatten().map(Child::id).collect()
    }

    /// Until QEMU ends or is to be killed. The vsock device never outlives it, nor it the vsock device, without which
    /// the guest cannot be reached.
    fn keep(mut self, killed: &Receiver<()>) -> String {
        let (mut had_worker, mut missed, mut look) = (false, 0_u32, 0_u32);
        loop {
            look = look.wrapping_add(1);
            if let Some(Ok(Some(status))) = self.qemu.as_mut().map(Child::try_wait) {
                return said(status);
            }
            if let Some(Ok(Some(status))) = self.vsock.as_mut().map(Child::try_wait) {
                return format!("the vsock device's process ended with {status}");
            }
            if look.is_multiple_of(LOOKS_PER_CHECK)
                && let Some(vsock) = &self.vsock
            {
                let has_worker = has_thread(vsock.id(), VSOCK_WORKER);
                had_worker |= has_worker;
                // Twice, should a listing of threads once be incomplete.
                missed = if had_worker && !has_worker { missed + 1 } else { 0 };
                if missed == 2 {
                    return "the vsock device's thread for the guest ended".to_owned();
                }
            }
            match killed.recv_timeout(LOOK) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return "it was killed".to_owned(),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn has_thread(process: u32, name: &str) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return false };
    threads.flatten().any(|thread| {
        std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    })
}

fn said(status: ExitStatus) -> String {
    format!("QEMU ended with {status}")
}
