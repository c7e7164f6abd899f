//! What can be attached to a virtual machine, and where.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// SCSI controllers a virtual machine has at most.
pub const MAX_CONTROLLERS: u8 = 4;
/// Disks on one SCSI controller.
pub const LUNS: u8 = 64;
/// The largest pmem device, and with that the largest layer on one, in bytes.
pub const PMEM_MAX: u64 = 4 << 30;
/// Pmem devices a virtual machine has at most.
pub const MAX_PMEM: u32 = 128;

/// Where on the SCSI controllers a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScsiSlot {
    /// From 0, below [`MAX_CONTROLLERS`].
    pub controller: u8,
    /// From 0, below [`LUNS`].
    pub lun: u8,
}

impl fmt::Display for ScsiSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.controller, self.lun)
    }
}

/// What a SCSI disk is on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ScsiKind {
    /// An image file: raw (EROFS layers are), VHD or VHDX; told by its content.
    VirtualDisk,
    /// A block device of the host.
    PassThrough,
    /// A virtual disk of a provider of that name; only HCS has them.
    Extensible(String),
}

/// A disk to attach. Two equal ones are the same disk: that is the attach key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScsiDisk {
    /// The file or device on the host.
    pub path: PathBuf,
    /// Writes are refused by the host's side, whatever the guest tries.
    pub read_only: bool,
    /// What it is.
    pub kind: ScsiKind,
}

/// How a disk is mounted in the guest. Two equal ones but for `path` share one mount: that, with the slot, is the mount key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScsiMount {
    /// Where; the next free `/run/mounts/scsi/m<i>` if not said. Ignored when the same disk is mounted the same way.
    pub path: Option<String>,
    /// From 1; 0 is the whole disk.
    pub partition: u64,
    /// Mounted read-only.
    pub read_only: bool,
    /// Through dm-crypt, with a key that only the guest's memory knows.
    pub encrypted: bool,
    /// No mount, but a symbolic link to the device node.
    pub block_device: bool,
    /// Mount options in fstab's words.
    pub options: Vec<String>,
    /// Format it if there is no file system yet.
    pub ensure_filesystem: bool,
    /// `ext4`, `xfs`, `erofs`; found out if not said.
    pub filesystem: Option<String>,
    /// Proves what is read with a hash tree behind the data.
    pub verity: Option<bridge::VerityInfo>,
}

/// A directory of the host that the guest may mount by 9P: what a back end is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// A decimal number, unique in the virtual machine; the guest attaches to it by this name.
    pub name: String,
    /// The directory on the host.
    pub path: PathBuf,
    /// Writes are refused by the host's side.
    pub read_only: bool,
    /// Only these names directly in the directory exist for the guest.
    pub allowed: Option<BTreeSet<OsString>>,
}

/// A directory of the host to mount in the guest. Equal requests share one mount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShareRequest {
    /// The directory on the host.
    pub host: PathBuf,
    /// Where in the guest.
    pub guest_path: String,
    /// Read-only on both sides.
    pub read_only: bool,
    /// Only these names directly in the directory exist for the guest.
    pub allowed: Option<BTreeSet<OsString>>,
}

/// Layers to combine to a container's root file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CombineRequest {
    /// Of the container; names directories in the guest.
    pub container_id: String,
    /// Where in the guest the root file system comes.
    pub root: String,
    /// Guest paths of the layers, topmost first.
    pub layers: Vec<String>,
    /// Guest directory for what the container writes; without one the root is read-only.
    pub scratch: Option<String>,
}

/// What a virtual machine can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// SCSI controllers that it has, 0 to [`MAX_CONTROLLERS`].
    pub scsi_controllers: u8,
    /// Slots that are never given out, such as the root file system's.
    pub reserved_slots: Vec<ScsiSlot>,
    /// Whether [`ScsiKind::PassThrough`] works.
    pub pass_through: bool,
    /// Whether [`ScsiKind::Extensible`] works.
    pub extensible: bool,
    /// Pmem devices that can be added; 0 is none.
    pub pmem_devices: u32,
    /// The largest pmem device in bytes, at most [`PMEM_MAX`].
    pub pmem_max: u64,
    /// Whether several files can lie on one pmem device.
    pub pmem_packed: bool,
    /// Whether a pmem device can be taken away again. QEMU cannot: there a released device keeps its slot, and its file is found there again.
    pub pmem_removable: bool,
    /// Whether directories can be shared.
    pub shares: bool,
    /// Whether directories can be shared for writing.
    pub writable_shares: bool,
}
