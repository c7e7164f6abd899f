//! Requests to the Host Compute Service: which document does what.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use bridge::{GuestRequest, Resource};
use serde::Serialize;

use super::schema::*;
use crate::{Error, ErrorKind, PmemRange, Result, ScsiDisk, ScsiKind, ScsiSlot, Share};

/// Where Plan 9 shares are served (hcs-layers.md 4.3).
pub const PLAN9_PORT: u32 = 564;
/// How SCSI controllers are called: version 5 of their numbers in the name space
/// d422512d-2bf2-4752-809d-7b82b5fcb1b4 (hcs-layers.md 4.1).
pub const SCSI_CONTROLLERS: [&str; 4] = [
    "df6d0690-79e5-55b6-a5ec-c1e2f77f580a",
    "0110f83b-de10-5172-a266-78bca56bf50a",
    "b5d2d8d4-3a75-51bf-945b-3444dc6b8579",
    "305891a9-b251-5dfe-91a2-c25d9212275b",
];
const VSMB_SHARES: &str = "VirtualMachine/Devices/VirtualSmb/Shares";
const PLAN9_SHARES: &str = "VirtualMachine/Devices/Plan9/Shares";

impl ModifySettingRequest {
    fn new(
        resource_path: impl Into<String>,
        request: RequestType,
        settings: Option<Settings>,
    ) -> Self {
        Self {
            resource_path: resource_path.into(),
            request_type: Some(request),
            settings,
            guest_request: None,
        }
    }

    /// The document.
    ///
    /// # Errors
    /// Only of values that JSON cannot say.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::caused(ErrorKind::Invalid, "cannot write a request", error))
    }

    /// A disk comes at a slot.
    ///
    /// # Errors
    /// `Invalid` for a slot that there is not, or a path that is not Unicode.
    pub fn add_scsi(slot: ScsiSlot, disk: &ScsiDisk) -> Result<Self> {
        let (r#type, provider) = match &disk.kind {
            ScsiKind::VirtualDisk => ("VirtualDisk", String::new()),
            ScsiKind::PassThrough => ("PassThru", String::new()),
            ScsiKind::Extensible(provider) => ("ExtensibleVirtualDisk", provider.clone()),
        };
        let attachment = Attachment {
            r#type,
            path: text(&disk.path)?,
            read_only: disk.read_only,
            extensible_virtual_disk_type: provider,
        };
        let settings = Settings::Attachment(attachment);
        Ok(Self::new(scsi_path(slot)?, RequestType::Add, Some(settings)))
    }

    /// The disk at a slot goes.
    ///
    /// # Errors
    /// `Invalid` for a slot that there is not.
    pub fn remove_scsi(slot: ScsiSlot) -> Result<Self> {
        Ok(Self::new(scsi_path(slot)?, RequestType::Remove, None))
    }

    /// A file comes as a persistent-memory device, or on one. The first file of a packed device brings the device.
    ///
    /// # Errors
    /// `Invalid` for a path that is not Unicode.
    pub fn add_pmem(
        device: u32,
        range: Option<PmemRange>,
        path: &Path,
        read_only: bool,
    ) -> Result<Self> {
        let (host_path, image_format) = (text(path)?, "Vhd1");
        let settings = match range {
            Some(range) if range.offset > 0 => {
                Settings::VirtualPMemMapping(VirtualPMemMapping { host_path, image_format })
            }
            _ => Settings::VirtualPMemDevice(VirtualPMemDevice {
                host_path,
                read_only,
                image_format,
            }),
        };
        Ok(Self::new(pmem_path(device, range), RequestType::Add, Some(settings)))
    }

    /// It goes.
    pub fn remove_pmem(device: u32, range: Option<PmemRange>) -> Self {
        Self::new(pmem_path(device, range), RequestType::Remove, None)
    }

    /// A directory comes for a Linux guest.
    ///
    /// # Errors
    /// `Invalid` for names that are not Unicode.
    pub fn add_plan9(share: &Share) -> Result<Self> {
        let mut flags = PLAN9_LINUX_METADATA;
        if share.read_only {
            flags |= PLAN9_READ_ONLY;
        }
        if share.allowed.is_some() {
            flags |= PLAN9_RESTRICT;
        }
        let settings = Plan9Share {
            name: share.name.clone(),
            access_name: share.name.clone(),
            path: text(&share.path)?,
            port: PLAN9_PORT,
            flags,
            allowed_files: names(share.allowed.as_ref())?,
        };
        Ok(Self::new(PLAN9_SHARES, RequestType::Add, Some(Settings::Plan9Share(settings))))
    }

    /// It goes.
    pub fn remove_plan9(name: &str) -> Self {
        let settings = Plan9Share {
            name: name.to_owned(),
            access_name: name.to_owned(),
            port: PLAN9_PORT,
            ..Plan9Share::default()
        };
        Self::new(PLAN9_SHARES, RequestType::Remove, Some(Settings::Plan9Share(settings)))
    }

    /// A directory comes for a Windows guest, or (`Update`) shows more files.
    ///
    /// # Errors
    /// `Invalid` for names that are not Unicode.
    pub fn vsmb(
        request: RequestType,
        name: &str,
        path: &Path,
        allowed: Option<&BTreeSet<OsString>>,
        options: VirtualSmbShareOptions,
    ) -> Result<Self> {
        let settings = VirtualSmbShare {
            name: name.to_owned(),
            path: text(path)?,
            allowed_files: names(allowed)?,
            options: Some(options),
        };
        Ok(Self::new(VSMB_SHARES, request, Some(Settings::VirtualSmbShare(settings))))
    }

    /// It goes.
    pub fn remove_vsmb(name: &str) -> Self {
        let settings = VirtualSmbShare { name: name.to_owned(), ..VirtualSmbShare::default() };
        Self::new(VSMB_SHARES, RequestType::Remove, Some(Settings::VirtualSmbShare(settings)))
    }

    /// A named pipe of the host comes to a Windows guest, or goes.
    pub fn pipe(request: RequestType, path: &str) -> Self {
        Self::new(format!("VirtualMachine/Devices/MappedPipes/{path}"), request, None)
    }

    /// The guest alone is asked for something; the service passes it on.
    ///
    /// # Errors
    /// Only of values that JSON cannot say.
    pub fn guest(request: &GuestRequest) -> Result<Self> {
        let request = serde_json::to_value(request)
            .map_err(|error| Error::caused(ErrorKind::Invalid, "cannot write a request", error))?;
        Ok(Self { guest_request: Some(request), ..Self::default() })
    }
}

/// A resource of a Windows guest, whose settings are not those of a Linux guest's of the same name.
pub(crate) fn windows_resource(name: &str, settings: &impl Serialize) -> Result<Resource> {
    let settings = serde_json::to_value(settings)
        .map_err(|error| Error::caused(ErrorKind::Invalid, "cannot write a request", error))?;
    Ok(Resource::Other { resource_type: name.to_owned(), settings })
}

fn scsi_path(slot: ScsiSlot) -> Result<String> {
    match SCSI_CONTROLLERS.get(usize::from(slot.controller)) {
        Some(controller) if slot.lun < crate::LUNS => {
            Ok(format!("VirtualMachine/Devices/Scsi/{controller}/Attachments/{}", slot.lun))
        }
        _ => Err(Error::new(ErrorKind::Invalid, format!("there is no SCSI slot {slot}"))),
    }
}

fn pmem_path(device: u32, range: Option<PmemRange>) -> String {
    match range {
        Some(range) if range.offset > 0 => {
            format!("VirtualMachine/Devices/VirtualPMem/Devices/{device}/Mappings/{}", range.offset)
        }
        _ => format!("VirtualMachine/Devices/VirtualPMem/Devices/{device}"),
    }
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let message = format!("{} is not Unicode, and the service is told by JSON", path.display());
        Error::new(ErrorKind::Invalid, message)
    })
}

fn names(allowed: Option<&BTreeSet<OsString>>) -> Result<Vec<String>> {
    allowed.into_iter().flatten().map(|name| text(Path::new(name))).collect()
}
