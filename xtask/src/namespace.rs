//! A run in mount and process namespaces of its own: whatever it mounts and starts is gone when it ends, however it
//! ends.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Set for the process inside.
const INSIDE: &str = "PLYWOOD_XTASK_NAMESPACE";

/// Whether this process is the one inside.
pub(crate) fn is_private() -> bool {
    std::env::var_os(INSIDE).is_some()
}

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
    let status = command.status().context("cannot start unshare")?;
    if !status.success() {
        bail!("failed, see above");
    }
    Ok(())
}
