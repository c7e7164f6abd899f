//! What a Linux host's mounts show: layer images, and what was written over them.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use erofs::Image;
use layer::{Cancel, DiffOptions, Digest, ImageSource, LayerTar, Side};
use mount::{Holder, HolderKind};
use store::{Layer, LayerId, ScratchPaths};
use tonic::Status;

use super::Wanted;
use crate::api::types::Mount;
use crate::diff::Job;
use crate::diff::located::Located;
use crate::status::{of_mount, of_store};

/// Two trees that are compared.
pub(super) struct Trees<'j> {
    sides: Sides<'j>,
    left: Side,
    right: Side,
}

impl<'j> Trees<'j> {
    pub(super) fn of(job: &'j Job, wanted: &Wanted) -> Result<Self, Status> {
        let mut sides = Sides { job, images: HashMap::new(), holders: Vec::new(), key: None };
        let (left, right) = (sides.side(&wanted.left)?, sides.side(&wanted.right)?);
        Ok(Self { sides, left, right })
    }

    /// The key of an active snapshot among them.
    pub(super) fn key(&self) -> Option<&[u8]> {
        self.sides.key.as_deref()
    }

    /// Writes the tar; its digest and size.
    pub(super) fn write(
        &self,
        source_date_epoch: Option<erofs::Timestamp>,
        output: &mut dyn Write,
        cancel: &Cancel,
    ) -> layer::Result<(Digest, u64)> {
        let options = DiffOptions { source_date_epoch };
        let LayerTar { diff_id, size, .. } =
            layer::diff(&self.left, &self.right, &options, output, cancel)?;
        Ok((diff_id, size))
    }
}

/// Makes sides of mounts, and keeps what they need for as long as it lives.
struct Sides<'j> {
    job: &'j Job,
    /// Layers that both sides have are opened once: that is how the difference knows that they are the same.
    images: HashMap<LayerId, Arc<Image<ImageSource>>>,
    holders: Vec<Holder>,
    /// The key of an active snapshot among them.
    key: Option<Vec<u8>>,
}

impl Sides<'_> {
    fn side(&mut self, mounts: &[Mount]) -> Result<Side, Status> {
        let service = &self.job.differ.service;
        let snapshot = match Located::of(service, mounts)? {
            Located::Layers(layers) => {
                return Ok(Side { layers: self.open(&layers)?, upper: None });
            }
            Located::Active(snapshot) => snapshot,
        };
        let chain = service.store().chain(&snapshot.key).map_err(|error| of_store(&error))?;
        let upper = match &chain.scratch {
            Some(ScratchPaths::Directory { upper, .. }) => upper.clone(),
            Some(ScratchPaths::Image { .. }) => {
                let name = sys::file::random_name(8)
                    .map_err(|error| Status::internal(format!("no name for a holder: {error}")))?;
                let holder = Holder::new(HolderKind::Snapshot, format!("diff {name}"));
                let process = sys::process::Process::current()
                    .map_err(|error| Status::internal(error.to_string()))?;
                let holder = holder.with_process(process);
                self.holders.push(holder.clone());
                let held = service.registry().hold_scratch(&chain, &holder);
                held.map_err(|error| of_mount(&error))?.upper
            }
            None => return Err(Status::failed_precondition("the snapshot has no scratch")),
        };
        self.job.says_key(&snapshot.key);
        self.key = Some(snapshot.key);
        Ok(Side { layers: self.open(&chain.layers)?, upper: Some(upper) })
    }

    fn open(&mut self, layers: &[Layer]) -> Result<Vec<Arc<Image<ImageSource>>>, Status> {
        let mut images = Vec::new();
        for layer in layers {
            if let Some(image) = self.images.get(&layer.id) {
                images.push(Arc::clone(image));
                continue;
            }
            let file = File::open(&layer.path).map_err(|error| {
                Status::data_loss(format!("layer image {}: {error}", layer.path.display()))
            })?;
            let image = Image::open(Box::new(file) as ImageSource).map_err(|error| {
                Status::data_loss(format!("layer image {}: {error}", layer.path.display()))
            })?;
            let image = Arc::new(image);
            self.images.insert(layer.id.clone(), Arc::clone(&image));
            images.push(image);
        }
        Ok(images)
    }
}

impl Drop for Sides<'_> {
    fn drop(&mut self) {
        for holder in &self.holders {
            if let Err(error) = self.job.differ.service.registry().release(holder) {
                tracing::warn!(%error, "a scratch stays mounted until the next reconcile");
            }
        }
    }
}
