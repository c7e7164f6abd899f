//! `cargo xtask`: everything around the code. Set-up, demo, tests, fuzzing, benchmarks and generated docs,
//! each one command on a fresh Debian 12 with the Rust toolchain.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod apt_sources;
mod bench;
mod check_windows;
mod ci;
mod containerd;
#[cfg(test)]
mod coverage;
mod deb;
mod demo;
mod emulator;
mod fuzzing;
mod layer_tar;
mod moments;
mod namespace;
mod oci_layout;
mod packages;
mod powercut;
mod private_apt;
mod program;
mod stages;
mod suite_root;
mod vm_kit;
mod windows;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::fuzzing::Build;
use crate::packages::{Purpose, SetUpMissing};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Set-up, demo, tests and benchmarks of Plywood"
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the Debian packages that a purpose needs (as root), or print the command that does
    Setup {
        /// What the machine is to be made ready for
        #[arg(value_enum, default_value_t = Purpose::Test)]
        purpose: Purpose,
    },
    /// A real image imported, mounted and run, with every claim checked
    Demo(demo::DemoArguments),
    /// Everything CI checks: format, lints, dependencies, tests on the real kernel, short fuzz runs
    Test(ci::TestArguments),
    /// Plywood against its peers; writes docs/benchmarks.md and its plots
    Bench(bench::BenchArguments),
    /// Power cuts of a store on a real file system, at random moments, and what is left of it
    Powercut(powercut::PowercutArguments),
    /// Plywood under real containerds of three versions
    Containerd(containerd::ContainerdArguments),
    /// A Windows-like image of three layers, into target/windows
    WindowsImage,
    /// The crates for Windows: linted, linked, and their tests run under Wine
    CheckWindows,
    /// What virtual machines boot: a Debian kernel and our guest, into target/vm/kit
    VmKit,
    /// Shell completions and man pages, into target/docs
    Docs,
    /// The Debian package, into target/deb
    Deb(deb::DebArguments),
    /// Run every fuzz target for some minutes
    Fuzz {
        /// Minutes in all, shared evenly among the targets
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Setup { purpose } => packages::set_up(purpose),
        Task::Demo(arguments) => demo::demo(&arguments),
        Task::Test(arguments) => ci::test(&arguments),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::Powercut(arguments) => powercut::powercut(&arguments),
        Task::Containerd(arguments) => containerd::containerd(&arguments),
        Task::WindowsImage => windows::image(),
        Task::CheckWindows => check_windows::check(),
        Task::VmKit => vm_kit::make().map(drop),
        Task::Docs => docs(),
        Task::Deb(arguments) => deb::deb(&arguments),
        Task::Fuzz { minutes } => fuzzing::fuzz(minutes * 60, Build::Thorough),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<SetUpMissing>() { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}

fn docs() -> anyhow::Result<()> {
    let generate = [
        "run",
        "--quiet",
        "--package",
        "xtask",
        "--features",
        "docs",
        "--bin",
        "plywood-docs",
        "--",
    ];
    let directory = workspace::target().join("docs");
    // Same sources, same pages: their date is that of the last change.
    let date = workspace::last_change("%cs")?;
    program::run(program::cargo(generate).arg(directory).arg(date)).map(drop)
}
