//! `cargo xtask check-windows`: what Windows hosts get, linted, linked and run as far as Wine goes.
//!
//! One pass of the compiler does all of it: `cargo test --no-run` with clippy in the place of rustc for our own crates.
//! `cargo clippy` and `cargo test` share no artefacts, so in turns they would build every dependency twice.

mod expectations;
mod sysroot;
mod test_programs;
mod wine;

use anyhow::Result;

use self::wine::Wine;
use crate::packages::{self, Purpose};
use crate::{program, workspace};

/// The one target that can be linked without anything of Microsoft's.
pub(crate) const TARGET: &str = "x86_64-pc-windows-gnu";
const LINKER: &str = "x86_64-w64-mingw32-gcc";

/// Crates that are not for Windows hosts: `guest` is process 1 of Linux machines, `xtask` works on Debian.
const LINUX_ONLY: &[&str] = &["guest", "xtask"];

/// Does the whole check.
pub(crate) fn check() -> Result<()> {
    packages::set_up(Purpose::CheckWindows)?;
    let sysroot = sysroot::ready()?;
    let wine = Wine::ready(&workspace::target().join("windows/wine"))?;

    let mut build = program::cargo(["test", "--no-run", "--workspace", "--all-features"]);
    // Not examples: seeds of the fuzz targets are made on Linux.
    build.args(["--lib", "--bins", "--tests"]);
    build.args(["--target", TARGET, "--message-format=json-render-diagnostics"]);
    for name in LINUX_ONLY {
        build.args(["--exclude", name]);
    }
    build
        .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", LINKER)
        .env(
            "CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUSTFLAGS",
            format!("--sysroot={}", sysroot.display()),
        )
        // What `cargo clippy -- -D warnings` sets.
        .env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver")
        .env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__")
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    let programs = test_programs::built_by(&mut build)?;
    test_programs::run(&programs, &wine)
}
