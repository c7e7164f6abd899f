//! Starting the way of written bytes to the disk before `fsync` asks for it.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(not(target_os = "linux"))]
use other as imp;

/// Begins the writing of a file's bytes to its disk from a thread of its own: the kernel lets a caller wait
/// while the disk's queue is full, and who fills the file should not. Dropping it waits for what has been asked.
#[derive(Debug)]
pub struct Writeback {
    ranges: Option<Sender<(u64, u64)>>,
    thread: Option<JoinHandle<()>>,
}

impl Writeback {
    /// For this file, through a descriptor of its own.
    ///
    /// # Errors
    /// That of duplicating the descriptor.
    pub fn new(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let (ranges, asked) = channel();
        let thread = std::thread::spawn(move || {
            for (offset, length) in asked {
                start_writeback(&file, offset, length);
            }
        });
        Ok(Self { ranges: Some(ranges), thread: Some(thread) })
    }

    /// Asks for these bytes and returns at once.
    pub fn start(&self, offset: u64, length: u64) {
        if let Some(ranges) = &self.ranges {
            // The thread ends only after the sender.
            let _ = ranges.send((offset, length));
        }
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        self.ranges = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

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
