//! The Windows host itself.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use layer::Cancel;
use sys::windows::{Host, System};

use super::folders;
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

pub(super) fn transfer(session: &mut Session, verb: &WclayerVerb) -> Result<()> {
    let host = host(verb)?;
    let cancel = cancel()?;
    match verb {
        WclayerVerb::Import(args) if is_cim(&args.path) => only_on_linux("importing a CIM"),
        WclayerVerb::Export(args) if is_cim(&args.path) => only_on_linux("exporting a CIM"),
        WclayerVerb::Import(args) => folders::import(&*host, args, &cancel),
        WclayerVerb::Export(args) => {
            if args.output.is_none() {
                session.output.must_not_be_terminal("a tar")?;
            }
            folders::export(&*host, args, &mut session.output.stream(), &cancel)
        }
        _ => Ok(()),
    }
}

fn is_cim(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("cim"))
}
