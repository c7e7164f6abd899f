//! What tests of the daemon share: a private mount namespace for each, a real daemon in a process of its own, a client
//! on its socket, and real mounts.
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "test code")]

mod contents;
mod mounted;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use serve::api::snapshots as api;
use serve::api::snapshots::snapshots_client::SnapshotsClient;
use serve::api::types::Mount;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

#[allow(unused_imports, reason = "every test file uses its own part")]
pub use contents::{Contents, Fault};
#[allow(unused_imports, reason = "every test file uses its own part")]
pub use mounted::{Mounted, manifest};

const ISOLATED: &str = "PLYWOOD_TEST_ISOLATED";
const DAEMON: &str = "PLYWOOD_TEST_DAEMON";

/// Runs `body` in a process of its own with a private mount namespace: whatever happens to that process, its mounts
/// end with it. `path` is the test's full path.
pub fn isolated(path: &str, body: impl FnOnce()) {
    // libtest leaves the crate's name out.
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    if std::env::var_os(ISOLATED).is_some_and(|running| running == name) {
        return body();
    }
    assert!(rustix::process::geteuid().is_root(), "{name} mounts file systems and needs root");
    let output = Command::new("unshare")
        // The process namespace ends the daemons too.
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"])
        .env(ISOLATED, name)
        .stdin(Stdio::null())
        .output()
        .expect("unshare (Debian package util-linux) is needed");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed:\n{text}{errors}");
    assert!(text.contains("1 passed"), "{name} did not run:\n{text}{errors}");
    print!("{text}");
    eprint!("{errors}");
}

/// `#[test]` functions whose bodies run [`isolated`].
#[macro_export]
macro_rules! privileged {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)*) => {$(
        $(#[$meta])*
        #[test]
        fn $name() {
            $crate::support::isolated(concat!(module_path!(), "::", stringify!($name)), || $body);
        }
    )*};
}

/// Not a test but the daemon's process: test binaries start themselves again with this one.
#[test]
fn daemon_process() {
    let Some(file) = std::env::var_os(DAEMON) else { return };
    let config = serve::Config::load(Some(Path::new(&file)), Vec::new()).unwrap();
    if let Err(error) = serve::run(config) {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        eprintln!("daemon: {error}: {}", cause.unwrap_or_default());
        std::process::exit(1);
    }
    std::process::exit(0);
}

impl Contents {
    /// Serves on the socket that `Bench::with_contents` configures.
    pub fn start(bench: &Bench) -> Self {
        Self::start_at(&bench.path().join("containerd.sock"), &bench.runtime)
    }
}

/// A daemon over a store of its own, and a client of it.
pub struct Bench {
    directory: tempfile::TempDir,
    pub runtime: Runtime,
    daemon: Option<Child>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.kill();
        mounted::unmount_below(self.directory.path());
    }
}

impl Bench {
    /// Starts a daemon with these lines in its configuration.
    pub fn new(config: &str) -> Self {
        let mut bench = Self::idle(config);
        bench.start();
        bench
    }

    /// Everything but a running daemon.
    pub fn idle(config: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("plywood-serve-").tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let bench = Self { directory, runtime, daemon: None };
        bench.configure(config);
        bench
    }

    /// Writes the configuration; `more` goes behind the directories and must begin with plain keys.
    pub fn configure(&self, more: &str) {
        let text = format!("root = {:?}\nrun = {:?}\n{more}\n", self.root(), self.run());
        fs::write(self.config_file(), text).unwrap();
    }

    pub fn config_file(&self) -> PathBuf {
        self.path().join("config.toml")
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn root(&self) -> PathBuf {
        self.path().join("store")
    }

    pub fn run(&self) -> PathBuf {
        self.path().join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.run().join("plywood.sock")
    }

    pub fn directory(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// A daemon's process that nobody waits for yet.
    pub fn spawn(&self) -> Child {
        self.command(&std::env::current_exe().unwrap()).spawn().unwrap()
    }

    /// What starts a daemon, by way of `program`, which gets the test binary's arguments.
    pub fn command(&self, program: &Path) -> Command {
        let module = module_path!().split_once("::").map_or("", |(_, module)| module);
        let mut command = Command::new(program);
        command
            .args([&format!("{module}::daemon_process"), "--exact", "--nocapture"])
            .arg("--test-threads=1")
            .env(DAEMON, self.config_file())
            .stdin(Stdio::null())
            .stderr(fs::File::options().create(true).append(true).open(self.log_file()).unwrap())
            .stdout(Stdio::null())
            .process_group(0);
        command
    }

    pub fn log_file(&self) -> PathBuf {
        self.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn start(&mut self) {
        let daemon = self.spawn();
        self.adopt(daemon);
    }

    /// Waits until `daemon` answers; it is this bench's from now on.
    pub fn adopt(&mut self, mut daemon: Child) {
        assert!(self.daemon.is_none());
        eventually("the daemon answers", || {
            if let Some(status) = daemon.try_wait().unwrap() {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
        });
        self.daemon = Some(daemon);
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// kill -9, if it runs.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.daemon.take().unwrap().wait().unwrap()
    }

    pub fn channel(&self) -> Channel {
        let _inside = self.runtime.enter();
        channel(self.socket())
    }

    pub fn client(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel())
    }
}

/// A lazy connection to `socket`.
pub fn channel(socket: PathBuf) -> Channel {
    Endpoint::from_static("http://plywood").connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        },
    ))
}

/// Waits up to ten seconds.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: not within ten seconds");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub type Labels = BTreeMap<String, String>;

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// containerd's calls, one after the other.
impl Bench {
    pub fn prepare(
        &self,
        key: impl AsRef<[u8]>,
        parent: impl AsRef<[u8]>,
    ) -> Result<Vec<Mount>, Status> {
        self.prepare_with(key, parent, &[])
    }

    pub fn prepare_with(
        &self,
        key: impl AsRef<[u8]>,
        parent: impl AsRef<[u8]>,
        pairs: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Status> {
        let request = api::PrepareSnapshotRequest {
            snapshotter: b"plywood".to_vec(),
            key: key.as_ref().to_vec(),
            parent: parent.as_ref().to_vec(),
            labels: labels(pairs),
        };
        Ok(self.runtime.block_on(self.client().prepare(request))?.into_inner().mounts)
    }

    pub fn view(
        &self,
        key: impl AsRef<[u8]>,
        parent: impl AsRef<[u8]>,
    ) -> Result<Vec<Mount>, Status> {
        let request = api::ViewSnapshotRequest {
            key: key.as_ref().to_vec(),
            parent: parent.as_ref().to_vec(),
            ..Default::default()
        };
        Ok(self.runtime.block_on(self.client().view(request))?.into_inner().mounts)
    }

    pub fn mounts(&self, key: impl AsRef<[u8]>) -> Result<Vec<Mount>, Status> {
        let request = api::MountsRequest { key: key.as_ref().to_vec(), ..Default::default() };
        Ok(self.runtime.block_on(self.client().mounts(request))?.into_inner().mounts)
    }

    pub fn commit(&self, name: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<(), Status> {
        self.commit_on(name, key, "")
    }

    pub fn commit_on(
        &self,
        name: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        parent: impl AsRef<[u8]>,
    ) -> Result<(), Status> {
        self.commit_with(name, key, parent, &[])
    }

    pub fn commit_with(
        &self,
        name: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        parent: impl AsRef<[u8]>,
        pairs: &[(&str, &str)],
    ) -> Result<(), Status> {
        let request = api::CommitSnapshotRequest {
            name: name.as_ref().to_vec(),
            key: key.as_ref().to_vec(),
            parent: parent.as_ref().to_vec(),
            labels: labels(pairs),
            ..Default::default()
        };
        self.runtime.block_on(self.client().commit(request)).map(|_| ())
    }

    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<(), Status> {
        let request =
            api::RemoveSnapshotRequest { key: key.as_ref().to_vec(), ..Default::default() };
        self.runtime.block_on(self.client().remove(request)).map(|_| ())
    }

    pub fn stat(&self, key: impl AsRef<[u8]>) -> Result<api::Info, Status> {
        let request = api::StatSnapshotRequest { key: key.as_ref().to_vec(), ..Default::default() };
        Ok(self.runtime.block_on(self.client().stat(request))?.into_inner().info.unwrap())
    }

    pub fn update(&self, info: api::Info, mask: &[&str]) -> Result<api::Info, Status> {
        let paths: Vec<String> = mask.iter().map(|path| (*path).to_owned()).collect();
        let request = api::UpdateSnapshotRequest {
            info: Some(info),
            update_mask: (!paths.is_empty()).then_some(prost_types::FieldMask { paths }),
            ..Default::default()
        };
        Ok(self.runtime.block_on(self.client().update(request))?.into_inner().info.unwrap())
    }

    /// Messages of a list, each with its infos.
    pub fn list_batches(&self, filters: &[&str]) -> Result<Vec<Vec<api::Info>>, Status> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = api::ListSnapshotsRequest { filters, ..Default::default() };
        self.runtime.block_on(async {
            let mut stream = self.client().list(request).await?.into_inner();
            let mut batches = Vec::new();
            while let Some(batch) = stream.message().await? {
                batches.push(batch.info);
            }
            Ok(batches)
        })
    }

    pub fn list(&self, filters: &[&str]) -> Result<Vec<api::Info>, Status> {
        Ok(self.list_batches(filters)?.into_iter().flatten().collect())
    }

    pub fn usage(&self, key: impl AsRef<[u8]>) -> Result<(i64, i64), Status> {
        let request = api::UsageRequest { key: key.as_ref().to_vec(), ..Default::default() };
        let usage = self.runtime.block_on(self.client().usage(request))?.into_inner();
        Ok((usage.size, usage.inodes))
    }

    pub fn cleanup(&self) -> Result<(), Status> {
        self.runtime.block_on(self.client().cleanup(api::CleanupRequest::default())).map(|_| ())
    }

    /// Mounts `mounts` at a new directory.
    pub fn mount(&self, mounts: &[Mount], name: &str) -> Mounted {
        Mounted::new(mounts, &self.directory(format!("mnt/{name}")))
    }

    /// Prepares `key` on `parent`, lets `change` write into it, and commits it as `name`.
    pub fn layer(&self, name: &str, parent: &str, change: impl FnOnce(&Path)) {
        let key = format!("{name}-active");
        let mounts = self.prepare(&key, parent).unwrap();
        let mounted = self.mount(&mounts, &key);
        change(mounted.path());
        drop(mounted);
        self.commit(name, &key).unwrap();
    }
}

pub fn list_request() -> api::ListSnapshotsRequest {
    api::ListSnapshotsRequest::default()
}

pub fn stat_request(key: &[u8]) -> api::StatSnapshotRequest {
    api::StatSnapshotRequest { key: key.to_vec(), ..Default::default() }
}

/// The code of a call that must fail.
pub fn code<T>(result: Result<T, Status>) -> Code {
    match result {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}
