//! The OCI runtime carried in the initramfs: runc, as a program.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::children::{Children, program};
use crate::process::Process;
use crate::stdio::Streams;
use crate::{Error, ErrorKind, Result};

const PROGRAM: &str = "runc";

/// How long one call may take under an emulator.
const LIMIT: Duration = Duration::from_secs(120);

/// The runtime, with its state below one directory.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    children: Children,
    state: PathBuf,
    /// The program in sealed memory; nothing if there could be none.
    ///
    /// runc keeps containers from writing to it by running as a copy of itself in sealed memory, which it makes for each
    /// container unless it runs from such a copy already. (A read-only bind mount, which spares others that, is not
    /// enough for 1.1.5 on an initramfs: it asks files for their seals first, and those of a tmpfs have some.) New pages
    /// with the same instructions cost an emulator the translation of all of them: 0.7 s for each container.
    sealed: Arc<OnceLock<Option<OwnedFd>>>,
}

/// What is to be started: a container with its first process, or another process in it.
pub(crate) enum Start<'a> {
    /// `create`, then `start`.
    Container,
    /// `exec` of this process.
    Process(&'a Value),
}

impl Runtime {
    /// With its containers' states in `state`.
    pub(crate) fn new(children: Children, state: PathBuf) -> Self {
        Self { children, state, sealed: Arc::default() }
    }

    fn program(&self) -> Result<Command> {
        let plain = program(PROGRAM)?;
        let sealed = self
            .sealed
            .get_or_init(|| sys::sealed_copy(Path::new(plain.get_program()), c"runc").ok());
        let Some(sealed) = sealed else { return Ok(plain) };
        // The child's own table has it until the program is loaded.
        let mut command = Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()));
        command.arg0(PROGRAM).current_dir("/").env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ok(command)
    }

    fn command(&self, log: &Path) -> Result<Command> {
        let mut command = self.program()?;
        command.arg("--root").arg(&self.state).arg("--log").arg(log).args(["--log-format", "json"]);
        Ok(command)
    }

    fn failed(log: &Path, error: Error) -> Error {
        // Its log says more than its exit code.
        let words = fs::read_to_string(log).unwrap_or_default();
        let last = words.lines().rev().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            Some(line.get("msg")?.as_str()?.to_owned())
        });
        match last {
            Some(words) => Error::failed(format!("the container runtime: {words}"), error),
            None => error,
        }
    }

    fn run(&self, bundle: &Path, arguments: &[&str]) -> Result<String> {
        let log = bundle.join("runc.log");
        let mut command = self.command(&log)?;
        self.children.run(command.args(arguments), LIMIT).map_err(|error| Self::failed(&log, error))
    }

    /// Starts a process. `after` is called with its exit code.
    pub(crate) fn start(
        &self,
        id: &str,
        bundle: &Path,
        start: &Start<'_>,
        terminal: bool,
        streams: Streams,
        after: impl FnOnce(i32) + Send + 'static,
    ) -> Result<Arc<Process>> {
        let name = sys::file::random_name(8)
            .map_err(|error| Error::failed("a name for a process's files", error))?;
        let files = Files(bundle.join(format!("process-{name}")));
        fs::create_dir(&files.0)
            .map_err(|error| Error::failed(format!("mkdir({})", files.0.display()), error))?;
        let (pid_file, log) = (files.0.join("pid"), bundle.join("runc.log"));
        let mut command = self.command(&log)?;
        match start {
            Start::Container => command.arg("create").arg("--bundle").arg(bundle),
            Start::Process(process) => {
                let file = files.0.join("process.json");
                fs::write(&file, process.to_string())
                    .map_err(|error| Error::failed(format!("write({})", file.display()), error))?;
                command.args(["exec", "--detach", "--process"]).arg(file)
            }
        };
        command.arg("--pid-file").arg(&pid_file);
        let console = files.0.join("console");
        let mut listener = None;
        let mut flow = None;
        let mut streams = Some(streams);
        if terminal {
            let socket = UnixListener::bind(&console)
                .map_err(|error| Error::failed(format!("bind({})", console.display()), error))?;
            command.arg("--console-socket").arg(&console);
            command.stdin(std::process::Stdio::null());
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            listener = Some(socket);
        } else if let Some(streams) = streams.take() {
            flow = Some(streams.connect_pipes(&mut command)?);
        }
        command.arg(id);
        let since = Instant::now();
        let child = self.children.start(&mut command);
        // The command holds our copies of the process's ends, which would keep its streams open.
        drop(command);
        let started = child.and_then(|child| self.children.wait_within(child.id(), "runc", LIMIT));
        let flow_end = |error: Error| {
            if let Some(flow) = &flow {
                flow.end();
            }
            error
        };
        match started {
            Ok(0) => {}
            Ok(code) => {
                let error =
                    Error::new(ErrorKind::Failed, format!("runc failed with exit code {code}"));
                return Err(flow_end(Self::failed(&log, error)));
            }
            Err(error) => return Err(flow_end(error)),
        }
        let pid = fs::read_to_string(&pid_file)
            .map_err(|error| Error::failed("reading a process's id", error))
            .and_then(|text| {
                text.trim()
                    .parse::<u32>()
                    .map_err(|error| Error::failed("reading a process's id", error))
            })
            .map_err(flow_end)?;
        let already = self.children.adopt(pid, since);
        let mut owned = None;
        if let (Some(listener), Some(streams)) = (listener, streams) {
            let connected = accept_terminal(&listener).and_then(|terminal| {
                flow = Some(streams.connect_terminal(&terminal)?);
                Ok(terminal)
            });
            match connected {
                Ok(terminal) => owned = Some(terminal),
                Err(error) => {
                    self.children.abandon(pid);
                    return Err(error);
                }
            }
        }
        let flow = flow.unwrap_or_default();
        let process = Process::follow(&self.children, pid, already, owned, flow, after)?;
        if matches!(start, Start::Container)
            && let Err(error) = self.run(bundle, &["start", id])
        {
            let _ = process.signal(sys::SIGNAL_KILL);
            return Err(error);
        }
        Ok(process)
    }

    /// Signals a container's first process.
    pub(crate) fn kill(&self, id: &str, bundle: &Path, signal: i32) -> Result<()> {
        self.run(bundle, &["kill", id, &signal.to_string()]).map(drop)
    }

    /// Forgets a container, and kills it if need be.
    pub(crate) fn delete(&self, id: &str, bundle: &Path) -> Result<()> {
        self.run(bundle, &["delete", "--force", id]).map(drop)
    }

    /// The ids of a container's processes.
    pub(crate) fn processes(&self, id: &str, bundle: &Path) -> Result<Vec<u32>> {
        let text = self.run(bundle, &["ps", "--format", "json", id])?;
        serde_json::from_str::<Option<Vec<u32>>>(&text)
            .map(Option::unwrap_or_default)
            .map_err(|error| Error::failed("reading the container's processes", error))
    }

    /// A container's statistics as runc tells them.
    pub(crate) fn statistics(&self, id: &str, bundle: &Path) -> Result<Value> {
        let text = self.run(bundle, &["events", "--stats", id])?;
        let mut event: Value = serde_json::from_str(&text)
            .map_err(|error| Error::failed("reading the container's statistics", error))?;
        Ok(event.get_mut("data").map(Value::take).unwrap_or_default())
    }

    /// Changes a container's limits; `resources` is OCI's object.
    pub(crate) fn update(&self, id: &str, bundle: &Path, resources: &Value) -> Result<()> {
        let file = bundle.join("resources.json");
        fs::write(&file, resources.to_string())
            .map_err(|error| Error::failed(format!("write({})", file.display()), error))?;
        let path = file.display().to_string();
        self.run(bundle, &["update", "--resources", &path, id]).map(drop)
    }
}

/// The terminal that runc has sent before it ended.
fn accept_terminal(listener: &UnixListener) -> Result<fs::File> {
    let failed = |error| Error::failed("accepting a terminal", error);
    listener.set_nonblocking(true).map_err(failed)?;
    let (socket, _) = listener.accept().map_err(failed)?;
    sys::receive_descriptor(&socket).map_err(|error| Error::failed("receiving a terminal", error))
}

/// The files of one start; they go when it is done.
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
