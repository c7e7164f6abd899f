//! What a Linux container's specification takes in a virtual machine: its root filesystem and its mounts.

mod plan;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Root, Spec};
use uvm::{Machine, ScsiDisk, ScsiMount, ShareRequest};

use crate::error::{Error, Result};
use crate::lcow::{LayerOptions, MountedLayers, check_guest_root, check_id, mount_lcow_layers};
use crate::resources::{OwnedFile, Resources};
use crate::rootfs::{LcowLayers, lcow_layers};
use plan::{Plan, Source, Way};

/// What is allocated for.
#[derive(Debug, Clone)]
pub struct LinuxRequest<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its specification, as the client gave it.
    pub spec: &'a Spec,
    /// Its layers, if they came beside the specification ([`lcow_layers`]).
    pub layers: Option<&'a LcowLayers>,
    /// The container's directory in the guest, such as `/run/gcs/c/<id>`.
    pub guest_root: &'a str,
    /// Whether it is the machine's sandbox: its layers stay as long as the machine runs.
    pub sandbox: bool,
    /// How layers are attached.
    pub options: LayerOptions,
}

/// What was allocated.
#[derive(Debug)]
pub struct Allocation {
    /// The specification with the guest's paths; [`guest_spec`](crate::guest_spec) makes of it what the guest gets.
    pub spec: Spec,
    /// The container's scratch directory in the guest; none if its root is a shared directory.
    pub scratch: Option<String>,
    /// What undoes it.
    pub resources: Resources,
}

/// Where the root filesystem comes from.
enum RootSource {
    Layers(LcowLayers),
    Shared { host: PathBuf, read_only: bool },
}

/// Attaches everything a container's specification names, and rewrites the specification accordingly.
///
/// | | becomes |
/// | --- | --- |
/// | layers, or `windows.layerFolders` | `<guest_root>/rootfs`, see [`mount_lcow_layers`] |
/// | without layers, `root.path` | a share on `<guest_root>/rootfs`, read-only if the root is |
/// | `bind` of a directory | a share on `<guest_root>/mounts/m<i>` |
/// | `bind` of a file | a share of its directory that shows nothing else |
/// | `physical-disk`, `virtual-disk` | a SCSI disk; type `none`, source where the guest mounted it |
/// | `automanage-virtual-disk` | the same, and the file is deleted with the release |
/// | `extensible-virtual-disk` | the same of `evd://<type>/<path>`, where the machine can |
/// | disks at `blockdev://<path>` | a link to the device node; type `bind` |
/// | `bind` of `sandbox://`, `sandbox-tmp://`, `uvm://`, `hugepages://2M/…` | left to the guest |
/// | every other type | left alone |
///
/// `<i>` is the mount's place in the specification. A mount is read-only if one of its options is `ro` in any case.
///
/// # Errors
///
/// [`Invalid`](crate::ErrorKind::Invalid) and [`NotFound`](crate::ErrorKind::NotFound) before anything is attached, and
/// those of [`mount_lcow_layers`]. Everything is undone then; no file is deleted.
pub fn allocate_linux_resources(
    machine: &Machine,
    request: &LinuxRequest<'_>,
) -> Result<Allocation> {
    check_id(request.id)?;
    check_guest_root(request.guest_root)?;
    let root = root_source(request)?;
    let plans = plan::plan(request.spec)?;
    let mut allocation =
        Allocation { spec: request.spec.clone(), scratch: None, resources: Resources::default() };
    match allocation.allocate(machine, request, root, plans) {
        Ok(()) => Ok(allocation),
        Err(error) => {
            let undoing = allocation.resources.undo_allocation();
            Err(error.and("while undoing it", undoing))
        }
    }
}

impl Allocation {
    fn allocate(
        &mut self,
        machine: &Machine,
        request: &LinuxRequest<'_>,
        root: RootSource,
        plans: Vec<Plan>,
    ) -> Result<()> {
        let rootfs = match root {
            RootSource::Layers(layers) => {
                let mounted = mount_lcow_layers(
                    machine,
                    request.id,
                    &layers,
                    request.guest_root,
                    &request.options,
                )?;
                self.scratch = Some(mounted.scratch);
                self.resources.layers = Some(mounted.layers);
                mounted.rootfs
            }
            RootSource::Shared { host, read_only } => {
                let path = format!("{}/rootfs", request.guest_root);
                self.share(machine, request, &host, path.clone(), read_only, None)?;
                path
            }
        };
        let read_only = request.spec.root().as_ref().and_then(Root::readonly);
        let mut root = Root::default();
        root.set_path(rootfs.into());
        root.set_readonly(read_only);
        self.spec.set_root(Some(root));
        for plan in plans {
            self.mount(machine, request, plan)?;
        }
        if request.sandbox
            && let Some(layers) = self.resources.layers.take()
        {
            MountedLayers::leave(layers);
        }
        Ok(())
    }

    fn mount(&mut self, machine: &Machine, request: &LinuxRequest<'_>, plan: Plan) -> Result<()> {
        let Plan { index, source, read_only, .. } = plan;
        let (source, kind) = match source {
            Source::Guest => return Ok(()),
            Source::Directory(host) => {
                let path = format!("{}/mounts/m{index}", request.guest_root);
                self.share(machine, request, &host, path.clone(), read_only, None)?;
                (path, None)
            }
            Source::File { directory, name } => {
                let path = format!("{}/mounts/m{index}", request.guest_root);
                let file = format!("{path}/{name}");
                self.share(machine, request, &directory, path, read_only, Some(name.into()))?;
                (file, None)
            }
            Source::Disk { disk, way, delete } => {
                let guest_path = self.disk(machine, request, &plan.options, disk, way, delete)?;
                (guest_path, Some(if way == Way::BlockDevice { "bind" } else { "none" }))
            }
        };
        let mounts = self.spec.mounts_mut().as_mut();
        if let Some(mount) = mounts.and_then(|mounts| mounts.get_mut(index)) {
            mount.set_source(Some(source.into()));
            if let Some(kind) = kind {
                mount.set_typ(Some(kind.to_owned()));
            }
        }
        Ok(())
    }

    fn disk(
        &mut self,
        machine: &Machine,
        request: &LinuxRequest<'_>,
        options: &[String],
        disk: ScsiDisk,
        way: Way,
        delete: bool,
    ) -> Result<String> {
        let doing = format!("cannot mount the disk {}", disk.path.display());
        let mount = ScsiMount {
            read_only: disk.read_only,
            block_device: way == Way::BlockDevice,
            options: options.to_vec(),
            ..ScsiMount::default()
        };
        let delete = match delete {
            true => Some(OwnedFile::of(&disk.path)?),
            false => None,
        };
        let guard = machine
            .attach_scsi(&disk, Some(&mount), &request.options.deadline)
            .map_err(|error| Error::vm(&doing, error))?;
        let path = guard.guest_path().map(str::to_owned);
        self.resources.push_disk(guard, delete);
        path.ok_or_else(|| Error::invalid(format!("{doing}: the machine does not say where")))
    }

    fn share(
        &mut self,
        machine: &Machine,
        request: &LinuxRequest<'_>,
        host: &Path,
        guest_path: String,
        read_only: bool,
        only: Option<OsString>,
    ) -> Result<()> {
        let share = ShareRequest {
            host: host.to_owned(),
            guest_path,
            read_only,
            allowed: only.map(|name| BTreeSet::from([name])),
        };
        let guard = machine
            .share(&share, &request.options.deadline)
            .map_err(|error| Error::vm(format!("cannot share {}", host.display()), error))?;
        self.resources.push_share(guard);
        Ok(())
    }
}

fn root_source(request: &LinuxRequest<'_>) -> Result<RootSource> {
    let folders =
        request.spec.windows().as_ref().and_then(|windows| windows.layer_folders().clone());
    let folders = folders.unwrap_or_default();
    match (request.layers, folders.is_empty()) {
        (Some(_), false) => Err(Error::precondition(
            "layers are given both beside the specification and in its layer folders",
        )),
        (Some(layers), true) => Ok(RootSource::Layers(layers.clone())),
        (None, false) => Ok(RootSource::Layers(lcow_layers(&[], &folders)?)),
        (None, true) => {
            let root = request.spec.root().as_ref();
            let root =
                root.filter(|root| !root.path().as_os_str().is_empty()).ok_or_else(|| {
                    Error::precondition(
                        "the specification must provide either windows.layerFolders or root.path",
                    )
                })?;
            let host = plan::resolved(root.path(), "the root filesystem")?;
            if !host.is_dir() {
                return Err(Error::invalid(format!(
                    "the root filesystem {} is not a directory",
                    root.path().display()
                )));
            }
            Ok(RootSource::Shared { host, read_only: root.readonly().unwrap_or(false) })
        }
    }
}
