//! Bringing the directories in order first: what killed commands left.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mount::{Holder, HolderKind, Registry};
use serde::{Deserialize, Serialize};
use store::{Kind, Labels, OpenOptions, Snapshot, Store};
use sys::process::Process;

use super::{Host, WAIT};
use crate::container;
use crate::exit::{Exit, Failure};
use crate::store_handle::StoreHandle;

/// Label of a snapshot that lives only as long as something that runs or is mounted.
const OWNER: &str = "plywood.owner";

/// Who a snapshot was made for: it is removed when that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    boot: String,
    run: PathBuf,
    process: String,
}

/// Where a daemon is looked for if nobody says where.
pub(super) fn address(run: &Path) -> PathBuf {
    run.join("plywood.sock")
}

/// Opens a store of one's own.
#[expect(clippy::unnecessary_wraps, reason = "Windows has to find out how it keeps layers")]
pub(super) fn open_store(root: &Path, options: OpenOptions) -> Result<store::Result<Store>> {
    Ok(Store::open(root, options))
}

impl Host {
    /// Opens the journal of what is mounted.
    pub(crate) fn registry(&self) -> Result<Registry> {
        Registry::open(&self.run, WAIT).context("cannot open the journal of mounts")
    }

    /// Whether anything was ever mounted from this run directory since the machine started.
    pub(crate) fn has_journal(&self) -> bool {
        self.run.join("mounts.journal").exists()
    }

    /// Takes down the containers whose command was killed.
    pub(crate) fn settle_containers(&self) -> Result<()> {
        match rustix::process::geteuid().is_root() {
            true => crate::vm::settle(self).and_then(|()| container::settle(self)),
            false => Ok(()),
        }
    }

    /// Undoes what commands that were killed left behind: their containers, mounts and snapshots.
    pub(crate) fn settle(&self) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        crate::vm::settle(self)?;
        container::settle(self)?;
        if self.has_journal() {
            self.registry()?
                .reconcile(&|holder| self.is_alive(holder))
                .context("cannot bring the mounts in line with their journal")?;
        }
        Ok(())
    }

    /// Whether a holder of mounts still exists. A user's mounts and described snapshots stay until released.
    pub(crate) fn is_alive(&self, holder: &Holder) -> bool {
        match holder.kind {
            _ if holder.process.is_some() => holder.is_alive().unwrap_or(true),
            HolderKind::Container => container::exists(self, &holder.name),
            _ => true,
        }
    }

    /// The label that ties a snapshot to this process.
    pub(crate) fn owner_labels(&self) -> Result<Labels> {
        let owner = Owner {
            boot: sys::process::boot_id()?,
            run: self.run.clone(),
            process: Process::current()?.to_string(),
        };
        let owner = serde_json::to_string(&owner).context("cannot describe this process")?;
        Ok(Labels::from([(OWNER.to_owned(), owner)]))
    }

    /// Unties a snapshot from the process it was made for, so that it stays.
    pub(crate) fn disown(store: &StoreHandle, key: &[u8]) -> Result<()> {
        store.update(key, Labels::new(), &[&format!("labels.{OWNER}")])?;
        Ok(())
    }

    /// Removes snapshots of containers and mounts that are gone without a trace in the run directory: after a
    /// restart of the machine, or when a command was killed before it left one.
    pub(super) fn remove_orphans(&self, store: &StoreHandle) -> Result<()> {
        let filter = format!("labels.\"{OWNER}\"");
        let owned = store.list(&[&filter]).context("cannot look for snapshots that nobody owns")?;
        for snapshot in owned {
            if self.is_orphan(&snapshot)? {
                store.remove_owned(&snapshot).with_context(|| {
                    format!("cannot remove snapshot {}, which nobody owns", snapshot.name())
                })?;
            }
        }
        Ok(())
    }

    fn is_orphan(&self, snapshot: &Snapshot) -> Result<bool> {
        let owner = snapshot.labels.get(OWNER).and_then(|text| serde_json::from_str(text).ok());
        // A label that is not ours is somebody's own affair.
        let Some(Owner { boot, run, process }) = owner else { return Ok(false) };
        if snapshot.kind == Kind::Committed {
            return Ok(false);
        }
        if boot != sys::process::boot_id()? {
            return Ok(true);
        }
        if run != self.run || process.parse::<Process>().is_ok_and(|p| p.is_alive().unwrap_or(true))
        {
            return Ok(false);
        }
        let name = snapshot.name();
        if let Some(container) = name.strip_prefix(container::KEY_PREFIX) {
            return Ok(!container::exists(self, container));
        }
        if !self.has_journal() {
            return Ok(true);
        }
        let mounts = self.registry()?.mounts().context("cannot list the mounts")?;
        Ok(!mounts.iter().any(|mount| mount.what == name))
    }
}

/// Refuses early, with the way out, what only root can do.
pub(crate) fn require_root(what: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(Exit::NotPermitted, format!("{what} takes root"))
        .hint("run it as root, for example with sudo")
        .into())
}
