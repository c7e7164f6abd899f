//! The package in a fresh Debian 12: installed, used, upgraded, removed, purged; without an init first, then under systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{apt_sources, program, workspace};

/// What the trial looks at the package with, and what a host that runs containers has.
const PACKAGES: &str = "systemd,man-db,mandoc,mount,e2fsprogs,runc,busybox-static,lintian,zsh,fish";

/// Changes with what a root is made of.
const RECIPE: u32 = 1;

/// What happens in the root; `boot.sh` is the host's side of the last. Shell scripts, because it is what an administrator
/// types.
const SCRIPTS: [(&str, &str); 3] = [
    ("trial.sh", include_str!("trial.sh")),
    ("boot.sh", include_str!("boot.sh")),
    ("booted.sh", include_str!("booted.sh")),
];

pub(super) fn trial(package: &Path) -> Result<()> {
    let directory = workspace::target().join("deb");
    let root = directory.join("root");
    remove(&root)?;
    let fresh = fresh(&directory)?;
    program::run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&fresh).arg(&root))?;
    let home = root.join("root");
    let doing = || format!("cannot write below {}", home.display());
    fs::copy(package, home.join("plywood.deb")).with_context(doing)?;
    for (name, script) in SCRIPTS {
        fs::write(home.join(name), script).with_context(doing)?;
    }
    // All mounts are made in a namespace that ends with the command, also if it is killed.
    let enter = "mount --bind \"$1\" \"$1\" && cd \"$1\" && mount --rbind /dev dev && mount --rbind /sys sys && \
                 mount -t proc proc proc && mount -t tmpfs -o mode=0755 run run && mkdir run/lock && \
                 exec chroot . sh /root/trial.sh";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]);
    command.args(["sh", "-c", enter, "trial"]).arg(&root);
    let mut boot = Command::new("sh");
    boot.arg(home.join("boot.sh")).arg(&root);
    let tried = program::run(&mut command).and_then(|_| program::run(&mut boot));
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
