//! `plywood version`

use anyhow::Result;
use serde_json::json;

use crate::Session;

pub(crate) fn version(session: &mut Session) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    if session.output.is_json() {
        return session.output.json(&json!({ "version": version }));
    }
    session.output.line(format!("plywood {version}"))
}
