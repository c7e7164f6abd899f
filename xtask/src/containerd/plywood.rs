//! `plywood serve` as a process of ours.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::daemon::{log_file, terminate};
use super::root::Version;
use crate::program;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The daemon; stopped when dropped.
pub(crate) struct Plywood {
    program: PathBuf,
    directory: PathBuf,
    containerd: PathBuf,
    child: Option<Child>,
}

impl Plywood {
    /// Starts with its files in `directory`, reading layers from the containerd at the socket `containerd`.
    pub(crate) fn start(program: &Path, directory: &Path, containerd: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let mut this = Self {
            program: program.to_owned(),
            directory: directory.to_owned(),
            containerd: containerd.to_owned(),
            child: None,
        };
        this.launch()?;
        Ok(this)
    }

    /// Starts it, again if it was killed, and waits until it listens.
    pub(crate) fn launch(&mut self) -> Result<()> {
        let log = log_file(&self.directory.join("log"))?;
        let child = self
            .command(&["serve"])
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().transpose())
            {
                bail!("plywood ended with {}; {}", status?, self.see_log());
            }
            if Instant::now() > deadline {
                bail!("plywood does not answer; {}", self.see_log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn see_log(&self) -> String {
        format!("see {}", self.directory.join("log").display())
    }

    /// `plywood` on this daemon's store.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("PLYWOOD_ROOT", self.store())
            .env("PLYWOOD_RUN", self.run())
            .env("PLYWOOD_ADDRESS", self.socket())
            .env("PLYWOOD_CONTAINERD_ADDRESS", &self.containerd)
            .env("PLYWOOD_METRICS_ADDRESS", self.metrics_socket());
        command
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// Its layers and snapshots.
    pub(crate) fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// Its mounts.
    pub(crate) fn run(&self) -> PathBuf {
        self.directory.join("run")
    }

    fn metrics_socket(&self) -> PathBuf {
        self.directory.join("metrics")
    }

    /// The objects that `plywood --format json` prints, one a line.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let mut words = vec!["--format", "json"];
        words.extend(arguments);
        program::output(&mut self.command(&words))?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }

    /// What it says that the configuration of this version of containerd needs, without the line that every
    /// configuration begins with.
    pub(crate) fn containerd_config(&self, version: Version) -> Result<String> {
        let words = ["containerd-config", "--version", version.name()];
        let text = program::output(&mut self.command(&words))?;
        let line = format!("\nversion = {}\n", version.config_version());
        ensure!(
            text.contains(&line),
            "plywood's fragment is for another version of files:\n{text}"
        );
        Ok(text.replace(&line, "\n"))
    }

    /// How many layers were applied, compared (`diff`) or made by a `commit` since its start, by its metrics.
    pub(crate) fn layers(&self, kind: &str) -> Result<u64> {
        let mut stream = UnixStream::connect(self.metrics_socket())
            .context("cannot connect to plywood's metrics")?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: plywood\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).context("cannot read plywood's metrics")?;
        ensure!(text.contains(" 200 "), "plywood's metrics answer {text}");
        let name = format!("plywood_layers_total{{kind=\"{kind}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.map_or(Ok(0), |value| value.parse().with_context(|| format!("{name}is {value}")))
    }

    /// Kills it in a way that leaves it no time for anything.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("cannot kill plywood")?;
            child.wait().context("cannot wait for plywood")?;
        }
        Ok(())
    }

    /// Asks it to end and expects that it does so well.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            terminate(&child);
            let status = child.wait().context("cannot wait for plywood")?;
            ensure!(status.success(), "plywood ended with {status}; {}", self.see_log());
        }
        Ok(())
    }
}

impl Drop for Plywood {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            terminate(&child);
            _ = child.wait();
        }
    }
}
