//! The note that a daemon leaves in its store about where it answers.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const FILE: &str = "serving.json";

/// Where the daemon that has a store open answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// The daemon's process.
    pub pid: u32,
    /// Its socket.
    #[serde(with = "store::name::path")]
    pub address: PathBuf,
}

/// The note, removed on drop. Only who holds the store's lock writes one.
#[derive(Debug)]
pub(crate) struct Note(PathBuf);

impl Note {
    /// Leaves the note.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn leave(root: &Path, address: &Path) -> Result<Self> {
        let path = root.join(FILE);
        let failed = |error| Error::io(format!("cannot write {}", path.display()), error);
        let address = std::path::absolute(address).map_err(failed)?;
        let note = Serving { pid: std::process::id(), address };
        let text = serde_json::to_vec(&note).map_err(|error| failed(error.into()))?;
        let new = root.join(format!("{FILE}.new"));
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(failed)?;
        Ok(Self(path))
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // One that stays names a process that does not hold the lock any more, and counts for nothing.
        let _ = fs::remove_file(&self.0);
    }
}

/// Where the daemon answers that is process `holder`, which has the store at `root` open.
pub fn serving(root: &Path, holder: u32) -> Option<Serving> {
    let note: Serving = serde_json::from_slice(&fs::read(root.join(FILE)).ok()?).ok()?;
    (note.pid == holder).then_some(note)
}

/// By which a directory is the same under whatever name: volume and number of its file.
pub(super) fn identity(root: &Path) -> Option<(u64, u64)> {
    let root = fs::canonicalize(root).ok()?;
    let (volume, number) = sys::file::identity(&root).ok()?.parts();
    // Longer than half only on ReFS.
    let (high, low) = (number >> 64, number & u128::from(u64::MAX));
    Some((volume, u64::try_from(high ^ low).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_only_for_its_process() {
        let root = tempfile::tempdir().unwrap();
        let us = std::process::id();
        assert_eq!(serving(root.path(), us), None);
        let address = std::path::absolute("/run/x.sock").unwrap();
        let note = Note::leave(root.path(), &address).unwrap();
        let found = Serving { pid: us, address };
        assert_eq!(serving(root.path(), us), Some(found));
        assert_eq!(serving(root.path(), us + 1), None);
        drop(note);
        assert_eq!(serving(root.path(), us), None);
        fs::write(root.path().join(FILE), "{").unwrap();
        assert_eq!(serving(root.path(), us), None);
    }
}
