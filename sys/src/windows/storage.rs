//! `computestorage.dll`: layers over virtual disks and overlay filters (hcs-layers.md 2.2).

use std::path::Path;

use super::{Disk, Result};

/// The storage functions of the Host Compute Service. `layer_data` is a JSON document
/// `{SchemaVersion, Layers [{Id, Path}], FilterType}`, `options` a JSON document of the function's own; an empty
/// `options` is passed as NULL.
pub trait StorageApi: Send + Sync {
    /// `HcsInitializeWritableLayer`.
    fn initialize_writable_layer(
        &self,
        layer: &Path,
        layer_data: &str,
        options: &str,
    ) -> Result<()>;

    /// `HcsAttachLayerStorageFilter`: WCIFS on a scratch volume.
    fn attach_layer_storage_filter(&self, layer: &Path, layer_data: &str) -> Result<()>;

    /// `HcsDetachLayerStorageFilter`.
    fn detach_layer_storage_filter(&self, layer: &Path) -> Result<()>;

    /// `HcsAttachOverlayFilter`: UnionFS (or another filter that `layer_data` names) on a scratch volume.
    fn attach_overlay_filter(&self, volume: &str, layer_data: &str) -> Result<()>;

    /// `HcsDetachOverlayFilter`; `layer_data` names only the filter.
    fn detach_overlay_filter(&self, volume: &str, layer_data: &str) -> Result<()>;

    /// `HcsFormatWritableLayerVhd`: partitions and formats an open disk.
    fn format_writable_layer_vhd(&self, disk: &Disk) -> Result<()>;

    /// `HcsGetLayerVhdMountPath`: the volume of an attached disk.
    fn layer_vhd_mount_path(&self, disk: &Disk) -> Result<String>;

    /// `HcsSetupBaseOSLayer`: fills a formatted disk for the base layer; `options` names the type, `Container` or
    /// `Vm`.
    fn setup_base_os_layer(&self, layer: &Path, disk: &Disk, options: &str) -> Result<()>;

    /// `HcsSetupBaseOSVolume` (build 19645 and later).
    fn setup_base_os_volume(&self, layer: &Path, volume: &str, options: &str) -> Result<()>;

    /// `HcsDestroyLayer`.
    fn destroy_storage_layer(&self, layer: &Path) -> Result<()>;

    /// `HcsImportLayer`.
    fn import_storage_layer(&self, layer: &Path, source: &Path, layer_data: &str) -> Result<()>;

    /// `HcsExportLayer`.
    fn export_storage_layer(
        &self,
        layer: &Path,
        target: &Path,
        layer_data: &str,
        options: &str,
    ) -> Result<()>;
}
