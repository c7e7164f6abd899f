//! What an import has to do: the layers of all images as one forest, each layer on its chain once.

use std::collections::HashMap;
use std::path::PathBuf;

use layer::Digest;
use layer::archive::{ArchiveLayer, Document, Platform};

use super::{ImportOptions, Opened, PlannedLayer, WINDOWS, check_platform};
pub(super) use crate::below::chain_id;
use crate::error::{Error, ErrorKind, Result};
use crate::images::ImageRecord;
use crate::layers::{LayerId, LayerRecord};
use crate::reference::canonical_reference;
use crate::snapshot::Kind;
use crate::staging::Staging;
use crate::store::Store;

/// A layer at its place on a chain of layers. Of a node's parent, and of its twin, the index is lower than its own,
/// so that taking nodes in order never waits for one that nobody has taken.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) label: String,
    /// Where to read it; `None` for a layer of the base, which is in the store.
    pub(super) source: Option<ArchiveLayer>,
    /// `None` for a bare layer, until it is read.
    pub(super) diff_id: Option<Digest>,
    /// The chainID, `None` likewise.
    pub(super) chain: Option<Digest>,
    /// The node below.
    pub(super) parent: Option<usize>,
    /// The first node of the same diffID: if its image needs no parents, it is this one's too.
    pub(super) twin: Option<usize>,
    /// Whether it is a layer of a Windows image, which becomes a CIM.
    pub(super) windows: bool,
    /// What the store has.
    pub(super) existing: Option<Existing>,
}

/// A layer that the store has.
#[derive(Debug, Clone)]
pub(super) struct Existing {
    pub(super) id: LayerId,
    pub(super) record: LayerRecord,
    pub(super) path: PathBuf,
}

/// An image to be made.
#[derive(Debug)]
pub(super) struct PlannedImage {
    pub(super) names: Vec<String>,
    pub(super) platform: Platform,
    pub(super) manifest: Option<Document>,
    /// `None` for a bare layer.
    pub(super) config: Option<Document>,
    /// The config of the base, to be extended.
    pub(super) base: Option<Document>,
    /// Its layers, base first.
    pub(super) nodes: Vec<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) nodes: Vec<Node>,
    pub(super) images: Vec<PlannedImage>,
    /// For Windows or not.
    by_chain: HashMap<(bool, Digest), usize>,
    by_diff: HashMap<Digest, usize>,
}

impl Plan {
    pub(super) fn new(archives: &[Opened], options: &ImportOptions) -> Result<Self> {
        let mut plan = Self::default();
        for Opened { name, archive } in archives {
            if let Some(layer) = archive.layer() {
                plan.add_bare(name, layer, options);
                continue;
            }
            if options.base.is_some() {
                return Err(Error::invalid(format!(
                    "{name} holds whole images; only a bare layer can be stacked on a base"
                )));
            }
            let images = archive
                .images(options.platform.as_ref())
                .map_err(|error| Error::layer(format!("importing {name}"), error))?;
            for image in images {
                check_platform(Some(&image.platform))?;
                let mut nodes: Vec<usize> = Vec::new();
                let windows = image.platform.os == WINDOWS;
                for layer in image.layers {
                    nodes.push(plan.add_layer(nodes.last().copied(), layer, windows));
                }
                plan.images.push(PlannedImage {
                    names: image.names,
                    platform: image.platform,
                    manifest: image.manifest,
                    config: Some(image.config),
                    base: None,
                    nodes,
                });
            }
        }
        Ok(plan)
    }

    fn add_bare(&mut self, name: &str, layer: ArchiveLayer, options: &ImportOptions) {
        self.nodes.push(Node {
            label: name.to_owned(),
            source: Some(layer),
            diff_id: None,
            chain: None,
            parent: None,
            twin: None,
            windows: options.platform.as_ref().is_some_and(|platform| platform.os == WINDOWS),
            existing: None,
        });
        self.images.push(PlannedImage {
            names: Vec::new(),
            platform: options.platform.clone().unwrap_or_else(Platform::host),
            manifest: None,
            config: None,
            base: None,
            nodes: vec![self.nodes.len() - 1],
        });
    }

    fn add_layer(&mut self, parent: Option<usize>, layer: ArchiveLayer, windows: bool) -> usize {
        let below = parent.and_then(|parent| self.nodes[parent].chain);
        let chain = layer.diff_id.map(|diff_id| chain_id(below, diff_id));
        if let Some(node) = chain.and_then(|chain| self.by_chain.get(&(windows, chain))) {
            return *node;
        }
        let index = self.nodes.len();
        let mut twin = None;
        if let (Some(chain), Some(diff_id)) = (chain, layer.diff_id) {
            self.by_chain.insert((windows, chain), index);
            // A CIM is another one on another chain.
            if !windows {
                let first = *self.by_diff.entry(diff_id).or_insert(index);
                twin = (first != index).then_some(first);
            }
        }
        self.nodes.push(Node {
            label: layer.label.clone(),
            diff_id: layer.diff_id,
            source: Some(layer),
            chain,
            parent,
            twin,
            windows,
            existing: None,
        });
        index
    }

    /// Gives the images their names: those asked for, else the archive's; none is the digest's turn.
    pub(super) fn name(&mut self, references: Vec<String>) -> Result<()> {
        let asked = !references.is_empty();
        if asked && references.len() != self.images.len() {
            return Err(Error::invalid(format!(
                "{} given for {} ({}): give one for each, in this order, or none",
                counted(references.len(), "name was", "names were"),
                counted(self.images.len(), "image", "images"),
                self.titles().join(", ")
            )));
        }
        let mut references = references.into_iter();
        for image in &mut self.images {
            image.names = match references.next() {
                Some(name) => vec![name],
                None => {
                    let names = image.names.iter().map(|name| canonical_reference(name));
                    names.collect::<Result<_>>()?
                }
            };
            image.names.sort();
            image.names.dedup();
        }
        let mut names: Vec<&String> = self.images.iter().flat_map(|image| &image.names).collect();
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::invalid(format!("two images have the name {}", pair[0]))),
            None => Ok(()),
        }
    }

    fn titles(&self) -> Vec<String> {
        let title = |image: &PlannedImage| match image.names.first() {
            Some(name) => name.clone(),
            None => "one without a name".to_owned(),
        };
        self.images.iter().map(title).collect()
    }

    /// Finds what the store has, and keeps it from a gc until the import is over; what it lacks must be in the
    /// archive. Puts the base below the bare layers.
    pub(super) fn compare(
        &mut self,
        store: &Store,
        staging: &Staging,
        options: &ImportOptions,
    ) -> Result<()> {
        if let Some(base) = &options.base {
            let name = canonical_reference(base)?;
            let record = store
                .image(&name)?
                .ok_or_else(|| Error::not_found(format!("the base {base} is not in the store")))?;
            self.stack(store, &record)?;
        }
        for node in &mut self.nodes {
            if node.existing.is_none() {
                node.existing = find(store, node)?;
            }
            match (&node.existing, &node.source) {
                (Some(existing), _) => staging.pin(&existing.id)?,
                (None, Some(source)) => source.check().map_err(|error| {
                    Error::layer(format!("importing layer {}", node.label), error)
                })?,
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// All images are bare layers: puts a chain of nodes for the base in front of them.
    fn stack(&mut self, store: &Store, record: &ImageRecord) -> Result<()> {
        let damaged = |what| Error::corrupt(format!("the base {}: {what}", record.reference));
        let config = store.blob(&record.config)?.ok_or_else(|| damaged("its config is missing"))?;
        let config = Document::new("application/vnd.oci.image.config.v1+json", config);
        let platform: Platform =
            record.platform.parse().map_err(|error| Error::layer("reading the base", error))?;
        let mut nodes = Vec::new();
        for (chain, id) in record.chain.iter().zip(&record.layers) {
            let found = store.layer(id)?.ok_or_else(|| damaged("a layer is missing"))?;
            let diff_id = found.record.diff_id;
            nodes.push(Node {
                label: id.to_string(),
                source: None,
                diff_id,
                chain: chain.parse().ok(),
                parent: nodes.len().checked_sub(1),
                twin: None,
                windows: id.is_cim(),
                existing: Some(Existing { id: found.id, record: found.record, path: found.path }),
            });
        }
        let below = nodes.len();
        for mut node in std::mem::take(&mut self.nodes) {
            node.parent = below.checked_sub(1);
            node.windows = platform.os == WINDOWS;
            nodes.push(node);
        }
        self.nodes = nodes;
        for image in &mut self.images {
            image.platform = platform.clone();
            image.base = Some(config.clone());
            image.nodes = (0..below).chain(image.nodes.iter().map(|node| node + below)).collect();
        }
        Ok(())
    }

    pub(super) fn layers(&self) -> Vec<PlannedLayer> {
        let layer = |node: &Node| PlannedLayer {
            label: node.label.clone(),
            size: node.source.as_ref().and_then(|source| source.size),
            reused: node.existing.is_some(),
        };
        self.nodes.iter().map(layer).collect()
    }
}

fn counted(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// The layer of a chainID or else of a diffID, with its file in place.
fn find(store: &Store, node: &Node) -> Result<Option<Existing>> {
    let mut ids = Vec::new();
    if let Some(chain) = node.chain {
        match store.stat(chain.to_string().as_bytes()) {
            Ok(snapshot) if snapshot.kind == Kind::Committed => {
                ids.extend(snapshot.layers.first().cloned())
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        ids.push(LayerId::of_chain(&chain));
        ids.push(LayerId::of_cim(&chain));
    }
    ids.extend(node.diff_id.as_ref().map(LayerId::of_diff));
    ids.retain(|id| id.is_cim() == node.windows);
    for id in ids {
        if let Some(found) = store.layer(&id)?
            && store.is_intact(&id, &found.record)
        {
            return Ok(Some(Existing { id, record: found.record, path: found.path }));
        }
    }
    Ok(None)
}
