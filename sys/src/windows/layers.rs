//! `vmcompute.dll`: container layers as folders (hcs-layers.md 2.1).

use std::path::{Path, PathBuf};

use super::{Guid, Result};

/// Flag of a [`LayerDescriptor`]: the layer is dirty.
pub const LAYER_DIRTY: u32 = 1 << 31;

/// One parent of a layer, as vmcompute wants it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LayerDescriptor {
    /// `NameToGuid` of the path's last element.
    pub id: Guid,
    /// The parent's folder.
    pub path: PathBuf,
    /// 0 or [`LAYER_DIRTY`].
    pub flags: u32,
}

/// The layer functions. `layer` is the folder of the layer; parents go from the topmost to the base. Every call
/// passes the driver descriptor {flavour 1 (filter), home ""}.
pub trait LayerApi: Send + Sync {
    /// `ActivateLayer`: attaches the scratch disk.
    fn activate_layer(&self, layer: &Path) -> Result<()>;

    /// `DeactivateLayer`: detaches the scratch disk.
    fn deactivate_layer(&self, layer: &Path) -> Result<()>;

    /// `PrepareLayer`: attaches the union filter. Windows wants only one of these at a time in a process; the
    /// binding sees to that.
    fn prepare_layer(&self, layer: &Path, parents: &[LayerDescriptor]) -> Result<()>;

    /// `UnprepareLayer`: detaches the union filter.
    fn unprepare_layer(&self, layer: &Path) -> Result<()>;

    /// `GetLayerMountPath`: the volume `\\?\Volume{guid}` of an activated scratch (whether a backslash ends it is
    /// Windows' affair), or the folder itself for a read-only layer.
    fn layer_mount_path(&self, layer: &Path) -> Result<String>;

    /// `LayerExists`.
    fn layer_exists(&self, layer: &Path) -> Result<bool>;

    /// `CreateLayer`: a read-only layer's folder with one parent's name, or an empty one for a base.
    fn create_layer(&self, layer: &Path, parent: &str) -> Result<()>;

    /// `CreateSandboxLayer`: a scratch folder with `sandbox.vhdx` copied from the base's `blank.vhdx`.
    fn create_scratch_layer(&self, layer: &Path, parents: &[LayerDescriptor]) -> Result<()>;

    /// `ExpandSandboxSize`: grows the scratch disk to `bytes`; the volume within does not grow by it
    /// (hcs-layers.md 2.4).
    fn expand_scratch_size(&self, layer: &Path, bytes: u64) -> Result<()>;

    /// `DestroyLayer`: removes the layer's folder.
    fn destroy_layer(&self, layer: &Path) -> Result<()>;

    /// `ImportLayer`: the legacy stream's directory `source` becomes `layer`.
    fn import_layer(&self, layer: &Path, source: &Path, parents: &[LayerDescriptor]) -> Result<()>;

    /// `ExportLayer`: the changes of `layer` become a legacy stream's directory `target`.
    fn export_layer(&self, layer: &Path, target: &Path, parents: &[LayerDescriptor]) -> Result<()>;

    /// `ProcessBaseImage`: hives and the scratch template of a freshly written base layer.
    fn process_base_layer(&self, layer: &Path) -> Result<()>;

    /// `ProcessUtilityImage`: the scratch template of a base's `UtilityVM` directory.
    fn process_utility_vm_image(&self, directory: &Path) -> Result<()>;

    /// `NameToGuid`: the GUID Windows makes of a layer's name; its namespace is not public.
    fn name_to_guid(&self, name: &str) -> Result<Guid>;

    /// `GetBaseImages`: a JSON list of the images installed with Windows.
    fn base_images(&self) -> Result<String>;

    /// `GrantVmAccess`: lets the virtual machine `vm` open `file`.
    fn grant_vm_access(&self, vm: &str, file: &Path) -> Result<()>;
}
