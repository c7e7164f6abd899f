//! The end of an import: an image into the store, in one transaction.

use layer::archive::{Document, Platform, bare_config, plain_manifest, stacked_config};
use layer::{Compression, Digest};

use super::convert::Layer;
use super::plan::{Plan, PlannedImage, chain_id};
use super::{ImportedImage, ImportedLayer};
use crate::db::Records as _;
use crate::error::{Error, Result};
use crate::images::ImageRecord;
use crate::snapshot::{Labels, Timestamp};
use crate::staging::Staging;
use crate::store::Store;

/// An image with all its layers converted and its documents complete.
#[derive(Debug)]
pub(super) struct Ready {
    names: Vec<String>,
    platform: Platform,
    manifest: Document,
    config: Document,
    layers: Vec<(String, Layer, Digest)>,
    chain: Vec<Digest>,
}

impl Ready {
    /// The plan's images.
    pub(super) fn of(plan: Plan, layers: Vec<Layer>) -> Result<Vec<Self>> {
        let Plan { nodes, images, .. } = plan;
        let image = |image: PlannedImage| {
            let mut own = Vec::new();
            let mut chain: Vec<Digest> = Vec::new();
            for &index in &image.nodes {
                let layer = layers[index].clone();
                let label = nodes[index].label.clone();
                let diff_id = nodes[index].diff_id.or(layer.existing.record.diff_id);
                let diff_id = diff_id.ok_or_else(|| {
                    Error::corrupt(format!("layer {label} has no diffID to stack on"))
                })?;
                chain.push(chain_id(chain.last().copied(), diff_id));
                own.push((label, layer, diff_id));
            }
            Self::complete(image, own, chain)
        };
        images.into_iter().map(image).collect()
    }

    fn complete(
        image: PlannedImage,
        layers: Vec<(String, Layer, Digest)>,
        chain: Vec<Digest>,
    ) -> Result<Self> {
        let failed = |error| Error::layer("making the image's documents", error);
        let config = match (image.config, image.base, layers.last()) {
            (Some(config), _, _) => config,
            (None, Some(base), Some((_, _, top))) => stacked_config(&base, *top).map_err(failed)?,
            (None, _, Some((_, _, top))) => bare_config(&image.platform, *top).map_err(failed)?,
            (None, _, None) => return Err(Error::invalid("an image without config and layers")),
        };
        let manifest = match image.manifest {
            Some(manifest) => manifest,
            // What no registry has given out is described by its uncompressed layers: the same whether they came
            // compressed or not.
            None => {
                let plain = |(_, layer, diff_id): &(String, Layer, Digest)| {
                    (*diff_id, layer.existing.record.tar_size)
                };
                let plain: Vec<(Digest, u64)> = layers.iter().map(plain).collect();
                plain_manifest(&config, &plain, Compression::None).map_err(failed)?
            }
        };
        let names =
            if image.names.is_empty() { vec![manifest.digest.to_string()] } else { image.names };
        Ok(Self { names, platform: image.platform, manifest, config, layers, chain })
    }
}

impl Store {
    /// Takes an image: its layers' files out of `staging`, its snapshots, documents and names. All or nothing.
    pub(super) fn take_image(&self, staging: &Staging, image: Ready) -> Result<ImportedImage> {
        let doing = || format!("committing image {}", image.names.join(", "));
        let _kept = self.not_sweeping();
        let mut placed = Vec::new();
        let written = self.write_image(staging, &image, &mut placed);
        match written {
            // If the commit itself fails, whether it took effect is known only after the next opening, which sweeps.
            Ok(write) => write.commit()?,
            Err(error) => {
                for path in placed {
                    drop(std::fs::remove_file(path));
                }
                return Err(Error::caused(error.kind(), doing(), error));
            }
        }
        sys::failpoint::hit("import-done");
        let layer = |(label, layer, diff_id): (String, Layer, Digest)| ImportedLayer {
            label,
            id: layer.existing.id,
            diff_id,
            digest: layer.image.as_ref().map(|image| image.digest),
            size: layer.image.as_ref().map(|image| image.size),
            tar_size: layer.existing.record.tar_size,
            image_size: layer.existing.record.image_size,
            reused: layer.reused,
            elapsed: layer.elapsed,
        };
        Ok(ImportedImage {
            references: image.names,
            digest: image.manifest.digest,
            config: image.config.digest,
            platform: image.platform,
            layers: image.layers.into_iter().map(layer).collect(),
            chain: image.chain.iter().map(Digest::to_string).collect(),
        })
    }

    fn write_image(
        &self,
        staging: &Staging,
        image: &Ready,
        placed: &mut Vec<std::path::PathBuf>,
    ) -> Result<crate::db::Write> {
        let mut write = self.write()?;
        for (_, layer, _) in &image.layers {
            let id = &layer.existing.id;
            let record = &layer.existing.record;
            match &layer.staged {
                Some(file) if !self.holds_layer(&write, id)? => {
                    let staged = self.stage_layer(staging, file, record)?;
                    if self.place_layer(&mut write, &staged, id, record)? {
                        placed.extend(self.layout().layer_files(id, record));
                    }
                }
                _ if write.layer(id)?.is_none() => {
                    return Err(Error::precondition(format!(
                        "layer {id} was removed while the import ran"
                    )));
                }
                _ => {}
            }
        }
        for document in [&image.manifest, &image.config] {
            write.put_blob(&document.digest, &document.bytes)?;
        }
        let mut parent: Option<String> = None;
        let mut chain = Vec::new();
        for (name, (_, layer, _)) in image.chain.iter().zip(&image.layers) {
            let name = name.to_string();
            self.put_imported(
                &mut write,
                name.as_bytes(),
                parent.as_deref().map(str::as_bytes),
                &layer.existing.id,
                Labels::new(),
            )?;
            chain.push(name.clone());
            parent = Some(name);
        }
        for reference in &image.names {
            write.put_image(&ImageRecord {
                reference: reference.clone(),
                manifest: image.manifest.digest,
                config: image.config.digest,
                platform: image.platform.to_string(),
                chain: chain.clone(),
                layers: image
                    .layers
                    .iter()
                    .map(|(_, layer, _)| layer.existing.id.clone())
                    .collect(),
                created: Timestamp::now(),
            })?;
        }
        Ok(write)
    }
}
