//! Files mapped into memory for the kernel to copy from.

use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use crate::{Error, Result};

/// A file's bytes in the address space. This process never looks at them: they are handed on to system calls, for which
/// a page that cannot be read, because the file was cut or the disk fails, is an error instead of a signal.
#[derive(Debug)]
pub struct FileMap {
    start: *mut libc::c_void,
    length: usize,
}

/// Some of the bytes of a [`FileMap`].
#[derive(Debug, Clone, Copy)]
pub struct MappedBytes<'m> {
    start: *const u8,
    length: usize,
    map: PhantomData<&'m FileMap>,
}

#[expect(unsafe_code, reason = "a pointer to what nobody reads through it")]
mod shared {
    // SAFETY: the mapping belongs to the process, and no thread accesses memory through its address.
    unsafe impl Send for super::FileMap {}
    // SAFETY: the same.
    unsafe impl Sync for super::FileMap {}
}

impl FileMap {
    /// The first `length` bytes of a file that belongs to the caller, unless that is root.
    ///
    /// # Errors
    /// Those of `mmap`, among them that the file does not fit; `EACCES` or the like for a file of somebody else.
    #[expect(unsafe_code, reason = "mmap")]
    pub fn of(file: &File, length: u64) -> Result<Self> {
        let failed = |source| Error::new(format!("mmap({length} bytes)"), source);
        let invalid = |_| failed(std::io::ErrorKind::InvalidInput.into());
        let length = usize::try_from(length).map_err(invalid)?;
        // Others are told by mincore that all is in memory.
        let owner = file.metadata().map_err(failed)?.uid();
        let caller = rustix::process::geteuid();
        if !caller.is_root() && owner != caller.as_raw() {
            return Err(failed(std::io::ErrorKind::PermissionDenied.into()));
        }
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(failed(std::io::Error::last_os_error()));
        }
        Ok(Self { start, length })
    }

    /// `length` bytes from `offset` on, if they are in the map and all in the page cache. What the disk has still to
    /// give is better read: a fault brings in less at a time, and does not read ahead as far.
    #[expect(unsafe_code, reason = "mincore")]
    pub fn cached(&self, offset: u64, length: usize) -> Option<MappedBytes<'_>> {
        const PAGES: usize = 512;
        let bytes = self.bytes(offset, length)?;
        let page_size = rustix::param::page_size();
        let before = usize::try_from(offset).ok()? % page_size;
        let pages = (before + length).div_ceil(page_size);
        let mut resident = [0_u8; PAGES];
        let resident = resident.get_mut(..pages)?;
        let first = bytes.start.wrapping_sub(before).cast_mut().cast();
        // SAFETY: whole pages of the mapping from `first` on, with one byte in `resident` for each.
        let counted = unsafe { libc::mincore(first, before + length, resident.as_mut_ptr()) };
        (counted == 0 && resident.iter().all(|page| page & 1 == 1)).then_some(bytes)
    }

    fn bytes(&self, offset: u64, length: usize) -> Option<MappedBytes<'_>> {
        let offset = usize::try_from(offset).ok()?;
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.length);
        let start = self.start.cast::<u8>().wrapping_add(offset).cast_const();
        inside.then_some(MappedBytes { start, length, map: PhantomData })
    }
}

impl MappedBytes<'_> {
    /// The bytes for a system call to copy from.
    #[expect(unsafe_code, reason = "memory that a file is mapped to")]
    pub(crate) fn for_kernel(&self) -> &[u8] {
        // SAFETY: the range is inside the mapping, which is readable and outlives the borrow. Callers in this crate
        // pass the slice to a system call and never read through it, so that neither a change of the file nor its
        // end matters to this process.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Drop for FileMap {
    #[expect(unsafe_code, reason = "munmap")]
    fn drop(&mut self) {
        // SAFETY: the mapping made by `of`; what borrows from it is gone.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn the_kernel_gets_the_bytes_and_a_cut_file_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..20_000_u32).map(|at| (at / 3) as u8).collect();
        file.write_all(&content).unwrap();
        let map = FileMap::of(&file, 20_000).unwrap();
        let (mut pipe, mut end) = std::io::pipe().unwrap();
        end.write_all(map.cached(5000, 10_000).unwrap().for_kernel()).unwrap();
        let mut got = vec![0; 10_000];
        pipe.read_exact(&mut got).unwrap();
        assert!(got == content[5000..15_000]);
        assert!(map.bytes(10_000, 10_001).is_none());
        assert!(map.bytes(u64::MAX, 1).is_none() && map.cached(u64::MAX, 1).is_none());
        file.set_len(4096).unwrap();
        let error = end.write_all(map.bytes(8192, 4096).unwrap().for_kernel()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn what_nobody_has_read_is_not_at_hand() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let map = FileMap::of(&file, 1 << 20).unwrap();
        assert!(map.bytes(0, 1 << 20).is_some() && map.cached(0, 1 << 20).is_none());
    }
}
