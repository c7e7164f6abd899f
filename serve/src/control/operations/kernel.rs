//! What takes the mounts of a Linux host.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use mount::{Holder, HolderKind, Registry};
use store::{CommitOptions, Snapshot};
use sys::process::Process;

use super::{Commit, Failed};
use crate::control::{Call, Fault};

/// How long an operation waits for another process that uses the journal of mounts.
const WAIT: Duration = Duration::from_secs(30);

/// Commits a snapshot that writes to a disk image, which is mounted meanwhile.
pub(super) fn commit_image(
    call: &Call<'_>,
    commit: Commit,
    mut options: CommitOptions,
) -> Result<Snapshot, Fault> {
    let store = call.store()?;
    let chain = store.chain(&commit.key)?;
    let held = HeldScratch::new(call, &chain, "commit")?;
    options.upper = Some(held.upper.clone());
    let committed = store.commit(&commit.name, &commit.key, &options);
    held.release()?;
    Ok(committed?)
}

/// A mounted scratch image, unmounted again unless somebody else holds it too.
struct HeldScratch {
    registry: Registry,
    holder: Holder,
    upper: PathBuf,
}

impl HeldScratch {
    fn new(call: &Call<'_>, chain: &store::Chain, what: &str) -> Result<Self, Fault> {
        let name = chain.snapshot.name();
        let registry = registry(call)?;
        // Not of the kind of snapshots: those are given back when there is none of that name.
        let holder = Holder::new(HolderKind::User, format!("{what} of {name}"))
            .with_process(Process::current()?);
        let scratch = registry.hold_scratch(chain, &holder).map_err(|error| {
            Failed::because(format!("cannot mount the scratch of {name}"), error)
        })?;
        Ok(Self { registry, holder, upper: scratch.upper })
    }

    fn release(self) -> Result<(), Fault> {
        self.registry
            .release(&self.holder)
            .map_err(|error| Failed::because("cannot unmount the scratch", error))?;
        Ok(())
    }
}

fn registry(call: &Call<'_>) -> Result<Registry, Fault> {
    Registry::open(call.run, WAIT)
        .map_err(|error| Failed::because("cannot open the journal of mounts", error))
}

/// Layers that are mounted and must not be deleted.
pub(super) fn mounted_layers(call: &Call<'_>) -> Result<HashSet<String>, Fault> {
    // Opening would make one.
    if !call.run.join("mounts.journal").exists() {
        return Ok(HashSet::new());
    }
    let mounted = registry(call)?.mounted_layers();
    mounted.map_err(|error| Failed::because("cannot list the volumes", error))
}
