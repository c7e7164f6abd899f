//! Set-up: which Debian packages a purpose needs, and installing those that are missing.

use std::collections::BTreeSet;
use std::fmt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::program;

/// What a machine is made ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// `cargo xtask test`
    Test,
    /// `cargo xtask demo`
    Demo,
    /// `cargo xtask bench`
    Bench,
    /// `cargo xtask powercut`
    #[value(name = "powercut")]
    PowerCut,
    /// `cargo xtask deb`
    Deb,
    /// `cargo xtask containerd`
    Containerd,
    /// `cargo xtask fuzz`
    Fuzz,
    /// `cargo xtask windows-image`
    Windows,
    /// `cargo xtask check-windows`
    CheckWindows,
    /// `cargo xtask vm-kit`, and booting it
    Vm,
}

/// Something is missing that only the user can provide; the text says how. Exit code 3.
#[derive(Debug)]
pub(crate) struct SetUpMissing(String);

impl SetUpMissing {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for SetUpMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SetUpMissing {}

/// What building the workspace needs beside the Rust toolchain: its linker, and zstd's C library.
const BUILD: &[&str] = &["gcc", "libc6-dev"];

/// What `plywood run` and disk-backed scratch need, on any host.
const RUN: &[&str] = &["runc", "crun", "e2fsprogs"];

const TEST: &[&str] = &[
    // Independent readers of what we write, and independent writers of what we read.
    "erofs-utils",
    "attr",
    "python3",
    "python3-hivex",
    "python3-libregf",
    "reglookup",
    "wimtools",
    "gzip",
    "tar",
    "zstd",
    // losetup, mount and unshare of util-linux; the container images of the run tests.
    "util-linux",
    "mount",
    // The judge of hash trees.
    "cryptsetup-bin",
    // Mounts for users without privileges.
    "fuse3",
    "busybox-static",
];

const DEMO: &[&str] = &["mmdebstrap", "ca-certificates", "debian-archive-keyring"];

const BENCH: &[&str] = &[
    "squashfs-tools",
    // What people use for trees of Windows on Linux today.
    "wimtools",
    "time",
    // erofs-utils is built from a newer source package; these are its build dependencies.
    "autoconf",
    "automake",
    "dpkg-dev",
    "libtool",
    "make",
    "pkg-config",
    "liblz4-dev",
    "liblzma-dev",
    "uuid-dev",
    "zlib1g-dev",
];

/// File systems for the disk that is cut: reflinks are XFS's, the store is on ext4.
const POWER_CUT: &[&str] = &["xfsprogs", "e2fsprogs", "util-linux", "mount"];

/// `strip` comes with the compiler; a trial makes a root of its own.
const DEB: &[&str] = &["dpkg-dev", "git", "mmdebstrap", "debian-archive-keyring"];
/// containerd's own snapshotter suite and its compiler, and what unpacks containerd itself.
const CONTAINERD: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "debian-archive-keyring",
    "golang-github-containerd-containerd-dev",
    "golang-go",
    "mmdebstrap",
    "mount",
    "util-linux",
];

const FUZZ: &[&str] = &["g++"];

/// What the Windows-like image is made with: hives by hivex. Wine's packages are fetched, not installed.
const WINDOWS: &[&str] = &["libhivex-bin"];

/// The machine, and what its guest is given: programs for scratches and containers, unpackers of Debian's kernel package.
const VM: &[&str] = &[
    // QEMU itself is fetched, not installed.
    "mmdebstrap",
    "debian-archive-keyring",
    "ca-certificates",
    "dpkg",
    "e2fsprogs",
    "libc-bin",
    // Disk images of other formats, and a program that works in a share, for tests.
    "qemu-utils",
    "git",
    "runc",
    "xfsprogs",
    "xz-utils",
];

/// A linker for Windows' programs and what runs them. The half of Wine for 32 bits is not needed.
const CHECK_WINDOWS: &[&str] =
    &["ca-certificates", "dpkg", "gcc-mingw-w64-x86-64-win32", "tar", "wine", "wine64"];

/// A public reader of executables.
const DEMO_CIM: &[&str] = &["icoutils"];

impl Purpose {
    fn packages(self) -> BTreeSet<&'static str> {
        let lists: &[&[&str]] = match self {
            Self::Test => &[BUILD, RUN, TEST, CONTAINERD, FUZZ, VM, CHECK_WINDOWS],
            Self::Demo => &[BUILD, RUN, DEMO, WINDOWS, DEMO_CIM, &["attr"]],
            Self::Bench => &[BUILD, RUN, DEMO, TEST, BENCH, WINDOWS],
            Self::PowerCut => &[BUILD, POWER_CUT],
            Self::Deb => &[BUILD, DEB],
            Self::Containerd => &[BUILD, RUN, CONTAINERD],
            Self::Fuzz => &[BUILD, FUZZ],
            Self::Windows => &[BUILD, WINDOWS],
            Self::CheckWindows => &[BUILD, CHECK_WINDOWS],
            Self::Vm => &[BUILD, VM],
        };
        lists.iter().flat_map(|list| list.iter().copied()).collect()
    }
}

/// Makes the machine ready: installs what is missing when root, otherwise says what to type.
pub(crate) fn set_up(purpose: Purpose) -> Result<()> {
    let wanted = purpose.packages();
    let list = |names: &[&str]| names.join(" ");
    if !program::exists("dpkg-query") || !program::exists("apt-get") {
        let all: Vec<&str> = wanted.into_iter().collect();
        bail!(SetUpMissing::new(format!(
            "this is not a Debian system; install what these Debian packages hold: {}",
            list(&all)
        )));
    }
    let installed = installed_packages()?;
    let missing: Vec<&str> = wanted.into_iter().filter(|name| !installed.contains(*name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!(SetUpMissing::new(format!(
            "packages are missing; run this and try again:\n  \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {}",
            list(&missing)
        )));
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-o", "Acquire::Retries=3"]);
        command
    };
    program::run(apt().arg("update").arg("-q"))?;
    program::run(apt().args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing))?;
    Ok(())
}

fn installed_packages() -> Result<BTreeSet<String>> {
    let text = program::output(Command::new("dpkg-query").args([
        "-W",
        "-f",
        "${db:Status-Status} ${Package}\n",
    ]))
    .context("cannot list the installed packages")?;
    Ok(text.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect())
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Refuses to go on without root, naming the command that would do.
pub(crate) fn require_root(task: &str, why: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(SetUpMissing::new(format!(
        "{why}; run\n  sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask {task}"
    )))
}

/// rustfmt and clippy are parts of the toolchain that a minimal installation leaves out.
pub(crate) fn require_toolchain_parts() -> Result<()> {
    let present = |arguments: [&str; 2]| {
        program::cargo(arguments).output().is_ok_and(|output| output.status.success())
    };
    if present(["fmt", "--version"]) && present(["clippy", "--version"]) {
        return Ok(());
    }
    bail!(SetUpMissing::new(
        "rustfmt or clippy is missing; run\n  rustup component add rustfmt clippy"
    ))
}

/// A cargo subcommand from the crate registry, installed into cargo's ordinary place when missing.
pub(crate) fn require_cargo_command(name: &str) -> Result<()> {
    if program::exists(name) {
        return Ok(());
    }
    program::run(&mut program::cargo(["install", "--locked", name]))?;
    Ok(())
}

/// The guest's side of vsock; not a package of Debian 12.
pub(crate) fn require_vsock_device() -> Result<()> {
    if program::exists("vhost-device-vsock") {
        return Ok(());
    }
    let install = ["install", "--locked", "--version", "0.3.0", "vhost-device-vsock"];
    program::run(&mut program::cargo(install))?;
    Ok(())
}

/// Judges of file systems that run in a guest, in a share: a suite of POSIX's rules, and random input and output.
pub(crate) fn require_file_system_judges() -> Result<()> {
    for (name, version) in [("pjdfstest", "0.2.2"), ("fsx", "0.3.2")] {
        if !program::exists(name) {
            let install = ["install", "--locked", "--version", version, name];
            program::run(&mut program::cargo(install))?;
        }
    }
    Ok(())
}
