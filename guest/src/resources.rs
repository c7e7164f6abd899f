//! The VM's resources: what requests to modify settings make and take away.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bridge::{
    CombinedLayers, GuestRequest, MappedDirectory, MappedVirtualDisk, PmemDevice, RequestType,
    Resource, ScsiDevice,
};

use crate::children::Children;
use crate::dial::Dial;
use crate::disk::Devices;
use crate::layers::{self, Combined, is_mount_point};
use crate::mapper::Stack;
use crate::place::{MadeDirectories, Places, checked};
use crate::{Error, ErrorKind, Result, filesystem, share};

/// All resources.
pub(crate) struct Resources {
    pub(crate) devices: Devices,
    pub(crate) dial: Arc<dyn Dial>,
    pub(crate) children: Children,
    places: Places<Place>,
}

/// Something the agent put at a path.
#[derive(Debug)]
enum Place {
    Device(Attached),
    Share(MadeDirectories),
    Combined(Combined),
}

/// A device at a path.
#[derive(Debug)]
struct Attached {
    /// The SCSI address, or none for persistent memory.
    disk: Option<ScsiDevice>,
    /// The disk with the hash tree of this one.
    tree: Option<ScsiDevice>,
    /// The path is a link to the device and no mount.
    is_link: bool,
    stack: Stack,
    made: MadeDirectories,
}

impl Place {
    fn resource(&self) -> &'static str {
        match self {
            Self::Device(Attached { disk: Some(_), .. }) => "MappedVirtualDisk",
            Self::Device(_) => "VPMemDevice",
            Self::Share(_) => "MappedDirectory",
            Self::Combined(_) => "CombinedLayers",
        }
    }
}

impl Resources {
    pub(crate) fn new(devices: Devices, dial: Arc<dyn Dial>, children: Children) -> Self {
        Self { devices, dial, children, places: Places::default() }
    }

    /// Does what a request about the VM says.
    pub(crate) fn modify(&self, request: &GuestRequest) -> Result<()> {
        let name = request.resource.name();
        match (&request.request_type, &request.resource) {
            (RequestType::Add, Resource::MappedVirtualDisk(disk)) => self.add_disk(disk),
            (RequestType::Remove, Resource::MappedVirtualDisk(disk)) => {
                self.remove(&disk.mount_path, name)
            }
            (RequestType::Add, Resource::VPMemDevice(device)) => self.add_pmem(device),
            (RequestType::Remove, Resource::VPMemDevice(device)) => {
                self.remove(&device.mount_path, name)
            }
            (RequestType::Add, Resource::MappedDirectory(share)) => self.add_share(share),
            (RequestType::Remove, Resource::MappedDirectory(share)) => {
                self.remove(&share.mount_path, name)
            }
            (RequestType::Add, Resource::CombinedLayers(request)) => self.combine(request),
            (RequestType::Remove, Resource::CombinedLayers(request)) => {
                self.remove(&request.container_root_path, name)
            }
            (RequestType::Remove, Resource::ScsiDevice(disk)) => self.unplug(*disk),
            (_, Resource::Other { .. }) => {
                Err(Error::invalid(format!("the resource type {name:?} is not supported")))
            }
            (request_type, _) => {
                let request_type = request_type.as_str();
                Err(Error::invalid(format!("{request_type:?} of {name} is not supported")))
            }
        }
    }

    fn add_disk(&self, request: &MappedVirtualDisk) -> Result<()> {
        let path = checked(&request.mount_path, "the mount path")?;
        let disk = ScsiDevice { controller: request.controller, lun: request.lun };
        if request.encrypted && (request.read_only || request.verity_info.is_some()) {
            return Err(Error::invalid("an encrypted disk is a fresh scratch: it is writable"));
        }
        if request.verity_info.is_some() && !request.read_only {
            return Err(Error::invalid("a disk with a hash tree is read-only"));
        }
        let place = self.places.reserve(&path)?;
        let mut device = self.devices.disk(disk, request.partition)?;
        let mut stack = Stack::default();
        let (controller, lun, partition) = (disk.controller, disk.lun, request.partition);
        let tree = request.verity_info.as_ref().and_then(|verity| verity.hash_device);
        if let Some(verity) = &request.verity_info {
            let tree = tree.map(|tree| self.devices.disk(tree, 0)).transpose()?;
            let prefix = format!("dm-verity-scsi-contr{controller}-lun{lun}-p{partition}");
            device = stack.verity(&prefix, &device, tree.as_deref(), verity)?;
        }
        let mut file_system = request.filesystem.as_str();
        if request.encrypted {
            let name = format!("dm-crypt-scsi-contr{controller}-lun{lun}-p{partition}");
            device = stack.crypt(name, &device)?;
            file_system = if file_system.is_empty() { "xfs" } else { file_system };
            if !request.block_dev {
                // With a fresh key the device holds noise, whatever that looks like.
                filesystem::make(&self.children, &device, file_system)?;
            }
        } else if request.ensure_filesystem && !request.block_dev {
            file_system = if file_system.is_empty() { "ext4" } else { file_system };
            filesystem::ensure(&self.children, &device, file_system)?;
        }
        let mut made = MadeDirectories::default();
        let is_link = request.block_dev;
        let put = match is_link {
            true => link(&device, &path, &mut made),
            false => put(&path, &mut made, || {
                let (read_only, options) = (request.read_only, &request.options);
                filesystem::mount(&device, &path, file_system, read_only, options)
            }),
        };
        put?;
        place.hold(Place::Device(Attached { disk: Some(disk), tree, is_link, stack, made }));
        Ok(())
    }

    fn add_pmem(&self, request: &PmemDevice) -> Result<()> {
        let path = checked(&request.mount_path, "the mount path")?;
        let place = self.places.reserve(&path)?;
        let number = request.device_number;
        let mut device = self.devices.pmem(number)?;
        let mut stack = Stack::default();
        if let Some(part) = request.mapping_info {
            let (offset, size) = (part.device_offset_in_bytes, part.device_size_in_bytes);
            let name = format!("dm-linear-pmem{number}-{offset}-{size}");
            device = stack.linear(name, &device, offset, size)?;
        }
        if let Some(verity) = &request.verity_info {
            let tree = verity.hash_device.map(|tree| self.devices.disk(tree, 0)).transpose()?;
            let prefix = format!("dm-verity-pmem{number}");
            device = stack.verity(&prefix, &device, tree.as_deref(), verity)?;
        }
        let mut made = MadeDirectories::default();
        put(&path, &mut made, || filesystem::mount(&device, &path, "", true, &[]))?;
        let tree = request.verity_info.as_ref().and_then(|verity| verity.hash_device);
        place.hold(Place::Device(Attached { disk: None, tree, is_link: false, stack, made }));
        Ok(())
    }

    fn add_share(&self, request: &MappedDirectory) -> Result<()> {
        let path = checked(&request.mount_path, "the mount path")?;
        let place = self.places.reserve(&path)?;
        let mut made = MadeDirectories::default();
        put(&path, &mut made, || share::mount(&*self.dial, request, &path))?;
        place.hold(Place::Share(made));
        Ok(())
    }

    fn combine(&self, request: &CombinedLayers) -> Result<()> {
        let root = layers::root_of(request)?;
        let place = self.places.reserve(&root)?;
        let combined = layers::combine(request)?;
        place.hold(Place::Combined(combined));
        Ok(())
    }

    /// Undoes what is at `path`; nothing there is fine, something else is not.
    fn remove(&self, path: &str, resource: &str) -> Result<()> {
        let path = checked(path, "the path")?;
        let Some(mut place) = self.places.take(&path)? else {
            return match is_mount_point(&path)? {
                false => Ok(()),
                true => {
                    let message = format!("what is mounted at {} is not ours", path.display());
                    Err(Error::new(ErrorKind::Busy, message))
                }
            };
        };
        let Some(what) = place.taken() else { return Ok(()) };
        if what.resource() != resource {
            let message =
                format!("{} is a {} and not a {resource}", path.display(), what.resource());
            return Err(Error::new(ErrorKind::Busy, message));
        }
        match what {
            Place::Device(attached) => attached.detach(&path)?,
            Place::Share(made) => {
                unmount(&path)?;
                made.remove();
            }
            Place::Combined(combined) => combined.separate(&path)?,
        }
        place.forget();
        Ok(())
    }

    fn unplug(&self, disk: ScsiDevice) -> Result<()> {
        let uses = |place: &Place| match place {
            Place::Device(Attached { disk: used, tree, .. }) => [used, tree].contains(&&Some(disk)),
            _ => false,
        };
        if let Some(path) = self.places.find(uses) {
            let (controller, lun) = (disk.controller, disk.lun);
            let path = path.display();
            let message =
                format!("the disk at controller {controller} LUN {lun} is still in use at {path}");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        self.devices.unplug(disk)
    }

    /// Undoes everything, as far as it can be undone: the machine goes down.
    pub(crate) fn remove_all(&self) {
        for resource in ["CombinedLayers", "MappedVirtualDisk", "VPMemDevice", "MappedDirectory"] {
            for path in self.places.paths() {
                if let Some(path) = path.to_str() {
                    // What is of another kind, or still in use, stays.
                    let _ = self.remove(path, resource);
                }
            }
        }
    }
}

impl Attached {
    fn detach(&mut self, path: &Path) -> Result<()> {
        if self.is_link {
            match std::fs::symlink_metadata(path) {
                Ok(metadata) if metadata.is_symlink() => {
                    std::fs::remove_file(path).map_err(|error| {
                        Error::failed(format!("removing {}", path.display()), error)
                    })?
                }
                // Somebody has put something else there, or nothing: it is not ours.
                _ => {}
            }
        } else {
            unmount(path)?;
        }
        self.stack.close()?;
        self.made.remove();
        Ok(())
    }
}

/// Mounts something new at `path` by `mount`; on failure the directories go again.
fn put(path: &Path, made: &mut MadeDirectories, mount: impl FnOnce() -> Result<()>) -> Result<()> {
    if is_mount_point(path)? {
        let message = format!("{}: something is mounted there already", path.display());
        return Err(Error::new(ErrorKind::Busy, message));
    }
    let outcome = made.make(path, 0o700).and_then(|()| mount());
    if outcome.is_err() {
        made.remove();
    }
    outcome
}

fn link(device: &Path, path: &Path, made: &mut MadeDirectories) -> Result<()> {
    let parent: PathBuf = path.parent().map(Path::to_owned).unwrap_or_default();
    let outcome = made.make(&parent, 0o755).and_then(|()| {
        std::os::unix::fs::symlink(device, path)
            .map_err(|error| Error::failed(format!("making the link {}", path.display()), error))
    });
    if outcome.is_err() {
        made.remove();
    }
    outcome
}

fn unmount(path: &Path) -> Result<()> {
    match sys::unmount(path) {
        Ok(()) => Ok(()),
        // Somebody has unmounted it already.
        Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        Err(error) => Err(Error::failed(format!("unmounting {}", path.display()), error)),
    }
}
