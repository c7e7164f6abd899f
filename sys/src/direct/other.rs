//! Where there is no such thing.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::path::Path;

/// None can be made.
#[derive(Debug)]
pub struct DirectFile(Infallible);

impl DirectFile {
    /// `None`.
    pub fn of(_file: &File, _path: &Path) -> Option<Self> {
        None
    }

    /// Writes all bytes at an offset.
    ///
    /// # Errors
    /// None is possible.
    pub fn write_all_at(&mut self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        match self.0 {}
    }

    /// Reads some bytes at an offset.
    ///
    /// # Errors
    /// None is possible.
    pub fn read_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
        match self.0 {}
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// None is possible.
    pub fn size(&self) -> io::Result<u64> {
        match self.0 {}
    }

    /// Cuts the file or extends it.
    ///
    /// # Errors
    /// None is possible.
    pub fn set_length(&mut self, _length: u64) -> io::Result<()> {
        match self.0 {}
    }

    /// Makes the content durable.
    ///
    /// # Errors
    /// None is possible.
    pub fn sync(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}
