//! What an image has where a container gets a volume: copied to the volume first.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use layer::Cancel;
use mount::windows::{PathKind, WindowsLayer, WindowsPath};

use super::layers::{WcowLayers, block_cim, path};
use super::mount::WcowHost;
use crate::error::{Error, ErrorKind, Result};

/// Folders within folders that are copied at most.
const DEEPEST: usize = 128;

/// Copies what an image has at its volumes to folders of the host: `volumes` are pairs of a path in the image
/// (`/data` is `C:\data`) and a folder, which is made if it is missing. A path that the image does not have is an empty
/// volume. The layers are mounted for the time of copying, and released after it, whatever comes of it: folders with the
/// scratch that is given, of CIMs the topmost alone, which shows all of the image and takes no scratch.
///
/// Files and folders are copied with what the host's own copying keeps; links are not followed, and are left out.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) for a volume on another drive and for one that is a file in the image;
/// [`FailedPrecondition`](ErrorKind::FailedPrecondition) for a folder that has something in it;
/// [`NotSupported`](ErrorKind::NotSupported) for block CIMs; what mounting, copying and releasing say.
pub fn copy_image_volumes(
    host: &Arc<WcowHost>,
    id: &str,
    layers: &WcowLayers,
    volumes: &[(String, WindowsPath)],
    cancel: &Cancel,
) -> Result<()> {
    let folders = host.layers.folders();
    let mut wanted = Vec::new();
    for (volume, folder) in volumes {
        wanted.push((in_image(volume)?, folder));
        let kind =
            folders.kind(folder).map_err(|error| Error::mount("cannot use a volume", error))?;
        if !matches!(kind, PathKind::Absent | PathKind::EmptyDirectory) {
            return Err(Error::precondition(format!("the volume {folder} is not an empty folder")));
        }
    }
    let copy = |root: &str| {
        let root = path(root)?;
        wanted
            .iter()
            .try_for_each(|(names, folder)| copy_volume(host, &root, names, folder, cancel))
    };
    let mounting = |error| Error::mount("cannot mount the image for its volumes", error);
    let releasing = |error| Error::mount("cannot undo the mount of the image", error);
    let (copied, released) = match layers {
        WcowLayers::Wcifs { scratch, parents } => {
            super::mount::ensure_scratch(host, scratch, parents)?;
            let (scratch, parents) = (scratch.clone(), parents.clone());
            let layer = WindowsLayer { scratch, parents, read_only: true };
            let attached = host.layers.attach(&layer, id, cancel).map_err(mounting)?;
            let copied = copy(&format!(r"{}\", attached.volume));
            (copied, host.layers.detach(&layer.scratch).map(drop).map_err(releasing))
        }
        WcowLayers::ForkedCim { parents, .. } => {
            let Some((_, cim)) = parents.first() else {
                return Err(Error::invalid("an image on CIMs has at least one layer"));
            };
            let cim = cim.to_string();
            let volume = host.cims.mount_cim_layer(Path::new(&cim), id).map_err(mounting)?;
            let copied = copy(&format!("{}Files", volume.path.display()));
            let released = host.cims.unmount_cim_layer(Path::new(&cim), id);
            (copied, released.map(drop).map_err(releasing))
        }
        WcowLayers::BlockCim => return Err(block_cim()),
    };
    match (copied, released) {
        (Err(error), released) => {
            Err(error.and("while undoing it", released.err().into_iter().collect()))
        }
        (Ok(()), released) => released,
    }
}

/// The names on the way to a volume in an image.
fn in_image(volume: &str) -> Result<Vec<String>> {
    let rooted = volume.starts_with(['/', '\\']);
    let full = if rooted { format!("C:{volume}") } else { volume.to_owned() };
    let path = path(&full)?;
    let shown = path.to_string();
    match shown.strip_prefix(r"C:\") {
        Some(rest) if !rest.is_empty() => Ok(rest.split('\\').map(str::to_owned).collect()),
        _ => Err(Error::invalid(format!("an image has no volume at {shown}"))),
    }
}

fn copy_volume(
    host: &WcowHost,
    root: &WindowsPath,
    names: &[String],
    folder: &WindowsPath,
    cancel: &Cancel,
) -> Result<()> {
    let folders = host.layers.folders();
    let failed = |error| Error::mount(format!("cannot fill the volume {folder}"), error);
    folders.make(folder).map_err(failed)?;
    let mut source = root.clone();
    for name in names {
        source = source.join(name).map_err(failed)?;
        match folders.kind(&source).map_err(failed)? {
            PathKind::Absent => return Ok(()),
            PathKind::Directory | PathKind::EmptyDirectory => {}
            PathKind::File | PathKind::Link => {
                return Err(Error::invalid(format!("{source} of the image is no folder")));
            }
        }
    }
    copy(&folders.path(&source), &folders.path(folder), cancel, 0)
}

fn copy(from: &Path, to: &Path, cancel: &Cancel, depth: usize) -> Result<()> {
    let failed =
        |error| Error::io(format!("cannot copy {} to {}", from.display(), to.display()), error);
    if depth > DEEPEST {
        let message =
            format!("{} has more than {DEEPEST} folders within each other", from.display());
        return Err(Error::invalid(message));
    }
    for entry in fs::read_dir(from).map_err(failed)? {
        if cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Timeout, "cancelled while copying volumes"));
        }
        let entry = entry.map_err(failed)?;
        let target = to.join(entry.file_name());
        // Of the link itself, where it is one.
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            fs::create_dir(&target).map_err(failed)?;
            copy(&entry.path(), &target, cancel, depth + 1)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target).map_err(failed)?;
        }
    }
    Ok(())
}
