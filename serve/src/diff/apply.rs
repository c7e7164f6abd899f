//! Apply: a layer from the content store into an active snapshot.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use layer::windows::{RECOGNITION_LENGTH, is_windows_layer};
use layer::{Digest, LayerFormat, LayerImage, LayerOptions, Parents};
use store::{
    Below, DeferredLayer, Kind, LayerId, LayerRecord, Origin, Scope, Scratch, Snapshot, Staging,
};
use tokio::runtime::Handle;
use tonic::Status;

use super::located::Located;
use super::{Job, descriptor, of_layer};
use crate::api::diff::ApplyRequest;
use crate::api::types::{Descriptor, Mount};
use crate::content::{ContentStore, Namespace, status_behind};
use crate::metrics::LayerWork;
use crate::status::of_store;

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Labels of a snapshot that an image is unpacked into: its chainID, and that of the layer below.
const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
const PARENT_CHAIN_ID: &str = "containerd.io/snapshot/parent-chain-id";

/// Names in a staging directory.
const IMAGE: &str = "layer.erofs";
const BLOB: &str = "blob";
const CIM: &str = "layer.cim";

/// A request that was found to make sense.
#[derive(Debug)]
pub(super) struct Wanted {
    media_type: String,
    format: LayerFormat,
    digest: Digest,
    /// `None`: not said.
    size: Option<u64>,
    mounts: Vec<Mount>,
}

impl Wanted {
    pub(super) fn of(request: ApplyRequest) -> Result<Self, Status> {
        let diff = request.diff.ok_or_else(|| Status::invalid_argument("no descriptor"))?;
        if let Some(media_type) = request.payloads.keys().next() {
            return Err(Status::unimplemented(format!(
                "a layer that has to be processed as {media_type:?} first"
            )));
        }
        let format = LayerFormat::from_media_type(&diff.media_type);
        let format = format.map_err(|error| crate::status::of_layer(&error))?;
        let digest = diff.digest.parse::<Digest>();
        let digest = digest.map_err(|error| crate::status::of_layer(&error))?;
        let size = u64::try_from(diff.size).map_err(|_| {
            Status::invalid_argument(format!("a descriptor of {} bytes", diff.size))
        })?;
        Ok(Self {
            media_type: diff.media_type,
            format,
            digest,
            size: Some(size).filter(|size| *size != 0),
            mounts: request.mounts,
        })
    }
}

pub(super) fn apply(job: &Job, wanted: &Wanted) -> Result<Descriptor, Status> {
    let store = job.differ.service.store();
    let scope = store.scope(Origin::Containerd);
    let Located::Active(active) = Located::of(&job.differ.service, &wanted.mounts)? else {
        return Err(Status::unimplemented("a layer can only be applied to an active snapshot"));
    };
    let active = match scope.stat(&active.key) {
        Ok(active) => active,
        Err(error) if error.kind() == store::ErrorKind::NotFound => {
            return Err(Status::unimplemented("the snapshot is not one of containerd's"));
        }
        Err(error) => return Err(of_store(&error)),
    };
    job.says_key(&active.key);
    refuse_written(store.root(), &active)?;
    let namespace = Namespace::of_call(&job.metadata, Some(&active.key));
    let address = job.differ.service.config().containerd_address.clone();
    let contents = job.differ.connection.store(&address, namespace.clone());

    // Whatever is known here: who may not read the blob may not have its layer.
    let info = Handle::current().block_on(contents.info(&wanted.digest.to_string()))?;
    let found = u64::try_from(info.size).unwrap_or(0);
    if let Some(promised) = wanted.size.filter(|promised| *promised != found) {
        return Err(Status::failed_precondition(format!(
            "{} has {found} bytes, its descriptor says {promised}",
            wanted.digest
        )));
    }
    let task = Task { job, wanted, contents, scope, active, size: found };
    if let Some(Scratch::Folder) = task.active.scratch {
        return task.unpack();
    }
    if let Some(known) = task.known()? {
        return Ok(known);
    }
    task.convert(namespace.as_str())
}

/// The layer would lie below what was written: somebody else has to write it there, too.
fn refuse_written(root: &std::path::Path, active: &Snapshot) -> Result<(), Status> {
    let written = match active.scratch {
        Some(Scratch::Directory) => {
            let upper = root.join("snapshots").join(active.id.to_string()).join("fs");
            let listed = std::fs::read_dir(&upper).map(|mut names| names.next().is_some());
            listed.map_err(|error| Status::internal(format!("{}: {error}", upper.display())))?
        }
        Some(Scratch::Disk { .. }) => {
            let what = "nobody unpacks a layer over what a container wrote to its disk";
            return Err(Status::unimplemented(what));
        }
        Some(Scratch::Folder) => {
            let folder = root.join("snapshots").join(active.id.to_string());
            let others = std::fs::read_dir(&folder).map(|names| {
                // Says who is below, and is there from the start.
                names.flatten().any(|name| name.file_name() != "layerchain.json")
            });
            others.map_err(|error| Status::internal(format!("{}: {error}", folder.display())))?
        }
        // Whether something was written to it only shows when it is mounted.
        Some(Scratch::Image { .. }) => true,
        None => false,
    };
    match written {
        true => Err(Status::unimplemented("something was written to the snapshot already")),
        false => Ok(()),
    }
}

struct Task<'j> {
    job: &'j Job,
    wanted: &'j Wanted,
    contents: ContentStore,
    scope: Scope<'j>,
    active: Snapshot,
    size: u64,
}

impl Task<'_> {
    /// Applies the layer that this blob is known to give.
    fn known(&self) -> Result<Option<Descriptor>, Status> {
        let store = self.job.differ.service.store();
        let known = store.layer_of_blob(&self.wanted.digest).map_err(|error| of_store(&error))?;
        let Some(known) = known else { return Ok(None) };
        let Some(diff_id) = known.record.diff_id else { return Ok(None) };
        match self.scope.apply_known_layer(&self.active.key, &known.id) {
            Ok(_) => self.applied(&diff_id, known.record.tar_size).map(Some),
            // Removed meanwhile.
            Err(error)
                if error.kind() == store::ErrorKind::NotFound
                    && self.scope.stat(&self.active.key).is_ok() =>
            {
                Ok(None)
            }
            Err(error) => Err(of_store(&error)),
        }
    }

    fn convert(&self, namespace: &str) -> Result<Descriptor, Status> {
        let store = self.job.differ.service.store();
        let staging = Staging::new(store.root()).map_err(|error| of_store(&error))?;
        let below = self.below(namespace)?;
        let blob = match self.wanted.format {
            LayerFormat::Tar(_) => Beginning::of(self.blob())?,
            LayerFormat::Erofs(_) => Beginning { bytes: Vec::new(), rest: self.blob() },
        };
        let known = below.as_ref().filter(|below| !below.is_empty());
        match known {
            Some(below) if below.is_windows() => {
                return self.convert_windows(&staging, below, blob);
            }
            None if is_windows_layer(&blob.bytes) => {
                return match &below {
                    Some(below) => self.convert_windows(&staging, below, blob),
                    // A fork of whatever will be below it.
                    None => self.defer(&staging),
                };
            }
            _ => {}
        }
        let parents = LayersBelow { below, missed: AtomicBool::new(false) };
        let image = match self.image(&staging, &parents, blob) {
            Ok(image) => image,
            Err(_) if parents.missed.load(Ordering::Relaxed) => return self.defer(&staging),
            Err(status) => return Err(status),
        };
        let id = match &parents.below {
            Some(below) => below.layer_id(&image.diff_id, image.depends_on_parents),
            None => LayerId::of_diff(&image.diff_id),
        };
        let record = LayerRecord::of(&image);
        self.check_stop()?;
        self.scope
            .apply_layer(&self.active.key, &staging, IMAGE, &id, &record)
            .map_err(|error| of_store(&error))?;
        self.job.differ.service.metrics().layer_done(LayerWork::Apply, image.tar_size);
        self.applied(&image.diff_id, image.tar_size)
    }

    /// A layer of a Windows image on a host that keeps layers as folders: into the snapshot's own.
    fn unpack(&self) -> Result<Descriptor, Status> {
        let key = &self.active.key;
        let unpacked =
            self.scope.unpack_folder(key, self.blob(), &self.options(), &(), &self.job.stop.cancel);
        // What is not done here, containerd's own differ does: the folder is empty again.
        let blob =
            unpacked.map_err(|error| status_behind(&error).unwrap_or_else(|| of_store(&error)))?;
        self.job.differ.service.metrics().layer_done(LayerWork::Apply, blob.tar_size);
        self.applied(&blob.diff_id, blob.tar_size)
    }

    /// A layer of a Windows image: a CIM, forked from that of the layer below.
    fn convert_windows(
        &self,
        staging: &Staging,
        below: &Below,
        blob: Beginning<impl Read + Send>,
    ) -> Result<Descriptor, Status> {
        let (options, cancel) = (self.options(), &self.job.stop.cancel);
        let made = store::make_cim(blob.whole(), staging, CIM, below, &options, &(), cancel)
            .map_err(|error| status_behind(&error).unwrap_or_else(|| of_store(&error)))?;
        self.check_stop()?;
        self.scope
            .apply_layer(&self.active.key, staging, CIM, &made.id, &made.record)
            .map_err(|error| of_store(&error))?;
        self.job.differ.service.metrics().layer_done(LayerWork::Apply, made.image.tar_size);
        self.applied(&made.image.diff_id, made.image.tar_size)
    }

    fn image(
        &self,
        staging: &Staging,
        parents: &LayersBelow,
        blob: Beginning<impl Read + Send>,
    ) -> Result<LayerImage, Status> {
        let output = staging.create(IMAGE).map_err(|error| of_store(&error))?;
        let (options, cancel) = (self.options(), &self.job.stop.cancel);
        let blob = blob.whole();
        let image = match self.wanted.format {
            LayerFormat::Tar(_) => {
                layer::write_layer_image(blob, &output, &options, Some(parents), &(), cancel)
            }
            LayerFormat::Erofs(_) => {
                layer::write_native_image(blob, &output, &options, &(), cancel)
            }
        };
        image.map_err(|error| of_layer(&error))
    }

    /// Keeps the blob until the commit, when its parents are known.
    fn defer(&self, staging: &Staging) -> Result<Descriptor, Status> {
        let mut output = staging.create(BLOB).map_err(|error| of_store(&error))?;
        let copied = Copied { source: self.blob(), output: &mut output };
        let blob = layer::measure_layer(copied, &self.options(), &(), &self.job.stop.cancel)
            .map_err(|error| of_layer(&error))?;
        let deferred = DeferredLayer {
            digest: blob.digest,
            size: blob.size,
            diff_id: blob.diff_id,
            tar_size: blob.tar_size,
            compression: blob.compression,
        };
        self.check_stop()?;
        self.scope
            .defer_layer(&self.active.key, staging, BLOB, deferred)
            .map_err(|error| of_store(&error))?;
        self.applied(&blob.diff_id, blob.tar_size)
    }

    /// What is below the layer, as far as it is known. `None`: the snapshot will get its parent when it is committed.
    fn below(&self, namespace: &str) -> Result<Option<Below>, Status> {
        let Some(chain_id) = self.active.labels.get(PARENT_CHAIN_ID) else {
            let below = self.scope.below(&self.active.key, None);
            return below.map(Some).map_err(|error| of_store(&error));
        };
        if self.active.parent.is_some() {
            let below = self.scope.below(&self.active.key, None);
            return below.map(Some).map_err(|error| of_store(&error));
        }
        let Some(parent) = self.committed(chain_id, namespace)? else { return Ok(None) };
        match self.scope.below(&self.active.key, Some(&parent)) {
            Ok(below) => Ok(Some(below)),
            // The parent went meanwhile: the one of the commit will do.
            Err(error) if error.kind() == store::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(of_store(&error)),
        }
    }

    /// The committed snapshot of this chainID in the namespace.
    fn committed(&self, chain_id: &str, namespace: &str) -> Result<Option<Vec<u8>>, Status> {
        let snapshots = self.scope.list(&["kind==committed"]).map_err(|error| of_store(&error))?;
        let is_it = |snapshot: &&Snapshot| {
            let key = snapshot.key.as_slice();
            let prefix = key.strip_prefix(namespace.as_bytes());
            let inside = prefix.and_then(|rest| rest.strip_prefix(b"/"));
            let name = inside.and_then(|rest| rest.splitn(2, |byte| *byte == b'/').nth(1));
            snapshot.kind == Kind::Committed
                && inside.is_some()
                && (name == Some(chain_id.as_bytes())
                    || snapshot.labels.get(SNAPSHOT_REF).is_some_and(|label| label == chain_id))
        };
        Ok(snapshots.iter().find(is_it).map(|snapshot| snapshot.key.clone()))
    }

    fn options(&self) -> LayerOptions {
        let (LayerFormat::Tar(compression) | LayerFormat::Erofs(compression)) = self.wanted.format;
        LayerOptions {
            compression: Some(compression),
            digest: Some(self.wanted.digest),
            size: Some(self.size),
            diff_id: None,
            max_size: None,
        }
    }

    fn blob(&self) -> impl Read + Send + use<> {
        let digest = self.wanted.digest.to_string();
        self.contents.read(&digest, self.size, &self.job.stop.token)
    }

    /// The last chance: what is in the store stays there.
    fn check_stop(&self) -> Result<(), Status> {
        self.job.stop.cancel.check().map_err(|error| of_layer(&error))
    }

    fn applied(&self, diff_id: &Digest, size: u64) -> Result<Descriptor, Status> {
        let media_type = match self.wanted.format {
            LayerFormat::Tar(_) => TAR,
            LayerFormat::Erofs(_) => {
                let media_type = self.wanted.media_type.as_str();
                media_type.split_once('+').map_or(media_type, |(base, _)| base)
            }
        };
        descriptor(media_type, diff_id, size)
    }
}

/// The parents of a layer that may not be known yet, and whether they were missed.
struct LayersBelow {
    below: Option<Below>,
    missed: AtomicBool,
}

impl Parents for LayersBelow {
    fn layers(&self) -> layer::Result<Vec<std::sync::Arc<erofs::Image<layer::ImageSource>>>> {
        match &self.below {
            Some(below) => below.layers(),
            None => {
                self.missed.store(true, Ordering::Relaxed);
                let kind = layer::ErrorKind::MissingParent;
                let reason = "the layers below come with the commit";
                Err(layer::Error::outside(kind, "the layer depends on those below", reason))
            }
        }
    }
}

/// A blob of which the first bytes were looked at.
struct Beginning<R> {
    bytes: Vec<u8>,
    rest: R,
}

impl<R: Read> Beginning<R> {
    fn of(mut blob: R) -> Result<Self, Status> {
        let mut bytes = Vec::new();
        let looked = (&mut blob).take(RECOGNITION_LENGTH as u64).read_to_end(&mut bytes);
        looked.map_err(|error| {
            let unknown = || Status::unavailable(format!("cannot read the layer: {error}"));
            status_behind(&error).unwrap_or_else(unknown)
        })?;
        Ok(Self { bytes, rest: blob })
    }

    fn whole(self) -> impl Read {
        std::io::Cursor::new(self.bytes).chain(self.rest)
    }
}

/// A source whose bytes are kept in a file.
struct Copied<'f, R> {
    source: R,
    output: &'f mut std::fs::File,
}

impl<R: Read> Read for Copied<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.output.write_all(&buffer[..length])?;
        Ok(length)
    }
}
