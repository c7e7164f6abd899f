//! Virtual machines of Windows' Host Compute Service: everything is a JSON document given to
//! `HcsModifyComputeSystem`.
//!
//! [`HcsVm`] is the back end for Linux guests ([`crate::Machine`] counts for it as it does for QEMU);
//! [`WindowsGuest`] has what only Windows guests have. Both are over [`sys::windows::Host`], so they are tested on every
//! host with its recording double. **Never run on a real HCS host.**

mod request;
mod schema;
#[cfg(test)]
mod tests;
mod vm;
mod windows_guest;

pub use request::{PLAN9_PORT, SCSI_CONTROLLERS};
pub use schema::{
    Attachment, HcsLayer, ModifySettingRequest, PLAN9_LINUX_METADATA, PLAN9_READ_ONLY,
    PLAN9_RESTRICT, Plan9Share, RequestType, Settings, VirtualPMemDevice, VirtualPMemMapping,
    VirtualSmbShare, VirtualSmbShareOptions, WindowsCombinedLayers, WindowsMappedDirectory,
    WindowsMappedDisk,
};
pub use vm::{HcsOptions, HcsVm};
pub use windows_guest::{VsmbRequest, VsmbShare, WindowsCombined, WindowsDisk, WindowsGuest};
