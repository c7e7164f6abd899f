//! CIM volumes of a Linux host: the same account, over mounts of this host.

use std::path::{Path, PathBuf};

use cimfs::{DirectorySet, Image};
use layer::Cancel;
use layer::cim_view::view_of;
use sys::windows::Guid;

use super::cim_volumes::{CimHost, CimLocation};
use crate::{CimFiles, CimOptions, Error, ErrorKind, Holder, HolderKind, Registry, Result};

/// Threads that answer for one CIM.
const THREADS: usize = 2;

/// How a CIM gets to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CimDriver {
    /// Through a view, an EROFS image kept in this directory whose files are the CIM's.
    View(PathBuf),
    /// By FUSE, from threads of this process, with whose death the volumes end.
    Fuse,
}

/// CIMs mounted below `<run>/c`, each in a directory with its volume's GUID for a name.
#[derive(Debug)]
pub struct LinuxCims {
    registry: Registry,
    driver: CimDriver,
}

impl LinuxCims {
    /// Volumes in the run directory of `registry`.
    pub fn new(registry: Registry, driver: CimDriver) -> Self {
        Self { registry, driver }
    }

    /// The registry that performs the mounts.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    fn by_view(&self, cim: &Path, views: &Path, target: &Path, holder: &Holder) -> Result<()> {
        let view = view_of(cim, views, &Cancel::new()).map_err(|error| {
            let kind = match error.kind() {
                layer::ErrorKind::Unsupported | layer::ErrorKind::TooLarge => {
                    ErrorKind::NotSupported
                }
                layer::ErrorKind::Invalid => ErrorKind::Invalid,
                layer::ErrorKind::Corrupt => ErrorKind::Corrupt,
                _ => ErrorKind::Io,
            };
            Error::caused(kind, format!("cannot make a view of {}", cim.display()), error)
        })?;
        self.registry.mount_view(cim, &view.path, &view.devices, target, holder)
    }

    fn by_fuse(&self, cim: &Path, target: &Path, holder: &Holder) -> Result<()> {
        let failed = |error: cimfs::Error| {
            Error::caused(ErrorKind::Corrupt, format!("cannot open {}", cim.display()), error)
        };
        let (Some(directory), Some(name)) =
            (cim.parent(), cim.file_name().and_then(|name| name.to_str()))
        else {
            return Err(Error::new(ErrorKind::Invalid, format!("{} is no file", cim.display())));
        };
        let image = Image::open(&DirectorySet::new(directory), name).map_err(failed)?;
        let files = CimFiles::new(image, CimOptions::default()).with_mapped_regions();
        self.registry.mount_fuse(cim, target, holder, |device| {
            std::thread::Builder::new()
                .name("cim-volume".to_owned())
                // It ends when the volume is unmounted; an error ends the volume, which is what its users see.
                .spawn(move || sys::serve_fuse(device, files, THREADS))
                .map_err(|error| Error::io("cannot start the thread that serves a CIM", error))?;
            crate::this_process()
        })
    }
}

impl CimHost for LinuxCims {
    fn locate(&self, cim: &Path) -> Result<CimLocation> {
        let absolute = cim
            .canonicalize()
            .map_err(|error| Error::io(format!("cannot find the CIM {}", cim.display()), error))?;
        let path = absolute.to_str().map(str::to_owned).ok_or_else(|| {
            let message = format!("the path of the CIM {} is not Unicode", cim.display());
            Error::new(ErrorKind::Invalid, message)
        })?;
        Ok(CimLocation { key: path.clone(), path })
    }

    fn volume_path(&self, guid: Guid) -> PathBuf {
        self.registry.run_dir().join("c").join(guid.to_string())
    }

    fn is_mounted(&self, guid: Guid) -> Result<bool> {
        let table = sys::MountTable::read()
            .map_err(|error| Error::sys("cannot read the mount table", error))?;
        Ok(table.at(&self.volume_path(guid)).is_some())
    }

    fn mount(&self, cim: &CimLocation, guid: Guid) -> Result<()> {
        let target = self.volume_path(guid);
        std::fs::create_dir_all(&target)
            .map_err(|error| Error::io(format!("cannot make {}", target.display()), error))?;
        let holder = Holder::new(HolderKind::User, target.to_string_lossy());
        let path = Path::new(&cim.path);
        let mounted = match &self.driver {
            CimDriver::View(views) => self.by_view(path, views, &target, &holder),
            CimDriver::Fuse => self.by_fuse(path, &target, &holder),
        };
        if mounted.is_err() {
            // Only an empty directory goes.
            let _ = std::fs::remove_dir(&target);
        }
        mounted
    }

    fn dismount(&self, guid: Guid) -> Result<bool> {
        let target = self.volume_path(guid);
        let mut there = self.registry.unmount(&target)?;
        // The registry's journal may be lost; what has this name is the volume all the same.
        while self.is_mounted(guid)? {
            sys::unmount(&target).map_err(|error| {
                Error::sys(format!("cannot unmount {}", target.display()), error)
            })?;
            there = true;
        }
        let _ = std::fs::remove_dir(&target);
        Ok(there)
    }
}
