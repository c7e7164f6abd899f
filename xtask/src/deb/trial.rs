//! The package in a fresh Debian 12: installed, used, upgraded, removed, purged.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{apt_sources, program, workspace};

/// What the trial looks at the package with, and what a host that runs containers has.
const PACKAGES: &str = "systemd,man-db,mount,e2fsprogs,runc,busybox-static,lintian";

/// What happens in the root. A shell script, because it is what an administrator types.
const SCRIPT: &str = include_str!("trial.sh");

pub(super) fn trial(package: &Path) -> Result<()> {
    let directory = workspace::target().join("deb");
    let root = directory.join("root");
    remove(&root)?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .env("TMPDIR", &directory)
        .args(["--quiet", "--variant=minbase", "--format=directory"])
        .arg(format!("--include={PACKAGES}"))
        .arg("bookworm")
        .arg(&root)
        .args(apt_sources::of_suite(&apt_sources::of_host()?, "bookworm")?);
    program::run(&mut mmdebstrap)?;
    for (name, from) in [("plywood.deb", Some(package)), ("trial.sh", None)] {
        let to = root.join("root").join(name);
        let done = match from {
            Some(from) => fs::copy(from, &to).map(drop),
            None => fs::write(&to, SCRIPT),
        };
        done.with_context(|| format!("cannot write {}", to.display()))?;
    }
    // All mounts are made in a namespace that ends with the command, also if it is killed.
    let enter = "mount --bind \"$1\" \"$1\" && cd \"$1\" && mount --rbind /dev dev && mount --rbind /sys sys && \
                 mount -t proc proc proc && mount -t tmpfs -o mode=0755 run run && mkdir run/lock && \
                 exec chroot . sh /root/trial.sh";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", enter, "trial"]).arg(&root);
    let tried = program::run(&mut command);
    remove(&root)?;
    tried.map(drop)
}

fn remove(root: &Path) -> Result<()> {
    if root.exists() {
        // Never across a mount: a /dev that is bound there would be the host's.
        let mut command = Command::new("rm");
        program::quietly(command.args(["-rf", "--one-file-system"]).arg(root))?;
    }
    Ok(())
}
