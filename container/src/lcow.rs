//! The layers of a Linux container in a virtual machine: attached, mounted and combined to its root filesystem.

use std::path::Path;

use bridge::{Deadline, ScsiDevice, VerityInfo};
use uvm::{
    CombineRequest, CombinedGuard, Machine, PmemGuard, ScsiDisk, ScsiGuard, ScsiKind, ScsiMount,
};

use crate::error::{Error, Result};
use crate::image_file::{Content, ImageFile};
use crate::rootfs::{HashTree, LcowLayer, LcowLayers};

/// How layers are attached.
#[derive(Debug, Clone)]
pub struct LayerOptions {
    /// The scratch is encrypted, with a key that ends with the mount.
    pub encrypted_scratch: bool,
    /// All of the machine's devices have memory of the host behind them: no layer goes to persistent memory.
    pub physically_backed: bool,
    /// When the guest must have answered, for everything together.
    pub deadline: Deadline,
}

/// A container's root filesystem in the guest.
#[derive(Debug)]
pub struct MountedRootfs {
    /// Where the guest has it.
    pub rootfs: String,
    /// Where in the guest the container's changes go.
    pub scratch: String,
    /// What undoes it.
    pub layers: MountedLayers,
}

/// Layers that are mounted in a guest; undone by [`release`](Self::release), or in the same order by dropping it.
#[derive(Debug)]
pub struct MountedLayers {
    combined: Option<CombinedGuard>,
    scratch: Option<ScsiGuard>,
    layers: Vec<LayerGuard>,
}

#[derive(Debug)]
enum LayerGuard {
    Pmem(PmemGuard),
    Scsi(ScsiGuard),
    /// With the disk of its hash tree, which goes after it.
    Proved {
        layer: ScsiGuard,
        tree: ScsiGuard,
    },
}

/// Mounts a container's layers: persistent memory first, SCSI where that is full, too small or not to be used; then the
/// scratch, which the guest formats if it is blank; then all of them combined on `<guest_root>/rootfs`. A scratch that
/// is shared with the sandbox (a symbolic link to its disk) is the same disk and mount, and another directory in it.
///
/// All files are looked at before the first is attached. What was done is undone if a step fails, in the order of
/// [`MountedLayers::release`].
///
/// # Errors
///
/// Those of [`LcowLayers::checked`], [`NoLocation`](crate::ErrorKind::NoLocation) when nothing is free,
/// [`Timeout`](crate::ErrorKind::Timeout), [`Vm`](crate::ErrorKind::Vm).
pub fn mount_lcow_layers(
    machine: &Machine,
    id: &str,
    layers: &LcowLayers,
    guest_root: &str,
    options: &LayerOptions,
) -> Result<MountedRootfs> {
    check_id(id)?;
    check_guest_root(guest_root)?;
    if layers.layers.is_empty() {
        return Err(Error::invalid("a container has at least one layer"));
    }
    let layers = layers.checked(options.encrypted_scratch)?;
    let mut mounted = MountedLayers { combined: None, scratch: None, layers: Vec::new() };
    match mounted.mount(machine, id, &layers, guest_root, options) {
        Ok((rootfs, scratch)) => Ok(MountedRootfs { rootfs, scratch, layers: mounted }),
        Err(error) => {
            let undoing = mounted.undo();
            Err(error.and("while undoing it", undoing))
        }
    }
}

/// A container's id becomes a directory's name in the guest.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    match id.bytes().all(fits) && !id.is_empty() && id.len() <= 128 && id != "." && id != ".." {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "`{}` is no container id: up to 128 letters, digits, `_`, `.` and `-`",
            id.escape_debug()
        ))),
    }
}

pub(crate) fn check_guest_root(root: &str) -> Result<()> {
    let plain = root.split('/').skip(1).all(|part| !["", ".", ".."].contains(&part));
    match root.starts_with('/') && plain && !root.contains('\0') {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "`{}` is no directory of a container in the guest",
            root.escape_debug()
        ))),
    }
}

impl MountedLayers {
    fn mount(
        &mut self,
        machine: &Machine,
        id: &str,
        layers: &LcowLayers,
        guest_root: &str,
        options: &LayerOptions,
    ) -> Result<(String, String)> {
        for layer in &layers.layers {
            let guard = add_layer(machine, layer, options)?;
            self.layers.push(guard);
        }
        let disk = ScsiDisk {
            path: layers.scratch.clone(),
            read_only: false,
            kind: ScsiKind::VirtualDisk,
        };
        let filesystem = if options.encrypted_scratch { "xfs" } else { "ext4" };
        let mount = ScsiMount {
            encrypted: options.encrypted_scratch,
            ensure_filesystem: true,
            filesystem: Some(filesystem.to_owned()),
            ..ScsiMount::default()
        };
        let disk =
            machine.attach_scsi(&disk, Some(&mount), &options.deadline).map_err(|error| {
                Error::vm(
                    format!("cannot mount the scratch disk {}", layers.scratch.display()),
                    error,
                )
            })?;
        let scratch =
            format!("{}/scratch/{id}", self.scratch.insert(disk).guest_path().unwrap_or_default());
        let rootfs = format!("{guest_root}/rootfs");
        let request = CombineRequest {
            container_id: id.to_owned(),
            root: rootfs.clone(),
            layers: self.layers.iter().map(|layer| layer.guest_path().to_owned()).collect(),
            scratch: Some(scratch.clone()),
        };
        let combined = machine.combine(&request, &options.deadline).map_err(|error| {
            Error::vm(format!("cannot combine the layers of container {id}"), error)
        })?;
        self.combined = Some(combined);
        Ok((rootfs, scratch))
    }

    /// Undoes the combination, then the scratch, then the layers in the order in which they were added. All of it is
    /// tried.
    ///
    /// # Errors
    ///
    /// The first failure, with the texts of all others.
    pub fn release(mut self) -> Result<()> {
        let errors = self.undo();
        Error::all("after that", errors)
    }

    /// Leaves everything mounted for as long as the machine runs.
    pub(crate) fn leave(mut self) {
        std::mem::forget(self.combined.take());
        std::mem::forget(self.scratch.take());
        std::mem::forget(std::mem::take(&mut self.layers));
    }

    fn undo(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        let mut note = |what: &str, result: uvm::Result<()>| {
            errors
                .extend(result.err().map(|error| Error::vm(format!("cannot undo {what}"), error)));
        };
        if let Some(combined) = self.combined.take() {
            note("the combination of layers", combined.release());
        }
        if let Some(scratch) = self.scratch.take() {
            note("the scratch disk's mount", scratch.release());
        }
        for layer in std::mem::take(&mut self.layers) {
            for error in layer.release() {
                note("a layer's mount", Err(error));
            }
        }
        errors
    }
}

impl Drop for MountedLayers {
    fn drop(&mut self) {
        // What fails stays in the machine's journal for its next reconciliation.
        self.undo();
    }
}

impl LayerGuard {
    fn guest_path(&self) -> &str {
        match self {
            Self::Pmem(guard) => guard.guest_path(),
            Self::Scsi(guard) | Self::Proved { layer: guard, .. } => {
                guard.guest_path().unwrap_or_default()
            }
        }
    }

    fn release(self) -> Vec<uvm::Error> {
        let releases = match self {
            Self::Pmem(guard) => vec![guard.release()],
            Self::Scsi(guard) => vec![guard.release()],
            Self::Proved { layer, tree } => vec![layer.release(), tree.release()],
        };
        releases.into_iter().filter_map(Result::err).collect()
    }
}

fn add_layer(machine: &Machine, layer: &LcowLayer, options: &LayerOptions) -> Result<LayerGuard> {
    let failed = |error| Error::vm(format!("cannot add the layer {}", layer.path.display()), error);
    if let Some(tree) = &layer.verity {
        return add_proved(machine, layer, tree, options).map_err(failed);
    }
    if !options.physically_backed && layer.partition == 0 && is_plain(layer)? {
        match machine.attach_pmem(&layer.path, &options.deadline) {
            Ok(guard) => return Ok(LayerGuard::Pmem(guard)),
            Err(error) if goes_to_scsi(error.kind()) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let disk = ScsiDisk { path: layer.path.clone(), read_only: true, kind: ScsiKind::VirtualDisk };
    let mount = ScsiMount {
        partition: layer.partition,
        read_only: true,
        options: vec!["ro".to_owned()],
        ..ScsiMount::default()
    };
    machine
        .attach_scsi(&disk, Some(&mount), &options.deadline)
        .map(LayerGuard::Scsi)
        .map_err(failed)
}

/// Layer and hash tree as two disks: the guest reads the one through the other. Not in persistent memory, which is for
/// reading in place.
fn add_proved(
    machine: &Machine,
    layer: &LcowLayer,
    tree: &HashTree,
    options: &LayerOptions,
) -> uvm::Result<LayerGuard> {
    let disk = |path: &Path| ScsiDisk {
        path: path.to_owned(),
        read_only: true,
        kind: ScsiKind::VirtualDisk,
    };
    let hashes = machine.attach_scsi(&disk(&tree.path), None, &options.deadline)?;
    let slot = hashes.slot();
    let mount = ScsiMount {
        read_only: true,
        options: vec!["ro".to_owned()],
        verity: Some(VerityInfo {
            ext4_size_in_bytes: i64::try_from(tree.data_size).unwrap_or(i64::MAX),
            version: 1,
            algorithm: "sha256".to_owned(),
            super_block: true,
            root_digest: tree.root_hash.clone(),
            salt: tree.salt.clone(),
            block_size: 4096,
            hash_device: Some(ScsiDevice { controller: slot.controller, lun: slot.lun }),
        }),
        ..ScsiMount::default()
    };
    let layer = machine.attach_scsi(&disk(&layer.path), Some(&mount), &options.deadline)?;
    Ok(LayerGuard::Proved { layer, tree: hashes })
}

/// Whether persistent memory would show the file system: it shows a file's bytes as they are, a VHDX's structure too.
fn is_plain(layer: &LcowLayer) -> Result<bool> {
    Ok(ImageFile::open(&layer.path)?.content != Content::Vhdx)
}

fn goes_to_scsi(kind: uvm::ErrorKind) -> bool {
    matches!(kind, uvm::ErrorKind::NoAvailableLocation | uvm::ErrorKind::TooLarge)
}
