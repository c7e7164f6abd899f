//! `cargo xtask test`: what CI checks, in one command.

use anyhow::Result;
use clap::Args;
use uvm::kit::KIT_VARIABLE;

use crate::fuzzing::Build;
use crate::packages::{self, Purpose};
use crate::program::{self, cargo};
use crate::stages::Stages;
use crate::{check_windows, containerd, emulator, fuzzing, vm_kit, workspace};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct TestArguments {
    /// Only format, lints and tests: no dependency check, no containerd, nothing for Windows, no fuzzing
    #[arg(long)]
    quick: bool,
    /// Also check the dependencies against the advisory database (fetched from the network)
    #[arg(long)]
    advisories: bool,
}

/// Seconds of fuzzing in a CI run, all targets together.
const FUZZ_SECONDS: u64 = 20;

pub(crate) fn test(arguments: &TestArguments) -> Result<()> {
    packages::set_up(Purpose::Test)?;
    packages::require_root(
        "test",
        "the tests mount real images on the real kernel, which takes root",
    )?;
    packages::require_toolchain_parts()?;

    let mut stages = Stages::default();
    stages.run("format", || program::run(&mut cargo(["fmt", "--all", "--check"])).map(drop));
    stages.run("lints", || {
        let lint = ["clippy", "--workspace", "--all-targets", "--all-features"];
        program::run(cargo(lint).args(["--", "-D", "warnings"])).map(drop)
    });
    if !arguments.quick {
        stages.run("dependencies", || {
            packages::require_cargo_command("cargo-deny")?;
            let mut deny = cargo(["deny", "--all-features", "check", "--hide-inclusion-graph"]);
            deny.args(["bans", "licenses", "sources"]);
            program::run(&mut deny).map(drop)
        });
    }
    if arguments.advisories {
        stages.run("advisories", || {
            packages::require_cargo_command("cargo-deny")?;
            program::run(&mut cargo(["deny", "check", "advisories"])).map(drop)
        });
    }
    stages.run("tests", || {
        let test = ["test", "--workspace", "--no-fail-fast", "--", "--skip", "vm_"];
        program::run_tests(&mut cargo(test))
    });
    stages.run("vm kit", || vm_kit::make().map(drop));
    stages.run("vm tests", || {
        packages::require_file_system_judges()?;
        let test = ["test", "--workspace", "--no-fail-fast", "--tests", "--", "vm_"];
        let mut cargo = cargo(test);
        cargo.env(KIT_VARIABLE, vm_kit::directory()).env("PATH", emulator::search_path());
        program::run_tests(&mut cargo)
    });
    if !arguments.quick {
        containerd::stages(&mut stages);
        stages.run("windows", check_windows::check);
    }
    stages.run("documentation", || {
        program::run(cargo(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
            .map(drop)
    });
    if !arguments.quick && workspace::root().join("fuzz/Cargo.toml").is_file() {
        stages.run("fuzzing", || fuzzing::fuzz(FUZZ_SECONDS, Build::Quick));
    }
    stages.finish()
}
