//! A run in mount and process namespaces of its own: whatever it mounts and starts is gone when it ends, however it
//! ends.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Set for the process inside.
const INSIDE: &str = "PLYWOOD_XTASK_NAMESPACE";

/// Whether this process is the one inside.
pub(crate) fn is_private() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Lines of its last error that the error of a run repeats, which otherwise are far up in the output.
const REPEATED_LINES: usize = 80;

/// Runs xtask again with `arguments` in namespaces of its own, with an empty `/run`, and waits for its end.
pub(crate) fn enter(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    ensure!(!is_private(), "already in a namespace of its own");
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        // The shell is the namespace's first process and as such waits for every orphan in it.
        .args(["--", "sh", "-c", "mount -t tmpfs tmpfs /run && \"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe().context("cannot find this program")?)
        .args(arguments)
        .env(INSIDE, "1");
    let mut child = command.stderr(Stdio::piped()).spawn().context("cannot start unshare")?;
    let mut error = Vec::new();
    for line in BufReader::new(child.stderr.take().context("no standard error")?).split(b'\n') {
        let line = line.context("cannot read what it says")?;
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        if let Some(first) = line.strip_prefix("error: ") {
            error = vec![first.to_owned()];
        } else if !error.is_empty() && error.len() < REPEATED_LINES {
            error.push(line.into_owned());
        }
    }
    let status = child.wait().context("cannot wait for unshare")?;
    if !status.success() {
        bail!("{status}: {}", error.join("\n"));
    }
    Ok(())
}
