//! The program on Linux: all of it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ArgMatches;

use crate::cli::{Cli, Verb};
use crate::host::Host;
use crate::output::Output;
use crate::places::Places;
use crate::verb;

pub(crate) use crate::interrupt::end_if_cancelled;

/// What a verb is given: where things are, and where its result goes.
pub(crate) struct Session {
    pub(crate) host: Host,
    pub(crate) output: Output,
    /// The directories and the socket that were named by flags, for whom the configuration's file counts too.
    pub(crate) given: Vec<(&'static str, PathBuf)>,
}

pub(crate) fn perform(cli: Cli, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let places = Places::new(matches, &cli.global).configured(&cli.verb)?;
    let host = Host::new(&places.root, &places.run, places.address.as_deref())?;
    let mut session =
        Session { output: Output::new(cli.global.format), host, given: places.flagged };
    let result = dispatch(&mut session, cli.verb);
    // What was printed before a failure belongs before its message.
    let flushed = session.output.flush();
    let code = result?;
    flushed.map(|()| code)
}

fn dispatch(session: &mut Session, verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Image(verb) => verb::image::image(session, &verb)?,
        Verb::Cim(verb) => return verb::cim::cim(session, &verb),
        Verb::Erofs(verb) => return verb::erofs::erofs(session, &verb),
        Verb::Snapshot(verb) => verb::snapshot::snapshot(session, &verb)?,
        Verb::Mount(args) => verb::mount::mount(session, &args)?,
        Verb::Umount(args) => verb::mount::umount(session, &args)?,
        Verb::Run(args) => return verb::run::run(session, &args),
        Verb::Vm(verb) => verb::vm::vm(session, &verb)?,
        Verb::Wclayer(verb) => verb::wclayer::wclayer(session, &verb)?,
        Verb::Gc(args) => verb::house::gc(session, &args)?,
        Verb::Fsck(args) => return verb::house::fsck(session, &args),
        Verb::Doctor(args) => return verb::doctor::doctor(session, &args),
        Verb::Serve(args) => verb::serve::serve(session, &args)?,
        Verb::Config(verb) => verb::serve::config(session, &verb)?,
        Verb::ContainerdConfig(args) => verb::containerd_config::containerd_config(session, &args)?,
        Verb::Version(_) => verb::version::version(session)?,
    }
    Ok(ExitCode::SUCCESS)
}
