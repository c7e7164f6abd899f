//! OCI layers to and from layer images.

pub mod archive;
mod compression;
mod digest;
mod error;
mod layer_image;
mod progress;

pub use compression::Compression;
pub use digest::{Checksum, Digest, Digester};
pub use error::{Error, ErrorKind, Result};
pub use layer_image::{LayerImage, LayerOptions};
pub use progress::{Cancel, Progress};
