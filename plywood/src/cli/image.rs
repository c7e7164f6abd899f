//! `plywood image …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::parse_size;

/// The verbs of `plywood image`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Turn the layers of container images into mountable files in the store.
    Import(ImageImportArgs),
    /// List the images in the store.
    #[command(visible_alias = "ls")]
    List(ImageListArgs),
    /// Show an image's configuration and layers.
    Inspect(ImageInspectArgs),
    /// Remove images; `plywood gc` then deletes the layers that nothing else uses.
    #[command(visible_alias = "rm")]
    Remove(ImageRemoveArgs),
    /// Write an image as an OCI archive.
    Export(ImageExportArgs),
}

/// `image import`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Reads OCI image layouts (a directory or a tar), docker-archive tars, and bare layer tars; layers may be plain, \
gzip or zstd. Every digest is verified. Layers that are already in the store are not converted again.

Examples:
  plywood image import debian.tar
  plywood image import --ref debian:12 oci-layout/
  skopeo copy docker://alpine oci-archive:/dev/stdout | plywood image import --ref alpine -
  plywood image import --base debian:12 --ref mine changes.tar.gz
  plywood image import --verity debian.tar      proved in virtual machines, block by block")]
pub(crate) struct ImageImportArgs {
    /// Archives or layout directories; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) sources: Vec<PathBuf>,
    /// Name the image; repeat it to give several images of one archive their names, in order.
    #[arg(long = "ref", value_name = "NAME")]
    pub(crate) references: Vec<String>,
    /// Which platform of a multi-platform image, as `os/architecture[/variant]` [default: this host's].
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Stack a bare layer tar on this image.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) base: Option<String>,
    /// Refuse a layer that inflates to more than this.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_size: Option<u64>,
    /// How many layers to convert at the same time [default: the number of processors].
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
    /// Make a hash tree of each layer, with which virtual machines prove every block that they read (dm-verity).
    #[arg(long)]
    pub(crate) verity: bool,
}

/// `image list`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood image list
  plywood image list -q")]
pub(crate) struct ImageListArgs {
    /// Only the references.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// `image inspect`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood image inspect debian:12
  plywood --format json image inspect debian:12 | jq .config.config.Env
  plywood image inspect --raw debian:12")]
pub(crate) struct ImageInspectArgs {
    /// The image's reference.
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// The configuration exactly as the image carries it.
    #[arg(long)]
    pub(crate) raw: bool,
}

/// `image remove`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  plywood image remove debian:12 && plywood gc")]
pub(crate) struct ImageRemoveArgs {
    /// The images' references.
    #[arg(required = true, value_name = "REF")]
    pub(crate) references: Vec<String>,
}

/// `image export`
#[derive(Debug, Args)]
#[command(after_long_help = "\
The archive is an OCI image layout in a tar. The tar of a layer is made anew from the \
layer image, in a fixed order, so the same image always gives the same archive; its digests are its own.

Examples:
  plywood image export debian:12 debian.tar
  plywood image export debian:12 - | ssh host plywood image import -")]
pub(crate) struct ImageExportArgs {
    /// The image's reference.
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// The archive to write; it must not exist. `-` is standard output.
    #[arg(value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Compress the layers with gzip.
    #[arg(long, conflicts_with = "zstd")]
    pub(crate) gzip: bool,
    /// Compress the layers with zstd.
    #[arg(long)]
    pub(crate) zstd: bool,
}
