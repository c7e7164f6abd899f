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
mod store_handle;
mod verb;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use cli::{Cli, Verb};
use exit::{Exit, OutputClosed};
use host::Host;
use output::Output;

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
        Ok((given(&matches, &cli), cli))
    });
    let (given, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // A closed stream is no reason to change the code: help was asked for and nobody reads it.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { 0 });
        }
    };
    match perform(cli, given) {
        Ok(code) => code,
        Err(error) if error.is::<OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            interrupt::end_if_cancelled();
            exit::report(&error);
            ExitCode::from(exit::code(&error) as u8)
        }
    }
}

/// What was named by flags, and not by the environment or by default.
fn given(matches: &ArgMatches, cli: &Cli) -> Vec<(&'static str, PathBuf)> {
    let global = &cli.global;
    [("root", Some(&global.root)), ("run", Some(&global.run)), ("address", global.address.as_ref())]
        .into_iter()
        .filter(|(name, _)| matches.value_source(name) == Some(ValueSource::CommandLine))
        .filter_map(|(name, path)| Some((name, path?.clone())))
        .collect()
}

fn perform(cli: Cli, given: Vec<(&'static str, PathBuf)>) -> anyhow::Result<ExitCode> {
    let host = Host::new(&cli.global.root, &cli.global.run, cli.global.address.as_deref())?;
    let mut session = Session { output: Output::new(cli.global.format), host, given };
    let result = dispatch(&mut session, cli.verb);
    // What was printed before a failure belongs before its message.
    let flushed = session.output.flush();
    let code = result?;
    flushed.map(|()| code)
}

fn dispatch(session: &mut Session, verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Image(verb) => verb::image::image(session, &verb)?,
        Verb::Erofs(verb) => return verb::erofs::erofs(session, &verb),
        Verb::Snapshot(verb) => verb::snapshot::snapshot(session, &verb)?,
        Verb::Mount(args) => verb::mount::mount(session, &args)?,
        Verb::Umount(args) => verb::mount::umount(session, &args)?,
        Verb::Run(args) => return verb::run::run(session, &args),
        Verb::Gc(args) => verb::house::gc(session, &args)?,
        Verb::Fsck(args) => return verb::house::fsck(session, &args),
        Verb::Doctor(_) => return verb::doctor::doctor(session),
        Verb::Serve(args) => verb::serve::serve(session, &args)?,
        Verb::Config(verb) => verb::serve::config(session, &verb)?,
        Verb::ContainerdConfig(args) => verb::containerd_config::containerd_config(session, &args)?,
        Verb::Version(_) => verb::version::version(session)?,
    }
    Ok(ExitCode::SUCCESS)
}
