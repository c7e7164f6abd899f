//! The verbs that read and write trees of this host.

use anyhow::Result;

use super::{edit, extract, transfer};
use crate::Session;
use crate::cli::CimVerb;

pub(super) fn cim(session: &mut Session, verb: &CimVerb) -> Result<()> {
    match verb {
        CimVerb::Create(args) => edit::create(session, args),
        CimVerb::Extract(args) => extract::extract(session, args),
        CimVerb::Add(args) => edit::add(session, args),
        CimVerb::Rm(args) => edit::rm(session, args),
        CimVerb::Import(args) => transfer::import(session, args),
        CimVerb::Export(args) => transfer::export(session, args),
        // What is portable was done before.
        _ => Ok(()),
    }
}
