//! Windows hosts: snapshots whose scratch is a virtual disk, on layers that are folders or CIMs. What the host itself has
//! to do goes through the traits of [`sys::windows`]; everything else is the store's as on Linux.
//!
//! **Never run on a real HCS host**: the sequences are tested with the recording double of those traits.

mod chain;
mod commit;
mod layer_folder;
mod removal;
mod scratch;
mod template;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sys::windows::{Host, LayerDescriptor};

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Kind, Labels, Scratch, is_unpacking, shown};

pub use chain::{ParentLayer, WindowsChain};
pub use layer_folder::{export_layer_folder, import_layer_folder};
pub(crate) use removal::ASIDE;
pub(crate) use scratch::{SANDBOX, VM};

/// Presence asks for a second scratch, for the virtual machine around the container.
const LABEL_VM: &str = "containerd.io/snapshot/io.microsoft.vm.storage.scratch";

/// First build with everything that CIMs need: Windows Server 2025.
const CIM_BUILD: u32 = 26100;
/// The build before it that has got it by an update: Windows Server 2022, from this revision on.
const CIM_UPDATED: (u32, u32) = (20348, 2031);

/// How a Windows host keeps layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostForm {
    /// As folders under a filter: containerd's `windows` snapshotter. The host's own tools fill them.
    Folders,
    /// As CIMs, each a fork of the one below: containerd's `cimfs` snapshotter. [`make_cim`](crate::make_cim) writes them.
    Cims,
}

impl HostForm {
    /// `windows` or `cimfs`, as containerd calls them.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Folders => "windows",
            Self::Cims => "cimfs",
        }
    }

    /// Whether a host of this build can do it.
    ///
    /// # Errors
    /// `Unsupported`, with the build that is needed.
    pub fn check_build(self, build: u32, revision: u32) -> Result<()> {
        let updated = build == CIM_UPDATED.0 && revision >= CIM_UPDATED.1;
        if self == Self::Folders || build >= CIM_BUILD || updated {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "layers as CIMs need Windows Server 2022 from build {}.{} on, or build {CIM_BUILD} (Windows Server 2025); \
                 this is {build}.{revision}",
                CIM_UPDATED.0, CIM_UPDATED.1
            ),
        ))
    }
}

impl fmt::Display for HostForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The Windows host that a store is on.
#[derive(Clone)]
pub struct WindowsHost {
    form: HostForm,
    api: Arc<dyn Host>,
}

impl fmt::Debug for WindowsHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowsHost").field("form", &self.form).finish_non_exhaustive()
    }
}

impl WindowsHost {
    /// A host that keeps layers in this form; see [`HostForm::check_build`].
    pub fn new(form: HostForm, api: Arc<dyn Host>) -> Self {
        Self { form, api }
    }

    /// Its interfaces, for whoever mounts what the store keeps.
    pub fn interfaces(&self) -> Arc<dyn Host> {
        Arc::clone(&self.api)
    }

    /// How it keeps layers.
    pub fn form(&self) -> HostForm {
        self.form
    }

    pub(crate) fn api(&self) -> &dyn Host {
        &*self.api
    }

    /// What a new snapshot has in its directory, from what the labels ask for, or else from what the caller does.
    pub(crate) fn scratch(
        &self,
        key: &[u8],
        kind: Kind,
        parent: Option<&[u8]>,
        labels: &Labels,
        wanted: Option<Scratch>,
    ) -> Result<Scratch> {
        if kind == Kind::Active && is_unpacking(key) {
            return Ok(match self.form {
                HostForm::Folders => Scratch::Folder,
                HostForm::Cims => Scratch::Directory,
            });
        }
        let size = match Scratch::from_labels(labels)?.or(wanted) {
            Some(Scratch::Image { size }) => Some(size),
            _ => None,
        };
        let vm = labels.contains_key(LABEL_VM);
        match (self.form, parent) {
            (HostForm::Folders, None) => Ok(Scratch::Folder),
            (HostForm::Folders, Some(_)) => Ok(Scratch::Disk { size, vm }),
            (HostForm::Cims, None) => Err(Error::precondition(format!(
                "snapshot {} has no parent: on CIMs only a snapshot that a layer is unpacked into can be without one, \
                 because nothing mounts a scratch alone",
                shown(key)
            ))),
            (HostForm::Cims, Some(_)) if vm => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "label {LABEL_VM}: containers in a virtual machine cannot run on forked CIMs; use layer folders"
                ),
            )),
            (HostForm::Cims, Some(_)) => Ok(Scratch::Disk { size, vm }),
        }
    }

    /// The layers as the host's functions take them, the same order.
    pub(crate) fn descriptors(&self, layers: &[ParentLayer]) -> Result<Vec<LayerDescriptor>> {
        let describe = |layer: &ParentLayer| {
            let name = layer.folder.file_name().unwrap_or_default().to_string_lossy();
            let id = self.api.name_to_guid(&name).map_err(|error| {
                Error::windows(format!("looking up layer {}", layer.folder.display()), error)
            })?;
            Ok(LayerDescriptor { id, path: layer.folder.clone(), flags: 0 })
        };
        layers.iter().map(describe).collect()
    }

    /// Deletes a directory that may be a layer folder, in which files are that only the host's own function can remove.
    pub(crate) fn destroy(&self, directory: &Path) -> Result<()> {
        if directory.join("Files").symlink_metadata().is_ok() {
            self.api.destroy_layer(directory).map_err(|error| {
                Error::windows(format!("removing layer {}", directory.display()), error)
            })?;
        }
        Ok(())
    }
}
