//! Rust's standard library for Windows, which the toolchain has no ready one of: built from Debian's source package of the
//! same version, once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{LINKER, TARGET};
use crate::private_apt::PrivateApt;
use crate::{program, workspace};

/// Has source packages of newer compilers than the release.
const SUITE: &str = "trixie-backports";
const PACKAGE: &str = "rust-src";
/// A crate is needed to build the library for.
const CRATE: &str = "windows_std";

/// The system root for [`TARGET`], made unless it is there.
pub(super) fn ready() -> Result<PathBuf> {
    let version = compiler("-vV")?;
    let version = version
        .lines()
        .find_map(|line| line.strip_prefix("release: "))
        .context("rustc does not tell its version")?;
    let home = workspace::target().join("windows");
    let sysroot = home.join(format!("sysroot-{version}"));
    if sysroot.is_dir() {
        return Ok(sysroot);
    }
    let work = home.join("std");
    remove(&work)?;
    let library = source(&work, version)?;
    let built = build(&work, &library)?;
    let staging = home.join(format!("sysroot-{version}.part"));
    remove(&staging)?;
    gather(&built, &staging)?;
    std::fs::rename(&staging, &sysroot)
        .with_context(|| format!("cannot create {}", sysroot.display()))?;
    remove(&work)?;
    Ok(sysroot)
}

fn compiler(option: &str) -> Result<String> {
    let mut rustc = Command::new("rustc");
    program::output(rustc.args(option.split(' ')).current_dir(workspace::root()))
}

fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("cannot remove {}", directory.display())),
    }
}

/// The library's sources of this version.
fn source(work: &Path, version: &str) -> Result<PathBuf> {
    let apt = PrivateApt::new(&work.join("apt"), "deb", SUITE, &[])?;
    let wanted = format!("{PACKAGE}={version}*");
    let package = apt
        .download(&[&wanted])
        .with_context(|| format!("Debian's {SUITE} has no {PACKAGE} {version}, the compiler's"))?
        .remove(0);
    // All of the package is 365 MB, of which this is a fifth.
    let library = format!("usr/src/rustc-{version}/library");
    let unpacked = work.join("source");
    std::fs::create_dir_all(&unpacked)
        .with_context(|| format!("cannot create {}", unpacked.display()))?;
    let mut unpack = Command::new("sh");
    unpack.args(["-c", "dpkg-deb --fsys-tarfile \"$1\" | tar -x -C \"$2\" \"./$3\"", "sh"]);
    program::run(unpack.arg(&package).arg(&unpacked).arg(&library))?;
    Ok(unpacked.join(library))
}

/// Builds it and returns the directory that holds it among its dependencies.
fn build(work: &Path, library: &Path) -> Result<PathBuf> {
    let package = work.join("crate");
    let write = |name: &str, text: &str| {
        let path = package.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    std::fs::create_dir_all(package.join("src"))
        .with_context(|| format!("cannot create {}", package.display()))?;
    write("src/lib.rs", "")?;
    write(
        "Cargo.toml",
        &format!("[package]\nname = \"{CRATE}\"\nedition = \"2024\"\n[workspace]\n{PROFILE}"),
    )?;
    let target = work.join("target");
    let mut build = program::cargo(["build", "--target", TARGET, "--target-dir"]);
    build
        .arg(&target)
        .args(["-Z", "build-std=std,panic_unwind,proc_macro,test"])
        .current_dir(&package)
        // Building the library is for nightly compilers; the library's source is asked for at a place of rustup's.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", library)
        .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", LINKER)
        .env_remove("RUSTFLAGS");
    program::run(&mut build)?;
    Ok(target.join(TARGET).join("debug/deps"))
}

/// The tests do not wait for the library: what is generic in it is compiled with them.
const PROFILE: &str =
    "[profile.dev]\ndebug = 0\nopt-level = 1\ndebug-assertions = false\noverflow-checks = false\n";

fn gather(built: &Path, sysroot: &Path) -> Result<()> {
    let rustlib = sysroot.join("lib/rustlib");
    let libraries = rustlib.join(TARGET).join("lib");
    std::fs::create_dir_all(&libraries)
        .with_context(|| format!("cannot create {}", libraries.display()))?;
    let mut copied = 0;
    let listing = || format!("cannot list {}", built.display());
    for entry in std::fs::read_dir(built).with_context(listing)? {
        let path = entry.with_context(listing)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let wanted = name.ends_with(".rlib") || name.ends_with(".rmeta");
        if wanted && !name.starts_with(&format!("lib{CRATE}-")) {
            std::fs::copy(&path, libraries.join(name))
                .with_context(|| format!("cannot copy {}", path.display()))?;
            copied += 1;
        }
    }
    if copied == 0 {
        bail!("there is no library in {}", built.display());
    }
    Ok(())
}
