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

mod activation;
mod clock;
mod compat;
mod description;
mod error;
mod fuse;
mod holder;
mod image;
mod journal;
mod mapping;
mod overlay;
mod reconcile;
mod record;
mod registry;
mod rootfs;
mod scratch;
mod state;
mod users;
mod volume;
mod volumes;
pub mod windows;

pub use activation::{ActivateOptions, Activation, ActiveMount};
pub use description::{Mount, MountForm, describe, describe_erofs, describe_windows};
pub use error::{Error, ErrorKind, Result};
pub use fuse::{CimFiles, CimOptions, start_server, this_process};
pub use holder::{Holder, HolderKind};
pub use image::{Backing, mount_image};
pub use mapping::{GIDS, IdMapping, IdRange, UIDS};
pub use overlay::MAX_LAYERS;
pub use reconcile::ReconcileReport;
pub use registry::Registry;
pub use rootfs::{MountOptions, ScratchDirs};
pub use volume::{MountedTarget, TargetKind, Volume, VolumeId};
