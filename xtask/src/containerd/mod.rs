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
mod image;
mod kills;
mod listing;
mod plywood;
mod root;
mod scenario;
mod session;
mod suite;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

pub(crate) use self::daemon::Containerd;
pub(crate) use self::plywood::Plywood;
pub(crate) use self::root::{Root, Version, WORK};
use self::session::Session;
pub(crate) use self::session::fragment;
use crate::moments;
use crate::packages::{self, Purpose};
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

pub(crate) fn containerd(arguments: &ContainerdArguments) -> Result<()> {
    if namespace::is_private() {
        return inside(arguments);
    }
    packages::set_up(Purpose::Containerd)?;
    packages::require_root("containerd", "containers and mounts take root")?;
    let program = match &arguments.plywood {
        Some(program) => std::path::absolute(program)?,
        None => {
            program::run(&mut program::cargo(["build", "--package", "plywood"]))?;
            workspace::target().join("debug/plywood")
        }
    };
    if !arguments.overlayfs && arguments.versions.is_empty() {
        let words: [OsString; 3] = ["containerd".into(), "--suite".into(), "--plywood".into()];
        namespace::enter(words.into_iter().chain([program.clone().into()]))?;
    }
    if arguments.suite {
        return Ok(());
    }
    let seed = arguments.seed.map_or_else(moments::any_seed, Ok)?.to_string();
    let rounds = arguments.rounds.to_string();
    let all = [Version::V1_6, Version::V1_7, Version::V2_1];
    let versions = if arguments.versions.is_empty() { &all[..] } else { &arguments.versions };
    for version in versions {
        let mut words = vec!["containerd".into(), "--version".into(), version.name().into()];
        words.extend(["--rounds", &rounds, "--seed", &seed, "--plywood"].map(Into::into));
        words.push(program.clone().into());
        if arguments.overlayfs {
            words.push("--overlayfs".into());
        }
        namespace::enter(words)?;
    }
    Ok(())
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
