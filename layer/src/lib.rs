//! OCI layers to and from layer images.

pub mod archive;
mod compression;
mod digest;
#[cfg(target_os = "linux")]
mod directory;
mod error;
mod export;
mod image_file;
mod intake;
mod layer_image;
mod layer_tree;
mod overlay;
mod parents;
mod path;
mod pipeline;
mod progress;
mod tar;

pub use compression::Compression;
pub use digest::{Checksum, Digest, Digester};
#[cfg(target_os = "linux")]
pub use directory::{DirectoryImage, write_directory_image};
pub use error::{Error, ErrorKind, Result};
pub use export::{LayerTar, diff_tar, write_layer_tar};
pub use image_file::image_checksum;
pub use layer_image::{LayerImage, LayerOptions, write_layer_image};
pub use parents::{ImageSource, Parents};
pub use progress::{Cancel, Progress};
