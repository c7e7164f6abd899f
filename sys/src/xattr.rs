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

/// Calls with an empty buffer for the length, then with one of that length, again if it grew in between.
fn whole(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    loop {
        let length = call(&mut [])?;
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut buffer = vec![0; length];
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error),
        }
    }
}
