//! `plywood erofs …`

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse_size;

/// The verbs of `plywood erofs`. None of them mounts anything.
#[derive(Debug, Subcommand)]
pub(crate) enum ErofsVerb {
    /// Write an image from a directory or a layer tar.
    Create(CreateArgs),
    /// Show an image's superblock, features, counts and devices.
    Info(FileArgs),
    /// List a directory.
    Ls(ListArgs),
    /// Write files' contents to standard output.
    Cat(CatArgs),
    /// Show everything about a path.
    Stat(StatArgs),
    /// Print the whole tree in a stable text form, one line an object.
    Dump(FileArgs),
    /// Verify an image's structure and checksum.
    Check(CheckArgs),
    /// Unpack an image into a new or empty directory.
    Extract(ExtractArgs),
    /// Show how two images differ.
    Diff(DiffArgs),
    /// Merge layer images into one metadata-only image that refers to them as devices.
    Merge(MergeArgs),
}

/// An image and its devices.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood erofs info layer.erofs
  plywood erofs dump layer.erofs | grep usr/bin
  plywood erofs dump --device a.erofs --device b.erofs merged.erofs")]
pub(crate) struct FileArgs {
    /// The image.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// A device of a multi-device image, in the order of its device table.
    #[arg(long = "device", value_name = "FILE")]
    pub(crate) devices: Vec<PathBuf>,
}

/// `erofs create`
#[derive(Debug, Args)]
#[command(after_long_help = "\
A tar is read as an OCI layer: whiteouts become overlayfs's. The same input gives the same bytes.

Examples:
  plywood erofs create --from rootfs/ rootfs.erofs
  plywood erofs create --from layer.tar.zst --label base layer.erofs
  curl -L https://example.org/layer.tar.gz | plywood erofs create --from - layer.erofs")]
pub(crate) struct CreateArgs {
    /// A directory, or a tar (plain, gzip or zstd); `-` is a tar on standard input.
    #[arg(long, value_name = "SRC")]
    pub(crate) from: PathBuf,
    /// The image to write; it must not exist unless `--force` is given.
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Replace the output if it exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// Volume label, at most 15 bytes.
    #[arg(long, value_name = "LABEL", default_value = "", hide_default_value = true)]
    pub(crate) label: String,
    /// Refuse a tar that inflates to more than this.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_size: Option<u64>,
}

/// `erofs ls`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood erofs ls layer.erofs
  plywood erofs ls -lR layer.erofs /usr/lib
  plywood --format json erofs ls -R layer.erofs | jq -r .path")]
pub(crate) struct ListArgs {
    /// The image.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where to start.
    #[arg(value_name = "PATH", default_value = "/")]
    pub(crate) path: OsString,
    /// Mode, links, owner, size and time as well.
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Everything below as well.
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// A device of a multi-device image, in the order of its device table.
    #[arg(long = "device", value_name = "FILE")]
    pub(crate) devices: Vec<PathBuf>,
}

/// `erofs cat`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood erofs cat layer.erofs /etc/os-release")]
pub(crate) struct CatArgs {
    /// The image.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The files; symbolic links are followed inside the image.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<OsString>,
    /// A device of a multi-device image, in the order of its device table.
    #[arg(long = "device", value_name = "FILE")]
    pub(crate) devices: Vec<PathBuf>,
}

/// `erofs stat`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood erofs stat layer.erofs /usr/bin/su
  plywood --format json erofs stat layer.erofs /usr/bin/su")]
pub(crate) struct StatArgs {
    /// The image.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The paths; symbolic links are not followed at the end.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<OsString>,
    /// A device of a multi-device image, in the order of its device table.
    #[arg(long = "device", value_name = "FILE")]
    pub(crate) devices: Vec<PathBuf>,
}

/// `erofs check`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Exits with 6 when an image has errors; warnings alone do not count.

Examples:
  plywood erofs check layer.erofs")]
pub(crate) struct CheckArgs {
    /// The image.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// A device of a multi-device image, in the order of its device table.
    #[arg(long = "device", value_name = "FILE")]
    pub(crate) devices: Vec<PathBuf>,
}

/// `erofs extract`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Nothing is ever written outside DIR, whatever the image holds. Whiteouts come out as overlayfs keeps them: \
character devices 0:0.

Examples:
  plywood erofs extract layer.erofs rootfs/
  plywood erofs extract --no-owner --no-nodes layer.erofs rootfs/     when not root")]
pub(crate) struct ExtractArgs {
    /// The image.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The directory to unpack into; it must be empty or not exist.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Leave everything owned by who runs this, without setuid and setgid bits.
    #[arg(long)]
    pub(crate) no_owner: bool,
    /// Leave extended attributes out.
    #[arg(long)]
    pub(crate) no_xattrs: bool,
    /// Leave device nodes (whiteouts among them) out.
    #[arg(long)]
    pub(crate) no_nodes: bool,
    /// A device of a multi-device image, in the order of its device table.
    #[arg(long = "device", value_name = "FILE")]
    pub(crate) devices: Vec<PathBuf>,
}

/// `erofs diff`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Prints one line a change, `+` added, `-` removed, `~` modified, and exits with 0 whether there are any or not.

Examples:
  plywood erofs diff old.erofs new.erofs")]
pub(crate) struct DiffArgs {
    /// The image before.
    #[arg(value_name = "A")]
    pub(crate) before: PathBuf,
    /// The image after.
    #[arg(value_name = "B")]
    pub(crate) after: PathBuf,
}

/// `erofs merge`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Whiteouts and opaque directories are applied. The merged image holds metadata only and reads file data from \
the layers, which must be given again, in the same order, wherever it is used.

Examples:
  plywood erofs merge merged.erofs bottom.erofs middle.erofs top.erofs
  plywood erofs ls --device bottom.erofs --device middle.erofs --device top.erofs merged.erofs")]
pub(crate) struct MergeArgs {
    /// The image to write; it must not exist.
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// The layer images, bottom first.
    #[arg(required = true, value_name = "LAYER")]
    pub(crate) layers: Vec<PathBuf>,
    /// Volume label, at most 15 bytes.
    #[arg(long, value_name = "LABEL", default_value = "", hide_default_value = true)]
    pub(crate) label: String,
}
