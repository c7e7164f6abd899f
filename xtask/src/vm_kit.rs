//! `cargo xtask vm-kit`: the kernel and initramfs that virtual machines boot.
//!
//! The kernel is Debian's generic one from bookworm-backports (the one for clouds lacks 9p), downloaded and unpacked,
//! never installed. It is kept until its package changes its name.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use uvm::kit::{GUEST_PROGRAMS, Kit, KitSources};

use crate::packages::{self, Purpose};
use crate::private_apt::PrivateApt;
use crate::{program, workspace};

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
    let packed = one(&staging.join("boot"), "vmlinuz-")?;
    let data =
        std::fs::read(&packed).with_context(|| format!("cannot read {}", packed.display()))?;
    std::fs::write(staging.join("vmlinux"), elf_of(&data)?).context("cannot write the kernel")?;
    std::fs::rename(&staging, &home).context("cannot put the kernel in its place")?;
    unpacked(&home)?.context("the kernel's package has no modules")
}

fn unpacked(home: &Path) -> Result<Option<Kernel>> {
    let image = home.join("vmlinux");
    if !image.is_file() {
        return Ok(None);
    }
    Ok(Some(Kernel { image, modules: one(&home.join("lib/modules"), "")? }))
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

/// The kernel inside of a bzImage (x86 boot protocol 2.08: where the payload is, and how long). It enters by PVH, and
/// so an emulated processor need not unpack it, which takes a second.
fn elf_of(image: &[u8]) -> Result<Vec<u8>> {
    const SETUP_SECTORS: usize = 0x1f1;
    const MAGIC: usize = 0x202;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    let number = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("the kernel is cut short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    ensure!(image.get(MAGIC..MAGIC + 4) == Some(b"HdrS"), "not a bzImage");
    let setup = (usize::from(image[SETUP_SECTORS]) + 1) * 512;
    let start = setup + number(PAYLOAD_OFFSET)?;
    // The last four bytes are the size of what is unpacked.
    let end = start + number(PAYLOAD_LENGTH)? - 4;
    let payload = image.get(start..end).context("the kernel is cut short")?;
    ensure!(payload.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]), "the kernel is not packed with zstd");
    let elf = zstd::decode_all(payload).context("cannot unpack the kernel")?;
    ensure!(elf.starts_with(b"\x7fELF"), "there is no ELF file in the kernel");
    Ok(elf)
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
