//! The volume registry.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::chain::{Chain, Layer};
use crate::{Error, ErrorKind, Holder, MountedTarget, Result, Volume, VolumeId};

/// How a layer image gets to the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backing {
    /// The file itself; a loop device where the kernel answers ENOTBLK.
    #[default]
    Auto,
    /// Always a loop device.
    Loop,
}

/// How [`Registry::mount_chain`] mounts.
#[derive(Debug, Clone, Default)]
pub struct MountOptions {
    /// Nothing can be written through the mount, scratch or not.
    pub read_only: bool,
}

/// Directories of a mounted scratch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScratchDirs {
    /// The overlay's upper directory.
    pub upper: PathBuf,
    /// The overlay's work directory.
    pub work: PathBuf,
}

/// What [`Registry::reconcile`] did and what it left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Intended but never finished, or nobody's: unmounted and removed.
    pub undone: Vec<String>,
    /// In the journal, but no longer mounted: forgotten.
    pub forgotten: Vec<String>,
    /// Holders that are dead: released.
    pub released: Vec<Holder>,
    /// In use, so left as it is.
    pub kept_busy: Vec<String>,
}

impl ReconcileReport {
    /// Nothing was done and nothing is in the way.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// Everything that Plywood has mounted on this host, by run directory.
#[derive(Debug)]
pub struct Registry {
    run: PathBuf,
}

impl Registry {
    /// Opens the registry of run directory `run`, making both where they are missing.
    pub fn open(run: &Path, _wait: Duration) -> Result<Self> {
        Ok(Self { run: run.to_owned() })
    }

    /// The run directory.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// Chooses how layer images get to the kernel.
    #[must_use]
    pub fn with_backing(self, _backing: Backing) -> Self {
        self
    }

    /// Mounts each of `layers` once per host for `holder`; the mount points come in the order of `layers`.
    pub fn hold(&self, _layers: &[Layer], _holder: &Holder) -> Result<Vec<PathBuf>> {
        Err(pending())
    }

    /// Mounts the scratch image of `chain` for `holder` (a directory scratch is returned as it is).
    pub fn hold_scratch(&self, _chain: &Chain, _holder: &Holder) -> Result<ScratchDirs> {
        Err(pending())
    }

    /// Ends everything that `holder` holds; volumes without holders are unmounted and returned.
    pub fn release(&self, _holder: &Holder) -> Result<Vec<VolumeId>> {
        Err(pending())
    }

    /// Volumes mounted now.
    pub fn volumes(&self) -> Result<Vec<Volume>> {
        Err(pending())
    }

    /// Targets mounted now.
    pub fn mounts(&self) -> Result<Vec<MountedTarget>> {
        Err(pending())
    }

    /// Mounts the root file system of `chain` at `target`.
    pub fn mount_chain(
        &self,
        _chain: &Chain,
        _target: &Path,
        _holder: &Holder,
        _options: &MountOptions,
    ) -> Result<()> {
        Err(pending())
    }

    /// Mounts one EROFS file, with its extra devices in slot order, at `target`.
    pub fn mount_image_file(
        &self,
        _image: &Path,
        _devices: &[PathBuf],
        _target: &Path,
        _holder: &Holder,
    ) -> Result<()> {
        Err(pending())
    }

    /// Undoes everything that was mounted at `target`; `false` if nothing was.
    pub fn unmount(&self, _target: &Path) -> Result<bool> {
        Err(pending())
    }

    /// Brings journal, mount table and directories in line; `alive` says whether a holder still exists.
    pub fn reconcile(&self, _alive: &dyn Fn(&Holder) -> bool) -> Result<ReconcileReport> {
        Err(pending())
    }
}

fn pending() -> Error {
    Error::new(ErrorKind::NotSupported, "the registry is not there yet")
}
