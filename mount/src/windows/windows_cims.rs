//! CIM volumes of a Windows host.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sys::windows::{CimMountFlags, Guid, Host};

use super::WindowsPath;
use super::attached_layer::native;
use super::cim_volumes::{CimHost, CimLocation};
use super::step::{failed, is_gone};
use crate::{Error, ErrorKind, Result};

/// `\\?\Volume{guid}\`, as functions want it and hcsshim writes it: the GUID in lower case.
pub fn volume_path(guid: Guid) -> String {
    format!(r"\\?\Volume{{{guid}}}\")
}

/// CIMs mounted by Windows itself, as `\\?\Volume{guid}\`. Never run on a real HCS host.
pub struct WindowsCims {
    host: Arc<dyn Host>,
}

impl WindowsCims {
    /// Those of `host`.
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self { host }
    }
}

impl fmt::Debug for WindowsCims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowsCims").finish_non_exhaustive()
    }
}

impl CimHost for WindowsCims {
    fn locate(&self, cim: &Path) -> Result<CimLocation> {
        let path = WindowsPath::from_os(cim.as_os_str())?;
        if path.is_root() {
            return Err(Error::new(ErrorKind::Invalid, format!("{path} is a root, and no CIM")));
        }
        Ok(CimLocation { path: path.to_string(), key: path.key() })
    }

    fn volume_path(&self, guid: Guid) -> PathBuf {
        volume_path(guid).into()
    }

    fn is_mounted(&self, guid: Guid) -> Result<bool> {
        let path = volume_path(guid);
        let exists = self.host.volume_exists(&path);
        exists.map_err(|error| failed("look for the volume", path, error))
    }

    fn mount(&self, cim: &CimLocation, guid: Guid) -> Result<()> {
        let path = WindowsPath::parse(&cim.path)?;
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::new(ErrorKind::Invalid, format!("{path} is a root, and no CIM")));
        };
        let flags = CimMountFlags::CACHE_FILES;
        let mounted = self.host.mount_image(&native(&directory), name, flags, &guid);
        mounted.map_err(|error| failed(&format!("mount as volume {guid} the CIM"), &path, error))
    }

    fn dismount(&self, guid: Guid) -> Result<bool> {
        match self.host.dismount_image(&guid) {
            Ok(()) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(failed("dismount the volume", volume_path(guid), error)),
        }
    }
}
