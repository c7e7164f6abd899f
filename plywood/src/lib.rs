//! The `plywood` program: the command line over the other crates.
//!
//! A library only so that completions and man pages can be generated from the same definition that the
//! program parses ([`cli::command`]); nothing else of it is for others to use.

#![allow(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(windows, allow(dead_code, unused_imports, reason = "what the verbs for Linux need"))]

pub mod cli;
#[cfg(target_os = "linux")]
mod container;
mod escape;
mod exit;
mod host;
#[cfg(target_os = "linux")]
mod interrupt;
#[cfg(windows)]
#[path = "interrupt/windows.rs"]
mod interrupt;
#[cfg(target_os = "linux")]
mod linux;
mod output;
#[cfg(target_os = "linux")]
mod output_file;
mod places;
mod store_handle;
mod verb;
#[cfg(target_os = "linux")]
mod vm;
#[cfg(windows)]
mod windows;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use cli::Cli;
use exit::{Exit, OutputClosed};
use imp::Session;
#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(windows)]
use windows as imp;

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((matches, cli))
    });
    let (matches, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // A closed stream is no reason to change the code: help was asked for and nobody reads it.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage as u8 } else { 0 });
        }
    };
    match imp::perform(cli, &matches) {
        Ok(code) => code,
        Err(error) if error.is::<OutputClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            imp::end_if_cancelled();
            exit::report(&error);
            ExitCode::from(exit::code(&error) as u8)
        }
    }
}
