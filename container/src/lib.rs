//! From layers and an OCI runtime spec to what a container in a utility VM sees: rootfs and mounts.

mod error;
mod guest_spec;
mod image_file;
mod rootfs;
mod vm_options;

pub use error::{Error, ErrorKind, Result};
pub use guest_spec::{guest_spec, read_spec};
pub use image_file::{Content, ImageFile};
pub use rootfs::{
    BlockCim, BlockCimKind, LcowLayer, LcowLayers, Rootfs, RootfsMount, check_sources, lcow_layers,
};
pub use vm_options::VmOptions;
