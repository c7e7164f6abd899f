//! Staging directories: where files grow before the store takes them, without the store being open.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sys::file::{Acquired, Lock};

use crate::cim::CimFile;
use crate::error::{Error, ErrorKind, Result};
use crate::layers::{Layer, LayerId};
use crate::layout::{Layout, REMOVED};

/// A directory of our own under `staging/`. The lock on its file `claim` says that we live; a sweep removes
/// directories whose claim nobody holds. Dropping it removes the directory.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    claim: Option<Lock>,
}

const CLAIM: &str = "claim";
const PINS: &str = "pins";
/// Where CIMs grow, beside those that they are forked from.
pub(crate) const CIMS: &str = "cims";

impl Staging {
    /// Makes a staging directory in the store at `root`, which must exist but need not be open.
    ///
    /// # Errors
    /// `NotFound` if there is no store, `ReadOnly`, `NoSpace`, `Io`.
    pub fn new(root: &Path) -> Result<Self> {
        let staging = Layout::new(root).staging();
        let doing = || format!("making a staging directory in {}", staging.display());
        // A sweep that runs between our mkdir (or in the middle of it) and our lock may take the directory away; then we
        // try another.
        for _ in 0..64 {
            let name = sys::file::random_name(8).map_err(|source| Error::sys(doing(), source))?;
            let path = staging.join(name);
            match sys::file::create_directory(&path, 0o700) {
                Ok(()) => {}
                Err(error)
                    if error.io_kind() == std::io::ErrorKind::NotFound && staging.is_dir() =>
                {
                    continue;
                }
                Err(error) => return Err(Error::sys(doing(), error)),
            }
            let claim = path.join(CLAIM);
            match Lock::acquire(&claim, Duration::ZERO) {
                Ok(Acquired::Held(lock)) if lock.is_at(&claim) => {
                    return Ok(Self { path, claim: Some(lock) });
                }
                Ok(_) => {}
                Err(error) if error.io_kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    drop(sys::file::remove_tree(&path));
                    return Err(Error::sys(doing(), error));
                }
            }
        }
        Err(Error::new(
            ErrorKind::Io,
            format!("{}: every new directory was swept away at once", staging.display()),
        ))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a file in it, readable and writable.
    ///
    /// # Errors
    /// `Invalid` for a name that is not a plain file name, `AlreadyExists`, `NoSpace`, `Io`.
    pub fn create(&self, name: &str) -> Result<File> {
        if name.is_empty()
            || name == CLAIM
            || name == PINS
            || name == CIMS
            || name.starts_with('.')
            || name.contains('/')
        {
            return Err(Error::invalid(format!("{name:?} cannot be the name of a staged file")));
        }
        let path = self.path.join(name);
        sys::file::create_new(&path, 0o600).map_err(|source| {
            let doing = format!("creating the staged file {}", path.display());
            match source.io_kind() {
                std::io::ErrorKind::AlreadyExists => {
                    Error::caused(ErrorKind::AlreadyExists, doing, source)
                }
                _ => Error::sys(doing, source),
            }
        })
    }

    /// The directory in which CIMs grow; not made before [`lend`](Self::lend) or [`make_cims`](Self::make_cims).
    pub fn cims(&self) -> PathBuf {
        self.path.join(CIMS)
    }

    /// Makes the directory in which CIMs grow, if it is not there.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn make_cims(&self) -> Result<PathBuf> {
        let path = self.cims();
        match sys::file::create_directory(&path, 0o700) {
            Err(error) if error.io_kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::sys(format!("making {}", path.display()), error))
            }
            _ => Ok(path),
        }
    }

    /// Shows the files of a CIM of the store among those that grow here, so that it can be forked. They are the same
    /// files and must not be written to.
    ///
    /// # Errors
    /// `NotFound` if one is missing; `NoSpace`, `Io`.
    pub fn lend(&self, layer: &Layer) -> Result<()> {
        let doing = || format!("lending layer {}", layer.id);
        let directory = self.make_cims()?;
        let from = layer.path.parent().unwrap_or(Path::new(""));
        for CimFile { name, .. } in layer.record.cim.iter().flat_map(|parts| &parts.files) {
            match std::fs::hard_link(from.join(name), directory.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::io(doing(), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps a layer that is in the store from a gc of any process for as long as this staging directory lives:
    /// for layers that an import found there and will refer to at its end. Check that the layer is (still) there
    /// after pinning it, not before.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn pin(&self, id: &LayerId) -> Result<()> {
        let pins = self.path.join(PINS);
        let doing = || format!("pinning layer {id}");
        match std::fs::create_dir(&pins) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(doing(), error));
            }
            _ => {}
        }
        match File::create(pins.join(id.file_name())) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::io(doing(), error)),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if sys::file::remove_tree(&self.path).is_err() {
            // Where a file keeps its name for as long as it is open, as on some file systems of Windows. What cannot be
            // removed now is swept at the next open.
            drop(self.claim.take());
            drop(sys::file::remove_tree(&self.path));
        }
    }
}

/// One entry of `staging/`, as a sweep or a gc sees it.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Its owner lives.
    Held,
    /// Nobody owns it; we hold the claim now, so nobody can adopt it.
    Ours(#[expect(dead_code, reason = "held, not looked at")] Lock),
}

/// Looks whether the owner of a staging directory lives. A directory without a claim file is either just being made
/// or half removed; the claim is made for it, so that exactly one of the two sides gets it. `look_only` changes
/// nothing, not even that, and works on a read-only file system.
pub(crate) fn claim(path: &Path, look_only: bool) -> Result<Claim> {
    let file = path.join(CLAIM);
    let acquired = if look_only {
        Lock::acquire_shared(&file, Duration::ZERO)
    } else {
        Lock::acquire(&file, Duration::ZERO)
    };
    match acquired {
        Ok(Acquired::Held(lock)) => Ok(Claim::Ours(lock)),
        Ok(Acquired::Busy(_)) => Ok(Claim::Held),
        Err(error) => {
            Err(Error::sys(format!("looking at the staging directory {}", path.display()), error))
        }
    }
}

/// File names of the layers that living staging directories have pinned.
pub(crate) fn pinned(layout: &Layout) -> Result<std::collections::BTreeSet<String>> {
    let staging = layout.staging();
    let mut names = std::collections::BTreeSet::new();
    for directory in listed(&staging)? {
        if directory.starts_with(REMOVED) {
            continue;
        }
        let pins = staging.join(&directory).join(PINS);
        if pins.is_dir() && matches!(claim(&staging.join(&directory), true), Ok(Claim::Held)) {
            names.extend(listed(&pins)?);
        }
    }
    Ok(names)
}

/// Names in a directory, sorted; none if it is not there. Names that are not UTF-8 are none of ours.
pub(crate) fn listed(directory: &Path) -> Result<Vec<String>> {
    let doing = || format!("listing {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(doing(), error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| Error::io(doing(), source))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}
