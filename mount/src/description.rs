//! Mounts as data, in containerd's form: describing is separate from performing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One mount in containerd's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// `bind`, `overlay`, …
    pub r#type: String,
    /// What is mounted; `overlay` for overlays.
    pub source: PathBuf,
    /// Sub-path inside the root file system; nearly always empty.
    pub target: PathBuf,
    /// fstab style, one per element.
    pub options: Vec<String>,
}

/// The mounts of `chain` over `volumes`, the mount points of its layers in the same order (top first), and
/// the directories of its scratch where it has one. Needs nothing but `mount(2)` to perform.
///
/// # Errors
/// `TooManyLayers` if the options would not fit one page.
pub fn describe(
    chain: &crate::Chain,
    volumes: &[PathBuf],
    scratch: Option<&crate::ScratchDirs>,
) -> crate::Result<Vec<Mount>> {
    let _ = (chain, volumes, scratch);
    Err(crate::Error::new(crate::ErrorKind::NotSupported, "describing is not there yet"))
}
