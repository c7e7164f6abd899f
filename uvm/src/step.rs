//! The steps that attach something, each with what undoing it takes: what the journal holds and what rolls back.

use bridge::{
    CombinedLayers, GuestRequest, Layer, MappedDirectory, MappedVirtualDisk, PmemDevice,
    PmemMapping, Resource, ScsiDevice,
};
use serde::{Deserialize, Serialize};

use crate::{CombineRequest, PmemRange, ScsiDisk, ScsiMount, ScsiSlot, Share};

/// One thing that is made, on the host or in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// A disk at a slot.
    Scsi { slot: ScsiSlot, disk: ScsiDisk },
    /// Its mount; the path is decided.
    ScsiMount { slot: ScsiSlot, mount: ScsiMount },
    /// A file on a pmem device.
    Pmem { device: u32, range: Option<PmemRange>, path: std::path::PathBuf },
    /// Its mount.
    PmemMount { device: u32, range: Option<PmemRange>, path: String },
    /// A directory that is served.
    Share(Share),
    /// Its mount.
    ShareMount { name: String, port: u32, path: String, read_only: bool },
    /// A root file system of layers.
    Combine { container_id: String, root: String, layers: Vec<String>, scratch: Option<String> },
}

impl Step {
    pub(crate) fn combine(request: &CombineRequest) -> Self {
        Self::Combine {
            container_id: request.container_id.clone(),
            root: request.root.clone(),
            layers: request.layers.clone(),
            scratch: request.scratch.clone(),
        }
    }

    /// What the guest is asked to do for it; nothing for steps of the host.
    pub(crate) fn add_request(&self) -> Option<GuestRequest> {
        self.resource(false).map(GuestRequest::add)
    }

    /// What the guest is asked to undo. For a disk that is the unplugging, which has no counterpart.
    pub(crate) fn remove_request(&self) -> Option<GuestRequest> {
        let resource = match self {
            Self::Scsi { slot, .. } => {
                Resource::ScsiDevice(ScsiDevice { controller: slot.controller, lun: slot.lun })
            }
            step => step.resource(true)?,
        };
        Some(GuestRequest::remove(resource))
    }

    fn resource(&self, removing: bool) -> Option<Resource> {
        Some(match self {
            Self::Scsi { .. } | Self::Pmem { .. } | Self::Share(_) => return None,
            // The removal repeats everything: without the flags of the mount the guest would leave a dm-crypt
            // device open, as it does for hosts that omit them.
            Self::ScsiMount { slot, mount } => Resource::MappedVirtualDisk(MappedVirtualDisk {
                mount_path: mount.path.clone().unwrap_or_default(),
                lun: slot.lun,
                controller: slot.controller,
                partition: mount.partition,
                read_only: mount.read_only,
                encrypted: mount.encrypted,
                options: mount.options.clone(),
                block_dev: mount.block_device,
                ensure_filesystem: mount.ensure_filesystem,
                filesystem: mount.filesystem.clone().unwrap_or_default(),
                verity_info: mount.verity.clone(),
            }),
            Self::PmemMount { device, range, path } => Resource::VPMemDevice(PmemDevice {
                device_number: *device,
                mount_path: path.clone(),
                mapping_info: range.map(|range| PmemMapping {
                    device_offset_in_bytes: range.offset,
                    device_size_in_bytes: range.size,
                }),
                ..PmemDevice::default()
            }),
            Self::ShareMount { name, port, path, read_only } => {
                Resource::MappedDirectory(MappedDirectory {
                    mount_path: path.clone(),
                    port: i32::try_from(*port).unwrap_or(i32::MAX),
                    share_name: name.clone(),
                    read_only: *read_only,
                })
            }
            Self::Combine { root, .. } if removing => Resource::CombinedLayers(CombinedLayers {
                container_root_path: root.clone(),
                ..CombinedLayers::default()
            }),
            Self::Combine { container_id, root, layers, scratch } => {
                Resource::CombinedLayers(CombinedLayers {
                    container_id: container_id.clone(),
                    container_root_path: root.clone(),
                    layers: layers.iter().map(Layer::at).collect(),
                    scratch_path: scratch.clone().unwrap_or_default(),
                })
            }
        })
    }

    /// For error messages: "attach /a at 0:3".
    pub(crate) fn doing(&self) -> String {
        match self {
            Self::Scsi { slot, disk } => format!("attach {} at SCSI {slot}", disk.path.display()),
            Self::ScsiMount { slot, mount } => {
                let path = mount.path.as_deref().unwrap_or_default();
                format!("mount the disk at SCSI {slot} on {path} in the guest")
            }
            Self::Pmem { device, path, .. } => {
                format!("attach {} as pmem device {device}", path.display())
            }
            Self::PmemMount { device, path, .. } => {
                format!("mount pmem device {device} on {path} in the guest")
            }
            Self::Share(share) => format!("share {}", share.path.display()),
            Self::ShareMount { name, path, .. } => {
                format!("mount share {name} on {path} in the guest")
            }
            Self::Combine { root, .. } => format!("combine layers on {root} in the guest"),
        }
    }
}
