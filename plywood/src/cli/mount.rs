//! `plywood mount`, `plywood umount`, `plywood mount ls`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::parse_size;

/// `mount`
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_long_help = "\
WHAT is looked for in this order: a path to an EROFS file or a CIM (anything with a `/`, or an existing file), a \
snapshot's key, an image's reference. An image is mounted read-only unless `--rw` is given; what is then \
written is gone after `plywood umount`.

A CIM (a Windows layer image) is mounted by the kernel through an EROFS view of it, which is made once and kept, \
or else by FUSE, which takes no root.

Examples:
  plywood mount debian:12 /mnt
  plywood mount --rw --scratch-size 1G debian:12 /mnt
  plywood mount work /mnt                     a snapshot
  plywood mount ./layer.erofs /mnt            a file
  plywood mount ./layer.cim /mnt              a Windows layer
  plywood mount --ignore-case x.cim /mnt      the same, with /mnt/files for /mnt/Files
  plywood mount ls"
)]
pub(crate) struct MountArgs {
    /// Other things than mounting.
    #[command(subcommand)]
    pub(crate) verb: Option<MountVerb>,
    /// An image reference, a snapshot key, an EROFS file or a CIM.
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
    /// Who shows a CIM: the kernel by an EROFS view, or a process of ours by FUSE.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) driver: Driver,
    /// Find the files of a CIM by names in any case, as Windows does; takes FUSE.
    #[arg(long)]
    pub(crate) ignore_case: bool,
    /// Serve a CIM by FUSE in this process until it is unmounted.
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Of a process that serves for the command that started it: how it is told to, and tells that it does.
    #[arg(long, value_enum, hide = true)]
    pub(crate) serving: Option<Serving>,
}

/// What a serving process has of the command that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Serving {
    /// Standard input is the device of a file system that is mounted already.
    Device,
    /// Standard output is where the command reads that it is mounted.
    Pipe,
}

/// Who shows a CIM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Driver {
    /// The kernel where it can and the user may, else FUSE.
    #[default]
    Auto,
    /// The kernel, by an EROFS view of the CIM.
    Erofs,
    /// A process of ours.
    Fuse,
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
