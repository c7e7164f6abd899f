//! What the registry tells about what is mounted.

use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Holder, IdMapping};

/// Name of a volume: 16 hexadecimal digits, the start of the SHA-256 of the layer's id (or of the scratch
/// image's path).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeId(pub(crate) String);

impl VolumeId {
    /// The 16 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where in the run directory a volume is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A layer image.
    Layer,
    /// A scratch image.
    Scratch,
    /// A layer with the owners of a mapping.
    Mapped,
}

impl Place {
    pub(crate) const ALL: [Self; 3] = [Self::Layer, Self::Scratch, Self::Mapped];

    pub(crate) fn of(scratch: bool, mapped: bool) -> Self {
        match (scratch, mapped) {
            (true, _) => Self::Scratch,
            (false, true) => Self::Mapped,
            (false, false) => Self::Layer,
        }
    }

    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Layer => "v",
            Self::Scratch => "s",
            Self::Mapped => "m",
        }
    }
}

/// An image file that is mounted once for everybody.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Name below `<run>/v`, `<run>/m` or `<run>/s`.
    pub id: VolumeId,
    /// The layer's id in the store; for a scratch image its path.
    pub layer: String,
    /// The image file.
    pub image: PathBuf,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// UUID in the image's superblock.
    pub uuid: [u8; 16],
    /// The loop device, where the kernel needed one.
    pub loop_device: Option<PathBuf>,
    /// A writable scratch image, not a layer.
    pub scratch: bool,
    /// The mapping through which it shows the owners of files, if any: then it is a clone of the layer's volume.
    pub mapping: Option<IdMapping>,
    /// Everybody who keeps it mounted, in order of name.
    pub holders: Vec<Holder>,
    /// When it was mounted.
    pub since: SystemTime,
}

/// What sort of mount a target carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// An overlay of several layers or with an upper directory.
    Overlay,
    /// One directory or one layer.
    Bind,
    /// An image file by path.
    Image,
    /// An image file by path, shown by a process of ours.
    Fuse,
}

/// A directory on which the registry mounted something for a holder.
#[derive(Debug, Clone)]
pub struct MountedTarget {
    /// The directory.
    pub target: PathBuf,
    /// What sort of mount.
    pub kind: TargetKind,
    /// For whom.
    pub holder: Holder,
    /// What is shown there: the snapshot's key (lossily) or the image file's path.
    pub what: String,
    /// Volumes that it needs.
    pub volumes: Vec<VolumeId>,
    /// Nothing can be written through it.
    pub read_only: bool,
    /// When it was mounted.
    pub since: SystemTime,
}
