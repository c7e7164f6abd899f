//! `cargo xtask powercut`: real power cuts of the store, without a virtual machine.
//!
//! ```text
//! target/powercut/xfs.img           XFS with reflinks, loop-mounted on xfs/
//! └── xfs/disk.img                  ext4 with its defaults, loop-mounted on disk/: the machine's disk
//!     └── disk/store                --root
//! ```
//!
//! The loop device writes what ext4 sends to the disk into `disk.img`; what ext4 still has in its page cache, or in
//! a journal transaction that is not committed, is not there. An atomic copy of `disk.img` (FICLONE, which waits for
//! and holds off writers) is therefore what a power cut at that moment would have left. The copy is mounted, which
//! replays its journal, and the store on it must be one that the crash model of `docs/store.md` allows: what a
//! command had reported as done is there, what was under way is there wholly or not at all, and after the sweep at
//! the next opening nothing else is.
//!
//! Each round cuts twice: at a random moment of an operation, and right after its last command returned. Before the
//! first round it is shown that a cut does take what was not synced.
//!
//! What this does not have: writes that the disk received but had not flushed are never lost or reordered, so a
//! missing flush of the disk's own cache would not be found; a missing fsync is.
//!
//! All mounts are in a mount namespace of its own and the loop devices detach themselves, so that nothing is left
//! however the run ends.

mod disk;
mod operation;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use self::disk::Disk;
use self::operation::{Operation, State};
use crate::moments::{self, Moments};
use crate::packages::{self, Purpose};
use crate::{program, workspace};

/// Options of `cargo xtask powercut`.
#[derive(Args)]
pub(crate) struct PowercutArguments {
    /// Operations to cut; each is cut twice
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Repeat the moments of another run, as far as the machine's speed allows
    #[arg(long)]
    seed: Option<u64>,
    /// Cut this program instead of building one
    #[arg(long, value_name = "FILE")]
    plywood: Option<PathBuf>,
    /// The mount namespace is ours already
    #[arg(long, hide = true)]
    inside: bool,
}

pub(crate) fn powercut(arguments: &PowercutArguments) -> Result<()> {
    if !arguments.inside {
        return enter_namespace(arguments);
    }
    let directory = workspace::target().join("powercut");
    let plywood = arguments.plywood.clone().context("--inside goes with --plywood")?;
    let mut moments = Moments(arguments.seed.context("--inside goes with --seed")?);
    let disk = Disk::set_up(directory, plywood)?;
    disk.show_that_cuts_cut()?;

    println!(
        "seed {}\n\n{:>5}  {:26} {:22} {:>9}  after the sweep",
        moments.0, "round", "operation", "cut", "leftovers"
    );
    let mut state = State::default();
    let mut usual = [Duration::from_millis(200); 3];
    for round in 0..arguments.rounds {
        let kind = round as usize % usual.len();
        let operation = Operation::new(kind, round, &state);
        // Every other time in the last fifth: there files get their names and records are written.
        let start = if (round as usize / usual.len()).is_multiple_of(2) { 0.0 } else { 0.8 };
        let moment = usual[kind].mul_f64(start + (1.0 - start) * moments.next());
        let ran = disk.run(&operation, moment)?;
        usual[kind] = ran.took;
        let last = operation.states.len() - 1;
        let during = format!("{:.3} s of {:.3} s", moment.as_secs_f64(), ran.took.as_secs_f64());
        for (cut, when, allowed) in
            [("during", during, ran.allowed), ("after", "after the last".to_owned(), last..=last)]
        {
            let survived = disk
                .survive(cut, &operation.states[allowed])
                .map_err(|error| disk.keep(cut, round, error))?;
            println!(
                "{:>5}  {:26} {when:22} {:>9}  {}",
                round + 1,
                operation.name,
                survived.leftovers,
                survived.state
            );
        }
        state = operation.states[last].clone();
    }
    disk.plywood(&disk.path("disk"), &["fsck"])?;
    println!("\n{} power cuts, and the store survived every one", arguments.rounds * 2);
    Ok(())
}

/// Starts the same again where its mounts are its own.
fn enter_namespace(arguments: &PowercutArguments) -> Result<()> {
    packages::set_up(Purpose::PowerCut)?;
    packages::require_root("powercut", "loop devices and mounts take root")?;
    let plywood = match &arguments.plywood {
        Some(plywood) => std::path::absolute(plywood)?,
        None => {
            program::run(&mut program::cargo(["build", "--release", "--package", "plywood"]))?;
            workspace::target().join("release/plywood")
        }
    };
    let seed = arguments.seed.map_or_else(moments::any_seed, Ok)?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(["powercut", "--inside", "--rounds", &arguments.rounds.to_string()])
        .args(["--seed", &seed.to_string(), "--plywood"])
        .arg(plywood);
    Err(command.exec()).context("cannot start unshare")
}
