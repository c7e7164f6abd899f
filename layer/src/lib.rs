//! OCI layers to and from layer images.
//!
//! A layer is a tar of changes; a layer image is one EROFS file that the kernel mounts as one layer of an
//! overlay. This crate turns each into the other and knows nothing of where they are kept.
//!
//! ```text
//!  blob ──▶ inflate ──▶ tar entries ──▶ tree + data ──▶ layer image     write_layer_image
//!  blob ──▶ inflate ───────────────────────────────▶ layer image        write_native_image
//!                                                             │
//!  overlayfs upper directory ───────────────────────▶ layer image     write_directory_image
//!                                                             │
//!  layer tar ◀──────────────────────────────────── layer image        write_layer_tar
//!  layer tar ◀──────────────────────────────────── two stacks of them  diff
//! ```
//!
//! Guarantees:
//!
//! * one pass over the blob; memory grows with the number of entries, not with the length of the files;
//! * the same tar gives the same image bytes on any machine, whatever the compression and the timing;
//! * deletions are data of the layer (overlayfs's whiteouts and opaque marks), so a layer image does not depend
//!   on the layers below. There are two exceptions, both answered through [`Parents`] and reported in
//!   [`LayerImage::depends_on_parents`]: a hard link to a file of a lower layer, which is copied, and a directory
//!   that the layer has files in but does not describe, which keeps the metadata it has below and, where it is a
//!   symbolic link below, hands its files on to where that leads inside the root;
//! * nothing a layer says reaches outside of its image: names are never resolved on the host, `..` is refused,
//!   no symbolic link of the host or of the same layer is followed, and overlayfs's own xattrs are escaped;
//! * what two readers could understand in two ways is refused; see the errors' kinds.
//!
//! Nothing here calls `fsync`: whoever names the output file makes it durable.

mod acl;
pub mod archive;
pub mod cim_view;
mod compression;
#[cfg(target_os = "linux")]
mod diff;
mod digest;
#[cfg(target_os = "linux")]
mod directory;
mod error;
mod export;
pub mod hive;
mod image_file;
mod intake;
mod layer_image;
mod layer_tree;
mod native;
mod overlay;
mod parents;
mod path;
mod pipeline;
mod progress;
#[cfg(target_os = "linux")]
mod side;
mod tar;
pub mod windows;

pub use compression::{Compression, Compressor, LayerFormat};
#[cfg(target_os = "linux")]
pub use diff::{DiffOptions, diff};
pub use digest::{Checksum, Digest, Digester};
#[cfg(target_os = "linux")]
pub use directory::{DirectoryImage, write_directory_image};
pub use error::{Error, ErrorKind, Result};
pub use export::{LayerTar, write_layer_tar};
pub use image_file::image_checksum;
pub use layer_image::{LayerBlob, LayerImage, LayerOptions, measure_layer, write_layer_image};
pub use native::write_native_image;
pub use parents::{ImageSource, Parents};
pub use progress::{Cancel, Progress};
#[cfg(target_os = "linux")]
pub use side::Side;
pub use windows::{
    WindowsLayer, WindowsLayerTar, WindowsOptions, write_windows_layer, write_windows_layer_tar,
};
