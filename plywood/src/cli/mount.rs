//! `plywood mount`, `plywood umount`, `plywood mount ls`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse_size;

/// `mount`
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_long_help = "\
WHAT is looked for in this order: a path to an EROFS file (anything with a `/`, or an existing file), a \
snapshot's key, an image's reference. An image is mounted read-only unless `--rw` is given; what is then \
written is gone after `plywood umount`.

Examples:
  plywood mount debian:12 /mnt
  plywood mount --rw --scratch-size 1G debian:12 /mnt
  plywood mount work /mnt                     a snapshot
  plywood mount ./layer.erofs /mnt            a file
  plywood mount ls"
)]
pub(crate) struct MountArgs {
    /// Other things than mounting.
    #[command(subcommand)]
    pub(crate) verb: Option<MountVerb>,
    /// An image reference, a snapshot key or an EROFS file.
    #[arg(required = true, value_name = "WHAT")]
    pub(crate) what: Option<String>,
    /// Where; an existing directory.
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Mount an image with a scratch to write to.
    #[arg(long)]
    pub(crate) rw: bool,
    /// Limit what can be written, by a filesystem image of this size.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "rw")]
    pub(crate) scratch_size: Option<u64>,
    /// A device of a multi-device EROFS file, in the order of its device table.
    #[arg(long = "device", value_name = "FILE")]
    pub(crate) devices: Vec<PathBuf>,
}

/// The verbs of `plywood mount`.
#[derive(Debug, Subcommand)]
pub(crate) enum MountVerb {
    /// List volumes (mounted layer images) and mounts, with owner, holders and age.
    #[command(visible_alias = "list")]
    Ls(MountLsArgs),
}

/// `mount ls`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood mount ls
  plywood --format json mount ls")]
pub(crate) struct MountLsArgs {}

/// `umount`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood umount /mnt")]
pub(crate) struct UmountArgs {
    /// What `plywood mount` mounted.
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
}
