//! POSIX ACLs as layers carry them: `system.posix_acl_*` in the binary form of the kernel.
//!
//! Source: the kernel's `include/uapi/linux/posix_acl_xattr.h`, `acl(5)` for the rules.

use std::sync::Arc;

use erofs::Xattr;

use crate::error::{Error, Result};

const VERSION: [u8; 4] = [2, 0, 0, 0];
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Refuses ACLs that no host would set, and gives the access ACL the permissions of the mode, as `chmod` after
/// `setxattr` does: the kernel looks at an ACL only if the mode's group bits allow anything.
pub(crate) fn conform(xattrs: &mut [Xattr], permissions: u16) -> Result<()> {
    for Xattr { name, value } in xattrs {
        let access = match &**name {
            b"system.posix_acl_access" => true,
            b"system.posix_acl_default" => false,
            _ => continue,
        };
        check(value)
            .ok_or_else(|| Error::invalid(format!("{} is no valid ACL", name.escape_ascii())))?;
        if access {
            chmod(Arc::make_mut(value), permissions);
        }
    }
    Ok(())
}

fn check(value: &[u8]) -> Option<()> {
    let (entries, rest) = value.strip_prefix(&VERSION)?.as_chunks::<8>();
    let mut found = 0;
    let mut previous = 0;
    for entry in entries {
        let (tag, bits) = tag_and_bits(entry);
        let known = matches!(tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER);
        let repeated = tag == previous && !matches!(tag, USER | GROUP);
        if !known || repeated || tag < previous || bits > 7 {
            return None;
        }
        previous = tag;
        found |= tag;
    }
    let needed = USER_OBJ | GROUP_OBJ | OTHER;
    let named = found & (USER | GROUP) != 0;
    let complete = found & needed == needed && (!named || found & MASK != 0);
    (rest.is_empty() && (entries.is_empty() || complete)).then_some(())
}

fn chmod(value: &mut [u8], permissions: u16) {
    let (entries, _) = value[VERSION.len()..].as_chunks_mut::<8>();
    let masked = entries.iter().any(|entry| tag_and_bits(entry).0 == MASK);
    for entry in entries {
        let shift = match tag_and_bits(entry).0 {
            USER_OBJ => 6,
            MASK => 3,
            GROUP_OBJ if !masked => 3,
            OTHER => 0,
            _ => continue,
        };
        entry[2] = (permissions >> shift & 7) as u8;
    }
}

fn tag_and_bits(entry: &[u8; 8]) -> (u16, u16) {
    (u16::from_le_bytes([entry[0], entry[1]]), u16::from_le_bytes([entry[2], entry[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut value = VERSION.to_vec();
        for (tag, bits) in entries {
            value.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
            value.extend([0; 4]);
        }
        value
    }

    fn conformed(value: Vec<u8>, permissions: u16) -> Result<Vec<u8>> {
        let name = b"system.posix_acl_access".as_slice().into();
        let mut xattrs = [Xattr { name, value: value.into() }];
        conform(&mut xattrs, permissions)?;
        let [Xattr { value, .. }] = xattrs;
        Ok(value.to_vec())
    }

    #[test]
    fn mode_is_applied() {
        let named = [(USER_OBJ, 7), (USER, 7), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 1)];
        let expected = [(USER_OBJ, 6), (USER, 7), (GROUP_OBJ, 5), (MASK, 4), (OTHER, 0)];
        assert_eq!(conformed(acl(&named), 0o640).unwrap(), acl(&expected));
        let plain = [(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 5)];
        let expected = [(USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 4)];
        assert_eq!(conformed(acl(&plain), 0o4644).unwrap(), acl(&expected));
        assert_eq!(conformed(acl(&[]), 0o644).unwrap(), acl(&[]));
    }

    #[test]
    fn nonsense_is_refused() {
        let good = acl(&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 5)]);
        let bad = [
            Vec::new(),
            vec![1, 0, 0, 0],
            good[..good.len() - 1].to_vec(),
            acl(&[(USER_OBJ, 7), (OTHER, 5)]),
            acl(&[(USER_OBJ, 7), (OTHER, 5), (GROUP_OBJ, 5)]),
            acl(&[(USER_OBJ, 8), (GROUP_OBJ, 5), (OTHER, 5)]),
            acl(&[(USER_OBJ, 7), (USER, 7), (GROUP_OBJ, 5), (OTHER, 5)]),
            acl(&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 5), (OTHER, 5)]),
            acl(&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 5), (0x40, 5)]),
        ];
        for value in bad {
            assert!(conformed(value, 0o644).is_err());
        }
    }
}
