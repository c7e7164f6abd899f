//! overlayfs's and OCI's words for "not here": whiteouts, opaque directories, and the xattrs around them.
//!
//! Sources: the kernel's `Documentation/filesystems/overlayfs.rst`; OCI image specification, `layer.md`,
//! "Representing Changes".

use erofs::{Content, DeviceNumber, Inode, Timestamp, Xattr};

use crate::error::{Error, ErrorKind, Result};

/// Prefix of a whiteout's name in a layer tar.
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Name of the entry that makes its directory opaque.
pub(crate) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// Prefix of aufs's own files, which are no part of a layer.
pub(crate) const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// overlayfs's own xattrs.
pub(crate) const PREFIX: &[u8] = b"trusted.overlay.";
/// An xattr of the layer that looks like one of overlayfs's is stored below this; overlayfs shows
/// `trusted.overlay.overlay.X` as `trusted.overlay.X` (Linux 6.7).
pub(crate) const ESCAPE_PREFIX: &[u8] = b"trusted.overlay.overlay.";
/// `y` on a directory hides what the layers below have in it.
pub(crate) const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Empty, on a directory with whiteouts: without it, a directory that no other layer has shows them in
/// listings (*observed*).
pub(crate) const ORIGIN: &[u8] = b"trusted.overlay.origin";

/// overlayfs's marks whose meaning lies elsewhere: in another path, or in another layer.
pub(crate) const STANDS_FOR_OTHERS: [&[u8]; 3] = [
    b"trusted.overlay.redirect",
    b"trusted.overlay.metacopy",
    // A whiteout in the form of a file; overlayfs itself makes devices.
    b"trusted.overlay.whiteout",
];

/// Largest body of an inode's xattrs: 12 bytes and 65,534 words.
const XATTR_BODY_MAX: u64 = 262_148;
const XATTR_NAME_MAX: usize = 255;

/// A whiteout as all layer images have it, so that one set of changes has one image.
pub(crate) fn whiteout() -> Inode {
    Inode {
        permissions: 0,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
        content: Content::CharDevice(DeviceNumber::WHITEOUT),
    }
}

/// What a layer image keeps of the xattrs that a tar gives an entry.
///
/// Names outside the namespaces that a Linux file system has (macOS's `com.apple.…` for one) cannot be set on
/// any host and are left out, as container runtimes do. overlayfs's names are escaped, so that a layer cannot
/// forge a redirect.
pub(crate) fn kept_xattrs(xattrs: Vec<Xattr>) -> Result<Vec<Xattr>> {
    let mut kept = Vec::with_capacity(xattrs.len());
    for Xattr { name, value } in xattrs {
        if name.contains(&0) {
            return Err(Error::invalid(format!(
                "the name of the xattr \"{}\" holds a NUL byte",
                name.escape_ascii()
            )));
        }
        if !is_storable(&name) {
            continue;
        }
        let name = match name.strip_prefix(PREFIX) {
            Some(rest) => [ESCAPE_PREFIX, rest].concat().into(),
            None => name,
        };
        kept.push(Xattr { name, value });
    }
    check_sizes(&kept)?;
    Ok(kept)
}

/// The other way: the xattrs of an image's inode as a layer tar gives them.
pub(crate) fn exported_xattrs(xattrs: &[Xattr]) -> Vec<Xattr> {
    let mut exported: Vec<Xattr> = xattrs
        .iter()
        .filter_map(|xattr| {
            let name = match xattr.name.strip_prefix(ESCAPE_PREFIX) {
                Some(rest) => [PREFIX, rest].concat().into(),
                None if xattr.name.starts_with(PREFIX) => return None,
                None => xattr.name.clone(),
            };
            Some(Xattr { name, value: xattr.value.clone() })
        })
        .collect();
    exported.sort();
    exported
}

/// Refuses what EROFS cannot hold: a name, a value or all of them together.
pub(crate) fn check_sizes(xattrs: &[Xattr]) -> Result<()> {
    let mut body = 12;
    for Xattr { name, value } in xattrs {
        if name.len() > XATTR_NAME_MAX || value.len() > erofs::format::XATTR_VALUE_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the xattr \"{}\" has {} bytes; at most {XATTR_NAME_MAX} of name and {} of value can be stored",
                    name[..name.len().min(XATTR_NAME_MAX)].escape_ascii(),
                    value.len(),
                    erofs::format::XATTR_VALUE_MAX
                ),
            ));
        }
        // The stored name is shorter than the whole one; the writer has the exact last word.
        let stored = name
            .iter()
            .position(|&byte| byte == b'.')
            .map_or(name.len(), |dot| name.len() - dot - 1);
        body += (4 + stored as u64 + value.len() as u64).next_multiple_of(4);
    }
    if body > XATTR_BODY_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("xattrs of {body} bytes together; at most {XATTR_BODY_MAX} can be stored"),
        ));
    }
    Ok(())
}

/// Whether a name lies in a namespace that EROFS and Linux have.
pub(crate) fn is_storable(name: &[u8]) -> bool {
    let in_namespace = [&b"user."[..], b"trusted.", b"security."]
        .iter()
        .any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
    in_namespace || matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattr(name: &[u8]) -> Xattr {
        Xattr { name: name.into(), value: b"v".as_slice().into() }
    }

    #[test]
    fn overlay_names_are_escaped_and_come_back() {
        let names: [&[u8]; 5] = [
            b"security.capability",
            b"trusted.overlay.overlay.redirect",
            b"trusted.overlay.redirect",
            b"trusted.x",
            b"user.overlay.opaque",
        ];
        let given: Vec<Xattr> = names.map(xattr).into();
        let kept = kept_xattrs(given.clone()).unwrap();
        let kept_names: Vec<&[u8]> = kept.iter().map(|xattr| &*xattr.name).collect();
        assert_eq!(kept_names[1], b"trusted.overlay.overlay.overlay.redirect");
        assert_eq!(kept_names[2], b"trusted.overlay.overlay.redirect");
        assert_eq!(exported_xattrs(&kept), given);
    }

    #[test]
    fn foreign_names_are_left_out() {
        let given = [&b"com.apple.provenance"[..], b"system.nfs4_acl", b"user.", b"", b"usr"];
        assert!(kept_xattrs(given.map(xattr).into()).unwrap().is_empty());
        let error = kept_xattrs(vec![xattr(b"user.a\0")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn limits() {
        let value = |length: usize| Xattr {
            name: b"user.x".as_slice().into(),
            value: vec![0; length].into(),
        };
        assert!(check_sizes(&[value(65_535)]).is_ok());
        assert!(check_sizes(&[value(65_536)]).is_err());
        assert!(check_sizes(&[value(65_000), value(65_000), value(65_000), value(65_000)]).is_ok());
        let many: Vec<Xattr> = (0..5).map(|_| value(65_000)).collect();
        assert_eq!(check_sizes(&many).unwrap_err().kind(), ErrorKind::TooLarge);
        assert!(check_sizes(&[xattr(&[b"user.", [b'n'; 251].as_slice()].concat())]).is_err());
    }
}
