//! Requests about the guest's resources: disks, persistent memory, shares, layers.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::is_default;

/// What is done with a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestType {
    /// Makes it. Also what an absent type means.
    #[default]
    Add,
    /// Takes it away.
    Remove,
    /// Changes it.
    Update,
    /// Announces it; networks only.
    PreAdd,
    /// A word nobody knows.
    Other(String),
}

impl RequestType {
    /// The word on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Add => "Add",
            Self::Remove => "Remove",
            Self::Update => "Update",
            Self::PreAdd => "PreAdd",
            Self::Other(word) => word,
        }
    }

    fn of(word: &str) -> Self {
        match word {
            "" | "Add" => Self::Add,
            "Remove" => Self::Remove,
            "Update" => Self::Update,
            "PreAdd" => Self::PreAdd,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// A request about one resource.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestRequest {
    /// What is done.
    pub request_type: RequestType,
    /// With what.
    pub resource: Resource,
}

impl GuestRequest {
    /// Makes `resource`.
    pub fn add(resource: Resource) -> Self {
        Self { request_type: RequestType::Add, resource }
    }

    /// Takes `resource` away.
    pub fn remove(resource: Resource) -> Self {
        Self { request_type: RequestType::Remove, resource }
    }
}

/// A resource with its settings.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Resource {
    /// A disk on a SCSI bus, mounted.
    MappedVirtualDisk(MappedVirtualDisk),
    /// Persistent memory, mounted.
    VPMemDevice(PmemDevice),
    /// A Plan 9 share, mounted.
    MappedDirectory(MappedDirectory),
    /// Layers under a container's root.
    CombinedLayers(CombinedLayers),
    /// A disk on a SCSI bus, unplugged.
    ScsiDevice(ScsiDevice),
    /// A resource this crate does not know.
    Other {
        /// Its type.
        resource_type: String,
        /// Its settings.
        settings: Value,
    },
}

impl Resource {
    /// The type's name on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::MappedVirtualDisk(_) => "MappedVirtualDisk",
            Self::VPMemDevice(_) => "VPMemDevice",
            Self::MappedDirectory(_) => "MappedDirectory",
            Self::CombinedLayers(_) => "CombinedLayers",
            Self::ScsiDevice(_) => "SCSIDevice",
            Self::Other { resource_type, .. } => resource_type,
        }
    }

    fn of(resource_type: String, settings: Value) -> Result<Self, serde_json::Error> {
        Ok(match resource_type.as_str() {
            "MappedVirtualDisk" => Self::MappedVirtualDisk(serde_json::from_value(settings)?),
            "VPMemDevice" => Self::VPMemDevice(serde_json::from_value(settings)?),
            "MappedDirectory" => Self::MappedDirectory(serde_json::from_value(settings)?),
            "CombinedLayers" => Self::CombinedLayers(serde_json::from_value(settings)?),
            "SCSIDevice" => Self::ScsiDevice(serde_json::from_value(settings)?),
            _ => Self::Other { resource_type, settings },
        })
    }
}

impl Serialize for GuestRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Wire<'a, T> {
            request_type: &'a str,
            resource_type: &'a str,
            settings: &'a T,
        }
        let request_type = self.request_type.as_str();
        let resource_type = self.resource.name();
        macro_rules! wire {
            ($settings:expr) => {
                Wire { request_type, resource_type, settings: $settings }.serialize(serializer)
            };
        }
        match &self.resource {
            Resource::MappedVirtualDisk(settings) => wire!(settings),
            Resource::VPMemDevice(settings) => wire!(settings),
            Resource::MappedDirectory(settings) => wire!(settings),
            Resource::CombinedLayers(settings) => wire!(settings),
            Resource::ScsiDevice(settings) => wire!(settings),
            Resource::Other { settings, .. } => wire!(settings),
        }
    }
}

impl<'de> Deserialize<'de> for GuestRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Wire {
            #[serde(default)]
            request_type: String,
            #[serde(default)]
            resource_type: String,
            #[serde(default)]
            settings: Value,
        }
        let wire = Wire::deserialize(deserializer)?;
        Ok(Self {
            request_type: RequestType::of(&wire.request_type),
            resource: Resource::of(wire.resource_type, wire.settings).map_err(D::Error::custom)?,
        })
    }
}

/// A disk on a SCSI bus, and where and how it is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MappedVirtualDisk {
    /// Where in the guest.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mount_path: String,
    /// Logical unit, 0 to 63.
    #[serde(skip_serializing_if = "is_default")]
    pub lun: u8,
    /// Controller, 0 to 3.
    #[serde(skip_serializing_if = "is_default")]
    pub controller: u8,
    /// Partition, from 1; 0 for the whole disk.
    #[serde(skip_serializing_if = "is_default")]
    pub partition: u64,
    /// Mounts it for reading only.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// Encrypts it with a key that is never kept; implies a fresh file system.
    #[serde(skip_serializing_if = "is_default")]
    pub encrypted: bool,
    /// Mount options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Makes `mount_path` a link to the block device and mounts nothing.
    #[serde(skip_serializing_if = "is_default")]
    pub block_dev: bool,
    /// Proves what is read with a hash tree that follows the data on the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verity_info: Option<VerityInfo>,
    /// Makes a file system where there is none of that type.
    #[serde(skip_serializing_if = "is_default")]
    pub ensure_filesystem: bool,
    /// Its type; found by looking where empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filesystem: String,
}

/// A dm-verity hash tree behind the data on the same device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VerityInfo {
    /// Bytes of the file system, whatever its type; the tree begins there.
    #[serde(skip_serializing_if = "is_default")]
    pub ext4_size_in_bytes: i64,
    /// Format of the hashes; 1.
    #[serde(skip_serializing_if = "is_default")]
    pub version: i64,
    /// Hash algorithm, `sha256`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub algorithm: String,
    /// Whether a block with a verity superblock is before the tree.
    #[serde(skip_serializing_if = "is_default")]
    pub super_block: bool,
    /// The root hash in hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub root_digest: String,
    /// The salt in hexadecimal digits; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub salt: String,
    /// Bytes of a block, of data and of hashes.
    #[serde(skip_serializing_if = "is_default")]
    pub block_size: i64,
    /// The disk that holds nothing but the tree, and with `super_block` that before it; without it the tree is behind the
    /// data. Ours: an agent that does not know it looks behind the data, and finds no tree there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_device: Option<ScsiDevice>,
}

/// Persistent memory and where it is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PmemDevice {
    /// The device's number.
    #[serde(skip_serializing_if = "is_default")]
    pub device_number: u32,
    /// Where in the guest.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mount_path: String,
    /// The part of the device that is meant; all of it without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping_info: Option<PmemMapping>,
    /// As for disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verity_info: Option<VerityInfo>,
}

/// A part of a persistent memory device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PmemMapping {
    /// Its first byte.
    #[serde(skip_serializing_if = "is_default")]
    pub device_offset_in_bytes: u64,
    /// Its length.
    #[serde(skip_serializing_if = "is_default")]
    pub device_size_in_bytes: u64,
}

/// A Plan 9 share and where it is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MappedDirectory {
    /// Where in the guest.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mount_path: String,
    /// The host's port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: i32,
    /// The share's name (9P's `aname`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub share_name: String,
    /// Mounts it for reading only.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
}

/// Layers under a container's root. A removal says only the root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CombinedLayers {
    /// The container.
    #[serde(rename = "ContainerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// Where the root file system appears.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub container_root_path: String,
    /// The layers, topmost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    /// Where the container's changes go; without it the root is read-only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scratch_path: String,
}

/// A layer that is mounted in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Layer {
    /// A GUID; Windows only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Where it is mounted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
}

impl Layer {
    /// The layer at `path`.
    pub fn at(path: impl Into<String>) -> Self {
        Self { id: String::new(), path: path.into() }
    }
}

/// A disk on a SCSI bus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ScsiDevice {
    /// Controller, 0 to 3.
    #[serde(skip_serializing_if = "is_default")]
    pub controller: u8,
    /// Logical unit, 0 to 63.
    #[serde(skip_serializing_if = "is_default")]
    pub lun: u8,
}
