//! The QEMU that virtual machines of the tests run in: the newest that Debian has for its stable release, unpacked and not installed, with
//! the libraries of its own suite. Debian 12's has no device for our shares.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{suite_root, workspace};

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
        let newer = format!("--aptopt=APT::Default-Release \"{NEWER}\"");
        // Nothing of it is started, so nothing needs to be mounted.
        let options = ["--skip=chroot/mount", &newer];
        suite_root::unpack(&root, (SUITE, &[NEWER]), "qemu-system-x86", &options)?;
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
