//! The layers below one that is being converted.

use std::fs::File;
use std::sync::Arc;

use erofs::Image;
use layer::{Digest, ImageSource, Parents};

use crate::db::Records;
use crate::error::{Error, ErrorKind, Result};
use crate::layers::{Layer, LayerId};
use crate::scope::Scope;
use crate::snapshot::{Kind, Snapshot, shown};

/// The layers below one that is about to be applied to an active snapshot, or committed with it: what a conversion asks
/// where the layer depends on them, and what its layer image is then called by. Their files are opened only when asked
/// for.
#[derive(Debug, Clone)]
pub struct Below {
    /// Nearest first, repetitions included, so that an image comes out as an import makes it.
    layers: Vec<Layer>,
    chain: Option<Digest>,
}

impl Scope<'_> {
    /// What is below the next layer of the active snapshot `key`: layers applied to it, then those of its parent. One
    /// without parent may be given the one that it will have.
    ///
    /// # Errors
    /// `NotFound` for a missing snapshot or parent; `FailedPrecondition` if the snapshot is not active, or the parent
    /// not committed; `Invalid` if it has another parent; `Corrupt`, `Io`.
    pub fn below(&self, key: &[u8], parent: Option<&[u8]>) -> Result<Below> {
        let read = self.store.read()?;
        let active = self.existing(&read, key)?;
        if active.kind != Kind::Active {
            return Err(Error::precondition(format!(
                "snapshot {} is of kind {}, not active",
                active.name(),
                active.kind
            )));
        }
        let (parent, _) = self.parent_to_be(&read, &active, parent)?;
        self.below_layer_of(&read, Snapshot { parent, ..active })
    }

    /// What is below the next layer of a snapshot that has its final parent.
    pub(crate) fn below_layer_of(&self, records: &impl Records, active: Snapshot) -> Result<Below> {
        let mut ids: Vec<LayerId> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut next = Some(active);
        while let Some(snapshot) = next {
            if !seen.insert(snapshot.id) {
                return Err(Error::corrupt(format!(
                    "the parents of snapshot {} go in a circle",
                    snapshot.name()
                )));
            }
            ids.extend(snapshot.layers);
            next = match &snapshot.parent {
                None => None,
                Some(name) => Some(records.snapshot(name)?.ok_or_else(|| {
                    Error::corrupt(format!("snapshot {} is missing from the chain", shown(name)))
                })?),
            };
        }
        let mut layers = Vec::new();
        for id in ids {
            let record = records
                .layer(&id)?
                .ok_or_else(|| Error::corrupt(format!("layer {id} has no record")))?;
            layers.push(self.store.located(id, record));
        }
        Ok(Below::of(layers))
    }
}

impl Below {
    /// These layers, nearest first.
    pub(crate) fn of(layers: Vec<Layer>) -> Self {
        let mut chain = None;
        for layer in layers.iter().rev() {
            // What never was a tar stands for itself.
            let own = || Digest::of(layer.id.as_str().as_bytes());
            chain = Some(chain_id(chain, layer.record.diff_id.unwrap_or_else(own)));
        }
        Self { layers, chain }
    }

    /// Whether there is nothing below.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The layers, nearest first.
    pub fn nearest_first(&self) -> &[Layer] {
        &self.layers
    }

    /// Whether these are layers of a Windows image.
    pub fn is_windows(&self) -> bool {
        self.layers.first().is_some_and(|layer| layer.id.is_cim())
    }

    /// The chainID of a layer on top of these.
    pub fn chain_id(&self, diff_id: &Digest) -> Digest {
        chain_id(self.chain, *diff_id)
    }

    /// What the layer image of a layer with this diffID is called on top of these.
    pub fn layer_id(&self, diff_id: &Digest, depends_on_parents: bool) -> LayerId {
        match depends_on_parents {
            true => LayerId::of_chain(&self.chain_id(diff_id)),
            false => LayerId::of_diff(diff_id),
        }
    }
}

impl Parents for Below {
    fn layers(&self) -> layer::Result<Vec<Arc<Image<ImageSource>>>> {
        let open = |layer: &Layer| {
            let path = &layer.path;
            let doing = || format!("opening {}", path.display());
            let unavailable = |kind, error: Error| {
                layer::Error::outside(kind, "cannot read the layers below", error)
            };
            let file = File::open(path)
                .map_err(|error| unavailable(layer::ErrorKind::Io, Error::io(doing(), error)))?;
            let image = Image::open(Box::new(file) as ImageSource).map_err(|error| {
                let error = Error::caused(ErrorKind::Corrupt, doing(), error);
                unavailable(layer::ErrorKind::Corrupt, error)
            })?;
            Ok(Arc::new(image))
        };
        self.layers.iter().map(open).collect()
    }
}

/// The chainID of a layer on a chain (OCI image-spec, "Layer ChainID").
pub(crate) fn chain_id(below: Option<Digest>, diff_id: Digest) -> Digest {
    match below {
        None => diff_id,
        Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
    }
}
