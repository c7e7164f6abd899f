//! Looking at folders and making them, beside what the container interfaces do.

use std::fs;
use std::io::{self, ErrorKind as IoKind};
use std::path::PathBuf;

use super::WindowsPath;
use crate::{Error, Result};

/// The folders of a Windows host, or, to test what is done to them on any host, those below a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    below: Option<PathBuf>,
}

/// What a path is, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// Nothing is there.
    Absent,
    /// A folder with nothing in it.
    EmptyDirectory,
    /// A folder.
    Directory,
    /// A symbolic link, a junction or a mount point.
    Link,
    /// A file.
    File,
}

impl Folders {
    /// Those of this host.
    pub fn of_host() -> Self {
        Self::default()
    }

    /// Those below `directory`: `C:\a\b` is `directory/C/a/b`.
    pub fn below(directory: impl Into<PathBuf>) -> Self {
        Self { below: Some(directory.into()) }
    }

    /// The path as this host's own functions take it.
    pub fn path(&self, path: &WindowsPath) -> PathBuf {
        match &self.below {
            None => PathBuf::from(path.to_string()),
            Some(directory) => {
                let verbatim = path.verbatim();
                let parts = verbatim.split('\\').map(|part| part.trim_end_matches(':'));
                parts
                    .filter(|part| !matches!(*part, "" | "?"))
                    .fold(directory.clone(), |path, part| path.join(part))
            }
        }
    }

    /// What is there.
    ///
    /// # Errors
    /// What the host says.
    pub fn kind(&self, path: &WindowsPath) -> Result<PathKind> {
        let doing = |error| Error::io(format!("cannot look at {path}"), error);
        let host_path = self.path(path);
        let metadata = match fs::symlink_metadata(&host_path) {
            Ok(metadata) => metadata,
            Err(error) if is_absent(&error) => return Ok(PathKind::Absent),
            Err(error) => return Err(doing(error)),
        };
        if metadata.is_symlink() {
            return Ok(PathKind::Link);
        }
        if !metadata.is_dir() {
            return Ok(PathKind::File);
        }
        match fs::read_dir(&host_path).map_err(doing)?.next() {
            None => Ok(PathKind::EmptyDirectory),
            Some(_) => Ok(PathKind::Directory),
        }
    }

    /// The path without links on the way, of something that exists. Below a directory links are not followed.
    ///
    /// # Errors
    /// What the host says, `NotFound` above all.
    pub fn resolve(&self, path: &WindowsPath) -> Result<WindowsPath> {
        let failed = |error| Error::io(format!("cannot find {path}"), error);
        if self.below.is_some() {
            return fs::symlink_metadata(self.path(path)).map(|_| path.clone()).map_err(failed);
        }
        let found = fs::canonicalize(self.path(path)).map_err(failed)?;
        WindowsPath::from_os(found.as_os_str())
    }

    /// The text of a file; `None` if there is none.
    ///
    /// # Errors
    /// What the host says; `Invalid` of text that is not UTF-8.
    pub fn read(&self, path: &WindowsPath) -> Result<Option<String>> {
        match fs::read_to_string(self.path(path)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::io(format!("cannot read {path}"), error)),
        }
    }

    /// Makes a folder, and those above it; returns those made, the uppermost first.
    ///
    /// # Errors
    /// What the host says; what was made is removed again then.
    pub fn make(&self, path: &WindowsPath) -> Result<Vec<WindowsPath>> {
        let mut missing = Vec::new();
        let mut next = Some(path.clone());
        while let Some(here) = next {
            // A link on the way is followed by the host.
            if self.path(&here).is_dir() {
                break;
            }
            next = here.parent();
            missing.push(here);
        }
        let mut made = Vec::new();
        for here in missing.into_iter().rev() {
            match fs::create_dir(self.path(&here)) {
                Ok(()) => made.push(here),
                Err(error)
                    if error.kind() == IoKind::AlreadyExists && self.path(&here).is_dir() => {}
                Err(error) => {
                    self.remove_all(&made);
                    return Err(Error::io(format!("cannot make the folder {here}"), error));
                }
            }
        }
        Ok(made)
    }

    /// Removes folders that were made, the last first, as far as they are empty.
    pub fn remove_all(&self, made: &[WindowsPath]) {
        for here in made.iter().rev() {
            // Somebody has put something into it: then it is theirs.
            let _ = fs::remove_dir(self.path(here));
        }
    }

    /// Removes an empty folder; one that is not there is removed already.
    ///
    /// # Errors
    /// What the host says, above all of a folder that is not empty.
    pub fn remove(&self, path: &WindowsPath) -> Result<()> {
        match fs::remove_dir(self.path(path)) {
            Err(error) if !is_absent(&error) => {
                Err(Error::io(format!("cannot remove the folder {path}"), error))
            }
            _ => Ok(()),
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), IoKind::NotFound | IoKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_seen_made_and_removed_as_far_as_they_are_ours() {
        let directory = tempfile::tempdir().unwrap();
        let folders = Folders::below(directory.path());
        let path = |text| WindowsPath::parse(text).unwrap();
        assert_eq!(folders.path(&path(r"c:\a\b")), directory.path().join("C/a/b"));
        let made = folders.make(&path(r"C:\a\b\c")).unwrap();
        assert_eq!(made, [path(r"C:\"), path(r"C:\a"), path(r"C:\a\b"), path(r"C:\a\b\c")]);
        assert!(folders.make(&path(r"C:\a\b")).unwrap().is_empty());
        assert_eq!(folders.kind(&path(r"C:\a\b\c")).unwrap(), PathKind::EmptyDirectory);
        assert_eq!(folders.kind(&path(r"C:\a\b")).unwrap(), PathKind::Directory);
        assert_eq!(folders.kind(&path(r"C:\x")).unwrap(), PathKind::Absent);
        fs::write(directory.path().join("C/a/file"), "text").unwrap();
        assert_eq!(folders.kind(&path(r"C:\a\file")).unwrap(), PathKind::File);
        assert_eq!(folders.kind(&path(r"C:\a\file\x")).unwrap(), PathKind::Absent);
        assert_eq!(folders.read(&path(r"C:\a\file")).unwrap().as_deref(), Some("text"));
        assert_eq!(folders.read(&path(r"C:\a\x")).unwrap(), None);
        assert!(folders.make(&path(r"C:\a\file\x")).is_err());
        assert!(folders.remove(&path(r"C:\a")).is_err(), "it is not empty");
        folders.remove_all(&made);
        assert_eq!(folders.kind(&path(r"C:\a\b")).unwrap(), PathKind::Absent);
        assert_eq!(folders.kind(&path(r"C:\a")).unwrap(), PathKind::Directory, "a file is in it");
        folders.remove(&path(r"C:\a\b")).unwrap();
    }
}
