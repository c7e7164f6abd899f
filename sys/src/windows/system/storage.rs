//! `computestorage.dll`: Microsoft's reference of the Host Compute System API; the overlay filters are in hcsshim
//! only (hcs-layers.md 2.2).

use std::path::Path;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::core::{HRESULT, PCWSTR, PWSTR};

use super::binding::bindings;
use super::text::{Allocated, Wide};
use super::{System, checked};
use crate::windows::{Disk, Result, StorageApi};

type One = unsafe extern "system" fn(PCWSTR) -> HRESULT;
type Two = unsafe extern "system" fn(PCWSTR, PCWSTR) -> HRESULT;
type Three = unsafe extern "system" fn(PCWSTR, PCWSTR, PCWSTR) -> HRESULT;

bindings! {
    COMPUTESTORAGE = "computestorage.dll", build 17763;
    initialize: "HcsInitializeWritableLayer", build 17763, fn(PCWSTR, PCWSTR, PCWSTR) -> HRESULT;
    attach_layer: "HcsAttachLayerStorageFilter", build 17763, fn(PCWSTR, PCWSTR) -> HRESULT;
    detach_layer: "HcsDetachLayerStorageFilter", build 17763, fn(PCWSTR) -> HRESULT;
    attach_overlay: "HcsAttachOverlayFilter", build 20348, fn(PCWSTR, PCWSTR) -> HRESULT;
    detach_overlay: "HcsDetachOverlayFilter", build 20348, fn(PCWSTR, PCWSTR) -> HRESULT;
    format: "HcsFormatWritableLayerVhd", build 17763, fn(HANDLE) -> HRESULT;
    mount_path: "HcsGetLayerVhdMountPath", build 17763, fn(HANDLE, *mut PWSTR) -> HRESULT;
    setup_layer: "HcsSetupBaseOSLayer", build 17763, fn(PCWSTR, HANDLE, PCWSTR) -> HRESULT;
    setup_volume: "HcsSetupBaseOSVolume", build 19645, fn(PCWSTR, PCWSTR, PCWSTR) -> HRESULT;
    destroy: "HcsDestroyLayer", build 17763, fn(PCWSTR) -> HRESULT;
    import: "HcsImportLayer", build 17763, fn(PCWSTR, PCWSTR, PCWSTR) -> HRESULT;
    export: "HcsExportLayer", build 17763, fn(PCWSTR, PCWSTR, PCWSTR, PCWSTR) -> HRESULT;
}

fn handle(disk: &Disk) -> HANDLE {
    disk.value() as HANDLE
}

fn one(function: &'static str, call: One, path: &Path) -> Result<()> {
    let text = Wide::path(function, path)?;
    // SAFETY: the path ends with NUL and outlives the call.
    let answer = unsafe { call(text.as_ptr()) };
    checked(function, path.to_string_lossy(), answer)
}

fn two(function: &'static str, call: Two, path: &Path, second: &str) -> Result<()> {
    let text = Wide::path(function, path)?;
    let second = Wide::text(function, second)?;
    // SAFETY: the texts end with NUL and outlive the call.
    let answer = unsafe { call(text.as_ptr(), second.as_ptr()) };
    checked(function, path.to_string_lossy(), answer)
}

fn three(
    function: &'static str,
    call: Three,
    path: &Path,
    second: &Wide,
    third: &Wide,
) -> Result<()> {
    let text = Wide::path(function, path)?;
    // SAFETY: the texts end with NUL and outlive the call; the third may be NULL, as Microsoft's reference says of
    // options, and is a document where the table has a document.
    let answer = unsafe { call(text.as_ptr(), second.as_ptr(), third.as_optional_ptr()) };
    checked(function, path.to_string_lossy(), answer)
}

impl StorageApi for System {
    fn initialize_writable_layer(
        &self,
        layer: &Path,
        layer_data: &str,
        options: &str,
    ) -> Result<()> {
        let function = "HcsInitializeWritableLayer";
        let call = initialize()?;
        let layer_data = Wide::text(function, layer_data)?;
        three(function, call, layer, &layer_data, &Wide::text(function, options)?)
    }

    fn attach_layer_storage_filter(&self, layer: &Path, layer_data: &str) -> Result<()> {
        two("HcsAttachLayerStorageFilter", attach_layer()?, layer, layer_data)
    }

    fn detach_layer_storage_filter(&self, layer: &Path) -> Result<()> {
        one("HcsDetachLayerStorageFilter", detach_layer()?, layer)
    }

    fn attach_overlay_filter(&self, volume: &str, layer_data: &str) -> Result<()> {
        two("HcsAttachOverlayFilter", attach_overlay()?, Path::new(volume), layer_data)
    }

    fn detach_overlay_filter(&self, volume: &str, layer_data: &str) -> Result<()> {
        two("HcsDetachOverlayFilter", detach_overlay()?, Path::new(volume), layer_data)
    }

    fn format_writable_layer_vhd(&self, disk: &Disk) -> Result<()> {
        let call = format()?;
        // SAFETY: the disk's handle is open as long as the disk is borrowed.
        let answer = unsafe { call(handle(disk)) };
        checked("HcsFormatWritableLayerVhd", format!("{disk:?}"), answer)
    }

    fn layer_vhd_mount_path(&self, disk: &Disk) -> Result<String> {
        let function = "HcsGetLayerVhdMountPath";
        let call = mount_path()?;
        let mut text = Allocated::local();
        // SAFETY: the disk's handle is open as long as the disk is borrowed; the pointer that is filled outlives the
        // call.
        let answer = unsafe { call(handle(disk), text.out()) };
        checked(function, format!("{disk:?}"), answer)?;
        text.read(function)
    }

    fn setup_base_os_layer(&self, layer: &Path, disk: &Disk, options: &str) -> Result<()> {
        let function = "HcsSetupBaseOSLayer";
        let call = setup_layer()?;
        let path = Wide::path(function, layer)?;
        let options = Wide::text(function, options)?;
        // SAFETY: the texts end with NUL and outlive the call; the disk's handle is open as long as it is borrowed.
        let answer = unsafe { call(path.as_ptr(), handle(disk), options.as_optional_ptr()) };
        checked(function, layer.to_string_lossy(), answer)
    }

    fn setup_base_os_volume(&self, layer: &Path, volume: &str, options: &str) -> Result<()> {
        let function = "HcsSetupBaseOSVolume";
        let call = setup_volume()?;
        let volume = Wide::text(function, volume)?;
        three(function, call, layer, &volume, &Wide::text(function, options)?)
    }

    fn destroy_storage_layer(&self, layer: &Path) -> Result<()> {
        one("HcsDestroyLayer", destroy()?, layer)
    }

    fn import_storage_layer(&self, layer: &Path, source: &Path, layer_data: &str) -> Result<()> {
        let function = "HcsImportLayer";
        let call = import()?;
        let source = Wide::path(function, source)?;
        three(function, call, layer, &source, &Wide::text(function, layer_data)?)
    }

    fn export_storage_layer(
        &self,
        layer: &Path,
        target: &Path,
        layer_data: &str,
        options: &str,
    ) -> Result<()> {
        let function = "HcsExportLayer";
        let call = export()?;
        let path = Wide::path(function, layer)?;
        let target = Wide::path(function, target)?;
        let layer_data = Wide::text(function, layer_data)?;
        let options = Wide::text(function, options)?;
        // SAFETY: the texts end with NUL and outlive the call.
        let answer = unsafe {
            call(path.as_ptr(), target.as_ptr(), layer_data.as_ptr(), options.as_optional_ptr())
        };
        checked(function, layer.to_string_lossy(), answer)
    }
}
