//! `plywood cim …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse_size;

/// The verbs of `plywood cim`. None of them mounts anything.
#[derive(Debug, Subcommand)]
pub(crate) enum CimVerb {
    /// Write an image from a directory, a tar or a Windows imaging file.
    Create(CimCreateArgs),
    /// Show an image's header, parents, regions and counts.
    Info(CimFileArgs),
    /// List a directory.
    Ls(CimListArgs),
    /// Show a directory and everything below as a tree.
    Tree(CimTreeArgs),
    /// Write data of files or alternate streams to standard output.
    Cat(CimCatArgs),
    /// Show everything about a path.
    Stat(CimStatArgs),
    /// Print everything but data in a stable text form, one line an object.
    Dump(CimFileArgs),
    /// Unpack an image into a new or empty directory.
    Extract(CimExtractArgs),
    /// Verify an image's structure, and repair its object-ID files.
    Check(CimCheckArgs),
    /// Show how two images differ.
    Diff(CimDiffArgs),
    /// Show the space that an image takes, alone and with its parents.
    Usage(CimFileArgs),
    /// Add a file or a directory to an image, or to a fork of it.
    Add(CimAddArgs),
    /// Remove paths from an image, or from a fork of it.
    Rm(CimRemoveArgs),
    /// Turn the tar of a Windows layer into an image.
    Import(CimImportArgs),
    /// Write an image, or how it differs from another, as the tar of a Windows layer.
    Export(CimExportArgs),
    /// Delete an image with its region files; its parents stay.
    Destroy(CimDestroyArgs),
}

/// An image.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The region files that an image needs are looked for beside it.

Examples:
  plywood cim info base.cim
  plywood cim dump base.cim | grep -i /kernel32.dll
  plywood --format json cim usage child.cim")]
pub(crate) struct CimFileArgs {
    /// The image's filesystem file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// `cim create`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Of a tar is kept what its PAX records in Microsoft's form say; `plywood cim import` makes more of a layer's. Of a directory are kept: names, data, modification times, hard links, symbolic links (as reparse points), the user's \
write permission (as the read-only attribute), and what `plywood cim extract` left in `user.ntfs_*` attributes. A WIM is \
unpacked by wimlib-imagex beforehand, with what that keeps on this system: no security descriptors. Images that were \
written here are unverified on Windows. The same input and name give the same bytes.

Examples:
  plywood cim create --from tree/ base.cim
  plywood cim create --from tree.tar.zst base.cim
  plywood cim create --from install.wim --wim-image 2 base.cim
  plywood cim create --from changes/ --parent base.cim child.cim     a fork with more files")]
pub(crate) struct CimCreateArgs {
    /// A directory, a tar (plain, gzip or zstd; `-` is one on standard input), or a Windows imaging file (.wim).
    #[arg(long, value_name = "SRC")]
    pub(crate) from: PathBuf,
    /// The filesystem file to write; region files come beside it. It must not exist.
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Fork this image, which lies in the same directory, and add to it.
    #[arg(long, value_name = "FILE")]
    pub(crate) parent: Option<PathBuf>,
    /// Which image of a WIM: its number or name.
    #[arg(long, value_name = "IMAGE", default_value = "1")]
    pub(crate) wim_image: String,
    /// Version of the format: 1, 2 or 3.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) image_version: u32,
    /// Data of at least this many bytes goes to the page-aligned region.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) large_data_from: Option<u64>,
}

/// `cim ls`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Paths are given with / or \\, and looked up without regard to case.

Examples:
  plywood cim ls base.cim
  plywood cim ls -lR base.cim /Files/Windows
  plywood --format json cim ls -R base.cim | jq -r .path")]
pub(crate) struct CimListArgs {
    /// The image's filesystem file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where to start.
    #[arg(value_name = "PATH", default_value = "/")]
    pub(crate) path: String,
    /// Attributes, size, time and reparse target as well.
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Everything below as well.
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
}

/// `cim tree`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood cim tree base.cim /Files/Users
  plywood cim tree --depth 2 base.cim")]
pub(crate) struct CimTreeArgs {
    /// The image's filesystem file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where to start.
    #[arg(value_name = "PATH", default_value = "/")]
    pub(crate) path: String,
    /// Levels to show.
    #[arg(long, value_name = "N")]
    pub(crate) depth: Option<usize>,
}

/// `cim cat`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood cim cat base.cim /Files/License.txt
  plywood cim cat base.cim /Files/setup.exe:Zone.Identifier     an alternate stream")]
pub(crate) struct CimCatArgs {
    /// The image's filesystem file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The files, or `file:stream`; reparse points are not followed.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
}

/// `cim stat`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood cim stat base.cim /Files/Windows/System32/kernel32.dll
  plywood cim stat --links base.cim /Files/tool.exe     search for its other names, too
  plywood --format json cim stat base.cim /Files | jq .security_hex")]
pub(crate) struct CimStatArgs {
    /// The image's filesystem file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The paths; reparse points are not followed.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// Search the whole image for all names of each file: their number is not stored.
    #[arg(long)]
    pub(crate) links: bool,
}

/// `cim extract`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Nothing is ever written outside DIR, whatever the image holds. Names that cannot be kept (with separators, reserved by \
Windows, equal to another but for case, too long, not Unicode) are changed, and each change is told on standard error and \
in the JSON output. Symbolic links and mount points come out as symbolic links.

Examples:
  plywood cim extract base.cim tree/
  plywood cim extract --metadata base.cim tree/     security descriptors and the like as user.ntfs_* attributes
  plywood cim extract --streams base.cim tree/      alternate streams as files `name:stream`")]
pub(crate) struct CimExtractArgs {
    /// The image's filesystem file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The directory to unpack into; it must be empty or not exist.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Keep attributes, times, security descriptors, EAs and reparse data in extended attributes `user.ntfs_*`.
    #[arg(long)]
    pub(crate) metadata: bool,
    /// Keep alternate streams as files beside their own, `name:stream`.
    #[arg(long)]
    pub(crate) streams: bool,
}

/// `cim check`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Exits with 6 when an image has errors; warnings alone do not count. Object-ID files only serve to store equal data once; \
--repair builds those that are missing or wrong again and changes nothing else.

Examples:
  plywood cim check base.cim
  plywood cim check --data base.cim
  plywood cim check --repair base.cim")]
pub(crate) struct CimCheckArgs {
    /// The image's filesystem file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Build object-ID files again that are missing or do not fit.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Read all data, too, and compare it with the digests in the object-ID files.
    #[arg(long)]
    pub(crate) data: bool,
}

/// `cim diff`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Prints one line a change, `+` added, `-` removed, `~` modified, and exits with 0 whether there are any or not. What a fork \
shares with its parent is not read.

Examples:
  plywood cim diff base.cim child.cim")]
pub(crate) struct CimDiffArgs {
    /// The image before.
    #[arg(value_name = "A")]
    pub(crate) before: PathBuf,
    /// The image after.
    #[arg(value_name = "B")]
    pub(crate) after: PathBuf,
}

/// `cim add`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Without --output, FILE becomes a fork of what it was: its old regions stay, as those of a parent, and forks of it stay as \
they are.

Examples:
  plywood cim add base.cim app/ /Files/app --output child.cim
  plywood cim add child.cim hosts /Files/Windows/System32/drivers/etc/hosts")]
pub(crate) struct CimAddArgs {
    /// The image's filesystem file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The file or directory to add. What is kept of it: see `plywood cim create`.
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// Its path in the image; a file there is replaced, a directory is added to.
    #[arg(value_name = "PATH")]
    pub(crate) path: String,
    /// Leave FILE as it is, and write a fork of this name in the same directory.
    #[arg(long, value_name = "NEW")]
    pub(crate) output: Option<PathBuf>,
}

/// `cim rm`
#[derive(Debug, Args)]
#[command(after_long_help = "\
A directory is removed with everything in it. Without --output, FILE becomes a fork of what it was.

Examples:
  plywood cim rm base.cim /Files/Windows/Temp --output child.cim
  plywood cim rm child.cim /Files/a.txt /Files/b.txt")]
pub(crate) struct CimRemoveArgs {
    /// The image's filesystem file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The paths.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<String>,
    /// Leave FILE as it is, and write a fork of this name in the same directory.
    #[arg(long, value_name = "NEW")]
    pub(crate) output: Option<PathBuf>,
}

/// `cim import`
#[derive(Debug, Args)]
#[command(after_long_help = "\
The tar may be compressed with gzip or zstd. A base layer makes an image of its own, any other a fork of that of the layer \
below. The registry's changes are merged; what the tar cannot say or the image cannot hold is counted in the output.

Examples:
  plywood cim import base.tar base.cim
  plywood cim import --parent base.cim layer.tar.gz child.cim
  crane blob IMAGE@DIGEST | plywood cim import - base.cim")]
pub(crate) struct CimImportArgs {
    /// The layer's tar, compressed or not; `-` for standard input.
    #[arg(value_name = "TAR")]
    pub(crate) tar: PathBuf,
    /// The filesystem file to write; region files come beside it. It must not exist.
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// The image of the layer below, in the same directory.
    #[arg(long, value_name = "FILE")]
    pub(crate) parent: Option<PathBuf>,
    /// Take any tree: nothing is required of it, and nothing is added to it.
    #[arg(long)]
    pub(crate) tree: bool,
    /// Refuse a tar of more bytes.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_size: Option<u64>,
}

/// `cim export`
#[derive(Debug, Args)]
#[command(after_long_help = "\
An import of the tar, on an image equal to the parent, gives an image equal to this one.

Examples:
  plywood cim export base.cim base.tar
  plywood cim export --parent base.cim child.cim layer.tar
  plywood cim export base.cim - | zstd > base.tar.zst")]
pub(crate) struct CimExportArgs {
    /// The image's filesystem file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The tar to write; `-` for standard output.
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Only how the image differs from this one, in the same directory.
    #[arg(long, value_name = "FILE")]
    pub(crate) parent: Option<PathBuf>,
    /// Replace OUT if it exists.
    #[arg(long)]
    pub(crate) force: bool,
}

/// `cim destroy`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Deletes the image's own region and object-ID files and then FILE, as Windows' tools do. An image that has forks is not \
deleted (5): they need it.

Examples:
  plywood cim destroy --dry-run child.cim
  plywood cim destroy child.cim
  plywood cim destroy --orphans child.cim     and region files of its directory that no image needs")]
pub(crate) struct CimDestroyArgs {
    /// The image's filesystem file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only say what would be deleted.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Delete region and temporary files beside it, too, that no image needs. Nobody may be writing an image there.
    #[arg(long)]
    pub(crate) orphans: bool,
}
