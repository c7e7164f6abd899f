//! Where the files of images lie: a directory, or memory.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
use unix as imp;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as imp;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ReadAt;

/// A flat set of files that can be read: all files of an image lie in one directory.
pub trait FileSet {
    /// An open file.
    type File: ReadAt;

    /// Opens a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none of that name, or whatever the medium reports.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// The names of all files, in any order; names that are not Unicode are left out.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn names(&self) -> io::Result<Vec<String>>;
}

/// A set whose files can be made, renamed and removed: what the writer asks of its output.
pub trait WritableSet: FileSet {
    /// A file that is being written.
    type Writer: WritableFile;

    /// Makes a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if there is one of that name, or whatever the medium reports.
    fn create(&self, name: &str) -> io::Result<Self::Writer>;

    /// Makes a file that will be long, is written nearly front to back and hardly read meanwhile: for media that
    /// have a better way for such.
    ///
    /// # Errors
    /// As [`create`](Self::create), which it is if it is not said otherwise.
    fn create_long(&self, name: &str) -> io::Result<Self::Writer> {
        self.create(name)
    }

    /// Gives a file another name, which is free.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none of that name, or whatever the medium reports.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn sync(&self) -> io::Result<()>;
}

/// A file that is being written.
pub trait WritableFile: ReadAt {
    /// Writes all bytes at an offset; what is skipped before it reads as zeros.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file or extends it with zeros.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn set_length(&mut self, length: u64) -> io::Result<()>;

    /// Makes the content durable.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn sync(&mut self) -> io::Result<()>;
}

/// The files of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectorySet(PathBuf);

impl DirectorySet {
    /// The files of a directory, which must exist by the time that they are used.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FileSet for DirectorySet {
    type File = File;

    fn open(&self, name: &str) -> io::Result<File> {
        imp::open(&self.0.join(name))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }
}

impl WritableSet for DirectorySet {
    type Writer = File;

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.0.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        imp::sync_directory(&self.0)
    }
}

impl WritableFile for File {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        imp::write_all_at(self, bytes, offset)
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Files in memory, shared by all clones: for tests, and for images that are looked at once.
#[derive(Debug, Clone, Default)]
pub struct MemorySet(Arc<Mutex<BTreeMap<String, MemoryFile>>>);

/// A file of a [`MemorySet`]. It stays readable when it is removed from the set.
#[derive(Debug, Clone, Default)]
pub struct MemoryFile(Arc<Mutex<Vec<u8>>>);

impl MemorySet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a file into the set, in place of one of that name.
    pub fn insert(&self, name: impl Into<String>, bytes: Vec<u8>) {
        self.files().insert(name.into(), MemoryFile(Arc::new(Mutex::new(bytes))));
    }

    /// The bytes of a file.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.files().get(name).map(|file| file.bytes().clone())
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, MemoryFile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryFile {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl FileSet for MemorySet {
    type File = MemoryFile;

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        self.files().get(name).cloned().ok_or_else(not_found)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }
}

impl WritableSet for MemorySet {
    type Writer = MemoryFile;

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        let mut files = self.files();
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(files.entry(name.into()).or_default().clone())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let file = files.remove(from).ok_or_else(not_found)?;
        files.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name).map(drop).ok_or_else(not_found)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl ReadAt for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.bytes().read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.bytes().size()
    }

    fn identity(&self) -> Option<[u64; 2]> {
        // All that is open of one file shares its bytes.
        Some([Arc::as_ptr(&self.0).addr() as u64, 0])
    }
}

impl WritableFile for MemoryFile {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let mut content = self.bytes();
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.bytes().resize(usize::try_from(length).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exercise<S: WritableSet>(set: &S) {
        let mut file = set.create("a.tmp").unwrap();
        assert_eq!(set.create("a.tmp").err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        file.write_all_at(b"tail", 6).unwrap();
        file.write_all_at(b"head", 0).unwrap();
        file.set_length(9).unwrap();
        file.sync().unwrap();
        set.rename("a.tmp", "a").unwrap();
        set.sync().unwrap();
        assert_eq!(set.open("a.tmp").err().unwrap().kind(), io::ErrorKind::NotFound);
        let file = set.open("a").unwrap();
        let mut buf = [1; 16];
        assert_eq!((file.size().unwrap(), file.read_at(&mut buf, 0).unwrap()), (9, 9));
        assert_eq!(&buf[..9], b"head\0\0tai");
        assert_eq!(file.read_at(&mut buf, u64::MAX).unwrap_or(0), 0);
        assert_eq!(set.names().unwrap(), ["a"]);
        set.remove("a").unwrap();
        assert_eq!(set.remove("a").err().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn memory_is_a_set() {
        exercise(&MemorySet::new());
    }

    #[test]
    fn a_directory_is_a_set() {
        let directory = tempfile::tempdir().unwrap();
        exercise(&DirectorySet::new(directory.path()));
    }
}
