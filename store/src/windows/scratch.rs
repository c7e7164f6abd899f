//! Making what a snapshot has in its directory.

use std::fs::{self, File};
use std::path::Path;

use sys::windows::{AttachFlags, DiskAccess};

use crate::error::{Error, Result};
use crate::snapshot::{Scratch, Snapshot, is_unpacking};
use crate::spares::SCRATCH_MODE;
use crate::store::Store;

use super::{HostForm, ParentLayer, WindowsHost};

/// The scratch disk in a snapshot's directory, and in its `vm`.
pub(crate) const SANDBOX: &str = "sandbox.vhdx";
/// The directory of the virtual machine's scratch.
pub(crate) const VM: &str = "vm";
/// Folders of the layers below, topmost first, as JSON: what hcsshim's tools read.
const CHAIN: &str = "layerchain.json";
/// The template of scratch disks in a base layer.
const BLANK: &str = "blank.vhdx";

impl Store {
    /// Makes what a snapshot on a Windows host has in `directory`, which exists. False if its scratch is one of Linux.
    pub(crate) fn make_host_scratch(&self, directory: &Path, snapshot: &Snapshot) -> Result<bool> {
        let (size, vm) = match snapshot.scratch {
            Some(Scratch::Folder) => {
                if !is_unpacking(&snapshot.key) {
                    make_directory(&directory.join("Files"))?;
                }
                (None, None)
            }
            Some(Scratch::Disk { size, vm }) => (size, Some(vm)),
            _ => return Ok(false),
        };
        let Some(host) = self.host() else {
            return Err(Error::new(
                crate::ErrorKind::Unsupported,
                format!("snapshot {} writes to a disk of a Windows host", snapshot.name()),
            ));
        };
        let parents = self.parent_layers(&self.read()?, snapshot)?;
        if !parents.is_empty() {
            write_chain(directory, &parents)?;
        }
        if let Some(vm) = vm {
            self.make_disk(host, directory, &parents, size)?;
            if vm {
                make_vm_disk(directory, &parents)?;
            }
        }
        Ok(true)
    }

    fn make_disk(
        &self,
        host: &WindowsHost,
        directory: &Path,
        parents: &[ParentLayer],
        size: Option<u64>,
    ) -> Result<()> {
        let disk = directory.join(SANDBOX);
        // One that is there holds what a container wrote.
        if disk.exists() {
            return Ok(());
        }
        let template = match host.form() {
            HostForm::Folders => base(parents)?.folder.join(BLANK),
            HostForm::Cims => self.scratch_template(host)?,
        };
        copy(&template, &disk, "the base layer was not processed by Windows")?;
        if let Some(size) = size {
            host.expand(directory, size)?;
        }
        Ok(())
    }
}

impl WindowsHost {
    /// Grows the scratch disk in `directory` and the file system on it, which Windows' function leaves as it was.
    fn expand(&self, directory: &Path, size: u64) -> Result<()> {
        let path = directory.join(SANDBOX);
        let failed =
            |error| Error::windows(format!("expanding {} to {size} bytes", path.display()), error);
        let api = self.api();
        api.expand_scratch_size(directory, size).map_err(failed)?;
        let disk = api.open_disk(&path, DiskAccess::empty()).map_err(failed)?;
        // Encryption on arrival would make the rest fail.
        let flags = AttachFlags::NO_DRIVE_LETTER | AttachFlags::BYPASS_DEFAULT_ENCRYPTION_POLICY;
        api.attach_disk(&disk, flags).map_err(failed)?;
        let extended = (|| {
            let volume = api.layer_vhd_mount_path(&disk)?;
            let length = api.partition_length(&volume)?;
            let geometry = api.cluster_geometry(&volume)?;
            let sector = u64::from(geometry.bytes_per_sector).max(1);
            let cluster = sector * u64::from(geometry.sectors_per_cluster).max(1);
            if length / cluster > u64::from(geometry.clusters) {
                api.extend_volume(&volume, length / sector)?;
            }
            Ok(())
        })();
        let detached = api.detach_disk(&disk);
        extended.map_err(failed)?;
        detached.map_err(failed)
    }
}

/// The second scratch, of the virtual machine that the base layer brings.
fn make_vm_disk(directory: &Path, parents: &[ParentLayer]) -> Result<()> {
    let vm = directory.join(VM);
    let disk = vm.join(SANDBOX);
    if disk.exists() {
        return Ok(());
    }
    make_directory(&vm)?;
    let template = base(parents)?.folder.join("UtilityVM").join("SystemTemplate.vhdx");
    copy(&template, &disk, "the image has no virtual machine, or Windows did not process it")
}

/// The lowest of the layers below.
fn base(parents: &[ParentLayer]) -> Result<&ParentLayer> {
    parents.last().ok_or_else(|| Error::corrupt("a snapshot with a disk has no layer below"))
}

/// Writes the list of the layers below.
pub(super) fn write_chain(directory: &Path, parents: &[ParentLayer]) -> Result<()> {
    let path = directory.join(CHAIN);
    let doing = || format!("writing {}", path.display());
    let mut folders = Vec::new();
    for parent in parents {
        let folder = parent.folder.to_str();
        folders.push(folder.ok_or_else(|| {
            Error::invalid(format!("{} is no text that JSON can hold", parent.folder.display()))
        })?);
    }
    let text = serde_json::to_string(&folders)
        .map_err(|error| Error::caused(crate::ErrorKind::Invalid, doing(), error))?;
    fs::write(&path, text).map_err(|source| Error::io(doing(), source))
}

/// Removes what [`write_chain`] wrote, if it did.
pub(super) fn forget_chain(directory: &Path) -> Result<()> {
    let path = directory.join(CHAIN);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Copies a disk, durably. `otherwise` says why the template may be missing.
fn copy(template: &Path, disk: &Path, otherwise: &str) -> Result<()> {
    let doing = || format!("copying {} to {}", template.display(), disk.display());
    match fs::copy(template, disk) {
        Ok(_) => {}
        Err(error) if !template.exists() => {
            return Err(Error::caused(
                crate::ErrorKind::FailedPrecondition,
                format!("there is no {}: {otherwise}", template.display()),
                error,
            ));
        }
        Err(error) => return Err(Error::io(doing(), error)),
    }
    let file = File::options().write(true).open(disk).map_err(|error| Error::io(doing(), error))?;
    sys::file::sync_file(&file, disk).map_err(|error| Error::sys(doing(), error))
}

fn make_directory(path: &Path) -> Result<()> {
    match sys::file::create_directory(path, SCRATCH_MODE) {
        Err(error) if error.io_kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {
            Ok(())
        }
        made => made.map_err(|error| Error::sys(format!("making {}", path.display()), error)),
    }
}
