//! `plywood-probe`: what `cargo xtask bench` must measure inside one process, without a program's start-up in
//! the figure. Prints one number or one JSON object; not meant for people.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod calls;
mod cim;
mod inflate;
mod mounting;
mod reading;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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
    /// Calls a second of prepare, mounts and remove over gRPC, and how long they take
    Calls {
        socket: PathBuf,
        snapshotter: String,
        clients: usize,
        seconds: u64,
        /// The snapshot below; otherwise some are made
        #[arg(long)]
        parent: Option<String>,
    },
    /// Make snapshots over gRPC and leave them there
    Populate { socket: PathBuf, snapshotter: String, count: usize },
    /// Make a CIM of many small files
    ManyCim { directory: PathBuf, name: String, count: usize },
    /// Microseconds of opening a CIM and looking at one path, and by how many KiB the process grew
    OpenCim { directory: PathBuf, name: String, path: String },
    /// Milliseconds of making the EROFS view of a CIM in an empty cache, and of finding it there again
    ViewCim { directory: PathBuf, name: String, cache: PathBuf },
    /// Milliseconds of a durable fork that changes ten files, and the bytes written beyond their data
    ForkCim { directory: PathBuf, name: String },
    /// Microseconds of mounting, looking at and unmounting an image
    Mount { image: PathBuf, target: PathBuf, count: usize },
    /// Milliseconds until an image's root filesystem is there
    Rootfs { root: PathBuf, run: PathBuf, reference: String, target: PathBuf },
    /// Rounds a second of prepare, mounts and remove through the libraries
    Snapshots { root: PathBuf, run: PathBuf, reference: String, seconds: u64 },
    /// Bytes of a tree's files that are not in the page cache
    NotCached { directory: PathBuf },
    /// Read every file of a tree
    ReadTree { directory: PathBuf },
}

fn main() -> ExitCode {
    match measure(Arguments::parse().probe) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(probe: Probe) -> anyhow::Result<()> {
    match probe {
        Probe::Inflate { file } => inflate::inflate(&file),
        Probe::Calls { socket, snapshotter, clients, seconds, parent } => {
            let service = calls::Service { socket, snapshotter };
            let duration = Duration::from_secs(seconds);
            calls::snapshots(&service, parent.as_deref(), clients, duration)
        }
        Probe::Populate { socket, snapshotter, count } => {
            calls::populate(&calls::Service { socket, snapshotter }, count)
        }
        Probe::ManyCim { directory, name, count } => cim::many(&directory, &name, count),
        Probe::OpenCim { directory, name, path } => cim::open(&directory, &name, &path),
        Probe::ViewCim { directory, name, cache } => cim::view(&directory, &name, &cache),
        Probe::ForkCim { directory, name } => cim::fork(&directory, &name),
        Probe::Mount { image, target, count } => mounting::repeat(&image, &target, count),
        Probe::Rootfs { root, run, reference, target } => {
            mounting::rootfs(&root, &run, &reference, &target)
        }
        Probe::Snapshots { root, run, reference, seconds } => {
            mounting::snapshots(&root, &run, &reference, Duration::from_secs(seconds))
        }
        Probe::NotCached { directory } => reading::not_cached(&directory),
        Probe::ReadTree { directory } => reading::read_tree(&directory),
    }
}
