//! `plywood wclayer …`: the arguments of hcsshim's tool of that name.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// The verbs of `plywood wclayer`.
#[derive(Debug, Subcommand)]
pub(crate) enum WclayerVerb {
    /// Creates a new writable container layer.
    Create(WclayerArgs),
    /// Mounts a scratch, and prints the path of its volume.
    Mount(WclayerArgs),
    /// Unmounts a scratch.
    Unmount(WclayerPathArgs),
    /// Imports a layer from a tar file.
    Import(WclayerImportArgs),
    /// Exports a layer to a tar file.
    Export(WclayerExportArgs),
    /// Permanently removes a layer directory in its entirety.
    Remove(WclayerPathArgs),
}

/// `wclayer create` and `wclayer mount`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Only on a Windows host with the Host Compute Service.

Examples:
  plywood wclayer create -l C:\\layers\\top -l C:\\layers\\base C:\\layers\\scratch
  plywood wclayer mount -l C:\\layers\\top -l C:\\layers\\base C:\\layers\\scratch")]
pub(crate) struct WclayerArgs {
    /// Paths to the read-only parent layers, topmost first.
    #[arg(short, long = "layer", value_name = "PATH", required = true)]
    pub(crate) layers: Vec<PathBuf>,
    /// The writable layer.
    #[arg(value_name = "LAYER PATH")]
    pub(crate) path: PathBuf,
}

/// `wclayer unmount` and `wclayer remove`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Only on a Windows host with the Host Compute Service.

Examples:
  plywood wclayer unmount C:\\layers\\scratch
  plywood wclayer remove C:\\layers\\scratch")]
pub(crate) struct WclayerPathArgs {
    /// The layer.
    #[arg(value_name = "LAYER PATH")]
    pub(crate) path: PathBuf,
}

/// `wclayer import`
#[derive(Debug, Args)]
#[command(after_long_help = "\
A layer path that ends in .cim becomes a CIM, on Linux; its parents are CIMs beside it. Others become layer folders, \
on Windows with its Host Compute Service.

Examples:
  plywood wclayer import -i base.tar base.cim
  plywood wclayer import -l base.cim -i layer.tar layer.cim")]
pub(crate) struct WclayerImportArgs {
    /// Paths to the read-only parent layers, topmost first.
    #[arg(short, long = "layer", value_name = "PATH")]
    pub(crate) layers: Vec<PathBuf>,
    /// Input layer tar (defaults to stdin).
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// The layer.
    #[arg(value_name = "LAYER PATH")]
    pub(crate) path: PathBuf,
}

/// `wclayer export`
#[derive(Debug, Args)]
#[command(after_long_help = "\
A layer path that ends in .cim is read as a CIM, on Linux; its parents are CIMs beside it. Others are layer folders, \
on Windows with its Host Compute Service.

Examples:
  plywood wclayer export -l base.cim -o layer.tar layer.cim
  plywood wclayer export --gzip layer.cim > whole.tar.gz")]
pub(crate) struct WclayerExportArgs {
    /// Paths to the read-only parent layers, topmost first.
    #[arg(short, long = "layer", value_name = "PATH")]
    pub(crate) layers: Vec<PathBuf>,
    /// Output layer tar (defaults to stdout).
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Compress output with gzip compression.
    #[arg(short = 'z', long)]
    pub(crate) gzip: bool,
    /// The layer.
    #[arg(value_name = "LAYER PATH")]
    pub(crate) path: PathBuf,
}
