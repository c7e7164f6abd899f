//! The command line without containers: help, results, exit codes, bad input.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod cim_files;
mod cim_mounts;
mod daemon;
mod erofs_files;
mod help;
mod wclayer;
