//! `virtdisk.dll`: VHDX files.

use std::path::{Path, PathBuf};

use bitflags::bitflags;

use super::{Disk, Result};

bitflags! {
    /// `ATTACH_VIRTUAL_DISK_FLAG` (virtdisk.h).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct AttachFlags: u32 {
        /// Attach read-only.
        const READ_ONLY = 0x1;
        /// Give its volumes no drive letters.
        const NO_DRIVE_LETTER = 0x2;
        /// Stay attached when the last handle closes.
        const PERMANENT_LIFETIME = 0x4;
        /// Do not let the host encrypt it by default: encryption on arrival makes expanding fail
        /// (hcs-layers.md 2.4).
        const BYPASS_DEFAULT_ENCRYPTION_POLICY = 0x20;
    }

    /// `VIRTUAL_DISK_ACCESS_MASK` (virtdisk.h). Empty is right for disks opened with version 2 parameters.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct DiskAccess: u32 {
        /// Attach read-only.
        const ATTACH_READ_ONLY = 0x1_0000;
        /// Attach read-write.
        const ATTACH_READ_WRITE = 0x2_0000;
        /// Detach.
        const DETACH = 0x4_0000;
        /// Ask for sizes and identifiers.
        const GET_INFO = 0x8_0000;
        /// Create.
        const CREATE = 0x10_0000;
        /// Resize, compact and merge.
        const META_OPS = 0x20_0000;
    }
}

/// A VHDX file to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    /// Bytes the guest sees; 0 with a parent, whose size it takes.
    pub size: u64,
    /// Bytes of a block; 0 leaves the choice to Windows.
    pub block_size: u32,
    /// Makes a differencing disk over this one.
    pub parent: Option<PathBuf>,
}

/// Virtual disks.
pub trait DiskApi: Send + Sync {
    /// `CreateVirtualDisk` with version 2 parameters: a dynamically growing VHDX, open.
    fn create_disk(&self, path: &Path, disk: &NewDisk) -> Result<Disk>;

    /// `OpenVirtualDisk`: with version 2 parameters for no `access`, which is enough for everything since Windows 8;
    /// otherwise with version 1, to depth 1.
    fn open_disk(&self, path: &Path, access: DiskAccess) -> Result<Disk>;

    /// `AttachVirtualDisk` with version 1 parameters, which restrict nothing.
    fn attach_disk(&self, disk: &Disk, flags: AttachFlags) -> Result<()>;

    /// `DetachVirtualDisk`.
    fn detach_disk(&self, disk: &Disk) -> Result<()>;

    /// `GetVirtualDiskPhysicalPath`: `\\.\PhysicalDriveN` of an attached disk.
    fn disk_physical_path(&self, disk: &Disk) -> Result<String>;

    /// `ExpandVirtualDisk`: grows it to `bytes`.
    fn expand_disk(&self, disk: &Disk, bytes: u64) -> Result<()>;
}
