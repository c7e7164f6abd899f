//! The verbs that read and write trees of this host.

use anyhow::Result;

use super::{extract, write};
use crate::Session;
use crate::cli::ErofsVerb;

pub(super) fn erofs(session: &mut Session, verb: &ErofsVerb) -> Result<()> {
    match verb {
        ErofsVerb::Create(args) => write::create(session, args),
        ErofsVerb::Extract(args) => extract::extract(args),
        ErofsVerb::Merge(args) => write::merge(session, args),
        // What is portable was done before.
        _ => Ok(()),
    }
}
