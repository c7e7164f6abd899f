//! A database file without holes: what is written into it finds its place, also on a full disk.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// redb's own way to a file, but for how that grows: redb makes it longer well before it writes there, and a write into a
/// hole fails on a full disk. Removing something then would fail too, for everybody who wants room.
#[derive(Debug)]
pub(super) struct AllocatedFile {
    inner: FileBackend,
    file: File,
}

impl AllocatedFile {
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let file = File::options().read(true).write(true).open(path)?;
        if file.metadata()?.len() == 0 {
            // redb would make a new database of it.
            let message = "the database file is empty";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message).into());
        }
        let this = Self { inner: FileBackend::new(file.try_clone()?)?, file };
        // Where there is no room for what is missing now, growing will tell.
        let _ = this.allocate(this.len()?);
        Ok(this)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match sys::file::allocate(&self.file, length) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }
}

impl StorageBackend for AllocatedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let before = self.inner.len()?;
        self.inner.set_len(length)?;
        if length > before
            && let Err(error) = self.allocate(length)
        {
            self.inner.set_len(before)?;
            return Err(error);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
