//! A scratch disk attached, with the Windows filter on it: the steps, without an account of them.
//!
//! ```text
//!  NameToGuid of each parent ─▶ ActivateLayer ─▶ PrepareLayer ─▶ GetLayerMountPath
//!                                   ▲ └─ again ──── │ failed: DeactivateLayer
//!                                   └───────────────┘              failed: UnprepareLayer, DeactivateLayer
//! ```
//!
//! Written from hcs-layers.md 1.3, with two differences: the GUIDs are asked for before anything is attached, and a
//! disk that does not detach between two tries ends them, because the next would start on an attached disk.

use std::path::{Path, PathBuf};

use layer::Cancel;
use sys::windows::{Guid, Host, LayerDescriptor};

use super::retry::check;
use super::step::{failed, is_gone};
use super::{Retry, WindowsLayer, WindowsPath};
use crate::{Error, ErrorKind, Result};

/// A scratch whose volume is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedLayer {
    /// Its volume, `\\?\Volume{guid}`, without a backslash at the end.
    pub volume: String,
    /// The read-only layers below it with their GUIDs, topmost first; none if the filter was not attached.
    pub parents: Vec<(Guid, WindowsPath)>,
}

/// The GUID that Windows gives the layer in that folder: that of its last name.
///
/// # Errors
/// `Invalid` of a root; what Windows says.
pub fn layer_id(host: &dyn Host, folder: &WindowsPath) -> Result<Guid> {
    let Some(name) = folder.file_name() else {
        let message = format!("{folder} is a root, and no layer's folder");
        return Err(Error::new(ErrorKind::Invalid, message));
    };
    host.name_to_guid(name).map_err(|error| failed("find the identity of the layer", folder, error))
}

/// Attaches the scratch and the filter over its parents. After an error nothing is attached, as far as that could be
/// undone; the error says what could not.
pub(super) fn attach(
    host: &dyn Host,
    layer: &WindowsLayer,
    retry: &Retry,
    cancel: &Cancel,
) -> Result<AttachedLayer> {
    layer.check()?;
    let parents = identified(host, &layer.parents)?;
    let descriptors: Vec<LayerDescriptor> = parents
        .iter()
        .map(|(id, path)| LayerDescriptor { id: *id, path: native(path), flags: 0 })
        .collect();
    let scratch = native(&layer.scratch);
    try_repeatedly(&layer.scratch, retry, cancel, || {
        host.activate_layer(&scratch)
            .map_err(|error| Failed::step("attach the scratch of", error))?;
        host.prepare_layer(&scratch, &descriptors).map_err(|error| {
            let undo =
                undone("detach the scratch of", &layer.scratch, host.deactivate_layer(&scratch));
            Failed { doing: "attach the filter to", error, undo }
        })
    })?;
    match mount_path(host, &layer.scratch) {
        Ok(volume) => Ok(AttachedLayer { volume, parents }),
        Err(error) => Err(error.and(detach(host, &layer.scratch, true))),
    }
}

/// Attaches the scratch without a filter.
pub(super) fn attach_scratch(
    host: &dyn Host,
    folder: &WindowsPath,
    retry: &Retry,
    cancel: &Cancel,
) -> Result<AttachedLayer> {
    let scratch = native(folder);
    try_repeatedly(folder, retry, cancel, || {
        host.activate_layer(&scratch).map_err(|error| Failed::step("attach the scratch of", error))
    })?;
    match mount_path(host, folder) {
        Ok(volume) => Ok(AttachedLayer { volume, parents: Vec::new() }),
        Err(error) => Err(error.and(detach(host, folder, false))),
    }
}

/// Detaches what [`attach`] attached: the filter if there is one, then the disk. Both are tried; what is gone already
/// is as good as detached.
pub(super) fn detach(host: &dyn Host, folder: &WindowsPath, filter: bool) -> Vec<Error> {
    let scratch = native(folder);
    let mut errors = Vec::new();
    if filter {
        errors.extend(undone("detach the filter from", folder, host.unprepare_layer(&scratch)));
    }
    errors.extend(undone("detach the scratch of", folder, host.deactivate_layer(&scratch)));
    errors
}

/// The GUIDs of read-only layers.
pub(super) fn identified(
    host: &dyn Host,
    folders: &[WindowsPath],
) -> Result<Vec<(Guid, WindowsPath)>> {
    folders.iter().map(|folder| Ok((layer_id(host, folder)?, folder.clone()))).collect()
}

/// The volume of an attached scratch, without the backslash that it may have.
pub(super) fn mount_path(host: &dyn Host, folder: &WindowsPath) -> Result<String> {
    let path = host
        .layer_mount_path(&native(folder))
        .map_err(|error| failed("find the volume of the layer", folder, error))?;
    let volume = path.trim_end_matches('\\');
    if volume.is_empty() {
        let message = format!("the layer {folder} has no volume");
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    Ok(volume.to_owned())
}

/// A Windows path as an argument.
pub(super) fn native(path: &WindowsPath) -> PathBuf {
    Path::new(&path.to_string()).to_owned()
}

/// One try that failed, and what of it could not be undone.
struct Failed {
    doing: &'static str,
    error: sys::windows::Error,
    undo: Option<Error>,
}

impl Failed {
    fn step(doing: &'static str, error: sys::windows::Error) -> Self {
        Self { doing, error, undo: None }
    }
}

fn try_repeatedly(
    folder: &WindowsPath,
    retry: &Retry,
    cancel: &Cancel,
    mut attempt: impl FnMut() -> Result<(), Failed>,
) -> Result<()> {
    let mut tried = 0;
    loop {
        check(cancel)?;
        let Err(Failed { doing, error, undo }) = attempt() else { return Ok(()) };
        tried += 1;
        let again = undo.is_none() && retry.again(tried, error.code().retry_class());
        let subject = match tried {
            1 => folder.to_string(),
            _ => format!("{folder} in {tried} tries"),
        };
        let error = failed(doing, subject, error);
        if !again {
            return Err(error.and(undo.into_iter().collect()));
        }
        if retry.wait(tried, cancel).is_err() {
            return Err(Error::caused(
                ErrorKind::Cancelled,
                format!("cancelled while waiting to try again with {folder}"),
                error,
            ));
        }
    }
}

fn undone(doing: &str, folder: &WindowsPath, result: sys::windows::Result<()>) -> Option<Error> {
    result.err().filter(|error| !is_gone(error)).map(|error| failed(doing, folder, error))
}
