//! The mounts of a Linux host, for `plywood gc` and `plywood fsck`.

use std::cell::OnceCell;
use std::collections::HashSet;

use anyhow::{Context as _, Result};
use mount::{Holder, HolderKind};

use super::finding;
use crate::Session;
use crate::host::Host;
use crate::store_handle::StoreHandle;

/// Gives back the volumes of described snapshots that were removed without anybody telling the journal.
pub(super) fn release_dead_snapshots(host: &Host, store: &StoreHandle) -> Result<()> {
    if !host.has_journal() || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // Listed only once the journal is locked: a daemon may make snapshots, and mounts for them, at any time.
    let keys: OnceCell<Result<HashSet<Vec<u8>>>> = OnceCell::new();
    let list = || Ok(store.list(&[])?.into_iter().map(|snapshot| snapshot.key).collect());
    let alive = |holder: &Holder| match (holder.kind, holder.process) {
        (HolderKind::Snapshot, None) => match keys.get_or_init(list) {
            Ok(keys) => keys.contains(&serve::key_of(&holder.name)),
            Err(_) => true,
        },
        _ => host.is_alive(holder),
    };
    host.registry()?.reconcile(&alive).context("cannot bring the mounts in line")?;
    keys.into_inner().unwrap_or_else(|| Ok(HashSet::new()))?;
    Ok(())
}

/// Brings the mounts in line and tells what was out of line; whether all is well now.
pub(super) fn check(session: &mut Session) -> Result<bool> {
    let mut clean = true;
    if session.host.has_journal() && rustix::process::geteuid().is_root() {
        let registry = session.host.registry()?;
        let state = registry
            .reconcile(&|holder| session.host.is_alive(holder))
            .context("cannot check the mounts")?;
        let volumes = registry.volumes().context("cannot list the volumes")?.len();
        let mounts = registry.mounts().context("cannot list the mounts")?.len();
        drop(registry);
        for busy in &state.kept_busy {
            clean = false;
            finding(
                session,
                "error",
                "mount-busy",
                busy,
                "in use, although nothing holds it",
                None,
                None,
            )?;
        }
        for (what, items) in [("undone", &state.undone), ("forgotten", &state.forgotten)] {
            for item in items {
                let message = "left behind by a command that was killed";
                finding(session, "warning", "mount-leftover", item, message, Some(what), None)?;
            }
        }
        if !session.output.is_json() {
            session.output.line(format!("mounts: {volumes} volumes, {mounts} mounts"))?;
        }
    }
    Ok(clean)
}
