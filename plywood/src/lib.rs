//! The `plywood` program: the command line over the other crates.
//!
//! A library only so that completions and man pages can be generated from the same definition that the
//! program parses ([`cli::command`]); nothing else of it is for others to use.

#![allow(clippy::print_stdout, clippy::print_stderr)]

pub mod cli;
mod container;
mod escape;
mod exit;
mod host;
mod interrupt;
mod output;
mod output_file;
mod places;
mod store_handle;
mod verb;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use cli::{Cli, Verb};
use exit::{Exit, OutputClosed};
use host::Host;
use output::Output;
use places::Places;

/// What a verb is given: where things are, and where its result goes.
struct Session {
    host: Host,
    output: Output,
    /// The directories and the socket that were named by flags, for whom the configuration's file counts too.
    given: Vec<(&'static str, PathBuf)>,
}

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((Places::new(&matches, &cli.global), cli))
    });
    let (places, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // A closed stream is no reason to change the code: help was asked for and nobody reads it.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { 0 });
        }
    };
    match perform(cli, places) {
        Ok(code) => code,
        Err(error) if error.is::<OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            interrupt::end_if_cancelled();
            exit::report(&error);
            ExitCode::from(exit::code(&error) as u8)
        }
    }
}

fn perform(cli: Cli, places: Places) -> anyhow::Result<ExitCode> {
    let places = places.configured(&cli.verb)?;
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
