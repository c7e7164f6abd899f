//! Diff: what makes one tree of another, as a blob in the content store.

#[cfg(windows)]
#[path = "compare/no_trees.rs"]
mod trees;
#[cfg(target_os = "linux")]
mod trees;

use std::collections::BTreeMap;

use layer::{Compression, Compressor};
use tokio::runtime::Handle;
use tonic::Status;

use self::trees::Trees;
use super::located::Located;
use super::{Job, UNCOMPRESSED, descriptor, of_layer};
use crate::api::diff::DiffRequest;
use crate::api::types::{Descriptor, Mount};
use crate::content::{ContentStore, Namespace};
use crate::metrics::LayerWork;

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// A request that was found to make sense.
#[derive(Debug)]
pub(super) struct Wanted {
    left: Vec<Mount>,
    right: Vec<Mount>,
    media_type: &'static str,
    compression: Compression,
    /// `None`: one of our own, which is aborted if the work fails.
    reference: Option<String>,
    labels: BTreeMap<String, String>,
    /// The time of everything that is later.
    source_date_epoch: Option<erofs::Timestamp>,
}

impl Wanted {
    pub(super) fn of(request: DiffRequest) -> Result<Self, Status> {
        let (media_type, compression) = match request.media_type.as_str() {
            "" | GZIP => (GZIP, Compression::Gzip),
            TAR => (TAR, Compression::None),
            ZSTD => (ZSTD, Compression::Zstd),
            other => {
                let message = format!("a difference as {other:?} is not implemented");
                return Err(Status::unimplemented(message));
            }
        };
        let reference = String::from_utf8(request.r#ref);
        let reference = reference
            .map_err(|_| Status::invalid_argument("the upload's reference is not UTF-8"))?;
        let epoch = request.source_date_epoch.map(|epoch| match u32::try_from(epoch.nanos) {
            Ok(nanoseconds) if nanoseconds < 1_000_000_000 => {
                Ok(erofs::Timestamp { seconds: epoch.seconds, nanoseconds })
            }
            _ => Err(Status::invalid_argument(format!(
                "a source date epoch of {} nanoseconds",
                epoch.nanos
            ))),
        });
        Ok(Self {
            left: request.left,
            right: request.right,
            media_type,
            compression,
            reference: Some(reference).filter(|reference| !reference.is_empty()),
            labels: request.labels,
            source_date_epoch: epoch.transpose()?,
        })
    }
}

pub(super) fn compare(job: &Job, wanted: Wanted) -> Result<Descriptor, Status> {
    let compared = match Cims::of(job, &wanted)? {
        Some(cims) => Compared::Cims(cims),
        None => Compared::Trees(Trees::of(job, &wanted)?),
    };
    let namespace = Namespace::of_call(&job.metadata, compared.key());
    let address = job.differ.service.config().containerd_address.clone();
    let contents = job.differ.connection.store(&address, namespace);
    let runtime = Handle::current();

    let (leased, lease) = runtime.block_on(contents.leased(&job.metadata))?;
    let upload = Upload { job, contents: &leased, wanted };
    let result = upload.run(&compared);
    if result.is_err()
        && let Err(status) = runtime.block_on(contents.end(lease))
    {
        tracing::warn!(%status, "a lease is left to expire");
    }
    result
}

struct Upload<'j> {
    job: &'j Job,
    contents: &'j ContentStore,
    wanted: Wanted,
}

impl Upload<'_> {
    fn run(self, compared: &Compared<'_>) -> Result<Descriptor, Status> {
        let own = match &self.wanted.reference {
            Some(_) => None,
            None => {
                let name = sys::file::random_name(12)
                    .map_err(|error| Status::internal(format!("no name for an upload: {error}")))?;
                Some(format!("plywood-diff-{name}"))
            }
        };
        let result = self.upload(compared, own.as_deref());
        if let (Err(_), Some(own)) = (&result, &own)
            && let Err(status) = Handle::current().block_on(self.contents.abort(own))
        {
            tracing::warn!(%status, reference = %own, "an upload is left unfinished");
        }
        result
    }

    fn upload(&self, compared: &Compared<'_>, own: Option<&str>) -> Result<Descriptor, Status> {
        let stop = &self.job.stop;
        let reference = own.or(self.wanted.reference.as_deref()).unwrap_or_default();
        let blob = self.contents.write(reference, &stop.token);
        let failed = |error: layer::Error| of_layer(&error);
        let mut output = Compressor::new(blob, self.wanted.compression).map_err(failed)?;
        let (diff_id, tar_size) = match compared {
            Compared::Trees(trees) => {
                let epoch = self.wanted.source_date_epoch;
                trees.write(epoch, &mut output, &stop.cancel).map_err(failed)?
            }
            Compared::Cims(Cims { directory, above, below }) => {
                let set = cimfs::DirectorySet::new(directory);
                let tar = layer::windows::write_windows_layer_tar(
                    &set,
                    above,
                    below.as_deref(),
                    &mut output,
                    &stop.cancel,
                )
                .map_err(failed)?;
                (tar.diff_id, tar.size)
            }
        };
        let blob = output.finish().map_err(failed)?;
        let size = blob.size();
        let uncompressed = diff_id.to_string();
        let mut labels = self.wanted.labels.clone();
        if self.wanted.compression != Compression::None {
            labels.insert(UNCOMPRESSED.to_owned(), uncompressed.clone());
        }
        stop.cancel.check().map_err(failed)?;
        let digest = blob.commit(labels)?;

        // It may have been there before, without the label.
        let runtime = Handle::current();
        let name = digest.to_string();
        let info = runtime.block_on(self.contents.info(&name))?;
        if self.wanted.compression != Compression::None && !info.labels.contains_key(UNCOMPRESSED) {
            runtime.block_on(self.contents.set_label(&name, UNCOMPRESSED, &uncompressed))?;
        }
        self.job.differ.service.metrics().layer_done(LayerWork::Diff, tar_size);
        descriptor(self.wanted.media_type, &digest, size)
    }
}

/// What a difference is made of.
enum Compared<'j> {
    Trees(Trees<'j>),
    Cims(Cims),
}

impl Compared<'_> {
    /// The key of an active snapshot among the two sides.
    fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Trees(trees) => trees.key(),
            Self::Cims(_) => None,
        }
    }
}

/// Two layers of one Windows image, or one and nothing.
struct Cims {
    directory: std::path::PathBuf,
    /// Names of their filesystem files.
    above: String,
    below: Option<String>,
}

impl Cims {
    /// `None` if the request is about no CIMs.
    fn of(job: &Job, wanted: &Wanted) -> Result<Option<Self>, Status> {
        let service = &job.differ.service;
        let is_windows = |mounts: &[Mount]| {
            mounts.iter().any(|mount| matches!(mount.r#type.as_str(), "CimFS" | "windows-layer"))
        };
        if !is_windows(&wanted.right) && !is_windows(&wanted.left) {
            return Ok(None);
        }
        let top = |mounts: &[Mount]| match Located::of(service, mounts)? {
            Located::Layers(layers) => match layers.first() {
                Some(layer) if !layer.id.is_cim() => {
                    Err(Status::unimplemented("a layer of a Linux image and one of Windows"))
                }
                layer => Ok(layer.map(|layer| layer.id.file_name())),
            },
            Located::Active(_) => Err(Status::unimplemented(
                "what a container wrote to its disk can only be read by Windows' own tools",
            )),
        };
        let Some(above) = top(&wanted.right)? else {
            return Err(Status::unimplemented("layer folders are compared by Windows' own tools"));
        };
        let directory = service.store().root().join("cim-layers");
        Ok(Some(Self { directory, above, below: top(&wanted.left)? }))
    }
}
