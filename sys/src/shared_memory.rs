//! Memory that another process shares, as a virtual machine's does with its devices: mapped, and touched by copies only.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::fs::SealFlags;
use rustix::io::Errno;

use crate::{Error, Result};

/// Most pieces of one call (`UIO_MAXIOV`).
const PIECES: usize = 1024;

/// A mapping of a memory file. Whoever shares it may change every byte at any time, so nothing here gives out a reference.
#[derive(Debug)]
pub struct SharedMemory {
    address: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the value until it is dropped, and all access is by copies and atomic operations,
// which may come from any thread.
#[expect(unsafe_code, reason = "a mapping is no thread's own")]
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a mapping is no thread's own")]
unsafe impl Sync for SharedMemory {}

impl Drop for SharedMemory {
    #[expect(unsafe_code, reason = "munmap")]
    fn drop(&mut self) {
        // SAFETY: the mapping made by `map`; no pointer into it outlives the value.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
    }
}

impl SharedMemory {
    /// Maps a part of a memory file whose size is sealed: one that shrinks would end this process (`SIGBUS`).
    ///
    /// # Errors
    /// `EPERM` of a file that may shrink, `EINVAL` of one that is too short or of an offset within a page.
    #[expect(unsafe_code, reason = "mmap")]
    pub fn map(file: impl AsFd, offset: u64, length: u64) -> Result<Self> {
        let file = file.as_fd();
        let call = || format!("mmap(memory of another process, offset {offset}, {length} bytes)");
        let failed = |error: io::Error| Error::new(call(), error);
        let seals = rustix::fs::fcntl_get_seals(file).map_err(|errno| failed(errno.into()))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(failed(Errno::PERM.into()));
        }
        let size = rustix::fs::fstat(file).map_err(|errno| failed(errno.into()))?.st_size;
        let end = offset.checked_add(length).and_then(|end| i64::try_from(end).ok());
        if length == 0 || end.is_none_or(|end| end > size) {
            return Err(failed(Errno::INVAL.into()));
        }
        let invalid = |_| failed(Errno::INVAL.into());
        let (bytes, start) = (
            usize::try_from(length).map_err(invalid)?,
            libc::off_t::try_from(offset).map_err(invalid)?,
        );
        // SAFETY: a new mapping at an address that the kernel chooses, of a file that cannot get shorter than this.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                start,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        let address = NonNull::new(address.cast()).ok_or_else(|| failed(Errno::INVAL.into()))?;
        Ok(Self { address, length: bytes })
    }

    /// Bytes.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Where `length` bytes at `at` are, if they are all in it.
    #[expect(unsafe_code, reason = "address arithmetic")]
    fn place(&self, at: usize, length: usize) -> Option<*mut u8> {
        if at.checked_add(length)? > self.length {
            return None;
        }
        // SAFETY: `at` is within the mapping, or its end.
        Some(unsafe { self.address.as_ptr().add(at) })
    }

    /// Copies bytes out of it. `None` if they are not all in it.
    #[must_use]
    #[expect(unsafe_code, reason = "a copy from a mapping")]
    pub fn read(&self, at: usize, to: &mut [u8]) -> Option<()> {
        let from = self.place(at, to.len())?;
        // SAFETY: both are as long, and the mapping is nobody's slice. What others write meanwhile makes some of the bytes
        // new ones and others old ones, all of which are valid.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
        Some(())
    }

    /// Copies bytes into it. `None`, and nothing done, if they do not all fit.
    #[must_use]
    #[expect(unsafe_code, reason = "a copy to a mapping")]
    pub fn write(&self, at: usize, from: &[u8]) -> Option<()> {
        let to = self.place(at, from.len())?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        Some(())
    }

    #[expect(unsafe_code, reason = "an atomic number in a mapping")]
    fn number(&self, at: usize) -> Option<&AtomicU16> {
        let place = self.place(at, size_of::<u16>())?;
        if !place.addr().is_multiple_of(align_of::<AtomicU16>()) {
            return None;
        }
        // SAFETY: aligned and within the mapping, which outlives the reference; others change it by atomic operations of the
        // processor, as a device's ring requires.
        Some(unsafe { AtomicU16::from_ptr(place.cast()) })
    }

    /// A number in the machine's order; what was written before it is seen after this. `None` if it is not in the memory, or at
    /// an odd address.
    #[must_use]
    pub fn load(&self, at: usize) -> Option<u16> {
        Some(self.number(at)?.load(Ordering::Acquire))
    }

    /// Writes a number; who sees it sees what was written before.
    #[must_use]
    pub fn store(&self, at: usize, value: u16) -> Option<()> {
        self.number(at)?.store(value, Ordering::Release);
        Some(())
    }

    /// A piece of it, if all of it is there.
    pub fn piece(&self, at: usize, length: usize) -> Option<SharedPiece<'_>> {
        self.place(at, length)?;
        Some(SharedPiece { memory: self, at, length })
    }
}

/// Bytes in shared memory.
#[derive(Debug, Clone, Copy)]
pub struct SharedPiece<'a> {
    memory: &'a SharedMemory,
    at: usize,
    length: usize,
}

/// Reads a file at `offset` into pieces of shared memory, one after the other: as many bytes as there are, and no more than 1024
/// pieces take. With `cached` only what the host has in memory.
///
/// # Errors
/// Those of `preadv2(2)`; `EAGAIN` with `cached` if nothing is there.
#[expect(unsafe_code, reason = "preadv2 into a mapping")]
pub fn read_to_shared(
    file: impl AsFd,
    offset: u64,
    pieces: &[SharedPiece<'_>],
    cached: bool,
) -> Result<usize, Errno> {
    let vectors: Vec<libc::iovec> = pieces
        .iter()
        .take(PIECES)
        .filter_map(|piece| {
            let place = piece.memory.place(piece.at, piece.length)?;
            Some(libc::iovec { iov_base: place.cast(), iov_len: piece.length })
        })
        .collect();
    // -1 would be "where the descriptor stands".
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::INVAL)?;
    let count = libc::c_int::try_from(vectors.len()).map_err(|_| Errno::INVAL)?;
    let flags = if cached { libc::RWF_NOWAIT } else { 0 };
    // SAFETY: every vector is a part of a mapping that the borrowed pieces keep, and that is nobody's slice.
    let read =
        unsafe { libc::preadv2(file.as_fd().as_raw_fd(), vectors.as_ptr(), count, offset, flags) };
    usize::try_from(read)
        .map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use rustix::fs::MemfdFlags;

    use super::*;

    fn memory(length: u64) -> File {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = File::from(rustix::fs::memfd_create("test", flags).unwrap());
        memory.set_len(length).unwrap();
        memory
    }

    #[test]
    fn what_may_shrink_is_not_mapped() {
        let file = memory(8192);
        assert_eq!(SharedMemory::map(&file, 0, 8192).unwrap_err().errno(), Some(libc::EPERM));
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        for (offset, length) in [(0, 8193), (4096, 8192), (8192, 0), (u64::MAX, 2), (1, 4096)] {
            let refused = SharedMemory::map(&file, offset, length).unwrap_err();
            assert_eq!(refused.errno(), Some(libc::EINVAL), "{offset} {length}");
        }
        let plain = tempfile::tempfile().unwrap();
        assert!(SharedMemory::map(&plain, 0, 4096).is_err());
        SharedMemory::map(&file, 4096, 4096).unwrap();
    }

    #[test]
    fn nothing_outside_is_touched() {
        let file = memory(8192);
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        let first = SharedMemory::map(&file, 0, 4096).unwrap();
        let all = SharedMemory::map(&file, 0, 8192).unwrap();
        all.write(4094, &[1, 2, 3, 4]).unwrap();
        let mut two = [0; 2];
        first.read(4094, &mut two).unwrap();
        assert_eq!(two, [1, 2]);
        assert!(first.read(4095, &mut two).is_none() && first.write(4095, &two).is_none());
        assert!(first.read(usize::MAX, &mut two).is_none());
        assert_eq!(first.load(4094), Some(u16::from_ne_bytes([1, 2])));
        assert!(first.load(4095).is_none() && first.load(4093).is_none());
        first.store(0, 0x1234).unwrap();
        assert_eq!(all.load(0), Some(0x1234));
        assert!(first.piece(4000, 97).is_none() && first.piece(usize::MAX, 2).is_none());
    }

    #[test]
    fn a_file_is_read_into_pieces() {
        let file = memory(8192);
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        let memory = SharedMemory::map(&file, 0, 8192).unwrap();
        let mut data = tempfile::tempfile().unwrap();
        data.write_all(b"0123456789").unwrap();
        let pieces = [memory.piece(10, 3).unwrap(), memory.piece(5000, 100).unwrap()];
        assert_eq!(read_to_shared(&data, 1, &pieces, false), Ok(9));
        let (mut first, mut second) = ([0; 4], [0; 7]);
        memory.read(10, &mut first).unwrap();
        memory.read(5000, &mut second).unwrap();
        assert_eq!((&first, &second), (b"123\0", b"456789\0"));
        assert_eq!(read_to_shared(&data, 10, &pieces, false), Ok(0));
        assert_eq!(read_to_shared(&data, u64::MAX, &pieces, false), Err(Errno::INVAL));
        assert_eq!(read_to_shared(&data, 0, &[], false), Ok(0));
    }
}
