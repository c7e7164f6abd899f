//! Windows' container interfaces: traits without policy, one for each family of DLLs, with their plain types.
//!
//! The traits and types compile on every system, so that every sequence of calls can be written and tested
//! anywhere with `recording::Recorder` (feature `recording`). On Windows `System` implements all of them,
//! binding each DLL by name when it is first called; a missing DLL or entry point is an [`Error`] of its own.
//!
//! Signatures are written from hcs-layers.md 2.1, 2.2 and 2.5, cim-format.md 11.1, and the public Win32
//! documentation; docs/windows.md names the source for each function. **None of this has ever run on a host
//! with the Host Compute Service.**

mod backup;
mod cim_writer;
mod cimfs;
mod compute;
mod disk;
mod error;
mod facts;
mod handle;
mod hresult;
mod layers;
mod offline_registry;
#[cfg(all(windows, feature = "named-pipe"))]
mod pipe;
#[cfg(any(test, feature = "recording"))]
pub mod recording;
#[cfg(any(test, windows))]
mod reparse;
mod storage;
#[cfg(windows)]
mod system;
mod volume;

pub use uuid::Uuid as Guid;

pub use backup::{BackedUpFile, BackupApi, BasicInfo, FileFacts, RestoredFile};
pub use cim_writer::{CimFileMetadata, CimWriter};
pub use cimfs::{CimFs, CimMountFlags};
pub use compute::ComputeApi;
pub use disk::{AttachFlags, DiskAccess, DiskApi, NewDisk};
pub use error::{Error, Missing, Result};
pub use facts::{HostFacts, LibraryFacts, Privilege, WindowsVersion};
pub use handle::{CimImage, CimStream, ComputeSystem, Disk, Hive};
pub use hresult::{HResult, RetryClass};
pub use layers::{LAYER_DIRTY, LayerApi, LayerDescriptor};
pub use offline_registry::OfflineRegistry;
#[cfg(all(windows, feature = "named-pipe"))]
pub use pipe::create_pipe;
pub use storage::StorageApi;
#[cfg(windows)]
pub use system::System;
pub use volume::{ClusterGeometry, VolumeApi};

/// Every interface of a Windows host. Implemented by whatever implements them all; a `&dyn Host` coerces to a
/// reference to any of its parts.
pub trait Host:
    CimFs
    + CimWriter
    + LayerApi
    + BackupApi
    + StorageApi
    + DiskApi
    + VolumeApi
    + ComputeApi
    + OfflineRegistry
    + HostFacts
{
}

impl<T> Host for T where
    T: CimFs
        + CimWriter
        + LayerApi
        + BackupApi
        + BackupApi
        + StorageApi
        + DiskApi
        + VolumeApi
        + ComputeApi
        + OfflineRegistry
        + HostFacts
{
}
