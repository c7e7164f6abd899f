//! From layers and an OCI runtime spec to what a container sees: rootfs and mounts, for Linux containers in utility VMs
//! and for Windows containers ([`wcow`]).

mod error;
mod guest_spec;
mod image_file;
mod lcow;
mod linux;
mod resources;
mod rootfs;
mod vm_options;
pub mod wcow;

pub use error::{Error, ErrorKind, Result};
pub use guest_spec::{guest_spec, read_spec};
pub use image_file::{Content, ImageFile};
pub use lcow::{LayerOptions, MountedLayers, MountedRootfs, mount_lcow_layers};
pub use linux::{Allocation, LinuxRequest, allocate_linux_resources};
pub use resources::{Resources, release_resources};
pub use rootfs::{
    BlockCim, BlockCimKind, HashTree, LcowLayer, LcowLayers, Rootfs, RootfsMount, check_sources,
    lcow_layers,
};
pub use vm_options::VmOptions;
