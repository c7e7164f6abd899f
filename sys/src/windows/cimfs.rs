//! `cimfs.dll`: composite images as volumes.

use std::path::Path;

use bitflags::bitflags;

use super::{Guid, Result};

bitflags! {
    /// How `CimMountImage` mounts (cim-format.md 11.2; 0x40 is unknown).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct CimMountFlags: u32 {
        /// Only the leaf child's contents; documented as ignored since.
        const CHILD_ONLY = 0x1;
        /// Direct access where the medium has it.
        const DAX = 0x2;
        /// Cache the files' data.
        const CACHE_FILES = 0x4;
        /// Cache whole region files.
        const CACHE_REGIONS = 0x8;
        /// The image is a block device.
        const BLOCK_DEVICE = 0x10;
        /// The image is a single file.
        const SINGLE_FILE = 0x20;
        /// The kernel checks a root hash.
        const VERIFIED = 0x80;
    }
}

/// Mounting composite images (cim-format.md 11.1).
pub trait CimFs: Send + Sync {
    /// `CimMountImage`: a read-only volume `\\?\Volume{volume}\` of the image `name` in `directory`.
    /// [`HResult::ALREADY_EXISTS`](super::HResult::ALREADY_EXISTS) when the GUID is in use.
    fn mount_image(
        &self,
        directory: &Path,
        name: &str,
        flags: CimMountFlags,
        volume: &Guid,
    ) -> Result<()>;

    /// `CimDismountImage`: [`HResult::FILE_NOT_FOUND`](super::HResult::FILE_NOT_FOUND) when the GUID is no CIM
    /// volume's.
    fn dismount_image(&self, volume: &Guid) -> Result<()>;
}
