//! The `plywood` program: the command line over the other crates.
//!
//! A library only so that completions and man pages can be generated from the same definition that the
//! program parses ([`cli::command`]); nothing else of it is for others to use.

#![allow(clippy::print_stdout, clippy::print_stderr)]
#![allow(dead_code, unused_imports, reason = "the remaining verbs follow")]

pub mod cli;
mod escape;
mod exit;
mod output;
mod verb;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, ErofsVerb, Global, Verb};
use exit::{Exit, Failure, OutputClosed};
use output::Output;

/// What a verb is given: where things are, and where its result goes.
struct Session {
    global: Global,
    output: Output,
}

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stream is no reason to change the code: help was asked for and nobody reads it.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { 0 });
        }
    };
    let mut session = Session { output: Output::new(cli.global.format), global: cli.global };
    let result =
        dispatch(&mut session, cli.verb).and_then(|code| session.output.flush().map(|()| code));
    match result {
        Ok(code) => code,
        Err(error) if error.is::<OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            // What was printed before the failure belongs before its message.
            let _ = session.output.flush();
            exit::report(&error);
            ExitCode::from(exit::code(&error) as u8)
        }
    }
}

fn dispatch(session: &mut Session, verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Erofs(verb) => {
            match verb {
                ErofsVerb::Info(args) => verb::erofs::info(session, &args),
                ErofsVerb::Ls(args) => verb::erofs::ls(session, &args),
                ErofsVerb::Cat(args) => verb::erofs::cat(session, &args),
                ErofsVerb::Stat(args) => verb::erofs::stat(session, &args),
                _ => Err(Failure::new(Exit::NotSupported, "not there yet").into()),
            }?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Version(_) => verb::version::version(session).map(|()| ExitCode::SUCCESS),
        _ => Err(Failure::new(Exit::NotSupported, "not there yet").into()),
    }
}
