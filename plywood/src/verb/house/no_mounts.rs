//! Windows, where nothing is mounted for the store: the daemon's start brings in line what it mounted itself.

use anyhow::Result;

use crate::Session;
use crate::host::Host;
use crate::store_handle::StoreHandle;

#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(super) fn release_dead_snapshots(_host: &Host, _store: &StoreHandle) -> Result<()> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(super) fn check(_session: &mut Session) -> Result<bool> {
    Ok(true)
}
