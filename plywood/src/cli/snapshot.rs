//! `plywood snapshot …`: the words of containerd's `ctr`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{parse_pair, parse_size};

/// The verbs of `plywood snapshot`.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotVerb {
    /// Make a writable snapshot.
    Prepare(PrepareArgs),
    /// Make a read-only snapshot.
    View(PrepareArgs),
    /// Print a snapshot's mounts in containerd's form.
    Mounts(SnapshotMountsArgs),
    /// Turn a writable snapshot's changes into a layer image and the snapshot into a committed one.
    Commit(CommitArgs),
    /// Remove snapshots.
    #[command(visible_aliases = ["rm", "delete"])]
    Remove(SnapshotRemoveArgs),
    /// Show a snapshot.
    Info(SnapshotKeyArgs),
    /// Show the disk space and inodes that snapshots take by themselves.
    Usage(SnapshotUsageArgs),
    /// Set labels; an empty value removes one.
    Label(LabelArgs),
    /// List snapshots.
    #[command(visible_alias = "ls")]
    List(FilterArgs),
    /// Show snapshots as a tree.
    Tree(SnapshotTreeArgs),
    /// Show what a snapshot changes over its parent.
    Diff(SnapshotDiffArgs),
}

/// `snapshot prepare` and `snapshot view`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood snapshot prepare work sha256:5f70…      writable, on a committed snapshot
  plywood snapshot prepare --scratch-size 1G work debian:12
  plywood snapshot view look debian:12            read-only; an image's reference stands for its top snapshot")]
pub(crate) struct PrepareArgs {
    /// The new snapshot's key.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    /// The committed snapshot, or image reference, below it [default: nothing].
    #[arg(value_name = "PARENT")]
    pub(crate) parent: Option<String>,
    /// A label.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Limit what can be written, by giving the snapshot a filesystem image of this size as its scratch.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) scratch_size: Option<u64>,
    /// Print the mounts, as `plywood snapshot mounts` does.
    #[arg(long)]
    pub(crate) mounts: bool,
}

/// `snapshot mounts`
#[derive(Debug, Args)]
#[command(after_long_help = "\
The layers' volumes are mounted and stay mounted until the snapshot is removed, so that the mounts printed can be \
performed by anyone. In text form they are commands to run.

Examples:
  plywood snapshot mounts work /mnt | sh
  plywood --format json snapshot mounts work")]
pub(crate) struct SnapshotMountsArgs {
    /// The snapshot's key.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    /// Where the commands mount it.
    #[arg(value_name = "DIR", default_value = "/mnt")]
    pub(crate) target: PathBuf,
}

/// `snapshot commit`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood snapshot commit my-layer work
  plywood snapshot commit --label stage=build my-layer work")]
pub(crate) struct CommitArgs {
    /// The committed snapshot's name.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The active snapshot's key; it is gone afterwards.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    /// A label.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) labels: Vec<(String, String)>,
}

/// `snapshot remove`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood snapshot remove work")]
pub(crate) struct SnapshotRemoveArgs {
    /// The snapshots' keys.
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<String>,
}

/// `snapshot info`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood snapshot info work")]
pub(crate) struct SnapshotKeyArgs {
    /// The snapshot's key.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
}

/// `snapshot usage`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood snapshot usage
  plywood snapshot usage work")]
pub(crate) struct SnapshotUsageArgs {
    /// The snapshots' keys [default: all].
    #[arg(value_name = "KEY")]
    pub(crate) keys: Vec<String>,
}

/// `snapshot label`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood snapshot label work stage=build
  plywood snapshot label work stage=")]
pub(crate) struct LabelArgs {
    /// The snapshot's key.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    /// The labels.
    #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) labels: Vec<(String, String)>,
}

/// `snapshot list`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Filters are containerd's: selectors in one are joined by `and`, several filters by `or`.

Examples:
  plywood snapshot list
  plywood snapshot list --filter kind==active
  plywood snapshot list --filter 'labels.\"stage\"==build,parent~=^sha256'")]
pub(crate) struct FilterArgs {
    /// Only those that match.
    #[arg(long = "filter", value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Only the keys.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `snapshot tree`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood snapshot tree")]
pub(crate) struct SnapshotTreeArgs {}

/// `snapshot diff`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Prints one line a change: `+` added, `~` modified, `-` removed, `o` a directory replaced by another of its name.

Examples:
  plywood snapshot diff work
  plywood snapshot diff --tar work > layer.tar")]
pub(crate) struct SnapshotDiffArgs {
    /// The snapshot's key.
    #[arg(value_name = "KEY")]
    pub(crate) key: String,
    /// Write the changes as an OCI layer tar to standard output.
    #[arg(long)]
    pub(crate) tar: bool,
}
