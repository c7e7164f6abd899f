//! What an import tells its caller while it runs.

use std::time::Duration;

use layer::LayerImage;
use serde::{Deserialize, Serialize};

use super::ImportedImage;

/// Something that happened. Layers are numbered as in [`Event::Planned`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// It is known what is to be done.
    Planned {
        /// All layers of all images, each once.
        layers: &'a [PlannedLayer],
    },
    /// The conversion of a layer begins.
    LayerStarted {
        /// Its number.
        layer: usize,
    },
    /// More of a layer's blob was read.
    LayerAdvanced {
        /// Its number.
        layer: usize,
        /// How many bytes more.
        bytes: u64,
    },
    /// A layer is converted and its image file is durable, but not yet the store's.
    LayerConverted {
        /// Its number.
        layer: usize,
        /// What was made.
        image: &'a LayerImage,
        /// How long it took.
        elapsed: Duration,
    },
    /// A layer turned out to be the same as one that was converted before.
    LayerReused {
        /// Its number.
        layer: usize,
    },
    /// All layers are converted; the metadata is written now.
    Committing {
        /// How many images there are.
        images: usize,
    },
    /// An image is in the store.
    Committed {
        /// The image.
        image: &'a ImportedImage,
    },
}

/// A layer, before it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLayer {
    /// What the archive calls it.
    pub label: String,
    /// Length of its blob in bytes, where it is known.
    pub size: Option<u64>,
    /// The store has it already.
    pub reused: bool,
}

/// Told what happens, from several threads. `()` ignores it.
pub trait Progress: Sync {
    /// Something happened.
    fn report(&self, event: &Event<'_>);
}

impl Progress for () {
    fn report(&self, _event: &Event<'_>) {}
}

impl<F: Fn(&Event<'_>) + Sync> Progress for F {
    fn report(&self, event: &Event<'_>) {
        self(event);
    }
}
