//! `cargo xtask fuzz`: every fuzz target for its share of the time.

use std::process::Command;

use anyhow::{Result, bail};

use crate::packages::{self, Purpose};
use crate::program::{self, cargo};
use crate::workspace;

/// How the targets are built.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Build {
    /// Fast to run, with the address sanitizer: for hours.
    Thorough,
    /// In half the time, barely optimized and looking for panics only: for seconds.
    Quick,
}

/// Fuzzes for `seconds` in all. The first crash of a target is an error; the others still run.
pub(crate) fn fuzz(seconds: u64, build: Build) -> Result<()> {
    let build: &[&str] = match build {
        Build::Thorough => &["--sanitizer", "address"],
        Build::Quick => &["--dev", "--sanitizer", "none"],
    };
    packages::set_up(Purpose::Fuzz)?;
    packages::require_cargo_command("cargo-fuzz")?;
    let targets = program::output(&mut cargo(["fuzz", "list"]))?;
    let targets: Vec<&str> = targets.split_whitespace().collect();
    if targets.is_empty() {
        bail!("fuzz/ has no targets");
    }
    // Small valid inputs to begin with; what earlier runs found stays beside them.
    program::run(&mut cargo(["build", "--workspace", "--example", "fuzz-seeds"]))?;
    let seeds = workspace::target().join("debug/examples/fuzz-seeds");
    program::run(Command::new(seeds).arg(workspace::root().join("fuzz/corpus")))?;
    let share = (seconds / targets.len() as u64).max(1);
    let mut failed = Vec::new();
    for target in targets {
        // Coverage instrumentation and the sanitizer are flags that stable rustc refuses by name only.
        let mut command = cargo(["fuzz", "run"]);
        command.args(build).env("RUSTC_BOOTSTRAP", "1").args([
            target,
            "--",
            &format!("-max_total_time={share}"),
            "-rss_limit_mb=1024",
            // One line for each new input buries what a log is read for.
            "-verbosity=0",
            "-timeout=20",
        ]);
        if let Err(error) = program::run(&mut command) {
            eprintln!("error: {error:#}");
            failed.push(target);
        }
    }
    if !failed.is_empty() {
        bail!("fuzz targets that failed: {}", failed.join(", "));
    }
    Ok(())
}
