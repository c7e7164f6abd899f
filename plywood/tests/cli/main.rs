//! The command line without containers: help, results, exit codes, bad input.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod erofs_files;
mod help;
