//! Everything in an image, each directory before what is in it.

use std::collections::HashSet;

use crate::format::PATH_MAX;
use crate::trail::Trail;
use crate::{Entries, Error, ErrorKind, FileId, FileView, Image, ImagePath, ReadAt, Result};

/// Tables of directories are read up to this many times the image's length in all: honest ones hardly ever
/// share bytes, and hostile ones must not make a walk endless.
const SHARING: u64 = 4;

/// A name and what it leads to.
#[derive(Debug, Clone)]
pub struct WalkEntry {
    trail: Trail,
    /// What it leads to.
    pub file: FileView,
}

impl WalkEntry {
    /// The path from the root.
    pub fn path(&self) -> ImagePath {
        self.trail.path()
    }
}

/// Iterates over all names of an image, the root first, directories in the order of their tables.
///
/// An error is about one path, which it names, and the walk goes on behind it. A directory that has a second name
/// (a cycle is one) is such an error and is not entered again.
pub struct Walk<'a, R> {
    image: &'a Image<R>,
    start: Option<FileId>,
    stack: Vec<(Trail, Entries<'a, R>)>,
    directories: HashSet<FileId>,
    left: u64,
}

impl<R> std::fmt::Debug for Walk<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk").field("depth", &self.stack.len()).finish_non_exhaustive()
    }
}

impl<R: ReadAt> Image<R> {
    /// Walks over everything that a name leads to.
    pub fn walk(&self) -> Walk<'_, R> {
        Walk {
            image: self,
            start: Some(self.root()),
            stack: Vec::new(),
            directories: HashSet::new(),
            left: self.regions().total_length().saturating_mul(SHARING),
        }
    }
}

impl<R: ReadAt> Walk<'_, R> {
    fn visit(&mut self, trail: Trail, id: FileId) -> Result<WalkEntry> {
        let file = self.image.file(id)?;
        if file.is_dir() {
            if trail.length() > PATH_MAX {
                let what = format!("a path of more than {PATH_MAX} code units");
                return Err(Error::corrupt(file.position, what));
            }
            if !self.directories.insert(id) {
                let what = format!("directory {id} has a second name");
                return Err(Error::corrupt(file.position, what));
            }
            let bytes = file.size();
            self.left = self.left.checked_sub(bytes).ok_or_else(|| {
                let what = "the directories are together larger than the image";
                Error::new(ErrorKind::Corrupt, what)
            })?;
            let entries = self.image.entries(&file)?;
            self.stack.push((trail.clone(), entries));
        }
        Ok(WalkEntry { trail, file })
    }
}

impl<R: ReadAt> Iterator for Walk<'_, R> {
    type Item = Result<WalkEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(root) = self.start.take() {
            let within = |error: Error| error.within(ImagePath::ROOT);
            return Some(self.visit(Trail::root(), root).map_err(within));
        }
        loop {
            let (directory, entries) = self.stack.last_mut()?;
            let Some(entry) = entries.next() else {
                self.stack.pop();
                continue;
            };
            let trail = directory.clone();
            return Some(match entry {
                Err(error) => Err(error.within(trail)),
                Ok(entry) => {
                    let trail = trail.child(entry.name);
                    let path = trail.clone();
                    self.visit(trail, entry.id).map_err(|error| error.within(path))
                }
            });
        }
    }
}
