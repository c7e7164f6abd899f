//! `cargo xtask vm-kit`: the kernel and initramfs that virtual machines boot.
//!
//! The QEMU that they boot in comes with it ([`emulator`]). The kernel is Debian's generic one from bookworm-backports (the one for clouds lacks 9p), downloaded and unpacked,
//! never installed. It is kept until its package changes its name.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use uvm::kit::{GUEST_PROGRAMS, Kit, KitSources};

use crate::packages::{self, Purpose};
use crate::private_apt::PrivateApt;
use crate::{emulator, program, workspace};

const SUITE: &str = "bookworm-backports";
/// A package without content that depends on the newest kernel's.
const NEWEST: &str = "linux-image-amd64";
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where the kit comes.
pub(crate) fn directory() -> PathBuf {
    workspace::target().join("vm/kit")
}

/// Makes the kit anew from the kernel (downloaded once) and the guest of these sources.
pub(crate) fn make() -> Result<Kit> {
    packages::set_up(Purpose::Vm)?;
    packages::require_vsock_device()?;
    emulator::make()?;
    let kernel = kernel()?;
    let guest = guest()?;
    let sources = KitSources {
        kernel: &kernel.image,
        modules: &kernel.modules,
        guest: &guest,
        programs: GUEST_PROGRAMS,
    };
    let kit = Kit::build(&directory(), &sources).context("cannot make the kit")?;
    let size = std::fs::metadata(kit.initramfs())?.len() >> 20;
    println!("{}: kernel {}, initramfs of {size} MiB", directory().display(), kit.release());
    Ok(kit)
}

struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

fn kernel() -> Result<Kernel> {
    let home = workspace::target().join("vm/kernel");
    if let Some(kernel) = unpacked(&home)? {
        return Ok(kernel);
    }
    let apt = PrivateApt::new(&workspace::target().join("vm/apt"), "deb", SUITE, &[])?;
    let newest = apt.download(&[NEWEST])?.remove(0);
    let depends = program::output(Command::new("dpkg-deb").arg("-f").arg(&newest).arg("Depends"))?;
    std::fs::remove_file(&newest).context("cannot remove a package")?;
    let name = depends.split_whitespace().next().unwrap_or_default();
    ensure!(name.starts_with("linux-image-"), "{NEWEST} depends on {depends:?}");
    let package = apt.download(&[name])?.remove(0);
    let staging = home.with_extension("new");
    if staging.exists() {
        std::fs::remove_dir_all(&staging).context("cannot remove what an earlier run left")?;
    }
    program::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&staging))?;
    std::fs::remove_file(&package).context("cannot remove a package")?;
    std::fs::rename(&staging, &home).context("cannot put the kernel in its place")?;
    unpacked(&home)?.context("the kernel's package has no modules")
}

fn unpacked(home: &Path) -> Result<Option<Kernel>> {
    if !home.is_dir() {
        return Ok(None);
    }
    let (image, modules) = (one(&home.join("boot"), "vmlinuz-")?, home.join("lib/modules"));
    Ok(Some(Kernel { image, modules: one(&modules, "")? }))
}

fn one(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("there is no {prefix}* in {}", directory.display())
}

/// `plywood-guest`, which is PID 1 of a system without a loader for it, built.
pub(crate) fn guest() -> Result<PathBuf> {
    let directory = workspace::target().join("vm/guest");
    let mut build =
        program::cargo(["build", "--release", "--package", "guest", "--target", TARGET]);
    build.arg("--target-dir").arg(&directory);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    program::run(&mut build)?;
    Ok(directory.join(TARGET).join("release/plywood-guest"))
}
