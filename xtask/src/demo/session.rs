//! A user at a terminal: commands are shown and timed, their results are looked at, claims are checked.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The demo in progress.
pub(super) struct Session {
    program: PathBuf,
    /// The store; below it nothing is anyone else's.
    pub(super) root: PathBuf,
    /// Mounts and the journal.
    pub(super) run: PathBuf,
    variables: Vec<(&'static str, PathBuf)>,
    stages: Vec<Stage>,
    claims: usize,
}

struct Stage {
    name: String,
    took: Duration,
    remark: String,
}

impl Session {
    pub(super) fn new(program: PathBuf, directory: &Path) -> Self {
        let (root, run) = (directory.join("root"), directory.join("run"));
        Self { program, root, run, variables: Vec::new(), stages: Vec::new(), claims: 0 }
    }

    /// Sets a variable for every command from now on.
    pub(super) fn set(&mut self, variable: &'static str, value: PathBuf) {
        self.variables.push((variable, value));
    }

    /// `plywood` on the demo's own store.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("PLYWOOD_ROOT", &self.root).env("PLYWOOD_RUN", &self.run);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Shows and runs `plywood`; its output is shown and returned.
    pub(super) fn plywood(&mut self, arguments: &[&str]) -> Result<(String, Duration)> {
        show(arguments);
        let start = Instant::now();
        let mut child = self
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let mut text = String::new();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines() {
                let line = line.context("plywood wrote something that is not UTF-8")?;
                println!("{line}");
                text.push_str(&line);
                text.push('\n');
            }
        }
        let status = child.wait()?;
        ensure!(status.success(), "`plywood {}` ended with {status}", arguments.join(" "));
        Ok((text, start.elapsed()))
    }

    /// `plywood --format json`: the objects, one a line.
    pub(super) fn json(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let mut words = vec!["--format", "json"];
        words.extend(arguments);
        let output = self
            .command(&words)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        ensure!(
            output.status.success(),
            "`plywood {}` ended with {}",
            words.join(" "),
            output.status
        );
        String::from_utf8(output.stdout)?
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }

    /// A container in the background that answers when it is spoken to.
    pub(super) fn container(&self, name: &str, image: &str, script: &str) -> Result<Container> {
        self.container_with(&[], name, image, script)
    }

    /// The same, with more options of `run`.
    pub(super) fn container_with(
        &self,
        options: &[&str],
        name: &str,
        image: &str,
        script: &str,
    ) -> Result<Container> {
        let command = ["--name", name, image, "--", "/bin/sh", "-c", script];
        let words = [&["run"], options, &command].concat();
        show(&words);
        let start = Instant::now();
        let mut child = self
            .command(&words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let input = child.stdin.take().context("the container has no standard input")?;
        let output = child.stdout.take().context("the container has no standard output")?;
        let output = BufReader::new(output);
        Ok(Container { child, input: Some(input), output, script: script.to_owned(), start })
    }

    /// Notes a stage for the summary.
    pub(super) fn stage(&mut self, name: &str, took: Duration, remark: impl Into<String>) {
        self.stages.push(Stage { name: name.to_owned(), took, remark: remark.into() });
    }

    /// States what was just checked; a claim that does not hold ends the demo.
    pub(super) fn claim(&mut self, holds: bool, claim: &str) -> Result<()> {
        ensure!(holds, "this does not hold: {claim}");
        self.claims += 1;
        println!("  ✓ {claim}");
        Ok(())
    }

    /// The summary.
    pub(super) fn finish(&self) {
        let width = self.stages.iter().map(|stage| stage.name.chars().count()).max().unwrap_or(0);
        println!("\n== summary");
        for stage in &self.stages {
            let seconds = stage.took.as_secs_f64();
            println!("{:width$}  {seconds:>8.3} s  {}", stage.name, stage.remark);
        }
        println!("\nall {} claims hold", self.claims);
    }
}

/// Prints the heading of a part.
pub(super) fn heading(text: &str) {
    println!("\n== {text}");
}

fn show(arguments: &[&str]) {
    let mut command = Command::new("plywood");
    println!("$ {}", crate::program::command_line(command.args(arguments)));
}

/// Megabytes a second.
pub(super) fn rate(bytes: u64, took: Duration) -> String {
    format!("{:.0} MB/s", bytes as f64 / 1e6 / took.as_secs_f64())
}

/// A running container. Killed with its program when dropped before it has ended.
pub(super) struct Container {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    script: String,
    start: Instant,
}

impl Container {
    /// Waits for the container to print this line, and returns how long that took since its start, or since
    /// the last thing said to it.
    pub(super) fn expect(&mut self, wanted: &str) -> Result<Duration> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("cannot read what the container prints")?;
        ensure!(line.trim_end() == wanted, "the container printed {line:?} instead of {wanted:?}");
        Ok(self.start.elapsed())
    }

    /// The next line that the container prints, and how long that took.
    pub(super) fn line(&mut self) -> Result<(String, Duration)> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("cannot read what the container prints")?;
        ensure!(!line.is_empty(), "the container has ended and printed nothing");
        Ok((line, self.start.elapsed()))
    }

    /// Writes a line to the container's standard input.
    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the container's standard input is closed")?;
        self.start = Instant::now();
        writeln!(input, "{line}")
            .and_then(|()| input.flush())
            .context("cannot speak to the container")
    }

    /// The shell in the container as the host sees it: the process with this very command line.
    pub(super) fn process(&self) -> Result<PathBuf> {
        let wanted = ["/bin/sh", "-c", self.script.as_str(), ""].join("\0");
        for entry in std::fs::read_dir("/proc").context("cannot list /proc")? {
            let path = entry?.path();
            // Processes come and go while we look.
            if std::fs::read(path.join("cmdline")).is_ok_and(|line| line == wanted.as_bytes()) {
                return Ok(path);
            }
        }
        bail!("the container's process is not in /proc")
    }

    /// Kills the program, not the container, in a way that leaves it no time for anything.
    pub(super) fn kill(mut self) -> Result<()> {
        println!("$ kill -9 {}", self.child.id());
        self.child.kill().context("cannot kill plywood")?;
        self.child.wait().context("cannot wait for plywood").map(drop)
    }

    /// Closes its standard input and waits for its end.
    pub(super) fn end(mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.child.wait().context("cannot wait for the container")?;
        ensure!(status.success(), "the container ended with {status}");
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // TERM twice is plywood's "at once"; it cleans up behind the container, which SIGKILL would not let it.
            if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
                for _ in 0..2 {
                    _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
            _ = self.child.wait();
        }
    }
}
