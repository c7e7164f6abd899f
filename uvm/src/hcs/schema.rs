//! Documents of the Host Compute Service, schema 2, as far as devices and guest requests go.
//!
//! Names and meanings are those of the public schema reference on learn.microsoft.com; which fields are sent, and which
//! values, is from hcs-layers.md 4.1 to 4.5. What is zero, false or empty is left out: the service reads it so, and
//! older guests refuse fields that they do not know.

use serde::Serialize;
use serde_json::Value;

/// What `HcsModifyComputeSystem` takes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ModifySettingRequest {
    /// Which part of the virtual machine; empty for a request to the guest alone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_path: String,
    /// What is done with it; `Add` if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_type: Option<RequestType>,
    /// What is to be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// What the guest is asked to do, passed on by the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_request: Option<Value>,
}

/// What is done with a part of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RequestType {
    /// It comes.
    Add,
    /// It goes.
    Remove,
    /// It changes.
    Update,
}

/// What a part of a virtual machine is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Settings {
    /// A disk on a SCSI controller.
    Attachment(Attachment),
    /// A persistent-memory device.
    VirtualPMemDevice(VirtualPMemDevice),
    /// A further file on one.
    VirtualPMemMapping(VirtualPMemMapping),
    /// A directory for a Linux guest.
    Plan9Share(Plan9Share),
    /// A directory for a Windows guest.
    VirtualSmbShare(VirtualSmbShare),
}

/// A disk on a SCSI controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Attachment {
    /// `VirtualDisk`, `PassThru` or `ExtensibleVirtualDisk`.
    pub r#type: &'static str,
    /// The file or device on the host.
    pub path: String,
    /// Writes are refused.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// The provider of an extensible virtual disk.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub extensible_virtual_disk_type: String,
}

/// A persistent-memory device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VirtualPMemDevice {
    /// The file on the host.
    pub host_path: String,
    /// Writes are refused.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// `Vhd1`: the footer is hidden.
    pub image_format: &'static str,
}

/// A further file on a persistent-memory device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VirtualPMemMapping {
    /// The file on the host.
    pub host_path: String,
    /// `Vhd1`: the footer is hidden.
    pub image_format: &'static str,
}

/// A directory for a Linux guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Plan9Share {
    /// Its name.
    pub name: String,
    /// The name that the guest attaches to; the same.
    pub access_name: String,
    /// The directory on the host; not said when it goes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The port at which it is served.
    pub port: u32,
    /// [`PLAN9_READ_ONLY`] and its neighbours.
    #[serde(skip_serializing_if = "is_default")]
    pub flags: u32,
    /// The only files that there are, if it is restricted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_files: Vec<String>,
}

/// Writes are refused.
pub const PLAN9_READ_ONLY: u32 = 0x1;
/// Owners and modes of Linux are kept as extended attributes.
pub const PLAN9_LINUX_METADATA: u32 = 0x4;
/// Only the allowed files are there.
pub const PLAN9_RESTRICT: u32 = 0x80;

/// A directory for a Windows guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VirtualSmbShare {
    /// Its name, `s` and a number in hexadecimal digits.
    pub name: String,
    /// The directory on the host; not said when it goes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The only files that there are, if it is restricted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_files: Vec<String>,
    /// How it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<VirtualSmbShareOptions>,
}

/// How a directory is served to a Windows guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VirtualSmbShareOptions {
    /// Writes are refused.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// Files are opened so that others may read them.
    #[serde(skip_serializing_if = "is_default")]
    pub share_read: bool,
    /// The guest caches.
    #[serde(skip_serializing_if = "is_default")]
    pub cache_io: bool,
    /// The guest is told that nobody else has a file open.
    #[serde(skip_serializing_if = "is_default")]
    pub pseudo_oplocks: bool,
    /// Files are opened with the privilege to back up, whatever their access lists say: for layers.
    #[serde(skip_serializing_if = "is_default")]
    pub take_backup_privilege: bool,
    /// Files are not mapped into the guest's memory.
    #[serde(skip_serializing_if = "is_default")]
    pub no_directmap: bool,
    /// Only the allowed files are there.
    #[serde(skip_serializing_if = "is_default")]
    pub restrict_file_access: bool,
    /// One file is served.
    #[serde(skip_serializing_if = "is_default")]
    pub single_file_mapping: bool,
}

impl VirtualSmbShareOptions {
    /// For a directory that is read only (hcs-layers.md 4.3).
    pub fn read_only() -> Self {
        Self {
            read_only: true,
            share_read: true,
            cache_io: true,
            pseudo_oplocks: true,
            ..Self::default()
        }
    }

    /// For a layer.
    pub fn layer() -> Self {
        Self { take_backup_privilege: true, ..Self::read_only() }
    }
}

/// A read-only layer: the folder, volume or share that has its files, and the GUID that the filter knows it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HcsLayer {
    /// In lower case, without braces.
    pub id: String,
    /// Where its files are.
    pub path: String,
}

/// What `CombinedLayers` says to a Windows guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct WindowsCombinedLayers {
    /// Where the scratch is mounted, which becomes the root.
    pub container_root_path: String,
    /// Topmost first; not said when they go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<HcsLayer>,
    /// Where the scratch is, if that is elsewhere.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scratch_path: String,
    /// The filter; WCIFS is not named, because older guests do not know the field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_type: Option<&'static str>,
}

/// What `MappedVirtualDisk` says to a Windows guest, of a disk on the first controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct WindowsMappedDisk {
    /// Where it is mounted.
    pub container_path: String,
    /// Its place on the controller.
    #[serde(skip_serializing_if = "is_default")]
    pub lun: u8,
}

/// What `MappedDirectory` says to a Windows guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct WindowsMappedDirectory {
    /// The share's path in the guest.
    pub host_path: String,
    /// Where it is to be seen.
    pub container_path: String,
    /// Writes are refused.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
