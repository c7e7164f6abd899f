//! Stand-ins for the store's types until the store has them.

use std::path::PathBuf;

/// A layer of the store.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its id.
    pub id: String,
    /// The image file.
    pub path: PathBuf,
    /// UUID in the image's superblock.
    pub uuid: [u8; 16],
}

/// What a container writes to.
#[derive(Debug, Clone)]
pub enum Scratch {
    /// A directory with `fs` and `work`.
    Directory {
        /// The upper directory.
        upper: PathBuf,
        /// The work directory, on the same file system.
        work: PathBuf,
    },
    /// An ext4 image of a fixed size, made on first use.
    Image {
        /// The image file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
}

/// A snapshot with its layers, top first.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The snapshot's key.
    pub key: Vec<u8>,
    /// Scratch of an active snapshot.
    pub scratch: Option<Scratch>,
    /// Layers, nearest (top) first.
    pub layers: Vec<Layer>,
}
