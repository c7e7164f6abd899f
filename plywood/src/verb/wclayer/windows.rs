//! The Windows host itself.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use layer::Cancel;
use sys::windows::{Host, System};

use crate::Session;
use crate::cli::WclayerVerb;
use crate::verb::only_on_linux;

pub(super) fn host(_verb: &WclayerVerb) -> Result<Arc<dyn Host>> {
    Ok(Arc::new(System::new()))
}

pub(super) fn run(session: &Session) -> &Path {
    &session.run
}

/// Work is not cancelled by signals here.
#[expect(clippy::unnecessary_wraps, reason = "Linux' counterpart sets handlers up")]
pub(super) fn cancel() -> Result<Cancel> {
    Ok(Cancel::new())
}

pub(super) fn transfer(_session: &mut Session, _verb: &WclayerVerb) -> Result<()> {
    only_on_linux("importing and exporting layers")
}
