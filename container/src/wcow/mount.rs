//! Mounting a Windows container's layers.
//!
//! | case | in order | root | layers of the document |
//! | --- | --- | --- | --- |
//! | process, WCIFS | scratch made if it is missing, activate, prepare, mount path | `\\?\Volume{…}` | each folder with its id |
//! | process, forked CIM | the topmost CIM as a volume, activate, mount path, overlay filter (UnionFS) on `volume\Files` | the same | one: the volume, without `Files` |
//! | job container | as process, then the volume at a folder | the same | the same |
//! | hypervisor, WCIFS | scratch made if it is missing, a VSMB share for each layer, the scratch by SCSI, combine | `c:\mounts\scsi\m<n>` | each share with its folder's id |
//!
//! Written from hcs-layers.md 1.3. Block CIMs, and forked CIMs in a virtual machine, are refused as hcsshim refuses
//! them. Undoing goes the other way round, continues after failures, and tells all of them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use layer::Cancel;
use mount::windows::{
    CimVolumes, PathKind, WindowsCims, WindowsLayer, WindowsLayers, WindowsPath, layer_id,
    overlay_document,
};
use sys::windows::{Host, LayerDescriptor};
use uvm::hcs::{
    HcsLayer, VirtualSmbShareOptions, VsmbRequest, VsmbShare, WindowsCombined, WindowsDisk,
    WindowsGuest,
};
use uvm::{ScsiDisk, ScsiKind};

use super::layers::{WcowLayers, block_cim};
use super::volume::{SandboxVolume, mount_sandbox_volume, remove_sandbox_mount_point};
use crate::error::{Error, ErrorKind, Result};
use crate::lcow::check_id;

/// What the layers of a host are mounted with.
#[derive(Debug)]
pub struct WcowHost {
    /// The account of attached scratches.
    pub layers: WindowsLayers,
    /// The account of CIM volumes.
    pub cims: CimVolumes<WindowsCims>,
}

impl WcowHost {
    pub(super) fn host(&self) -> &Arc<dyn Host> {
        self.layers.host()
    }
}

/// Where a container runs.
#[derive(Debug, Clone)]
pub enum Isolation {
    /// On the host's kernel.
    Process,
    /// On the host, as a job; its volume is to appear at that folder.
    Job(WindowsPath),
    /// In a virtual machine of its own or of its sandbox.
    Hypervisor(Arc<WindowsGuest>),
}

/// A container's root file system.
#[derive(Debug)]
pub struct MountedWcow {
    /// Its root: a volume without a backslash at the end, or a path in the guest.
    pub rootfs: String,
    /// The layers for the container's document, topmost first.
    pub layers: Vec<HcsLayer>,
    /// What undoes it.
    pub closer: WcowCloser,
}

/// Undoes what was mounted, the last first; [`release`](Self::release) tells what failed, dropping does not.
pub struct WcowCloser {
    host: Arc<WcowHost>,
    undo: Vec<Undo>,
}

enum Undo {
    Scratch(WindowsPath),
    Cim { cim: WindowsPath, container: String },
    Overlay(String),
    Sandbox(SandboxVolume),
    Share(Arc<WindowsGuest>, VsmbShare),
    Disk(Arc<WindowsGuest>, WindowsDisk),
    Pipe(Arc<WindowsGuest>, String),
    Combined(Arc<WindowsGuest>, WindowsCombined),
}

/// Mounts the layers of container `id`.
///
/// # Errors
///
/// [`NotSupported`](ErrorKind::NotSupported) for block CIMs and for forked CIMs in a virtual machine; what the host and
/// the guest say. What was mounted is undone then, and the error tells what could not be.
pub fn mount_wcow_layers(
    host: &Arc<WcowHost>,
    id: &str,
    layers: &WcowLayers,
    isolation: &Isolation,
    cancel: &Cancel,
) -> Result<MountedWcow> {
    check_id(id)?;
    let mut closer = WcowCloser { host: Arc::clone(host), undo: Vec::new() };
    let mounted = match (layers, isolation) {
        (WcowLayers::BlockCim, _) => Err(block_cim()),
        (WcowLayers::ForkedCim { .. }, Isolation::Hypervisor(_)) => Err(Error::new(
            ErrorKind::NotSupported,
            "a container in a virtual machine cannot be on forked CIMs: a guest mounts block CIMs only",
        )),
        (WcowLayers::Wcifs { scratch, parents }, Isolation::Hypervisor(guest)) => {
            closer.mount_in_guest(scratch, parents, guest)
        }
        (WcowLayers::Wcifs { scratch, parents }, Isolation::Process | Isolation::Job(_)) => {
            closer.mount_wcifs(id, scratch, parents, cancel)
        }
        (WcowLayers::ForkedCim { scratch, parents }, Isolation::Process | Isolation::Job(_)) => {
            closer.mount_cim(id, scratch, parents, cancel)
        }
    };
    let mounted = mounted.and_then(|(rootfs, layers)| {
        if let Isolation::Job(folder) = isolation {
            closer.undo.push(Undo::Sandbox(mount_sandbox_volume(host, folder, &rootfs)?));
        }
        Ok((rootfs, layers))
    });
    match mounted {
        Ok((rootfs, layers)) => Ok(MountedWcow { rootfs, layers, closer }),
        Err(error) => Err(error.and("while undoing it", closer.undo_all())),
    }
}

impl WcowCloser {
    fn mount_wcifs(
        &mut self,
        id: &str,
        scratch: &WindowsPath,
        parents: &[WindowsPath],
        cancel: &Cancel,
    ) -> Result<(String, Vec<HcsLayer>)> {
        ensure_scratch(&self.host, scratch, parents)?;
        let layer =
            WindowsLayer { scratch: scratch.clone(), parents: parents.to_vec(), read_only: false };
        let attached = self
            .host
            .layers
            .attach(&layer, id, cancel)
            .map_err(|error| Error::mount(format!("cannot mount the layers of {id}"), error))?;
        self.undo.push(Undo::Scratch(scratch.clone()));
        let layers = attached.parents.iter().map(|(id, path)| hcs_layer(id, path.to_string()));
        Ok((attached.volume, layers.collect()))
    }

    fn mount_cim(
        &mut self,
        id: &str,
        scratch: &WindowsPath,
        parents: &[(WindowsPath, WindowsPath)],
        cancel: &Cancel,
    ) -> Result<(String, Vec<HcsLayer>)> {
        let Some((_, cim)) = parents.first() else {
            return Err(Error::invalid("a container on CIMs has at least one parent"));
        };
        let failed = |error| Error::mount(format!("cannot mount the layers of {id}"), error);
        let path = cim.to_string();
        let volume = self.host.cims.mount_cim_layer(Path::new(&path), id).map_err(failed)?;
        self.undo.push(Undo::Cim { cim: cim.clone(), container: id.to_owned() });
        let attached = self.host.layers.attach_scratch(scratch, id, cancel).map_err(failed)?;
        self.undo.push(Undo::Scratch(scratch.clone()));
        let root = volume.path.to_string_lossy().into_owned();
        let data = overlay(Some((&volume.guid, &format!("{root}Files"))))?;
        self.host.host().attach_overlay_filter(&attached.volume, &data).map_err(|error| {
            Error::native(format!("cannot attach the overlay filter to {scratch}"), error)
        })?;
        self.undo.push(Undo::Overlay(attached.volume.clone()));
        Ok((attached.volume, vec![hcs_layer(&volume.guid, root)]))
    }

    fn mount_in_guest(
        &mut self,
        scratch: &WindowsPath,
        parents: &[WindowsPath],
        guest: &Arc<WindowsGuest>,
    ) -> Result<(String, Vec<HcsLayer>)> {
        ensure_scratch(&self.host, scratch, parents)?;
        for parent in parents {
            let request = VsmbRequest {
                path: parent.to_string().into(),
                allowed: None,
                options: VirtualSmbShareOptions::layer(),
            };
            let share = guest
                .add_vsmb(&request)
                .map_err(|error| Error::vm(format!("cannot share the layer {parent}"), error))?;
            self.undo.push(Undo::Share(Arc::clone(guest), share));
        }
        let path = scratch_disk(scratch)?;
        let disk = ScsiDisk {
            path: path.to_string().into(),
            read_only: false,
            kind: ScsiKind::VirtualDisk,
        };
        let disk = guest
            .add_disk(&disk)
            .map_err(|error| Error::vm(format!("cannot mount the scratch disk {path}"), error))?;
        let root = disk.guest_path().to_owned();
        self.undo.push(Undo::Disk(Arc::clone(guest), disk));
        let layers = hcs_layers(&self.host, guest, parents)?;
        let combined = guest
            .combine(&root, &layers, None)
            .map_err(|error| Error::vm(format!("cannot combine the layers on {scratch}"), error))?;
        self.undo.push(Undo::Combined(Arc::clone(guest), combined));
        Ok((root, layers))
    }

    /// Undoes everything, the last first. All of it is tried.
    ///
    /// # Errors
    ///
    /// The first failure, with the texts of all others.
    pub fn release(mut self) -> Result<()> {
        let errors = self.undo_all();
        Error::all("after that", errors)
    }

    pub(super) fn undo_all(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        // Shares of layers go in the order in which they came (the others' order is fixed by what stands on what).
        let shares = self.undo.iter().position(|undo| !matches!(undo, Undo::Share(..)));
        let shares = shares.unwrap_or(self.undo.len());
        let rest = self.undo.split_off(shares);
        let shares = std::mem::take(&mut self.undo);
        for undo in rest.into_iter().rev().chain(shares) {
            errors.extend(self.undo_one(undo).err());
        }
        errors
    }

    fn undo_one(&self, undo: Undo) -> Result<()> {
        let host = &self.host;
        match undo {
            Undo::Scratch(scratch) => host
                .layers
                .detach(&scratch)
                .map(drop)
                .map_err(|error| Error::mount("cannot undo the mount of layers", error)),
            Undo::Cim { cim, container } => host
                .cims
                .unmount_cim_layer(Path::new(&cim.to_string()), &container)
                .map(drop)
                .map_err(|error| Error::mount("cannot undo the mount of a CIM", error)),
            Undo::Overlay(volume) => detach_overlay(host, &volume),
            Undo::Sandbox(volume) => remove_sandbox_mount_point(host, &volume),
            Undo::Share(guest, share) => guest
                .remove_vsmb(&share)
                .map_err(|error| Error::vm("cannot end the share of a layer", error)),
            Undo::Disk(guest, disk) => guest
                .remove_disk(&disk)
                .map_err(|error| Error::vm("cannot undo the scratch disk's mount", error)),
            Undo::Pipe(guest, path) => guest
                .remove_pipe(&path)
                .map_err(|error| Error::vm("cannot end the share of a pipe", error)),
            Undo::Combined(guest, combined) => guest
                .remove_combined(&combined)
                .map_err(|error| Error::vm("cannot undo the combination of layers", error)),
        }
    }

    pub(super) fn empty(host: &Arc<WcowHost>) -> Self {
        Self { host: Arc::clone(host), undo: Vec::new() }
    }

    pub(super) fn push_share(&mut self, guest: &Arc<WindowsGuest>, share: VsmbShare) {
        self.undo.push(Undo::Share(Arc::clone(guest), share));
    }

    pub(super) fn push_disk(&mut self, guest: &Arc<WindowsGuest>, disk: WindowsDisk) {
        self.undo.push(Undo::Disk(Arc::clone(guest), disk));
    }

    pub(super) fn push_pipe(&mut self, guest: &Arc<WindowsGuest>, path: String) {
        self.undo.push(Undo::Pipe(Arc::clone(guest), path));
    }
}

impl Drop for WcowCloser {
    fn drop(&mut self) {
        // Nobody to tell; what stays is in the ledgers.
        self.undo_all();
    }
}

impl fmt::Debug for WcowCloser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WcowCloser").field("to_undo", &self.undo.len()).finish_non_exhaustive()
    }
}

/// The layers as a guest sees them: each folder's id with its share, which must be there already.
///
/// # Errors
///
/// [`Vm`](ErrorKind::Vm), naming the folder that is not shared; what the host says.
pub fn hcs_layers(
    host: &WcowHost,
    guest: &WindowsGuest,
    folders: &[WindowsPath],
) -> Result<Vec<HcsLayer>> {
    let layer = |folder: &WindowsPath| {
        let path = guest
            .layer_path(Path::new(&folder.to_string()))
            .map_err(|error| Error::vm("cannot find a layer in the virtual machine", error))?;
        Ok(hcs_layer(&identity(host, folder)?, path))
    };
    folders.iter().map(layer).collect()
}

/// The layers as the host's own service wants them in a container's document: each folder with its id, or the one volume
/// that shows the topmost CIM.
///
/// # Errors
///
/// [`NotFound`](ErrorKind::NotFound), naming the CIM, if it is not mounted for the container;
/// [`NotSupported`](ErrorKind::NotSupported) for block CIMs; what the host says.
pub fn to_host_hcs_schema_layers(
    host: &WcowHost,
    id: &str,
    layers: &WcowLayers,
) -> Result<Vec<HcsLayer>> {
    match layers {
        WcowLayers::Wcifs { parents, .. } => parents
            .iter()
            .map(|parent| Ok(hcs_layer(&identity(host, parent)?, parent.to_string())))
            .collect(),
        WcowLayers::ForkedCim { parents, .. } => {
            let Some((_, cim)) = parents.first() else {
                return Err(Error::invalid("a container on CIMs has at least one parent"));
            };
            let path = host
                .cims
                .cim_mount_path(Path::new(&cim.to_string()), id)
                .map_err(|error| Error::mount("cannot describe the layers", error))?;
            let text = path.to_string_lossy().into_owned();
            let guid = text.trim_start_matches(r"\\?\Volume{").trim_end_matches(r"}\");
            Ok(vec![HcsLayer { id: guid.to_owned(), path: text.clone() }])
        }
        WcowLayers::BlockCim => Err(block_cim()),
    }
}

/// Undoes what a process that died has mounted for a container on CIMs: the overlay filter on its scratch, and all its CIM
/// volumes. It takes nothing but id and scratch, and tries everything; the scratch stays attached, as hcsshim leaves it
/// ([`WindowsLayers::detach`] or its reconcile ends that).
///
/// # Errors
///
/// The first failure, with the texts of all others.
pub fn release_cimfs_host_layers(host: &WcowHost, id: &str, scratch: &WindowsPath) -> Result<()> {
    let mut errors = Vec::new();
    match host.host().layer_mount_path(Path::new(&scratch.to_string())) {
        Ok(volume) => {
            errors.extend(detach_overlay(host, volume.trim_end_matches('\\')).err());
        }
        Err(error) => {
            let doing = format!("cannot find the volume of the scratch {scratch}");
            errors.push(Error::native(doing, error));
        }
    }
    let cleaned = host.cims.cleanup_container_mounts(id);
    errors.extend(
        cleaned.err().map(|error| Error::mount("cannot undo the mounts of the container", error)),
    );
    Error::all("after that", errors)
}

fn detach_overlay(host: &WcowHost, volume: &str) -> Result<()> {
    let data = overlay(None)?;
    host.host().detach_overlay_filter(volume, &data).map_err(|error| {
        Error::native(format!("cannot detach the overlay filter from {volume}"), error)
    })
}

/// Makes the scratch folder and its disk if they are missing.
pub(super) fn ensure_scratch(
    host: &WcowHost,
    scratch: &WindowsPath,
    parents: &[WindowsPath],
) -> Result<()> {
    let failed = |error| Error::mount(format!("cannot make the scratch {scratch}"), error);
    let folders = host.layers.folders();
    match folders.kind(&scratch_disk(scratch)?).map_err(failed)? {
        PathKind::Absent => {}
        PathKind::File => return Ok(()),
        _ => {
            let message = format!("{scratch} has a sandbox.vhdx that is no file");
            return Err(Error::invalid(message));
        }
    }
    let mut descriptors = Vec::new();
    for parent in parents {
        let id = identity(host, parent)?;
        descriptors.push(LayerDescriptor { id, path: parent.to_string().into(), flags: 0 });
    }
    let made = folders.make(scratch).map_err(failed)?;
    let path = scratch.to_string();
    let created = host.host().create_scratch_layer(Path::new(&path), &descriptors);
    created.map_err(|error| {
        folders.remove_all(&made);
        Error::native(format!("cannot make the scratch {scratch}"), error)
    })
}

fn scratch_disk(scratch: &WindowsPath) -> Result<WindowsPath> {
    scratch.join("sandbox.vhdx").map_err(|error| Error::mount("cannot use a scratch", error))
}

fn identity(host: &WcowHost, folder: &WindowsPath) -> Result<sys::windows::Guid> {
    layer_id(&**host.host(), folder).map_err(|error| Error::mount("cannot use a layer", error))
}

fn hcs_layer(id: &sys::windows::Guid, path: String) -> HcsLayer {
    HcsLayer { id: id.to_string(), path }
}

fn overlay(layer: Option<(&sys::windows::Guid, &str)>) -> Result<String> {
    overlay_document(layer).map_err(|error| Error::mount("cannot use the overlay filter", error))
}
