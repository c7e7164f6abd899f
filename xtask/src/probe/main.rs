//! `plywood-probe`: what `cargo xtask bench` must measure inside one process, without a program's start-up in
//! the figure. Prints one number or one JSON object; not meant for people.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod inflate;
mod reading;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    probe: Probe,
}

#[derive(Subcommand)]
enum Probe {
    /// Inflate a gzip file and drop the result: the floor of every import of it
    Inflate { file: PathBuf },
    /// Read every file of a tree
    ReadTree { directory: PathBuf },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().probe {
        Probe::Inflate { file } => inflate::inflate(&file),
        Probe::ReadTree { directory } => reading::read_tree(&directory),
    }
}
