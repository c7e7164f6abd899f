//! The program on Windows: images and the store, by the daemon where one serves; what reads image files; layers of the
//! Windows filter; the daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::ArgMatches;

use crate::cli::{Cli, Verb};
use crate::exit::{Exit, Failure};
use crate::host::Host;
use crate::output::Output;
use crate::places::Places;
use crate::verb;

/// What a verb is given: where things are, and where its result goes.
pub(crate) struct Session {
    pub(crate) run: PathBuf,
    pub(crate) host: Host,
    /// The directories and the pipe that were named by flags, for whom the configuration's file counts too.
    pub(crate) given: Vec<(&'static str, PathBuf)>,
    pub(crate) output: Output,
}

/// Work is not cancelled by signals here.
pub(crate) fn end_if_cancelled() {}

pub(crate) fn perform(cli: Cli, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let places = Places::new(matches, &cli.global).configured(&cli.verb)?;
    let output = Output::new(cli.global.format);
    let host = Host::new(&places.root, &places.run, places.address.as_deref())?;
    let mut session = Session { run: places.run, host, given: places.flagged, output };
    let name = matches.subcommand_name().unwrap_or_default();
    let result = dispatch(&mut session, cli.verb, name);
    // What was printed before a failure belongs before its message.
    let flushed = session.output.flush();
    let code = result?;
    flushed.map(|()| code)
}

fn dispatch(session: &mut Session, verb: Verb, name: &str) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Image(verb) => verb::image::image(session, &verb)?,
        Verb::Gc(args) => verb::house::gc(session, &args)?,
        Verb::Fsck(args) => return verb::house::fsck(session, &args),
        Verb::Cim(verb) => return verb::cim::cim(session, &verb),
        Verb::Erofs(verb) => return verb::erofs::erofs(session, &verb),
        Verb::Wclayer(verb) => verb::wclayer::wclayer(session, &verb)?,
        Verb::Doctor(args) => return verb::doctor::doctor(session, &args),
        Verb::Serve(args) => verb::serve::serve(session, &args)?,
        Verb::Config(verb) => verb::serve::config(session, &verb)?,
        Verb::Version(_) => verb::version::version(session)?,
        _ => bail!(Failure::new(Exit::NotSupported, format!("`plywood {name}` is only on Linux"))),
    }
    Ok(ExitCode::SUCCESS)
}
