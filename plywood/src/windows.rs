//! The program on Windows: what reads image files.

use std::process::ExitCode;

use anyhow::bail;
use clap::ArgMatches;

use crate::cli::{Cli, Verb};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::verb;

/// What a verb is given: where its result goes.
pub(crate) struct Session {
    pub(crate) output: Output,
}

/// Work is not cancelled by signals here.
pub(crate) fn end_if_cancelled() {}

pub(crate) fn perform(cli: Cli, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let mut session = Session { output: Output::new(cli.global.format) };
    let name = matches.subcommand_name().unwrap_or_default();
    let result = dispatch(&mut session, cli.verb, name);
    // What was printed before a failure belongs before its message.
    let flushed = session.output.flush();
    let code = result?;
    flushed.map(|()| code)
}

fn dispatch(session: &mut Session, verb: Verb, name: &str) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Cim(verb) => return verb::cim::cim(session, &verb),
        Verb::Erofs(verb) => return verb::erofs::erofs(session, &verb),
        Verb::Version(_) => verb::version::version(session)?,
        _ => bail!(Failure::new(Exit::NotSupported, format!("`plywood {name}` is only on Linux"))),
    }
    Ok(ExitCode::SUCCESS)
}
