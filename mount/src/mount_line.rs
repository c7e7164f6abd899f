//! One mount as data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One mount in containerd's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// `bind`, `overlay`, `erofs`, …; with `format/`, `mkdir/` and `mkfs/` before it for a mount manager.
    pub r#type: String,
    /// What is mounted; `overlay` for overlays.
    pub source: PathBuf,
    /// Sub-path inside the root file system; empty for its root.
    pub target: PathBuf,
    /// fstab style, one per element.
    pub options: Vec<String>,
}
