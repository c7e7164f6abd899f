//! `cimfs.dll`, cim-format.md 11.1. Mounting is always the system's; only writing has a redistributable DLL.

use std::path::Path;

use windows_sys::core::{GUID, HRESULT, PCWSTR};

use super::binding::bindings;
use super::text::Wide;
use super::{System, checked, native};
use crate::windows::{CimFs, CimMountFlags, Guid, Result};

bindings! {
    CIMFS = "cimfs.dll", build 19041;
    cim_mount_image: "CimMountImage", build 19041, fn(PCWSTR, PCWSTR, u32, *const GUID) -> HRESULT;
    cim_dismount_image: "CimDismountImage", build 19041, fn(*const GUID) -> HRESULT;
}

impl CimFs for System {
    fn mount_image(
        &self,
        directory: &Path,
        name: &str,
        flags: CimMountFlags,
        volume: &Guid,
    ) -> Result<()> {
        let function = "CimMountImage";
        let call = cim_mount_image()?;
        let subject = directory.join(name).to_string_lossy().into_owned();
        let directory = Wide::path(function, directory)?;
        let name = Wide::text(function, name)?;
        let volume = native(volume);
        // SAFETY: both texts end with NUL and, like the GUID, outlive the call.
        let answer =
            unsafe { call(directory.as_ptr(), name.as_ptr(), flags.bits(), &raw const volume) };
        checked(function, subject, answer)
    }

    fn dismount_image(&self, volume: &Guid) -> Result<()> {
        let call = cim_dismount_image()?;
        let id = native(volume);
        // SAFETY: the GUID outlives the call.
        let answer = unsafe { call(&raw const id) };
        checked("CimDismountImage", volume.to_string(), answer)
    }
}
