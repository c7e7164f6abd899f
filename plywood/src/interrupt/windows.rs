//! Work is not cancelled by signals here: Ctrl-C ends the process, and the daemon's work for it with the connection.

use anyhow::Result;
use layer::Cancel;

#[expect(clippy::unnecessary_wraps, reason = "Linux' counterpart sets handlers up")]
pub(crate) fn cancel_on_signal() -> Result<Cancel> {
    Ok(Cancel::new())
}
