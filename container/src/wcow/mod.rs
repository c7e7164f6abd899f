//! Windows containers: their layers on the host or in a virtual machine, and what their specification names.
//!
//! Every decision compiles and is tested on every host, over the interfaces of [`sys::windows`]. **Never run on a real
//! HCS host**; `docs/windows.md` says for each function what it was written from.

mod allocation;
mod image_volumes;
mod layers;
mod mount;
#[cfg(test)]
mod tests;
mod volume;

pub use allocation::{
    MappedDirectory, MappedPipe, WindowsAllocation, WindowsRequest, allocate_windows_resources,
};
pub use image_volumes::copy_image_volumes;
pub use layers::WcowLayers;
pub use mount::{
    Isolation, MountedWcow, WcowCloser, WcowHost, hcs_layers, mount_wcow_layers,
    release_cimfs_host_layers, to_host_hcs_schema_layers,
};
pub use volume::{SandboxVolume, mount_sandbox_volume, remove_sandbox_mount_point};
