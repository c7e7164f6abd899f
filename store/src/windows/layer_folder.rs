//! Layer folders: what a Windows layer's tar is unpacked into, and packed from again (windows-layer-tar.md 4.6, 8, 10, 11).
//!
//! ```text
//!  base:    tar ─▶ files in the folder, by BackupWrite ─▶ ProcessBaseImage ─▶ ProcessUtilityImage
//!  others:  tar ─▶ a temporary directory: attributes and backup stream of each ─▶ ImportLayer ─▶ deletions ─▶ hard links ─▶ times
//!  back:    ActivateLayer, PrepareLayer, UnprepareLayer, ExportLayer, DeactivateLayer ─▶ that directory ─▶ tar
//! ```
//!
//! **Never run on a real HCS host.**

mod base;
mod exported;
mod legacy;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cimfs::{FileTime, ImagePath};
use layer::windows::{FolderBasics, FolderTar, WindowsLayerTar, unpack_windows_layer};
use layer::{Cancel, LayerBlob, LayerOptions, Progress};
use sys::windows::{BackedUpFile, BasicInfo, Host, LayerDescriptor, Privilege};

use crate::error::{Error, Result};

use base::BaseFolder;
use legacy::LegacyFolder;

/// `FILE_ATTRIBUTE_REPARSE_POINT`
const REPARSE_POINT: u32 = 0x400;
/// `FILE_ATTRIBUTE_DIRECTORY`
const DIRECTORY: u32 = 0x10;

/// Ends the name of the file beside an exported directory that has its metadata.
const DIRECTORY_SUFFIX: &str = ".$wcidirs$";
/// The list of what an exported layer deletes.
const TOMBSTONES: &str = "tombstones.txt";
/// Names in a temporary directory.
const IMPORT: &str = "import";
const EXPORT: &str = "export";

/// Makes a layer folder of a Windows layer's blob: a base layer without `parents`, which come topmost first. The folder
/// must not be there yet, or be empty; `temporary` is a directory of the same volume that is removed by the caller.
///
/// Layers that change their utility virtual machine are not done.
///
/// # Errors
/// `FailedPrecondition` if the folder has something in it; those of [`unpack_windows_layer`]; what Windows says. The
/// folder is empty again then.
#[expect(clippy::too_many_arguments, reason = "a blob, where it goes, and how")]
pub fn import_layer_folder(
    host: &dyn Host,
    source: impl Read + Send,
    folder: &Path,
    parents: &[PathBuf],
    temporary: &Path,
    options: &LayerOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<LayerBlob> {
    let doing = || format!("making the layer folder {}", folder.display());
    match fs::read_dir(folder).map(|mut names| names.next().is_none()) {
        Ok(true) => {}
        Ok(false) => {
            return Err(Error::precondition(format!("{} is not empty", folder.display())));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir(folder).map_err(|error| Error::io(doing(), error))?;
        }
        Err(error) => return Err(Error::io(doing(), error)),
    }
    enable(host, &[Privilege::BACKUP, Privilege::RESTORE, Privilege::SECURITY])?;
    let parents = descriptors(host, parents)?;
    let made = match parents.is_empty() {
        true => {
            let mut base = BaseFolder::new(host, folder);
            unpack_windows_layer(source, &mut base, true, options, progress, cancel)
                .and_then(|blob| base.process().map(|()| blob))
        }
        false => {
            let import = temporary.join(IMPORT);
            fs::create_dir(&import).map_err(|error| Error::io(doing(), error))?;
            let mut legacy = LegacyFolder::new(host, &import);
            unpack_windows_layer(source, &mut legacy, false, options, progress, cancel)
                .and_then(|blob| legacy.process(folder, &parents).map(|()| blob))
        }
    };
    made.map_err(|source| {
        let error = Error::layer(doing(), source);
        match emptied(host, folder) {
            Ok(()) => error,
            Err(left) => error.and(&left),
        }
    })
}

/// Removes what was made in a layer folder, but not the folder.
fn emptied(host: &dyn Host, folder: &Path) -> Result<()> {
    let doing = || format!("emptying {}", folder.display());
    if fs::read_dir(folder).is_ok_and(|mut names| names.next().is_none()) {
        return Ok(());
    }
    // There may be files that only Windows' own function can remove.
    let destroyed = host.destroy_layer(folder);
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(match destroyed {
                Err(destroyed) => Error::windows(doing(), destroyed),
                Ok(()) => Error::io(doing(), error),
            });
        }
        _ => {}
    }
    fs::create_dir(folder).map_err(|error| Error::io(doing(), error))
}

/// Writes a layer folder as a tar. `parents` come topmost first; without them it is a base layer, and all of it is
/// written. `temporary` is a directory that is removed by the caller.
///
/// # Errors
/// What Windows says; `Corrupt` for what it exports that makes no sense; those of writing.
pub fn export_layer_folder(
    host: &dyn Host,
    folder: &Path,
    parents: &[PathBuf],
    temporary: &Path,
    output: impl Write,
    cancel: &Cancel,
) -> Result<WindowsLayerTar> {
    let doing = || format!("exporting the layer folder {}", folder.display());
    enable(host, &[Privilege::BACKUP, Privilege::RESTORE, Privilege::SECURITY])?;
    let parents = descriptors(host, parents)?;
    let mut tar = FolderTar::new(output);
    let written = match parents.is_empty() {
        true => base::export(host, folder, &mut tar, cancel),
        false => {
            let export = temporary.join(EXPORT);
            fs::create_dir(&export).map_err(|error| Error::io(doing(), error))?;
            super::commit::export(host, folder, &export, &parents)
                .map_err(|error| Error::windows(doing(), error))?;
            exported::write(host, &export, &mut tar, cancel)
        }
    };
    written.and_then(|()| tar.finish()).map_err(|source| Error::layer(doing(), source))
}

fn enable(host: &dyn Host, privileges: &[&str]) -> Result<()> {
    host.enable_privileges(privileges)
        .map_err(|error| Error::windows("getting the right to write layers", error))
}

fn descriptors(host: &dyn Host, folders: &[PathBuf]) -> Result<Vec<LayerDescriptor>> {
    let describe = |folder: &PathBuf| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let id = host.name_to_guid(&name).map_err(|error| {
            Error::windows(format!("looking up layer {}", folder.display()), error)
        })?;
        Ok(LayerDescriptor { id, path: folder.clone(), flags: 0 })
    };
    folders.iter().map(describe).collect()
}

/// Where something of a layer is.
fn place(root: &Path, path: &ImagePath) -> layer::Result<PathBuf> {
    path.names().iter().try_fold(root.to_owned(), |place, name| {
        let text = name.to_text().ok_or_else(|| {
            let what = format!("{path}: half a surrogate pair in a name");
            layer::Error::outside(layer::ErrorKind::Unsupported, what, "it is no Unicode text")
        })?;
        Ok(place.join(text))
    })
}

fn basic_info(basics: &FolderBasics) -> BasicInfo {
    BasicInfo {
        creation_time: basics.creation_time.0,
        last_access_time: basics.last_access_time.0,
        last_write_time: basics.last_write_time.0,
        change_time: basics.change_time.0,
        attributes: basics.attributes,
    }
}

fn basics(info: &BasicInfo) -> FolderBasics {
    FolderBasics {
        attributes: info.attributes,
        creation_time: FileTime(info.creation_time),
        last_access_time: FileTime(info.last_access_time),
        last_write_time: FileTime(info.last_write_time),
        change_time: FileTime(info.change_time),
    }
}

/// A failure of Windows' while a layer is read or written.
fn told(doing: &str, path: &Path, error: sys::windows::Error) -> layer::Error {
    let what = format!("cannot {doing} {}", path.display());
    layer::Error::outside(layer::ErrorKind::Io, what, error)
}

fn failed(doing: &str, path: &Path, error: io::Error) -> layer::Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => layer::ErrorKind::NoSpace,
        _ => layer::ErrorKind::Io,
    };
    layer::Error::outside(kind, format!("cannot {doing} {}", path.display()), error)
}

fn corrupt(what: impl Into<String>) -> layer::Error {
    layer::Error::outside(layer::ErrorKind::Corrupt, "what Windows exported", what.into())
}

/// A backup stream as a reader.
struct Stream(Box<dyn BackedUpFile>);

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(io::Error::other)
    }
}

/// The names in a directory, in the order of their bytes.
fn names(directory: &Path) -> layer::Result<Vec<String>> {
    let reading = |error| failed("read", directory, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(reading)? {
        let name = entry.map_err(reading)?.file_name();
        names.push(name.into_string().map_err(|name| {
            let what = format!("{}: half a surrogate pair in a name", name.display());
            layer::Error::outside(layer::ErrorKind::Unsupported, what, "it is no Unicode text")
        })?);
    }
    names.sort();
    Ok(names)
}

/// Whether something of the layer is in, or is, the tree of that name.
fn is_in(path: &ImagePath, tree: &str) -> bool {
    let first = path.names().first().and_then(|name| name.to_text());
    first.is_some_and(|first| first.eq_ignore_ascii_case(tree))
}

/// What Windows exports but is no part of a layer.
fn is_recycle_bin(path: &str) -> bool {
    path.eq_ignore_ascii_case("Files/$Recycle.Bin")
}

fn unsupported(what: &str, why: &'static str) -> layer::Error {
    layer::Error::outside(layer::ErrorKind::Unsupported, what, why)
}

impl Error {
    /// This error, with what also failed while it was dealt with.
    fn and(self, left: &Self) -> Self {
        let kind = self.kind();
        let message = format!("{self}; and what it left stays: {left}");
        Self::caused(kind, message, self)
    }
}
