//! Checking a store, and repairing what can be repaired without guessing.

use crate::error::Result;
use crate::store::Store;

/// What to check and whether to repair.
#[derive(Debug, Clone, Copy)]
pub struct FsckOptions {
    /// Repair what can be repaired without guessing.
    pub repair: bool,
    /// Read every layer image and compare its checksum.
    pub checksums: bool,
    /// Check the inside of every layer image as well.
    pub deep: bool,
}

impl Default for FsckOptions {
    fn default() -> Self {
        Self { repair: false, checksums: true, deep: false }
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Wasted space or a leftover; nothing is lost.
    Warning,
    /// Something is missing or damaged.
    Error,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of fault, a stable word with dashes.
    pub code: &'static str,
    /// What it is about: `snapshot KEY`, `layer ID`, `image REF`, or a path.
    pub subject: String,
    /// What is wrong.
    pub message: String,
    /// What the repair did.
    pub repaired: Option<String>,
    /// What a user can do about it.
    pub advice: Option<String>,
}

/// What fsck found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// The faults, in the order of the checks.
    pub findings: Vec<Finding>,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Layers looked at.
    pub layers: u64,
    /// Bytes of layer images read.
    pub bytes: u64,
    /// Images looked at.
    pub images: u64,
    /// Blobs looked at.
    pub blobs: u64,
}

impl FsckReport {
    /// Whether nothing is wrong (any more).
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.repaired.is_some())
    }
}

impl Store {
    /// Checks everything. The store is not changed unless a repair is asked for.
    ///
    /// # Errors
    /// `ReadOnly` for a repair of a store opened for reading, `Corrupt` if the database itself cannot be read, `Io`.
    pub fn fsck(&self, options: FsckOptions) -> Result<FsckReport> {
        let _ = options;
        Err(crate::Error::new(crate::ErrorKind::Unsupported, "checking is not there yet"))
    }
}
