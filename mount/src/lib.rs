//! Describing mounts, performing them, and keeping account of what is mounted.
//!
//! A layer image is mounted at most once per host, as a *volume* below the run directory; root file systems are
//! overlays over volumes. Who needs a volume, its *holders*, and everything that was made in the kernel is in a
//! journal in the run directory, written before and after, so that [`Registry::reconcile`] finds what a killed
//! process left. `docs/mounts.md` has the journal's format and the crash model.
//!
//! Everything is mounted through the new mount API: file systems are configured by `fsconfig`, so neither the
//! number of layers nor the characters in their paths are limited by an option string.
//!
//! [`windows`] does the same on Windows hosts, with what they have in place of mounts.

mod activated;
#[cfg(target_os = "linux")]
mod activation;
mod clock;
#[cfg(target_os = "linux")]
mod compat;
#[cfg(target_os = "linux")]
mod description;
mod error;
#[cfg(target_os = "linux")]
mod fuse;
mod holder;
#[cfg(target_os = "linux")]
mod image;
#[cfg(target_os = "linux")]
mod journal;
#[cfg(target_os = "linux")]
mod mapping;
mod mount_line;
#[cfg(target_os = "linux")]
mod overlay;
#[cfg(target_os = "linux")]
mod reconcile;
#[cfg(target_os = "linux")]
mod record;
#[cfg(target_os = "linux")]
mod registry;
#[cfg(target_os = "linux")]
mod rootfs;
#[cfg(target_os = "linux")]
mod scratch;
#[cfg(target_os = "linux")]
mod state;
#[cfg(target_os = "linux")]
mod users;
#[cfg(target_os = "linux")]
mod volume;
#[cfg(target_os = "linux")]
mod volumes;
pub mod windows;
mod windows_form;

pub use activated::{Activation, ActiveMount};
#[cfg(target_os = "linux")]
pub use activation::ActivateOptions;
#[cfg(target_os = "linux")]
pub use description::{MountForm, describe, describe_erofs};
pub use error::{Error, ErrorKind, Result};
#[cfg(target_os = "linux")]
pub use fuse::{CimFiles, CimOptions, start_server, this_process};
pub use holder::{Holder, HolderKind};
#[cfg(target_os = "linux")]
pub use image::{Backing, mount_image};
#[cfg(target_os = "linux")]
pub use mapping::{GIDS, IdMapping, IdRange, UIDS};
pub use mount_line::Mount;
#[cfg(target_os = "linux")]
pub use overlay::MAX_LAYERS;
#[cfg(target_os = "linux")]
pub use reconcile::ReconcileReport;
#[cfg(target_os = "linux")]
pub use registry::Registry;
#[cfg(target_os = "linux")]
pub use rootfs::{MountOptions, ScratchDirs};
#[cfg(target_os = "linux")]
pub use volume::{MountedTarget, TargetKind, Volume, VolumeId};
pub use windows_form::describe_windows;
