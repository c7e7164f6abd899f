//! Describing mounts, performing them, and keeping account of what is mounted.

#![expect(dead_code, reason = "the registry follows")]

mod chain;
mod description;
mod error;
mod holder;
mod registry;
mod volume;

pub use chain::{Chain, Layer, Scratch};
pub use description::{Mount, describe};
pub use error::{Error, ErrorKind, Result};
pub use holder::{Holder, HolderKind, Process};
pub use registry::{Backing, MountOptions, ReconcileReport, Registry, ScratchDirs};
pub use volume::{MountedTarget, TargetKind, Volume, VolumeId};
