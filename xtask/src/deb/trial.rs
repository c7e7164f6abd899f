//! The package in a fresh Debian 12: installed, used, upgraded, removed, purged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{apt_sources, program, workspace};

/// What the trial looks at the package with, and what a host that runs containers has.
const PACKAGES: &str = "systemd,man-db,mandoc,mount,e2fsprogs,runc,busybox-static,lintian,zsh,fish";

/// Changes with what a root is made of.
const RECIPE: u32 = 1;

/// What happens in the root. A shell script, because it is what an administrator types.
const SCRIPT: &str = include_str!("trial.sh");

pub(super) fn trial(package: &Path) -> Result<()> {
    let directory = workspace::target().join("deb");
    let root = directory.join("root");
    remove(&root)?;
    let fresh = fresh(&directory)?;
    program::run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&fresh).arg(&root))?;
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
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]);
    command.args(["sh", "-c", enter, "trial"]).arg(&root);
    let tried = program::run(&mut command);
    remove(&root)?;
    tried.map(drop)
}

/// A Debian 12 that nothing was done to; made once.
fn fresh(directory: &Path) -> Result<PathBuf> {
    let path = directory.join(format!("bookworm-{RECIPE}"));
    if path.is_dir() {
        return Ok(path);
    }
    let part = path.with_extension("part");
    remove(&part)?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .env("TMPDIR", directory)
        .args(["--quiet", "--variant=minbase", "--format=directory"])
        .arg(format!("--include={PACKAGES}"))
        .arg("bookworm")
        .arg(&part)
        .args(apt_sources::of_suite(&apt_sources::of_host()?, "bookworm")?);
    program::run(&mut mmdebstrap)?;
    fs::rename(&part, &path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}

fn remove(root: &Path) -> Result<()> {
    if root.exists() {
        // Never across a mount: a /dev that is bound there would be the host's.
        let mut command = Command::new("rm");
        program::quietly(command.args(["-rf", "--one-file-system"]).arg(root))?;
    }
    Ok(())
}
