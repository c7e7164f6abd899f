//! Paths at which the agent has put something, each with what it takes to undo it.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::{Error, ErrorKind, Result};

/// What is known of each path. A path is reserved while it changes, so that no lock is held meanwhile.
#[derive(Debug)]
pub(crate) struct Places<T> {
    entries: Mutex<BTreeMap<PathBuf, Option<T>>>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<T> Places<T> {
    fn with<R>(&self, act: impl FnOnce(&mut BTreeMap<PathBuf, Option<T>>) -> R) -> R {
        act(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reserves `path` for something new.
    pub(crate) fn reserve(&self, path: &Path) -> Result<Reserved<'_, T>> {
        self.with(|entries| match entries.get(path) {
            Some(None) => Err(busy(path)),
            Some(Some(_)) => {
                let message = format!("{}: something is there already", path.display());
                Err(Error::new(ErrorKind::Busy, message))
            }
            None => {
                entries.insert(path.to_owned(), None);
                Ok(Reserved { places: self, path: path.to_owned(), back: None, done: false })
            }
        })
    }

    /// Takes what is at `path` to undo it; `None` if nothing is. Unless [`Reserved::forget`] is called, it is put back.
    pub(crate) fn take(&self, path: &Path) -> Result<Option<Reserved<'_, T>>> {
        self.with(|entries| match entries.get_mut(path) {
            Some(None) => Err(busy(path)),
            Some(entry) => {
                let back = entry.take();
                Ok(Some(Reserved { places: self, path: path.to_owned(), back, done: false }))
            }
            None => Ok(None),
        })
    }

    /// The first path whose entry satisfies `is`; entries that change are not asked.
    pub(crate) fn find(&self, is: impl Fn(&T) -> bool) -> Option<PathBuf> {
        self.with(|entries| {
            entries
                .iter()
                .find(|(_, entry)| entry.as_ref().is_some_and(&is))
                .map(|(path, _)| path.clone())
        })
    }

    /// All paths, the deepest and latest names first: the order in which they can be undone.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.with(|entries| entries.keys().rev().cloned().collect())
    }
}

fn busy(path: &Path) -> Error {
    Error::new(ErrorKind::Busy, format!("{}: another request is changing it", path.display()))
}

/// A path that is being changed.
#[derive(Debug)]
pub(crate) struct Reserved<'a, T> {
    places: &'a Places<T>,
    path: PathBuf,
    back: Option<T>,
    done: bool,
}

impl<T> Reserved<'_, T> {
    /// It is there now.
    pub(crate) fn hold(mut self, what: T) {
        self.done = true;
        self.places.with(|entries| entries.insert(self.path.clone(), Some(what)));
    }

    /// It is there no more.
    pub(crate) fn forget(mut self) {
        self.done = true;
        self.places.with(|entries| entries.remove(&self.path));
    }

    /// What was taken.
    pub(crate) fn taken(&mut self) -> Option<&mut T> {
        self.back.as_mut()
    }
}

impl<T> Drop for Reserved<'_, T> {
    fn drop(&mut self) {
        if !self.done {
            let back = self.back.take();
            self.places.with(|entries| match back {
                Some(what) => entries.insert(self.path.clone(), Some(what)),
                None => entries.remove(&self.path),
            });
        }
    }
}

/// The path a request names: absolute, plain, and not the root itself.
pub(crate) fn checked(path: &str, what: &str) -> Result<PathBuf> {
    let checked = Path::new(path);
    let mut components = checked.components();
    let plain = components.next() == Some(Component::RootDir)
        && components.clone().all(|component| matches!(component, Component::Normal(_)))
        && components.next().is_some()
        && !path.contains('\0');
    match plain {
        // Collected anew, `/a//b/` is `/a/b`: one path has one name.
        true => Ok(checked.components().collect()),
        false => Err(Error::invalid(format!("{what} {path:?} is not an absolute, plain path"))),
    }
}

/// Directories that were made for something and go with it.
#[derive(Debug, Default)]
pub(crate) struct MadeDirectories(Vec<PathBuf>);

impl MadeDirectories {
    /// Makes `path` with `mode`, and what is missing above it with 0755.
    pub(crate) fn make(&mut self, path: &Path, mode: u32) -> Result<()> {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
        let mut missing = Vec::new();
        let mut at = path;
        loop {
            match std::fs::metadata(at) {
                Ok(metadata) if metadata.is_dir() => break,
                Ok(_) => {
                    return Err(Error::invalid(format!("{} is not a directory", at.display())));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing.push(at),
                Err(error) => return Err(Error::failed(format!("stat({})", at.display()), error)),
            }
            match at.parent() {
                Some(parent) => at = parent,
                None => break,
            }
        }
        for directory in missing.into_iter().rev() {
            let mode = if directory == path { mode } else { 0o755 };
            let made = std::fs::DirBuilder::new().mode(mode).create(directory).and_then(|()| {
                self.0.push(directory.to_owned());
                // Whatever the umask is.
                std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode))
            });
            match made {
                Ok(()) => {}
                // Another request makes a directory beside it.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(Error::failed(format!("mkdir({})", directory.display()), error));
                }
            }
        }
        Ok(())
    }

    /// Removes what was made and is empty, deepest first. Never more: what is not empty is somebody's.
    pub(crate) fn remove(&mut self) {
        for directory in self.0.drain(..).rev() {
            // Not empty, or gone: it stays as it is.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_reserved_while_it_changes_and_put_back_on_failure() {
        let places = Places::default();
        let path = Path::new("/a");
        let reserved = places.reserve(path).unwrap();
        assert_eq!(places.reserve(path).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(places.take(path).unwrap_err().kind(), ErrorKind::Busy);
        drop(reserved);
        places.reserve(path).unwrap().hold(1);
        assert!(places.reserve(path).is_err());
        drop(places.take(path).unwrap());
        assert_eq!(places.find(|what| *what == 1), Some(path.to_owned()));
        let mut taken = places.take(path).unwrap().unwrap();
        assert_eq!(taken.taken(), Some(&mut 1));
        taken.forget();
        assert!(places.take(path).unwrap().is_none());
    }

    #[test]
    fn paths_of_requests_are_plain() {
        assert_eq!(checked("/a//b/", "x").unwrap(), Path::new("/a/b"));
        for bad in ["", "/", "a", "a/b", "/a/../b", "/..", "/a\0b"] {
            assert!(checked(bad, "x").is_err(), "{bad:?}");
        }
        assert_eq!(checked("/a/./b", "x").unwrap(), Path::new("/a/b"));
    }

    #[test]
    fn only_made_and_empty_directories_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut made = MadeDirectories::default();
        made.make(&root.join("a/b/c"), 0o700).unwrap();
        std::fs::write(root.join("a/file"), "the user's").unwrap();
        made.remove();
        assert!(root.join("a/file").exists() && !root.join("a/b").exists());
        made.make(&root.join("a"), 0o700).unwrap();
        assert!(made.make(&root.join("a/file/x"), 0o700).is_err());
        made.remove();
        assert!(root.join("a").exists());
    }
}
