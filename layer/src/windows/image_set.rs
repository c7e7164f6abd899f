//! A directory of images whose large files are on their way to the disk while they are being written, so that making
//! them durable at the end has less to do: file data past the page cache where that is possible.

use std::fs::File;
use std::io;

use cimfs::{DirectorySet, FileSet, ReadAt, WritableFile, WritableSet};

/// Every so many bytes the kernel is asked to begin writing them to the disk.
const WRITEBACK: u64 = 8 << 20;

#[derive(Debug, Clone)]
pub(super) struct ImageSet(pub(super) DirectorySet);

#[derive(Debug)]
pub(super) struct ImageFile {
    file: File,
    /// In place of all that is below.
    direct: Option<sys::DirectFile>,
    /// Made when there is something to begin with; nothing depends on it.
    writeback: Option<sys::Writeback>,
    /// Where the range begins that writeback was not started for.
    settled: u64,
}

impl FileSet for ImageSet {
    type File = File;

    fn open(&self, name: &str) -> io::Result<File> {
        self.0.open(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.0.names()
    }
}

impl WritableSet for ImageSet {
    type Writer = ImageFile;

    fn create(&self, name: &str) -> io::Result<ImageFile> {
        Ok(ImageFile { file: self.0.create(name)?, direct: None, writeback: None, settled: 0 })
    }

    fn create_long(&self, name: &str) -> io::Result<ImageFile> {
        let file = self.create(name)?;
        let direct = sys::DirectFile::of(&file.file, &self.0.path().join(name));
        Ok(ImageFile { direct, ..file })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

impl ReadAt for ImageFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.direct {
            Some(direct) => direct.read_at(buf, offset),
            None => ReadAt::read_at(&self.file, buf, offset),
        }
    }

    fn size(&self) -> io::Result<u64> {
        match &self.direct {
            Some(direct) => direct.size(),
            None => self.file.size(),
        }
    }

    fn identity(&self) -> Option<[u64; 2]> {
        self.file.identity()
    }
}

impl WritableFile for ImageFile {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = &mut self.direct {
            return direct.write_all_at(bytes, offset);
        }
        self.file.write_all_at(bytes, offset)?;
        let end = offset + bytes.len() as u64;
        if end >= self.settled + WRITEBACK {
            if self.writeback.is_none() {
                self.writeback = sys::Writeback::new(&self.file).ok();
            }
            if let Some(writeback) = &self.writeback {
                writeback.start(self.settled, end - self.settled);
            }
            self.settled = end;
        }
        Ok(())
    }

    fn set_length(&mut self, length: u64) -> io::Result<()> {
        match &mut self.direct {
            Some(direct) => direct.set_length(length),
            None => self.file.set_length(length),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        match &mut self.direct {
            Some(direct) => direct.sync(),
            None => self.file.sync(),
        }
    }
}
