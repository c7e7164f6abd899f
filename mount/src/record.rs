//! What the journal's lines say.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use store::Labels;

use crate::{Holder, HolderKind, IdMapping, Mount, TargetKind, VolumeId};

/// First line of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Version of the lines below.
    pub(crate) version: u32,
    /// The boot in which everything below happened.
    pub(crate) boot: String,
    /// The mount namespace in which it was mounted.
    pub(crate) namespace: u64,
}

/// Version of the journal's lines that this code writes.
///
/// | version | since | adds |
/// | --- | --- | --- |
/// | 1 | 0.1 | |
/// | 2 | 0.2 | `mapping` of volumes, activations |
///
/// A journal of an older version is read, and written anew as this one before anything is added to it.
pub(crate) const VERSION: u32 = 2;

/// Which mount it is, once it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) id: u64,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl From<sys::MountIdentity> for Identity {
    fn from(identity: sys::MountIdentity) -> Self {
        let (major, minor) = identity.device;
        Self { id: identity.id, major, minor }
    }
}

/// One change of state. Everything that changes the kernel or a directory is written before it is done
/// (`Volume`, `Target`) and after (`Mounted`, `Attached`); what takes away is written after (`Gone`,
/// `Detached`), because doing it again does no harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Record {
    /// A volume is going to be mounted: its directory, its loop device and its mount may exist from here on.
    Volume {
        id: VolumeId,
        /// The layer's id, or the scratch image's path lossily.
        layer: String,
        #[serde(with = "path_text")]
        image: PathBuf,
        uuid: [u8; 16],
        scratch: bool,
        /// The owners that it shows instead of the image's: it is a clone of that layer's volume.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mapping: Option<IdMapping>,
    },
    /// It is mounted.
    Mounted {
        id: VolumeId,
        identity: Identity,
        #[serde(rename = "loop", default, skip_serializing_if = "Option::is_none")]
        loop_device: Option<u32>,
        since: u64,
    },
    /// It is not mounted any more, and its directory is gone.
    Gone { id: VolumeId },
    /// A mount, which exists already but nowhere in the tree, is going to be attached.
    Target {
        #[serde(with = "path_text")]
        path: PathBuf,
        identity: Identity,
        kind: TargetKind,
        holder: Holder,
        what: String,
        volumes: Vec<VolumeId>,
        /// The upper directory, which only one overlay may have; empty if there is none.
        #[serde(with = "path_text")]
        upper: PathBuf,
        read_only: bool,
        since: u64,
    },
    /// It is attached.
    Attached {
        #[serde(with = "path_text")]
        path: PathBuf,
    },
    /// Nothing of ours is attached there any more.
    Detached {
        #[serde(with = "path_text")]
        path: PathBuf,
    },
    /// A holder holds these volumes, besides those that it holds already.
    Hold { holder: Holder, volumes: Vec<VolumeId>, since: u64 },
    /// A holder holds nothing any more.
    Release { kind: HolderKind, name: String },
    /// An activation begins: its directory, and mounts and links in it, may exist from here on.
    Activate { name: String, labels: Labels, since: u64 },
    /// It is complete.
    Activated { name: String, active: Vec<ActiveRecord>, system: Vec<Mount> },
    /// Nothing of it is left.
    Deactivated { name: String },
}

/// A mount that an activation performed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ActiveRecord {
    pub(crate) mount: Mount,
    #[serde(with = "path_text")]
    pub(crate) point: PathBuf,
    /// Which mount it is; `None` for a shared volume and for a link to a loop device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Identity>,
    pub(crate) since: u64,
}

/// A path as text where it is UTF-8, else as a list of numbers.
pub(crate) mod path_text {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => sys::path::bytes(path).serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<PathBuf, D::Error> {
        match Either::deserialize(d)? {
            Either::Text(text) => Ok(PathBuf::from(text)),
            Either::Bytes(bytes) => sys::path::from_bytes(bytes)
                .ok_or_else(|| serde::de::Error::custom("no path of this system")),
        }
    }
}
