//! `cargo xtask deb`: the Debian package.
//!
//! The package is staged here and packed by dpkg-deb. That is less than what a packaging tool from the crate registry
//! would have to be told, and needs no tool that Debian 12 does not have.

mod control;
mod stage;
mod trial;

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use self::stage::Stage;
use crate::packages::{self, Purpose};
use crate::{program, vm_kit, workspace};

/// Options of `cargo xtask deb`.
#[derive(Args)]
pub(crate) struct DebArguments {
    /// Package the release build that is there
    #[arg(long)]
    as_built: bool,
    /// Afterwards install, use, upgrade, remove and purge the package in a fresh Debian 12, without
    /// and with systemd (as root)
    #[arg(long = "try")]
    trial: bool,
}

pub(crate) fn deb(arguments: &DebArguments) -> Result<()> {
    packages::set_up(Purpose::Deb)?;
    if arguments.trial {
        packages::require_root("deb --try", "the trial installs the package in a root of its own")?;
    }
    if !arguments.as_built {
        let release = ["build", "--release", "--package", "plywood"];
        program::run(&mut program::cargo(release))?;
    }
    crate::docs()?;
    let guest = vm_kit::guest()?;
    let package = build(guest)?;
    println!("{}", package.display());
    if arguments.trial { trial::trial(&package) } else { Ok(()) }
}

/// Stages and packs; the path of the package.
fn build(guest: PathBuf) -> Result<PathBuf> {
    let directory = workspace::target().join("deb");
    let architecture = program::output(Command::new("dpkg").arg("--print-architecture"))?;
    let architecture = architecture.trim();
    let epoch = workspace::last_change("%ct")?;
    let stage = Stage::fresh(&directory.join("stage"))?;
    let files = stage::files(guest)?;
    for file in &files {
        stage.install(file)?;
    }
    stage.changelog(&epoch)?;
    control::write(&stage, architecture, &files)?;
    let package =
        directory.join(format!("plywood_{}_{architecture}.deb", env!("CARGO_PKG_VERSION")));
    let mut pack = Command::new("dpkg-deb");
    // Same sources and compiler, same package: times are at most that of the last change.
    pack.env("SOURCE_DATE_EPOCH", epoch);
    pack.args(["--root-owner-group", "--build"]).arg(stage.root()).arg(&package);
    program::run(&mut pack)?;
    Ok(package)
}
