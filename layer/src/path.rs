//! Names in a layer: from what the tar says to components below the root.

use crate::error::{Error, ErrorKind, Result};
use crate::overlay;

/// Longest path that a Linux host can name (`PATH_MAX` with its NUL). Also bounds the depth of a tree.
pub(crate) const PATH_MAX: usize = 4095;

/// The components of a path, seen from the root: a leading slash, `.` and empty components mean nothing, and
/// the root itself has none. `..` is refused, since no honest layer has it.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.len() > PATH_MAX {
        let start = &path[..64];
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("a path of {} bytes, more than {PATH_MAX}", path.len()),
        )
        .path(start));
    }
    if path.contains(&0) {
        return Err(Error::invalid("a name holds a NUL byte").path(path));
    }
    let components: Vec<&[u8]> = path
        .split(|&byte| byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
        .collect();
    for component in &components {
        check_component(component).map_err(|error| error.path(path))?;
    }
    Ok(components)
}

fn check_component(component: &[u8]) -> Result<()> {
    if component == b".." {
        return Err(Error::invalid("the path leads out of the layer through \"..\""));
    }
    // A whiteout's prefix does not count: it never becomes part of a name.
    let name = component.strip_prefix(overlay::WHITEOUT_PREFIX).unwrap_or(component);
    if name.len() > erofs::format::NAME_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("a name of {} bytes, more than {}", name.len(), erofs::format::NAME_MAX),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_path() {
        for path in [&b"a/b"[..], b"/a/b", b"./a/b", b"a//b/", b"//a/././b/."] {
            assert_eq!(components(path).unwrap(), [b"a", b"b"], "{}", path.escape_ascii());
        }
        for path in [&b""[..], b"/", b"./", b".", b"//./"] {
            assert!(components(path).unwrap().is_empty());
        }
        assert_eq!(components(b"\xff\xfe/...").unwrap(), [&b"\xff\xfe"[..], b"..."]);
    }

    #[test]
    fn refused_paths() {
        let long = [b'x'; 256];
        let deep = b"d/".repeat(2048);
        let cases: [(&[u8], ErrorKind); 6] = [
            (b"..", ErrorKind::Invalid),
            (b"a/../b", ErrorKind::Invalid),
            (b"/..", ErrorKind::Invalid),
            (b"a\0b", ErrorKind::Invalid),
            (&long, ErrorKind::TooLarge),
            (&deep, ErrorKind::TooLarge),
        ];
        for (path, kind) in cases {
            assert_eq!(components(path).unwrap_err().kind(), kind);
        }
        assert!(components(&long[1..]).is_ok());
    }
}
