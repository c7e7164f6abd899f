//! `kernel32.dll`: volumes, mount points and links.

use std::path::{Path, PathBuf};

use super::Result;

/// What `GetDiskFreeSpaceW` tells of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterGeometry {
    /// Bytes of a sector.
    pub bytes_per_sector: u32,
    /// Sectors of a cluster.
    pub sectors_per_cluster: u32,
    /// Clusters of the volume.
    pub clusters: u32,
}

/// Volumes. A `volume` is `\\?\Volume{guid}\`; each function adds or takes the last backslash as Windows wants it.
pub trait VolumeApi: Send + Sync {
    /// `SetVolumeMountPointW`: `directory`, an empty one on NTFS, becomes a way to the volume.
    fn set_volume_mount_point(&self, directory: &Path, volume: &str) -> Result<()>;

    /// `DeleteVolumeMountPointW`: the directory stays and is empty again.
    fn delete_volume_mount_point(&self, directory: &Path) -> Result<()>;

    /// `GetVolumeNameForVolumeMountPointW`: the volume mounted at `directory`.
    fn volume_at_mount_point(&self, directory: &Path) -> Result<String>;

    /// Whether a volume of this name exists (`GetFileAttributesW` of its root).
    fn volume_exists(&self, volume: &str) -> Result<bool>;

    /// `CreateSymbolicLinkW`: a directory link `link` to `target`, a path or a volume.
    fn create_directory_symlink(&self, link: &Path, target: &str) -> Result<()>;

    /// `FSCTL_SET_REPARSE_POINT` with a mount-point tag: a junction `link` to a directory `target`.
    fn create_junction(&self, link: &Path, target: &Path) -> Result<()>;

    /// `FSCTL_GET_REPARSE_POINT`: where a link or junction leads;
    /// [`NOT_A_REPARSE_POINT`](super::HResult::NOT_A_REPARSE_POINT) when it is neither.
    fn read_link(&self, link: &Path) -> Result<PathBuf>;

    /// `RemoveDirectoryW` of a directory link or junction: never what it leads to, and a plain directory only when
    /// it is empty.
    fn remove_directory_link(&self, link: &Path) -> Result<()>;

    /// `IOCTL_DISK_GET_LENGTH_INFO`: bytes of the partition under a volume.
    fn partition_length(&self, volume: &str) -> Result<u64>;

    /// `GetDiskFreeSpaceW`.
    fn cluster_geometry(&self, volume: &str) -> Result<ClusterGeometry>;

    /// `FSCTL_EXTEND_VOLUME`: the file system grows to `sectors` sectors.
    fn extend_volume(&self, volume: &str, sectors: u64) -> Result<()>;
}
