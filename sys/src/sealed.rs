//! Programs that nobody can change any more, because they lie in sealed memory.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::{Error, Result};

/// A copy of a file in memory that cannot be written, grown or shrunk, and whose seals cannot be taken off. Its
/// descriptor is closed when another program is run.
///
/// # Errors
/// If the file cannot be read, or there is no memory for it.
pub fn sealed_copy(path: &Path, name: &CStr) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create(name, flags)
        .map_err(|errno| Error::new(format!("memfd_create({})", name.to_string_lossy()), errno))?;
    let mut memory = File::from(memory);
    File::open(path)
        .and_then(|mut file| io::copy(&mut file, &mut memory))
        .map_err(|source| Error::new(format!("copying {} to memory", path.display()), source))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)
        .map_err(|errno| Error::new("fcntl(F_ADD_SEALS)", errno))?;
    Ok(memory.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn a_sealed_copy_is_the_file_and_stays_so() {
        let path = std::env::current_exe().unwrap();
        let mut copy = File::from(sealed_copy(&path, c"copy").unwrap());
        copy.rewind().unwrap();
        let mut bytes = Vec::new();
        copy.read_to_end(&mut bytes).unwrap();
        assert!(bytes == std::fs::read(&path).unwrap());
        copy.rewind().unwrap();
        assert!(copy.write_all(b"x").is_err());
        assert!(copy.set_len(0).is_err());
        assert!(sealed_copy(Path::new("/no/such"), c"none").is_err());
    }
}
