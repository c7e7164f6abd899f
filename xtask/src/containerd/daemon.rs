//! A containerd of our own, with its root, state and socket under one directory.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::root::Root;

/// What does not work in a root of its own, or only adds to the time of a start.
const DISABLED: [&str; 12] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.aufs",
    // It looks for the mount its directory is on, does not find it from inside a root and takes the metadata along.
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
];

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The daemon; stopped when dropped.
pub(crate) struct Containerd {
    root: Root,
    directory: PathBuf,
    child: Option<Child>,
}

impl Containerd {
    /// Starts with its files in `directory`, which is below [`super::root::WORK`], and waits until it answers. `plugins`
    /// is added to the configuration.
    pub(crate) fn start(root: &Root, directory: &Path, plugins: &str) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let at = |name: &str| directory.join(name).display().to_string();
        let disabled = DISABLED.map(|name| format!("{name:?}")).join(", ");
        let config = format!(
            "version = {}\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [{disabled}]\n\
             [grpc]\naddress = {:?}\n{plugins}",
            root.version.config_version(),
            at("root"),
            at("state"),
            at("socket"),
        );
        std::fs::write(directory.join("config.toml"), config)
            .with_context(|| format!("cannot write {}", at("config.toml")))?;
        let mut this = Self { root: root.clone(), directory: directory.to_owned(), child: None };
        this.launch()?;
        Ok(this)
    }

    /// Starts it, again if it was killed, and waits until it answers.
    pub(crate) fn launch(&mut self) -> Result<()> {
        let log = log_file(&self.directory.join("log"))?;
        let child = self
            .root
            .command("containerd")
            .arg("--config")
            .arg(self.directory.join("config.toml"))
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .context("cannot start containerd")?;
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !self
            .ctr(&["version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?
            .success()
        {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().transpose())
            {
                bail!("containerd ended with {}; {}", status?, self.see_log());
            }
            if Instant::now() > deadline {
                bail!("containerd does not answer; {}", self.see_log());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }

    fn see_log(&self) -> String {
        format!("see {}", self.directory.join("log").display())
    }

    /// `ctr` talking to this containerd.
    pub(crate) fn ctr<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Command {
        ctr(&self.root, &self.socket(), arguments)
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// Kills it in a way that leaves it no time for anything.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("cannot kill containerd")?;
            child.wait().context("cannot wait for containerd")?;
        }
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // SIGTERM: it then unmounts its temporary mounts. Its death is what matters, not its exit code.
        if let Some(mut child) = self.child.take() {
            terminate(&child);
            _ = child.wait();
        }
    }
}

/// `ctr` of a root, talking to a socket.
pub(super) fn ctr<S: AsRef<std::ffi::OsStr>>(
    root: &Root,
    socket: &Path,
    arguments: &[S],
) -> Command {
    let mut command = root.command("ctr");
    command.arg("--address").arg(socket).args(arguments);
    command
}

/// Asks a child to end.
pub(super) fn terminate(child: &Child) {
    if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// A log that goes on over restarts.
pub(super) fn log_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}
