//! Starting the way of written bytes to the disk before `fsync` asks for it.

use std::fs::File;

#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(not(target_os = "linux"))]
use other as imp;

/// Asks the kernel to begin writing these bytes of a file to its disk, without waiting for the end, so that a
/// later `fsync` has less to do. A hint: where it cannot be followed nothing happens.
pub fn start_writeback(file: &File, offset: u64, length: u64) {
    imp::start_writeback(file, offset, length);
}

#[cfg(target_os = "linux")]
mod linux {
    #![allow(unsafe_code, reason = "rustix has no sync_file_range")]
    // UNSAFETY: one call that takes a descriptor and numbers, no memory.

    use std::fs::File;
    use std::os::fd::AsRawFd;

    pub(super) fn start_writeback(file: &File, offset: u64, length: u64) {
        let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
            return;
        };
        // SAFETY: the descriptor is open for as long as `file` is borrowed; no pointer is passed.
        unsafe {
            libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::fs::File;

    pub(super) fn start_writeback(_file: &File, _offset: u64, _length: u64) {}
}
