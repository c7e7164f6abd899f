//! A snapshot's record, as callers see it and as it is stored.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::LayerId;
use crate::layers::Layer;

/// Labels of a snapshot. A label with an empty value is the same as none.
pub type Labels = BTreeMap<String, String>;

/// Most bytes that a label's key and value may have together (containerd's limit).
pub const LABEL_LIMIT: usize = 4096;

/// What a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read-only look at its parent.
    View,
    /// Writable; has a scratch.
    Active,
    /// Immutable; the only kind that can be a parent.
    Committed,
}

impl Kind {
    /// `view`, `active` or `committed`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A moment in nanoseconds since 1970, kept exactly; good until the year 2262.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The wall clock now.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// From nanoseconds since 1970.
    pub const fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since 1970.
    pub const fn nanoseconds(self) -> i64 {
        self.0
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let nanoseconds = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos())
                .map_or(i64::MIN, |nanoseconds| -nanoseconds),
        };
        Self(nanoseconds)
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        let distance = Duration::from_nanos(time.0.unsigned_abs());
        if time.0 >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
    }
}

/// What a snapshot costs on disk, its parents left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes allocated.
    pub size: u64,
    /// Inodes.
    pub inodes: u64,
}

/// What an active snapshot writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scratch {
    /// An upper directory, limited only by the store's file system.
    #[default]
    Directory,
    /// A sparse disk image that the mounter formats on first use: a hard limit.
    Image {
        /// Its size in bytes.
        size: u64,
    },
}

/// A node of the store's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name: any bytes, one flat space for all kinds.
    #[serde(skip)]
    pub key: Vec<u8>,
    /// Number of its directory, never given out twice.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// Key of the committed snapshot below it.
    #[serde(with = "name::optional", default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Vec<u8>>,
    /// Labels, none with an empty value.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When this record (not its content) came to be: a commit makes a new record.
    pub created: Timestamp,
    /// When the record or its labels last changed.
    pub updated: Timestamp,
    /// The layer that a committed snapshot adds to its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<LayerId>,
    /// What an active snapshot writes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Scratch>,
    /// Made by an image import, so that it goes when no image needs it; a user's commit stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub imported: bool,
    /// Cost as computed at the commit; zero for the other kinds.
    #[serde(default)]
    pub usage: Usage,
}

impl Snapshot {
    /// The key for people: as text where it is text.
    pub fn name(&self) -> String {
        shown(&self.key)
    }
}

/// Where an active snapshot's scratch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScratchPaths {
    /// Directories for overlayfs.
    Directory {
        /// The upper directory (`fs`).
        upper: PathBuf,
        /// The work directory (`work`), on the same file system.
        work: PathBuf,
    },
    /// A disk image; empty (all holes) until the mounter has formatted it.
    Image {
        /// The file (`scratch.img`).
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
}

/// An active or view snapshot with everything that its mounts are made of.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Where an active snapshot writes; `None` for a view.
    pub scratch: Option<ScratchPaths>,
    /// The empty directory that a view without parent shows; `None` otherwise.
    pub empty: Option<PathBuf>,
    /// Layers, nearest (top) first.
    pub layers: Vec<Layer>,
}

/// A key in a message: quoted text, or hexadecimal where it is not text.
pub(crate) fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("0x{digits}")
        }
    }
}

/// Byte strings in JSON: text where they are UTF-8, else a list of numbers, so that the two cannot be confused.
pub(crate) mod name {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    pub(crate) enum Name {
        Text(String),
        Bytes(Vec<u8>),
    }

    impl From<Vec<u8>> for Name {
        fn from(bytes: Vec<u8>) -> Self {
            match String::from_utf8(bytes) {
                Ok(text) => Self::Text(text),
                Err(error) => Self::Bytes(error.into_bytes()),
            }
        }
    }

    impl From<Name> for Vec<u8> {
        fn from(name: Name) -> Self {
            match name {
                Name::Text(text) => text.into_bytes(),
                Name::Bytes(bytes) => bytes,
            }
        }
    }

    pub(crate) mod optional {
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        use super::Name;

        pub(crate) fn serialize<S: Serializer>(
            bytes: &Option<Vec<u8>>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            bytes.clone().map(Name::from).serialize(serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Vec<u8>>, D::Error> {
            Ok(Option::<Name>::deserialize(deserializer)?.map(Vec::from))
        }
    }
}
