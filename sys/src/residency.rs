//! How much of a file the page cache holds.

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::{Error, Result};

/// Pages of a file in the page cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Residency {
    /// Pages in memory.
    pub resident: u64,
    /// Pages of the whole file.
    pub total: u64,
    /// Bytes of a page.
    pub page_size: u64,
}

impl Residency {
    /// Bytes in memory.
    pub fn resident_bytes(&self) -> u64 {
        self.resident * self.page_size
    }
}

/// Counts the pages of `file` that are in the page cache, without touching them.
///
/// # Errors
/// Those of `mmap` and `mincore`. For a file that the caller neither owns nor may write, the kernel (5.2 and
/// newer) reports every page as resident unless it has `CAP_FOWNER` or the like.
pub fn page_residency(file: &File) -> Result<Residency> {
    /// Mapped at once; the answer is one byte a page.
    const WINDOW: u64 = 1 << 30;
    let page_size = rustix::param::page_size() as u64;
    let metadata = file.metadata().map_err(|source| Error::new("fstat", source))?;
    let mut residency =
        Residency { resident: 0, total: metadata.len().div_ceil(page_size), page_size };
    let mut offset = 0;
    while offset < metadata.len() {
        let length = WINDOW.min(metadata.len() - offset);
        residency.resident += resident_in(file, offset, length, page_size)?;
        offset += length;
    }
    Ok(residency)
}

#[expect(unsafe_code, reason = "mmap, mincore and munmap")]
fn resident_in(file: &File, offset: u64, length: u64, page_size: u64) -> Result<u64> {
    let failed = |call: &str| {
        let source = std::io::Error::last_os_error();
        Error::new(format!("{call}(offset {offset}, {length} bytes)"), source)
    };
    let too_big = |_| Error::new("mmap", std::io::Error::from(std::io::ErrorKind::InvalidInput));
    let bytes = usize::try_from(length).map_err(too_big)?;
    let start = libc::off_t::try_from(offset).map_err(too_big)?;
    let pages = usize::try_from(length.div_ceil(page_size)).map_err(too_big)?;
    let mut answer = vec![0_u8; pages];
    // SAFETY: a new mapping at an address that the kernel chooses; nothing ever reads through it, so a file
    // that shrinks meanwhile cannot raise SIGBUS.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            start,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(failed("mmap"));
    }
    // SAFETY: `address` and `bytes` are the mapping made above, and `answer` has one byte for each page of it.
    let counted = unsafe { libc::mincore(address, bytes, answer.as_mut_ptr()) };
    let result = if counted == 0 {
        Ok(answer.iter().filter(|page| **page & 1 == 1).count() as u64)
    } else {
        Err(failed("mincore"))
    };
    // SAFETY: the mapping made above, to which no reference exists.
    unsafe { libc::munmap(address, bytes) };
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn written_pages_are_resident_and_holes_are_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        file.set_len(1 << 20).unwrap();
        let residency = page_residency(&file).unwrap();
        assert_eq!(residency.total, (1 << 20) / residency.page_size);
        assert_eq!(residency.resident, 10_000_u64.div_ceil(residency.page_size));
    }

    #[test]
    fn an_empty_file_has_no_pages() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(page_residency(&file).unwrap().total, 0);
    }
}
