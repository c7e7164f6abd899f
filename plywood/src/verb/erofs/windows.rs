//! The verbs that are not for Windows hosts yet.

use anyhow::Result;

use crate::Session;
use crate::cli::ErofsVerb;
use crate::verb::only_on_linux;

pub(super) fn erofs(_session: &mut Session, _verb: &ErofsVerb) -> Result<()> {
    only_on_linux("this `plywood erofs` verb")
}
