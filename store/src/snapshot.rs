//! A snapshot's record, as callers see it and as it is stored.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use layer::{Compression, Digest};
use serde::{Deserialize, Deserializer, Serialize};

use crate::LayerId;
use crate::error::{Error, Result};
use crate::layers::Layer;

/// Labels of a snapshot. A label with an empty value is the same as none.
pub type Labels = BTreeMap<String, String>;

/// Most bytes that a label's key and value may have together (containerd's limit).
pub const LABEL_LIMIT: usize = 4096;

/// Most bytes that all labels of a snapshot may have together, [`LABEL_OVERHEAD`] counted for each. A hundred snapshots
/// with the longest keys, parents and labels fit into one gRPC message of 16 MiB.
pub const LABELS_LIMIT: usize = 64 << 10;

/// Bytes that a label costs beside its key and value.
pub const LABEL_OVERHEAD: usize = 8;

/// Most bytes that a snapshot's key may have: what containerd's own database can hold (bbolt's `MaxKeySize`).
pub const KEY_LIMIT: usize = 32768;

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

/// What an active snapshot writes to; on Windows hosts what any kind of snapshot has in its directory.
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
    /// On a Windows host: a virtual disk, `sandbox.vhdx`, of an active snapshot or view. Its files are
    /// [`WindowsChain`](crate::WindowsChain)'s.
    Disk {
        /// Size in bytes that it was expanded to; `None`: as its template.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        /// Whether there is a second one, `vm/sandbox.vhdx`, for the virtual machine around the container.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        vm: bool,
    },
    /// On a Windows host: a layer folder. An active snapshot's is filled by whoever unpacks the layer, a committed one's
    /// *is* the layer.
    Folder,
}

/// On whose behalf a snapshot was made. It keeps its origin when it is committed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A user of this host, or an image import.
    #[default]
    Local,
    /// containerd, whose garbage collection removes every snapshot that it is shown and does not know.
    Containerd,
}

impl Origin {
    /// `local` or `containerd`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Containerd => "containerd",
        }
    }

    fn is_local(&self) -> bool {
        *self == Self::Local
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A layer's blob that waits in an active snapshot's directory until its parents are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeferredLayer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Length of its uncompressed tar in bytes.
    pub tar_size: u64,
    /// How it is compressed.
    #[serde(with = "compression_name")]
    pub compression: Compression,
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
    /// Layers of its own, top first. Committed: what it adds to its parent. Active: what was applied to it so far,
    /// below its scratch and above its parent.
    // Schema 1 had the one layer of a committed snapshot as `layer`.
    #[serde(
        default,
        alias = "layer",
        deserialize_with = "one_or_more",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub layers: Vec<LayerId>,
    /// A layer above those that was applied as a blob; it becomes a layer image when the parent is known, in the
    /// commit. Mounts do not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deferred: Option<DeferredLayer>,
    /// What an active snapshot writes to. Views have one on Windows hosts only, and committed snapshots only where their
    /// layer is a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Scratch>,
    /// Who made it, and therefore who sees it.
    #[serde(default, skip_serializing_if = "Origin::is_local")]
    pub origin: Origin,
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

/// Label with the size of a scratch image in bytes (containerd 2.4).
const LABEL_MAX_SIZE: &str = "containerd.io/snapshot/max-size";
/// The same, as it is asked for on Windows.
const LABEL_SIZE_BYTES: &str = "containerd.io/snapshot/windows/rootfs.sizebytes";
/// The same in GiB; deprecated by containerd.
const LABEL_SIZE_GB: &str = "containerd.io/snapshot/io.microsoft.container.storage.rootfs.size-gb";

impl Scratch {
    /// The scratch that containerd asks for: a directory for a snapshot that an image is unpacked into (its key has
    /// `extract` in it), whatever the labels say; else what [`from_labels`](Self::from_labels) finds, or `default`.
    ///
    /// # Errors
    /// As [`from_labels`](Self::from_labels).
    pub fn for_key(key: &[u8], labels: &Labels, default: Self) -> Result<Self> {
        if is_unpacking(key) {
            return Ok(Self::Directory);
        }
        Ok(Self::from_labels(labels)?.unwrap_or(default))
    }

    /// A disk image of the size that the labels ask for: `containerd.io/snapshot/max-size` or
    /// `containerd.io/snapshot/windows/rootfs.sizebytes` in bytes, or else
    /// `containerd.io/snapshot/io.microsoft.container.storage.rootfs.size-gb` in GiB.
    ///
    /// # Errors
    /// `Invalid` for a size that is no number or does not fit.
    pub fn from_labels(labels: &Labels) -> Result<Option<Self>> {
        for (label, unit) in [(LABEL_MAX_SIZE, 1), (LABEL_SIZE_BYTES, 1), (LABEL_SIZE_GB, 1 << 30)]
        {
            let Some(text) = labels.get(label).filter(|text| !text.is_empty()) else { continue };
            let size = text.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
            let size = size.filter(|size| i64::try_from(*size).is_ok()).ok_or_else(|| {
                let unit = if unit == 1 { "bytes" } else { "GiB" };
                Error::invalid(format!("label {label}: {text:?} is no whole number of {unit}"))
            })?;
            return Ok(Some(Self::Image { size }));
        }
        Ok(None)
    }
}

/// Whether containerd prepares a snapshot with this key to unpack a layer into.
pub(crate) fn is_unpacking(key: &[u8]) -> bool {
    const MARK: &[u8] = b"extract";
    key.windows(MARK.len()).any(|part| part == MARK)
}

/// Where an active snapshot's scratch is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScratchPaths {
    /// Directories for overlayfs.
    Directory {
        /// The upper directory (`fs`).
        #[serde(with = "name::path")]
        upper: PathBuf,
        /// The work directory (`work`), on the same file system.
        #[serde(with = "name::path")]
        work: PathBuf,
    },
    /// A disk image; empty (all holes) until the mounter has formatted it.
    Image {
        /// The file (`scratch.img`).
        #[serde(with = "name::path")]
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
}

/// An active or view snapshot with everything that its mounts are made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Chain {
    /// The snapshot.
    #[serde(with = "keyed")]
    pub snapshot: Snapshot,
    /// Where an active snapshot writes; `None` for a view.
    pub scratch: Option<ScratchPaths>,
    /// The empty directory that a view without parent shows; `None` otherwise.
    #[serde(with = "name::optional_path")]
    pub empty: Option<PathBuf>,
    /// Layers, nearest (top) first: those applied to the snapshot itself, then its parents'.
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

/// A snapshot with its key, which is not part of the record: for whoever hands snapshots on.
pub mod keyed {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Snapshot, name};

    #[derive(Serialize)]
    struct Shown<'a> {
        #[serde(with = "name")]
        key: Vec<u8>,
        record: &'a Snapshot,
    }

    #[derive(Deserialize)]
    struct Read {
        #[serde(with = "name")]
        key: Vec<u8>,
        record: Snapshot,
    }

    /// As `{"key": …, "record": …}`.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(snapshot: &Snapshot, serializer: S) -> Result<S::Ok, S::Error> {
        Shown { key: snapshot.key.clone(), record: snapshot }.serialize(serializer)
    }

    /// The reverse of [`serialize`].
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Snapshot, D::Error> {
        let Read { key, record } = Read::deserialize(deserializer)?;
        Ok(Snapshot { key, ..record })
    }
}

/// Byte strings in JSON: text where they are UTF-8, else a list of numbers, so that the two cannot be confused.
pub mod name {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        Name::from(bytes.to_vec()).serialize(serializer)
    }

    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Name::deserialize(deserializer).map(Vec::from)
    }

    /// Paths, which are byte strings too.
    pub mod path {
        use std::path::{Path, PathBuf};

        use serde::{Deserializer, Serializer};

        /// # Errors
        /// The serializer's.
        pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
            super::serialize(&sys::path::bytes(path), serializer)
        }

        /// # Errors
        /// The deserializer's.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<PathBuf, D::Error> {
            read::<D::Error>(super::deserialize(deserializer)?)
        }

        pub(super) fn read<E: serde::de::Error>(bytes: Vec<u8>) -> Result<PathBuf, E> {
            sys::path::from_bytes(bytes).ok_or_else(|| E::custom("no path of this system"))
        }
    }

    pub(crate) mod optional_path {
        use std::path::PathBuf;

        use serde::{Deserializer, Serializer};

        use super::optional;

        pub(crate) fn serialize<S: Serializer>(
            path: &Option<PathBuf>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            let bytes = path.as_ref().map(|path| sys::path::bytes(path).into_owned());
            optional::serialize(&bytes, serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<PathBuf>, D::Error> {
            optional::deserialize(deserializer)?.map(super::path::read).transpose()
        }
    }

    /// A byte string or nothing.
    pub mod optional {
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        use super::Name;

        /// # Errors
        /// The serializer's.
        pub fn serialize<S: Serializer>(
            bytes: &Option<Vec<u8>>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            bytes.clone().map(Name::from).serialize(serializer)
        }

        /// # Errors
        /// The deserializer's.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Vec<u8>>, D::Error> {
            Ok(Option::<Name>::deserialize(deserializer)?.map(Vec::from))
        }
    }
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<LayerId>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Layers {
        One(LayerId),
        More(Vec<LayerId>),
    }
    Ok(match Layers::deserialize(deserializer)? {
        Layers::One(id) => vec![id],
        Layers::More(ids) => ids,
    })
}

mod compression_name {
    use layer::Compression;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        compression: &Compression,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(compression)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Compression, D::Error> {
        let name = String::deserialize(deserializer)?;
        [Compression::None, Compression::Gzip, Compression::Zstd]
            .into_iter()
            .find(|compression| compression.to_string() == name)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown compression {name:?}")))
    }
}
