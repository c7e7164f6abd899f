//! The host of an agent that runs beside us.

use std::io::Read as _;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::Duration;

use bridge::{
    Client, Connection, ContainerNotification, Deadline, ErrorKind, GuestRequest, ModifySettings,
    Negotiate, Request, ResultCode,
};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// An agent in private namespaces, with an empty directory that both sides see.
pub(crate) struct Host {
    pub(crate) client: Client,
    pub(crate) notifications: mpsc::Receiver<ContainerNotification>,
    pub(crate) directory: tempfile::TempDir,
    agent: Child,
    next_port: u32,
}

impl Drop for Host {
    fn drop(&mut self) {
        // The end of its process namespace ends everything in it, and its mounts.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

impl Host {
    /// Starts an agent; nothing is agreed on yet.
    pub(crate) fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("pw-agent-").tempdir().unwrap();
        let bridge = directory.path().join("bridge");
        let listener = UnixListener::bind(&bridge).unwrap();
        let agent = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--propagation", "private", env!("CARGO_BIN_EXE_plywood-guest")])
            .args([&bridge, &directory.path().join("port"), &directory.path().join("runtime")])
            .spawn()
            .expect("these tests need root and unshare(1)");
        let (stream, _) = listener.accept().unwrap();
        let (told, notifications) = mpsc::channel();
        let client = Client::new(
            Connection::unix(stream).unwrap(),
            Box::new(move |notification| drop(told.send(notification))),
        )
        .unwrap();
        Self { client, notifications, directory, agent, next_port: bridge::FIRST_STDIO_PORT }
    }

    /// Starts an agent that takes requests.
    pub(crate) fn negotiated() -> Self {
        let host = Self::start();
        host.call(&Negotiate::ours()).unwrap();
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn call<R: Request>(&self, request: &R) -> bridge::Result<R::Response> {
        self.client.call(request, &Deadline::after(LIMIT))
    }

    /// The code of a refusal; success is [`ResultCode::OK`].
    pub(crate) fn code<R: Request>(&self, request: &R) -> ResultCode {
        match self.call(request) {
            Ok(_) => ResultCode::OK,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
                error.result().unwrap()
            }
        }
    }

    pub(crate) fn modify(&self, request: GuestRequest) -> bridge::Result<()> {
        self.call(&ModifySettings::of_vm(request)).map(drop)
    }

    /// Whether the agent sees a mount at `path`. What is mounted there is in its namespace only.
    pub(crate) fn mounts_below(&self, path: &Path) -> usize {
        let table =
            std::fs::read_to_string(format!("/proc/{}/mountinfo", self.agent_pid())).unwrap();
        let path = format!("{}/", path.display());
        table.lines().filter(|line| format!("{line}/").contains(&path)).count()
    }

    /// The agent's process: the one child of `unshare`.
    fn agent_pid(&self) -> u32 {
        let id = self.agent.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    /// How many child processes the agent has, dead ones among them.
    pub(crate) fn children(&self) -> usize {
        let pid = self.agent_pid();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks
            .flatten()
            // A thread may have ended meanwhile.
            .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
            .map(|children| children.split_whitespace().count())
            .sum()
    }

    /// A path as the agent sees it, with what is mounted there.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        let path = path.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.agent_pid())).join(path)
    }

    /// Listens where the agent will dial.
    pub(crate) fn port(&mut self) -> (u32, UnixListener) {
        let port = self.next_port;
        self.next_port += 1;
        (port, UnixListener::bind(self.path(&format!("port_{port}"))).unwrap())
    }
}

/// Everything a process says until it ends.
pub(crate) fn read_all(listener: &UnixListener) -> String {
    let mut text = String::new();
    let mut stream = accept(listener);
    stream.read_to_string(&mut text).unwrap();
    text
}

pub(crate) fn accept(listener: &UnixListener) -> UnixStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Says something and no more.
pub(crate) fn say(listener: &UnixListener, words: &str) {
    use std::io::Write as _;
    let mut stream = accept(listener);
    stream.write_all(words.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}
