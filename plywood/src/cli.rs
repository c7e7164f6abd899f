//! The command line's definition: what `--help`, the completions and the man pages are made from.

mod cim;
mod erofs;
mod image;
mod mount;
#[cfg(target_os = "linux")]
#[path = "cli/linux_places.rs"]
mod places;
#[cfg(windows)]
#[path = "cli/windows_places.rs"]
mod places;
mod run;
mod serve;
mod snapshot;
mod vm;
mod wclayer;

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

pub(crate) use self::cim::{
    CimAddArgs, CimCatArgs, CimCheckArgs, CimCreateArgs, CimDestroyArgs, CimDiffArgs,
    CimExportArgs, CimExtractArgs, CimFileArgs, CimImportArgs, CimListArgs, CimRemoveArgs,
    CimStatArgs, CimTreeArgs, CimVerb,
};
pub(crate) use self::erofs::{
    CatArgs, CheckArgs, CreateArgs, DiffArgs, ErofsVerb, ExtractArgs, FileArgs, ListArgs,
    MergeArgs, StatArgs,
};
pub(crate) use self::image::{
    ImageExportArgs, ImageImportArgs, ImageInspectArgs, ImageListArgs, ImageRemoveArgs, ImageVerb,
};
pub(crate) use self::mount::{Driver, MountArgs, MountVerb, Serving, UmountArgs};
pub(crate) use self::run::{Isolation, MountKind, MountOption, Network, RunArgs};
pub(crate) use self::serve::{
    ConfigShowArgs, ConfigVerb, ContainerdConfigArgs, ContainerdVersion, ServeArgs, SettingArgs,
};
pub(crate) use self::snapshot::{
    CommitArgs, FilterArgs, LabelArgs, PrepareArgs, SnapshotDiffArgs, SnapshotKeyArgs,
    SnapshotMountsArgs, SnapshotRemoveArgs, SnapshotUsageArgs, SnapshotVerb,
};
pub(crate) use self::vm::{
    Accel, BootArgs, VmArgs, VmAttachArgs, VmConsoleArgs, VmDetachArgs, VmMakeKitArgs, VmStartArgs,
    VmStopArgs, VmVerb,
};
pub(crate) use self::wclayer::{
    WclayerArgs, WclayerExportArgs, WclayerImportArgs, WclayerPathArgs, WclayerVerb,
};

/// The whole command line as clap sees it, for completions and man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

const EXAMPLES: &str = "\
Examples:
  plywood image import debian.tar             turn an image's layers into mountable files
  plywood run debian -- ls -l /               run a command on it
  plywood mount debian /mnt                   look at its root filesystem
  plywood erofs ls -lR layer.erofs            look inside a layer image without mounting it
  plywood doctor                              see what this host can do and what is missing

Exit codes:
  0 done, 1 failed, 2 usage, 3 set-up is missing, 4 not found, 5 exists or busy,
  6 corrupt input or store, 7 not permitted, 8 not supported here, 9 no space.
  `run` passes the container's own code through.";

/// Container layers as mountable images.
///
/// Plywood turns each layer of a container image, once, into one read-only EROFS file, and gives a
/// container its root filesystem by mounting those files under an overlay. The result of a command is
/// on standard output, everything else on standard error.
#[derive(Debug, Parser)]
#[command(
    name = "plywood",
    version,
    after_long_help = EXAMPLES,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that every verb takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where images, layers and snapshots are kept.
    #[arg(
        long,
        global = true,
        env = "PLYWOOD_ROOT",
        hide_env_values = true,
        default_value = places::ROOT,
        value_name = "DIR",
        display_order = 900
    )]
    pub(crate) root: PathBuf,
    /// Where mounts, containers and the journal of kernel objects are kept; best on a tmpfs.
    #[arg(
        long,
        global = true,
        env = "PLYWOOD_RUN",
        hide_env_values = true,
        default_value = places::RUN,
        value_name = "DIR",
        display_order = 901
    )]
    pub(crate) run: PathBuf,
    /// The socket of a daemon that has the store open; without one, the store is opened here. By default
    /// plywood.sock in the run directory.
    #[arg(
        long,
        global = true,
        env = "PLYWOOD_ADDRESS",
        hide_env_values = true,
        value_name = "SOCKET",
        display_order = 902
    )]
    pub(crate) address: Option<PathBuf>,
    /// How results are written: for people, or one JSON object a line.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t = Format::Text,
        value_name = "FORMAT",
        display_order = 903
    )]
    pub(crate) format: Format,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Import, list and remove container images.
    #[command(subcommand)]
    Image(ImageVerb),
    /// Write EROFS layer images, and look inside them without mounting.
    #[command(subcommand)]
    Erofs(ErofsVerb),
    /// Write Windows' CIM images, and look inside them without mounting.
    #[command(subcommand)]
    Cim(CimVerb),
    /// Work with the store's tree of snapshots.
    #[command(subcommand)]
    Snapshot(SnapshotVerb),
    /// Mount an image, a snapshot, an EROFS file or a CIM; list what is mounted.
    Mount(MountArgs),
    /// Undo `plywood mount`.
    Umount(UmountArgs),
    /// Run a command in a container.
    Run(Box<RunArgs>),
    /// Look after the virtual machines that containers run in.
    #[command(subcommand)]
    Vm(VmVerb),
    /// Handle layers of Windows' own filter, as hcsshim's tool of that name does.
    #[command(subcommand)]
    Wclayer(WclayerVerb),
    /// Delete what nothing refers to.
    Gc(GcArgs),
    /// Check the store and the mounts, and repair what can be repaired.
    Fsck(FsckArgs),
    /// Say what this host can do, what will be used because of it, and what to install.
    Doctor(DoctorArgs),
    /// Serve containerd, and the commands of this program, until told to stop.
    Serve(ServeArgs),
    /// Show what `plywood serve` is configured to do.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print what containerd's configuration needs, for a version of it.
    ContainerdConfig(ContainerdConfigArgs),
    /// Print the version.
    Version(VersionArgs),
}

/// `gc`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood gc --dry-run        name every item that would be deleted, and why
  plywood gc                  delete them")]
pub(crate) struct GcArgs {
    /// Only say what would be deleted, and why.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `fsck`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Verifies the metadata, every layer image's checksum and structure, the snapshots' directories, and that \
what is mounted is what the journal says. Exits with 6 when something is wrong and was not repaired.

Examples:
  plywood fsck                check
  plywood fsck --repair       check, and repair what can be repaired without losing data")]
pub(crate) struct FsckArgs {
    /// Repair what can be repaired without losing data.
    #[arg(long)]
    pub(crate) repair: bool,
}

/// `doctor`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Exits with 3 when something that `plywood run` or `plywood mount` needs is missing. What only virtual machines need \
is no reason for that.

Examples:
  plywood doctor
  plywood doctor --probe-kvm                     boot a virtual machine with KVM, and see whether it survives
  plywood --format json doctor | jq 'select(.state != \"ok\")'")]
pub(crate) struct DoctorArgs {
    /// Find out by a boot of our guest, of a minute at most, whether `--accel kvm` works here.
    #[arg(long)]
    pub(crate) probe_kvm: bool,
    /// Directory with the kernel and the initramfs of virtual machines [default: $PLYWOOD_VM_KIT or
    /// /usr/lib/plywood/vm].
    #[arg(long, value_name = "DIR")]
    pub(crate) kit: Option<PathBuf>,
}

/// `version`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood version
  plywood --format json version")]
pub(crate) struct VersionArgs {}

/// A size in bytes: a number with an optional suffix K, M, G or T (powers of 1024; `KiB` and `KB` mean the same).
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = trimmed.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| "expected a number such as 64M or 2G".to_owned())?;
    let suffix = suffix.trim().to_ascii_lowercase();
    let suffix = suffix.strip_suffix("ib").or_else(|| suffix.strip_suffix('b')).unwrap_or(&suffix);
    let shift = match suffix {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("the suffix must be K, M, G or T".to_owned()),
    };
    number.checked_mul(1 << shift).ok_or_else(|| "the size is too large".to_owned())
}

/// `KEY=VALUE`, split at the first `=`; the key must not be empty.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("1 kb"), Ok(1024));
        assert!(parse_size("").is_err());
        assert!(parse_size("M").is_err());
        assert!(parse_size("-1").is_err());
        assert!(parse_size("1.5G").is_err());
        assert!(parse_size("10P").is_err());
        assert!(parse_size("99999999999T").is_err());
    }

    #[test]
    fn pairs() {
        assert_eq!(parse_pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_pair("a="), Ok(("a".into(), String::new())));
        assert!(parse_pair("=b").is_err());
        assert!(parse_pair("a").is_err());
    }
}
