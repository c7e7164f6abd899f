//! `WriteFile` with an offset. NTFS writes names to its journal; there is no way to wait for one directory.

use std::fs::File;
use std::io;
use std::os::windows::fs::FileExt;
use std::path::Path;

/// Windows denies access to directories.
pub(super) fn open(path: &Path) -> io::Result<File> {
    File::open(path).map_err(|error| match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => io::ErrorKind::IsADirectory.into(),
        _ => error,
    })
}

pub(super) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.seek_write(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

pub(super) fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}
