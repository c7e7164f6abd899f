//! Windows, where commands leave nothing that the next would have to bring in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use serve::Config;
use store::{OpenOptions, Store, WindowsHost};
use sys::windows::System;

use super::Host;
use crate::store_handle::StoreHandle;

/// Where a daemon is looked for if nobody says where.
pub(super) fn address(_run: &Path) -> PathBuf {
    Config::default().address
}

/// Opens a store of one's own, on this host in the form that the daemon would keep layers in.
pub(super) fn open_store(root: &Path, options: OpenOptions) -> Result<store::Result<Store>> {
    let form = Config::load(None, Vec::new())?.windows_layers;
    let host = WindowsHost::new(form, Arc::new(System::new()));
    Ok(Store::open_on(root, options, Some(host)))
}

#[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as on Linux")]
impl Host {
    pub(crate) fn settle(&self) -> Result<()> {
        Ok(())
    }

    pub(crate) fn settle_containers(&self) -> Result<()> {
        Ok(())
    }

    pub(super) fn remove_orphans(&self, _store: &StoreHandle) -> Result<()> {
        Ok(())
    }
}
