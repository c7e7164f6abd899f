//! Taking an image out again, as an archive that other tools read.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use erofs::Image;
use layer::archive::{Document, LayoutImage, WrittenLayout, write_layout};
use layer::{Cancel, Compression};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::Store;

/// What an image is made of, where it is: enough for another process to open it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExportPlan {
    reference: String,
    config: Vec<u8>,
    layers: Vec<LayerPath>,
}

/// An image file of a layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LayerPath(#[serde(with = "crate::name::path")] PathBuf);

/// An image of the store, with its layers' files open: it can be written after the store was closed, and whatever is
/// removed from the store meanwhile.
#[derive(Debug)]
pub struct Export {
    names: Vec<String>,
    config: Document,
    layers: Vec<Image<File>>,
}

impl Store {
    /// Prepares an image to be written as an archive.
    ///
    /// # Errors
    /// `NotFound` if there is no such image, `Corrupt` if its config or a layer is missing or damaged, `Io`.
    pub fn export(&self, reference: &str) -> Result<Export> {
        self.plan_export(reference)?.open()
    }

    /// Looks up what an image is made of.
    ///
    /// # Errors
    /// `NotFound` if there is no such image, `Corrupt` if its config or a layer is missing, `Io`.
    pub fn plan_export(&self, reference: &str) -> Result<ExportPlan> {
        let Some(image) = self.image(reference)? else {
            return Err(Error::not_found(format!("image {reference:?} is not in the store")));
        };
        let damaged =
            |what: String| Error::corrupt(format!("image {}: {what}; run fsck", image.reference));
        let config = self.blob(&image.config)?;
        let config =
            config.ok_or_else(|| damaged(format!("config {} is missing", image.config)))?;
        let mut layers = Vec::new();
        for id in &image.layers {
            let layer = self.layer(id)?.ok_or_else(|| damaged(format!("layer {id} is missing")))?;
            if layer.id.is_cim() {
                return Err(Error::new(
                    crate::ErrorKind::Unsupported,
                    format!(
                        "image {} is for Windows; only those for Linux can be exported",
                        image.reference
                    ),
                ));
            }
            layers.push(LayerPath(layer.path));
        }
        Ok(ExportPlan { reference: image.reference, config, layers })
    }
}

impl ExportPlan {
    /// Opens the layers.
    ///
    /// # Errors
    /// `NotFound` or `Corrupt` if a layer's file is missing or damaged, `Io`.
    pub fn open(self) -> Result<Export> {
        let mut layers = Vec::new();
        for LayerPath(path) in &self.layers {
            let doing = || format!("opening {}", path.display());
            let file = File::open(path).map_err(|error| Error::io(doing(), error))?;
            let image = Image::open(file)
                .map_err(|error| Error::caused(crate::ErrorKind::Corrupt, doing(), error))?;
            layers.push(image);
        }
        let config = Document::new("application/vnd.oci.image.config.v1+json", self.config);
        Ok(Export { names: vec![self.reference], config, layers })
    }
}

impl Export {
    /// Writes the image as the tar of an OCI image layout. Its layers are made anew from their images, so its digests
    /// are its own; the same image gives the same bytes. Each layer image is read twice.
    ///
    /// # Errors
    /// `Corrupt`, `Cancelled`, `NoSpace`, `Io`.
    pub fn write(
        &self,
        output: impl Write,
        compression: Compression,
        cancel: &Cancel,
    ) -> Result<WrittenLayout> {
        let image = LayoutImage {
            names: &self.names,
            config: &self.config,
            layers: &self.layers,
            compression,
        };
        write_layout(&image, output, cancel)
            .map_err(|error| Error::layer(format!("exporting {}", self.names.join(", ")), error))
    }
}
