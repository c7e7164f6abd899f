//! Windows hosts: CIM volumes, and layers of the Windows filter.
//!
//! ```text
//!  WindowsLayers ─▶ ActivateLayer, PrepareLayer, GetLayerMountPath, link      CimVolumes ─▶ CimHost: WindowsCims
//!        └─ windows-layers.ledger                                                │              or LinuxCims
//!        ▲                                                                       ├─ cim-volumes.ledger
//!        └───────────────── Activations ─▶ activations.ledger ───────────────────┘
//! ```
//!
//! Every decision is in code that compiles on every host, over the interfaces of [`sys::windows`]; on Linux
//! [`CimVolumes`] mounts for real. Paths of a Windows host are texts with rules of their own ([`WindowsPath`]). What
//! calls Windows has never run on a real HCS host; `docs/windows.md` says for each function what it was written from.

mod activations;
mod attached_layer;
mod cim_layer;
mod cim_volumes;
mod folders;
mod identity;
mod layers;
mod ledger;
#[cfg(target_os = "linux")]
mod linux_cims;
mod overlay_filter;
mod path;
mod retry;
mod step;
#[cfg(test)]
mod tests;
mod windows_cims;
mod windows_layer;

pub use activations::{ActivationReconcileReport, Activations};
pub use attached_layer::{AttachedLayer, layer_id};
pub use cim_layer::CIM_LAYER;
pub use cim_volumes::{CimHost, CimLocation, CimReconcileReport, CimVolume, CimVolumes, Sharing};
pub use folders::{Folders, PathKind};
pub use identity::container_volume;
pub use layers::{LayerReconcileReport, MountedLayer, WindowsLayers};
#[cfg(target_os = "linux")]
pub use linux_cims::{CimDriver, LinuxCims};
pub use overlay_filter::overlay_document;
pub use path::WindowsPath;
pub use retry::Retry;
pub use windows_cims::{WindowsCims, volume_path};
pub use windows_layer::{WINDOWS_LAYER, WindowsLayer};
