//! `ReadFile` with an offset. It moves the file's cursor, which nothing here relies on.

use std::fs::File;
use std::io;
use std::os::windows::fs::FileExt;

pub(super) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(buf, offset)
}

/// `std` has no stable way to the number of a file.
pub(super) fn identity(_: &File) -> Option<[u64; 2]> {
    None
}
