//! A container's volume at a folder of the host.

use std::path::Path;

use mount::windows::{PathKind, WindowsPath};

use super::mount::WcowHost;
use crate::error::{Error, ErrorKind, Result};

/// A volume that was mounted at a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxVolume {
    /// The folder.
    pub folder: WindowsPath,
    /// The folders that were made for it, the uppermost first; those that were there before are not among them.
    pub made: Vec<WindowsPath>,
}

/// Mounts a volume at a folder, which is made if it is missing. A folder that was there before stays whatever happens:
/// hcsshim deletes it with all that is in it when mounting fails.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) for a file, a link or a folder with something in it; what the host says. What was
/// made is removed then.
pub fn mount_sandbox_volume(
    host: &WcowHost,
    folder: &WindowsPath,
    volume: &str,
) -> Result<SandboxVolume> {
    let folders = host.layers.folders();
    let failed = |error| Error::mount(format!("cannot mount the volume at {folder}"), error);
    let refused = |what: &str| {
        let message = format!("cannot mount the volume at {folder}: {what} is there");
        Err(Error::new(ErrorKind::Invalid, message))
    };
    let made = match folders.kind(folder).map_err(failed)? {
        PathKind::Absent => folders.make(folder).map_err(failed)?,
        PathKind::EmptyDirectory => Vec::new(),
        PathKind::Directory => return refused("a folder that is not empty"),
        PathKind::Link => return refused("a link or another volume"),
        PathKind::File => return refused("a file"),
    };
    let root = format!(r"{}\", volume.trim_end_matches('\\'));
    let path = folder.to_string();
    let mounted = host.host().set_volume_mount_point(Path::new(&path), &root);
    mounted.map_err(|error| {
        folders.remove_all(&made);
        Error::native(format!("cannot mount the volume {root} at {folder}"), error)
    })?;
    Ok(SandboxVolume { folder: folder.clone(), made })
}

/// Ends it, and removes the folders that were made for it as far as they are empty.
///
/// # Errors
///
/// What the host says; the folders stay then, because the volume may be mounted there still.
pub fn remove_sandbox_mount_point(host: &WcowHost, volume: &SandboxVolume) -> Result<()> {
    let path = volume.folder.to_string();
    host.host().delete_volume_mount_point(Path::new(&path)).map_err(|error| {
        Error::native(format!("cannot end the mount of the volume at {path}"), error)
    })?;
    if volume.made.contains(&volume.folder) {
        let folders = host.layers.folders();
        folders
            .remove(&volume.folder)
            .map_err(|error| Error::mount("cannot remove a mount point", error))?;
        folders.remove_all(&volume.made);
    }
    Ok(())
}
