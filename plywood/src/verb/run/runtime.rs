//! The OCI runtime: finding one that works here, and talking to it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::exit::{Exit, Failure};

/// Runtimes in order of preference, and where they are looked for besides `PATH`: `sudo` and `su` often leave
/// `/usr/sbin`, where Debian has runc, out of it.
const RUNTIMES: [&str; 2] = ["runc", "crun"];
const MORE_PLACES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/usr/bin"];

/// What the name of a trial's directory begins with; the process's id follows.
const TRIAL: &str = "probe-";

const INSTALL: &str = "install one: apt-get install runc";

/// A runtime program, and the directory where it keeps its state about our containers.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    program: PathBuf,
    state: PathBuf,
}

/// What a trial of a runtime showed.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    pub(crate) name: &'static str,
    pub(crate) program: Option<PathBuf>,
    /// Why it does not work here; `None` if it does.
    pub(crate) fault: Option<String>,
}

/// Remembers which program passed the trial, so that not every run makes one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Passed {
    program: PathBuf,
    boot: String,
    inode: u64,
    changed: i64,
}

impl Runtime {
    /// The runtime that was asked for, or the first that works on this host's control groups.
    pub(crate) fn find(asked: Option<&OsStr>, run: &Path) -> Result<Self> {
        if let Some(asked) = asked {
            let program = locate(asked).ok_or_else(|| {
                Failure::new(
                    Exit::SetUp,
                    format!("the runtime {} is not installed", Path::new(asked).display()),
                )
                .hint(INSTALL)
            })?;
            return Ok(Self::new(program, run));
        }
        let memory = run.join("runtime.json");
        if let Some(program) = remembered(&memory) {
            return Ok(Self::new(program, run));
        }
        let mut faults = Vec::new();
        for trial in try_all(run) {
            match (trial.program, trial.fault) {
                (Some(program), None) => {
                    remember(&memory, &program);
                    return Ok(Self::new(program, run));
                }
                (Some(_), Some(fault)) => faults.push(format!("{}: {fault}", trial.name)),
                (None, _) => {}
            }
        }
        Err(if faults.is_empty() {
            Failure::new(Exit::SetUp, "no OCI runtime is installed").hint(INSTALL)
        } else {
            let text = format!("no OCI runtime works on this host ({})", faults.join("; "));
            Failure::new(Exit::SetUp, text).hint(INSTALL)
        }
        .into())
    }

    /// A program that was found earlier.
    pub(crate) fn new(program: PathBuf, run: &Path) -> Self {
        Self { program, state: run.join("runtime") }
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Runs a container in the foreground, with our standard streams. Errors of the runtime itself are also
    /// written to `log`.
    pub(super) fn start(&self, bundle: &Path, name: &str, log: &Path, tty: bool) -> Result<Child> {
        let mut command = self.command();
        command
            .arg("--log")
            .arg(log)
            .args(["--log-format", "json", "run", "--bundle"])
            .arg(bundle)
            .arg(name);
        // Else a runtime whose caller was killed might set up a container that nobody takes down again. One that is
        // running survives its runtime and is found by its record.
        sys::process::kill_with_parent(&mut command);
        if !tty {
            // Out of the terminal's foreground group, so that a Ctrl-C comes once, from us. With a terminal of
            // its own the container gets the key strokes instead.
            command.process_group(0);
        }
        command.spawn().with_context(|| format!("cannot start {}", self.program.display()))
    }

    /// Whether it was the container that ended so, and not the runtime.
    pub(super) fn judge(&self, status: ExitStatus, log: &Path) -> Result<()> {
        let program = self.program.display();
        // A runtime opens its log before it starts a container: runc at once, crun when it has read the bundle.
        if let Some(code) = status.code()
            && !log.exists()
        {
            let text = format!(
                "{program} is no OCI runtime that works here: it ended with code {code}, and kept no log"
            );
            return Err(Failure::new(Exit::SetUp, text)
                .hint("`plywood doctor` shows which runtimes work")
                .into());
        }
        if status.success() {
            return Ok(());
        }
        let Some(complaint) = complaint(log) else { return Ok(()) };
        let mut text = format!("{program} could not start the container");
        // Its standard error is the container's and ours, and these have said it there already.
        let name = self.program.file_name();
        if !RUNTIMES.iter().any(|known| name == Some(OsStr::new(known))) {
            text.push_str(": ");
            text.push_str(&complaint);
        }
        Err(Failure::new(exit_of(&complaint), text).into())
    }

    /// Sends a signal, by name or number, to the container's first process.
    pub(super) fn kill(&self, name: &str, signal: &str) -> Result<()> {
        self.quietly(&["kill", name, signal])
    }

    /// Kills and forgets a container; one that does not exist is fine.
    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        if !self.state.join(name).exists() {
            return Ok(());
        }
        let result = self.quietly(&["delete", "--force", name]);
        match self.state.join(name).exists() {
            true => result,
            false => Ok(()),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state);
        command
    }

    fn quietly(&self, arguments: &[&str]) -> Result<()> {
        let what = || format!("{} {}", self.program.display(), arguments.join(" "));
        let output = self
            .command()
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", what()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            anyhow::bail!("{} failed: {}", what(), said.trim());
        }
        Ok(())
    }
}

/// The runtime's own error in its log, if it wrote one: then the exit code is not the container's.
fn complaint(log: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let text = fs::read_to_string(log).ok()?;
    text.lines()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .filter(|line| line.level == "error")
        .map(|line| line.msg)
        .next_back()
}

/// What a runtime's complaint means for the exit code.
pub(crate) fn exit_of(complaint: &str) -> Exit {
    let complaint = complaint.to_lowercase();
    match complaint {
        text if text.contains("no such file") || text.contains("not found") => Exit::NotFound,
        text if text.contains("permission denied") => Exit::NotPermitted,
        text if text.contains("no space left") => Exit::NoSpace,
        _ => Exit::Failed,
    }
}

/// Tries every runtime, in order of preference.
pub(crate) fn try_all(run: &Path) -> impl Iterator<Item = Trial> {
    RUNTIMES.into_iter().map(move |name| {
        let program = locate(OsStr::new(name));
        let fault = match &program {
            Some(program) => attempt(program, run).err().map(|error| format!("{error:#}")),
            None => Some("not installed".to_owned()),
        };
        Trial { name, program, fault }
    })
}

/// Lets a runtime run a program that does not exist in an empty root. Namespaces, control groups and mounts are set
/// up before the runtime can find that out, so its complaint about the program shows that the rest works.
fn attempt(program: &Path, run: &Path) -> Result<()> {
    const MISSING: &str = "plywood-probe";
    let name = format!("{TRIAL}{}", std::process::id());
    let bundle = run.join(&name);
    private_directory(run)
        .and_then(|()| fs::create_dir_all(bundle.join("rootfs/proc")))
        .context("cannot make a bundle for a trial")?;
    let remove = Removed(bundle.clone());
    let namespaces = ["pid", "ipc", "uts", "mount", "network"];
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "cwd": "/", "args": [format!("/{MISSING}")], "env": [], "user": { "uid": 0, "gid": 0 },
        },
        "root": { "path": "rootfs" },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": {
            "cgroupsPath": format!("/{}", crate::container::cgroup(run, &name)),
            "namespaces":
                namespaces.map(|namespace| json!({ "type": namespace })),
        },
    });
    fs::write(bundle.join("config.json"), config.to_string())
        .context("cannot make a bundle for a trial")?;
    let runtime = Runtime { program: program.to_owned(), state: bundle.join("state") };
    let output = runtime
        .command()
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg(&name)
        .stdin(Stdio::null())
        .output()
        .context("it does not start")?;
    let _ = runtime.delete(&name);
    crate::container::sweep_cgroup(run, &name);
    drop(remove);
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let about_program = said.contains(MISSING)
        && (said.contains("no such file")
            || said.contains("No such file")
            || said.contains("not found"));
    anyhow::ensure!(about_program, "{}", last_line(&said));
    Ok(())
}

/// Removes what trials left whose command was killed.
pub(crate) fn sweep_trials(run: &Path) {
    for entry in fs::read_dir(run).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(TRIAL)) else { continue };
        let process = name[TRIAL.len()..].parse().map(sys::process::Process::of);
        if let Ok(Ok(None)) = process {
            let runtimes = RUNTIMES.iter().filter_map(|name| locate(OsStr::new(name)));
            for program in runtimes {
                let runtime = Runtime { program, state: entry.path().join("state") };
                let _ = runtime.delete(name);
            }
            crate::container::sweep_cgroup(run, name);
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Makes a directory, and those above it, for its owner only.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A trial's directory, which holds nothing but what the trial made.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn last_line(text: &str) -> &str {
    text.lines()
        .next_back()
        .filter(|line| !line.is_empty())
        .unwrap_or("it failed without a message")
}

fn locate(name: &OsStr) -> Option<PathBuf> {
    if name.as_encoded_bytes().contains(&b'/') {
        return is_program(Path::new(name)).then(|| PathBuf::from(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|place| place.is_absolute())
        .chain(MORE_PLACES.map(PathBuf::from))
        .map(|place| place.join(name))
        .find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
}

fn passed(program: &Path) -> io::Result<Passed> {
    let metadata = fs::metadata(program)?;
    Ok(Passed {
        program: program.to_owned(),
        boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        inode: metadata.ino(),
        changed: metadata.ctime(),
    })
}

fn remembered(memory: &Path) -> Option<PathBuf> {
    let known: Passed = serde_json::from_slice(&fs::read(memory).ok()?).ok()?;
    (passed(&known.program).ok()? == known).then_some(known.program)
}

/// Failing to remember costs the next run a trial and nothing else.
fn remember(memory: &Path, program: &Path) {
    let Ok(text) = passed(program).map(|passed| json!(passed).to_string()) else { return };
    let mut new = OsString::from(memory);
    new.push(format!(".{}", std::process::id()));
    if fs::write(&new, text).and_then(|()| fs::rename(&new, memory)).is_err() {
        let _ = fs::remove_file(&new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, name: &str, script: &str) -> PathBuf {
        let (text, path) = (dir.join("text"), dir.join(name));
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // By another process, so that no descriptor that is open for writing is inherited by another test's child.
        let mut install = Command::new("install");
        assert!(install.arg("-m755").args([&text, &path]).status().unwrap().success());
        fs::remove_file(text).unwrap();
        path
    }

    #[test]
    fn only_the_expected_complaint_passes_a_trial() {
        let dir = tempfile::tempdir().unwrap();
        let good =
            program(dir.path(), "good", "echo '\"/plywood-probe\": no such file' >&2; exit 1");
        assert!(attempt(&good, dir.path()).is_ok());
        let bad = program(dir.path(), "bad", "echo 'cgroups in hybrid mode' >&2; exit 1");
        let error = attempt(&bad, dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "cgroups in hybrid mode");
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "a trial leaves nothing");
    }

    #[test]
    fn a_replaced_program_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let memory = dir.path().join("runtime.json");
        let first = program(dir.path(), "r", "true");
        remember(&memory, &first);
        assert_eq!(remembered(&memory), Some(first.clone()));
        fs::rename(program(dir.path(), "other", "true"), &first).unwrap();
        assert_eq!(remembered(&memory), None);
        fs::write(&memory, "{").unwrap();
        assert_eq!(remembered(&memory), None);
    }

    #[test]
    fn a_missing_runtime_is_missing_set_up() {
        let dir = tempfile::tempdir().unwrap();
        let error = Runtime::find(Some(OsStr::new("no-such-runtime")), dir.path()).unwrap_err();
        assert_eq!(crate::exit::code(&error), Exit::SetUp);
    }
}
