//! Extended attributes of a path, of symbolic links themselves.

use rustix::io::Errno;

use crate::error::{Error, Result};

/// All extended attributes that the caller may see: names and values, in byte order of the names. A file
/// system without any gives none. The last component is not followed.
///
/// # Errors
/// That of `llistxattr` or `lgetxattr`.
pub fn xattrs(path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let shown = || path.escape_ascii();
    let list = match whole(|buffer| rustix::fs::llistxattr(path, buffer)) {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(Error::new(format!("llistxattr({})", shown()), error)),
    };
    let mut found = Vec::new();
    for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        match whole(|buffer| rustix::fs::lgetxattr(path, name, buffer)) {
            Ok(value) => found.push((name.to_vec(), value)),
            // Removed since it was listed.
            Err(Errno::NODATA) => {}
            Err(error) => {
                let name = name.escape_ascii();
                return Err(Error::new(format!("lgetxattr({}, {name})", shown()), error));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Sets an extended attribute; the last component is not followed.
///
/// # Errors
/// That of `lsetxattr`.
pub fn set_xattr(path: &[u8], name: &[u8], value: &[u8]) -> Result<()> {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).map_err(|error| {
        Error::new(format!("lsetxattr({}, {})", path.escape_ascii(), name.escape_ascii()), error)
    })
}

/// Longest list of names and longest value that Linux has (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const LONGEST: usize = 65_536;

/// Calls with a buffer that nearly always suffices, then with one that always does.
fn whole(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    let length = match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(LONGEST, 0);
            call(&mut buffer)?
        }
        result => result?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_was_set() {
        // Beside the sources: temporary file systems of old kernels have no user xattrs.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().as_os_str().as_encoded_bytes();
        assert_eq!(xattrs(path).unwrap(), []);
        set_xattr(path, b"user.b", b"").unwrap();
        set_xattr(path, b"user.a", &[7; 2000]).unwrap();
        let expected = [(b"user.a".to_vec(), vec![7; 2000]), (b"user.b".to_vec(), Vec::new())];
        assert_eq!(xattrs(path).unwrap(), expected);
        assert!(xattrs(b"/nowhere").is_err());
    }
}
