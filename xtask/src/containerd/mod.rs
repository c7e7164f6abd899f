//! `cargo xtask containerd`: Plywood under real containerds, unmodified, each from a suite of Debian.
//!
//! ```text
//! target/containerd/roots/trixie-1       containerd 1.7, ctr and runc, unpacked by mmdebstrap, kept
//! target/containerd/work/1.7             = /run/work inside: images, logs, and everything that both daemons write
//! ```
//!
//! Each version runs in mount and process namespaces of its own, so that nothing stays mounted or running whatever
//! happens; `/run` is empty there. containerd runs in its root, `plywood serve` does not; they see the same directory
//! under the same name, and each other's mounts below it.

mod daemon;
mod extremes;
mod image;
mod kills;
mod listing;
mod plywood;
mod root;
mod scenario;
mod session;
mod suite;
mod windows;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

pub(crate) use self::daemon::Containerd;
pub(crate) use self::plywood::Plywood;
pub(crate) use self::root::{Root, Version, WORK};
use self::session::Session;
use crate::moments;
use crate::packages::{self, Purpose};
use crate::stages::Stages;
use crate::{namespace, program, workspace};

/// Options of `cargo xtask containerd`.
#[derive(Args)]
pub(crate) struct ContainerdArguments {
    /// Only this version; may be given more than once
    #[arg(long = "version", value_enum, value_name = "VERSION")]
    versions: Vec<Version>,
    /// Only containerd's own snapshotter suite
    #[arg(long, conflicts_with_all = ["versions", "overlayfs"])]
    suite: bool,
    /// Rounds in which a daemon is killed, with each version
    #[arg(long, default_value_t = 70)]
    rounds: u32,
    /// Repeat the moments of another run, as far as the machine's speed allows
    #[arg(long)]
    seed: Option<u64>,
    /// containerd's own overlayfs in Plywood's place: shows that the tests are right
    #[arg(long)]
    overlayfs: bool,
    /// Test this program instead of building one
    #[arg(long, value_name = "FILE")]
    plywood: Option<PathBuf>,
}

/// Rounds with each version in a CI run.
const CI_ROUNDS: u32 = 2;

pub(crate) fn containerd(arguments: &ContainerdArguments) -> Result<()> {
    if namespace::is_private() {
        return inside(arguments);
    }
    packages::set_up(Purpose::Containerd)?;
    packages::require_root("containerd", "containers and mounts take root")?;
    let program = match &arguments.plywood {
        Some(program) => std::path::absolute(program)?,
        None => built()?,
    };
    if arguments.suite || (!arguments.overlayfs && arguments.versions.is_empty()) {
        enter_suite(&program)?;
    }
    if arguments.suite {
        return Ok(());
    }
    let seed = arguments.seed.map_or_else(moments::any_seed, Ok)?;
    let versions =
        if arguments.versions.is_empty() { &Version::ALL[..] } else { &arguments.versions };
    for version in versions {
        enter_version(*version, &program, arguments.rounds, seed, arguments.overlayfs)?;
    }
    Ok(())
}

/// What of it belongs to every CI run.
pub(crate) fn stages(stages: &mut Stages) {
    stages.run("containerd's snapshotter suite", || enter_suite(&tested()?));
    for version in Version::ALL {
        stages.run(&format!("containerd {}", version.name()), || {
            enter_version(version, &tested()?, CI_ROUNDS, moments::any_seed()?, false)
        });
    }
}

/// The program under test.
fn built() -> Result<PathBuf> {
    program::run(&mut program::cargo(["build", "--package", "plywood"]))?;
    Ok(workspace::target().join("debug/plywood"))
}

/// The program under test as the tests have built it. By itself it would be built anew with most of its dependencies,
/// because those of the tests have other features.
fn tested() -> Result<PathBuf> {
    program::run(&mut program::cargo(["test", "--workspace", "--no-run", "--quiet"]))?;
    Ok(workspace::target().join("debug/plywood"))
}

fn enter_suite(program: &Path) -> Result<()> {
    let words: [OsString; 4] =
        ["containerd".into(), "--suite".into(), "--plywood".into(), program.into()];
    namespace::enter(words)
}

fn enter_version(
    version: Version,
    program: &Path,
    rounds: u32,
    seed: u64,
    overlayfs: bool,
) -> Result<()> {
    let (rounds, seed) = (rounds.to_string(), seed.to_string());
    let words = ["containerd", "--version", version.name(), "--rounds", &rounds, "--seed", &seed];
    let mut words: Vec<OsString> = words.map(Into::into).into();
    words.extend(["--plywood".into(), program.into()]);
    words.extend(overlayfs.then(|| "--overlayfs".into()));
    namespace::enter(words)
}

/// The suite or one version, in namespaces of its own.
fn inside(arguments: &ContainerdArguments) -> Result<()> {
    let program = arguments.plywood.as_deref().context("--plywood is missing")?;
    if arguments.suite {
        return suite::run(program);
    }
    let [version] = arguments.versions[..] else { anyhow::bail!("one version in each namespace") };
    let program = (!arguments.overlayfs).then_some(program);
    let start = Instant::now();
    let root = Root::prepared(version)?;
    let work = workspace::target().join("containerd/work").join(version.name());
    if work.exists() {
        std::fs::remove_dir_all(&work)
            .with_context(|| format!("cannot remove {}", work.display()))?;
    }
    std::fs::create_dir_all(&work)?;
    root.enter(&work)?;
    println!("\ncontainerd {} is set up ({:.1} s)", version.name(), start.elapsed().as_secs_f64());
    println!("logs are in {}", work.display());
    let mut session = Session::start(&root, Path::new(root::WORK), program)?;
    scenario::run(&session)?;
    if arguments.rounds > 0 {
        let seed = arguments.seed.context("--seed is missing")?;
        kills::run(&mut session, arguments.rounds, seed)?;
    }
    session.plywood.as_mut().map_or(Ok(()), |plywood| plywood.stop())
}
