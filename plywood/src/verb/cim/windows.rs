//! The verbs that are not for Windows hosts yet.

use anyhow::Result;

use crate::Session;
use crate::cli::CimVerb;
use crate::verb::only_on_linux;

pub(super) fn cim(_session: &mut Session, _verb: &CimVerb) -> Result<()> {
    only_on_linux("this `plywood cim` verb")
}
