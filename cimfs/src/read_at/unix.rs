//! `pread` and `fstat`.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

pub(super) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buf, offset)
}

/// Device and inode number.
pub(super) fn identity(file: &File) -> Option<[u64; 2]> {
    let metadata = file.metadata().ok()?;
    Some([metadata.dev(), metadata.ino()])
}
