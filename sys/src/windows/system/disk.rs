//! `virtdisk.dll`, as virtdisk.h declares it.

use std::path::Path;
use std::ptr;

use windows_sys::Win32::Foundation::{CloseHandle, HANDLE};
use windows_sys::Win32::Storage::Vhd::{
    ATTACH_VIRTUAL_DISK_PARAMETERS, ATTACH_VIRTUAL_DISK_VERSION_1, CREATE_VIRTUAL_DISK_PARAMETERS,
    CREATE_VIRTUAL_DISK_VERSION_2, EXPAND_VIRTUAL_DISK_PARAMETERS, EXPAND_VIRTUAL_DISK_VERSION_1,
    OPEN_VIRTUAL_DISK_PARAMETERS, OPEN_VIRTUAL_DISK_VERSION_1, OPEN_VIRTUAL_DISK_VERSION_2,
    VIRTUAL_STORAGE_TYPE, VIRTUAL_STORAGE_TYPE_DEVICE_VHDX, VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT,
};
use windows_sys::Win32::System::IO::OVERLAPPED;
use windows_sys::core::{PCWSTR, PWSTR};

use super::binding::bindings;
use super::text::{Wide, from_units};
use super::{System, checked_win32};
use crate::windows::{AttachFlags, Disk, DiskAccess, DiskApi, NewDisk, Result};

type Descriptor = *const core::ffi::c_void;

bindings! {
    VIRTDISK = "virtdisk.dll", build 9200;
    create: "CreateVirtualDisk", build 9200, fn(
        *const VIRTUAL_STORAGE_TYPE, PCWSTR, u32, Descriptor, u32, u32,
        *const CREATE_VIRTUAL_DISK_PARAMETERS, *const OVERLAPPED, *mut HANDLE,
    ) -> u32;
    open: "OpenVirtualDisk", build 9200, fn(
        *const VIRTUAL_STORAGE_TYPE, PCWSTR, u32, u32, *const OPEN_VIRTUAL_DISK_PARAMETERS, *mut HANDLE,
    ) -> u32;
    attach: "AttachVirtualDisk", build 9200, fn(
        HANDLE, Descriptor, u32, u32, *const ATTACH_VIRTUAL_DISK_PARAMETERS, *const OVERLAPPED,
    ) -> u32;
    detach: "DetachVirtualDisk", build 9200, fn(HANDLE, u32, u32) -> u32;
    physical_path: "GetVirtualDiskPhysicalPath", build 9200, fn(HANDLE, *mut u32, PWSTR) -> u32;
    expand: "ExpandVirtualDisk", build 9200, fn(
        HANDLE, u32, *const EXPAND_VIRTUAL_DISK_PARAMETERS, *const OVERLAPPED,
    ) -> u32;
}

/// Longest path of an attached disk, in UTF-16 units.
const LONGEST_PATH: usize = 1024;

const ERROR_INSUFFICIENT_BUFFER: u32 = 122;

fn handle(disk: &Disk) -> HANDLE {
    disk.value() as HANDLE
}

fn owned(handle: HANDLE) -> Disk {
    Disk::new(handle as usize, |value| {
        // SAFETY: the handle was made by virtdisk for this value alone, which closes it once.
        unsafe { CloseHandle(value as HANDLE) };
    })
}

impl DiskApi for System {
    fn create_disk(&self, path: &Path, disk: &NewDisk) -> Result<Disk> {
        let function = "CreateVirtualDisk";
        let call = create()?;
        let text = Wide::path(function, path)?;
        let parent =
            disk.parent.as_deref().map(|parent| Wide::path(function, parent)).transpose()?;
        let kind = VIRTUAL_STORAGE_TYPE {
            DeviceId: VIRTUAL_STORAGE_TYPE_DEVICE_VHDX,
            VendorId: VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT,
        };
        let mut parameters = CREATE_VIRTUAL_DISK_PARAMETERS {
            Version: CREATE_VIRTUAL_DISK_VERSION_2,
            ..Default::default()
        };
        // SAFETY: version 2 says that this member is the one in use; all zero bytes are valid for it.
        let version = unsafe { &mut parameters.Anonymous.Version2 };
        version.MaximumSize = disk.size;
        version.BlockSizeInBytes = disk.block_size;
        version.ParentPath = parent.as_ref().map_or(ptr::null(), Wide::as_ptr);
        let mut out: HANDLE = ptr::null_mut();
        // SAFETY: the type, the texts, which end with NUL, the parameters and the handle outlive the call. Version 2
        // wants no access mask. Without an OVERLAPPED the call ends when the disk is made.
        let answer = unsafe {
            call(
                &raw const kind,
                text.as_ptr(),
                0,
                ptr::null(),
                0,
                0,
                &raw const parameters,
                ptr::null(),
                &raw mut out,
            )
        };
        checked_win32(function, path.to_string_lossy(), answer)?;
        Ok(owned(out))
    }

    fn open_disk(&self, path: &Path, access: DiskAccess) -> Result<Disk> {
        let function = "OpenVirtualDisk";
        let call = open()?;
        let text = Wide::path(function, path)?;
        // Unknown device and vendor: virtdisk looks for itself.
        let kind = VIRTUAL_STORAGE_TYPE::default();
        let version = match access.is_empty() {
            true => OPEN_VIRTUAL_DISK_VERSION_2,
            false => OPEN_VIRTUAL_DISK_VERSION_1,
        };
        let mut parameters =
            OPEN_VIRTUAL_DISK_PARAMETERS { Version: version, ..Default::default() };
        if !access.is_empty() {
            parameters.Anonymous.Version1.RWDepth = 1;
        }
        let mut out: HANDLE = ptr::null_mut();
        // SAFETY: the type, the path, which ends with NUL, the parameters, whose member in use is the version's, and
        // the handle outlive the call.
        let answer = unsafe {
            call(
                &raw const kind,
                text.as_ptr(),
                access.bits(),
                0,
                &raw const parameters,
                &raw mut out,
            )
        };
        checked_win32(function, path.to_string_lossy(), answer)?;
        Ok(owned(out))
    }

    fn attach_disk(&self, disk: &Disk, flags: AttachFlags) -> Result<()> {
        let call = attach()?;
        let parameters = ATTACH_VIRTUAL_DISK_PARAMETERS {
            Version: ATTACH_VIRTUAL_DISK_VERSION_1,
            ..Default::default()
        };
        // SAFETY: the disk's handle is open as long as it is borrowed, and the parameters outlive the call. Without an
        // OVERLAPPED the call ends when the disk is attached.
        let answer = unsafe {
            call(handle(disk), ptr::null(), flags.bits(), 0, &raw const parameters, ptr::null())
        };
        checked_win32("AttachVirtualDisk", format!("{disk:?}"), answer)
    }

    fn detach_disk(&self, disk: &Disk) -> Result<()> {
        let call = detach()?;
        // SAFETY: the disk's handle is open as long as it is borrowed.
        let answer = unsafe { call(handle(disk), 0, 0) };
        checked_win32("DetachVirtualDisk", format!("{disk:?}"), answer)
    }

    fn disk_physical_path(&self, disk: &Disk) -> Result<String> {
        let function = "GetVirtualDiskPhysicalPath";
        let call = physical_path()?;
        let mut buffer = vec![0_u16; 64];
        loop {
            let mut bytes = (buffer.len() * 2) as u32;
            // SAFETY: the disk's handle is open as long as it is borrowed; the buffer has as many bytes as said.
            let answer = unsafe { call(handle(disk), &raw mut bytes, buffer.as_mut_ptr()) };
            if answer == ERROR_INSUFFICIENT_BUFFER && buffer.len() < LONGEST_PATH {
                buffer.resize(LONGEST_PATH, 0);
                continue;
            }
            checked_win32(function, format!("{disk:?}"), answer)?;
            return from_units(function, &buffer);
        }
    }

    fn expand_disk(&self, disk: &Disk, bytes: u64) -> Result<()> {
        let call = expand()?;
        let mut parameters = EXPAND_VIRTUAL_DISK_PARAMETERS {
            Version: EXPAND_VIRTUAL_DISK_VERSION_1,
            ..Default::default()
        };
        parameters.Anonymous.Version1.NewSize = bytes;
        // SAFETY: the disk's handle is open as long as it is borrowed, and the parameters outlive the call.
        let answer = unsafe { call(handle(disk), 0, &raw const parameters, ptr::null()) };
        checked_win32("ExpandVirtualDisk", format!("{disk:?}"), answer)
    }
}
