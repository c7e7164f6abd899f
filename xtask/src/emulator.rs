//! The QEMU that virtual machines of the tests run in: the newest that Debian has for its stable release, unpacked and not installed, with
//! the libraries of its own suite. Debian 12's has no device for our shares.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{apt_sources, program, workspace};

const SUITE: &str = "trixie";
/// Where that suite gets newer versions.
const NEWER: &str = "trixie-backports";
/// Part of the directory's name: a change of how it is made makes a new one.
const RECIPE: u32 = 1;
const PROGRAM: &str = "qemu-system-x86_64";

/// Where the program is.
fn directory() -> PathBuf {
    workspace::target().join("vm/bin")
}

/// The search path for programs that start machines, with this QEMU before others.
pub(crate) fn search_path() -> OsString {
    let mut path = directory().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path
}

/// Unpacks it, unless that was done.
pub(crate) fn make() -> Result<()> {
    let root = workspace::target().join(format!("vm/qemu-{RECIPE}"));
    if !root.is_dir() {
        unpack(&root)?;
    }
    // By the loader and the libraries that it was built for.
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let script = format!(
        "#!/bin/sh\nexec '{libraries}/ld-linux-x86-64.so.2' --library-path '{libraries}' --argv0 {PROGRAM} \
         '{root}/usr/bin/{PROGRAM}' -L '{root}/usr/share/qemu' -L '{root}/usr/share/seabios' \"$@\"\n",
        libraries = libraries.display(),
        root = root.display(),
    );
    let (directory, program) = (directory(), directory().join(PROGRAM));
    if std::fs::read_to_string(&program).is_ok_and(|before| before == script) {
        return Ok(());
    }
    let part = directory.join("part");
    std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(&part, &script))
        .and_then(|()| std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o755)))
        .and_then(|()| std::fs::rename(&part, &program))
        .with_context(|| format!("cannot write {}", program.display()))
}

fn unpack(root: &Path) -> Result<()> {
    let part = root.with_extension("part");
    if part.exists() {
        std::fs::remove_dir_all(&part).context("cannot remove what an earlier run left")?;
    }
    std::fs::create_dir_all(workspace::target().join("vm")).context("cannot create a directory")?;
    let mirror = apt_sources::of_host()?
        .into_iter()
        .find(|source| source.suite == "bookworm")
        .context("the apt sources of this host have no `bookworm`")?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--quiet", "--variant=extract", "--include=qemu-system-x86"])
        // Nothing of it is started, so nothing needs to be mounted.
        .arg("--skip=chroot/mount")
        .arg(r#"--aptopt=APT::Install-Recommends "false""#)
        .arg(format!("--aptopt=APT::Default-Release \"{NEWER}\""))
        .arg(r#"--aptopt=Acquire::Retries "3""#)
        .arg(SUITE)
        .arg(&part)
        .args([mirror.line("deb", SUITE), mirror.line("deb", NEWER)]);
    program::run(&mut mmdebstrap)?;
    std::fs::rename(&part, root).with_context(|| format!("cannot create {}", root.display()))
}
