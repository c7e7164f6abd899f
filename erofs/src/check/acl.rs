//! POSIX ACLs in the form of the `system.posix_acl_*` xattrs.

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Judges an ACL; on success the permissions that the mode's group bits must equal, or `None` for an ACL
/// without entries.
pub(super) fn group_bits(value: &[u8]) -> Result<Option<u16>, String> {
    let Some((version, entries)) = value.split_first_chunk::<4>() else {
        return Err(format!("{} bytes are no ACL", value.len()));
    };
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(format!("ACL version {version}"));
    }
    if entries.len() % 8 != 0 {
        return Err(format!("{} bytes of ACL entries", entries.len()));
    }
    let mut previous = 0;
    let mut permissions = [None; 0x21];
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let bits = u16::from_le_bytes([entry[2], entry[3]]);
        let repeatable = matches!(tag, USER | GROUP);
        if !matches!(tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER) || bits > 7 {
            return Err(format!("ACL entry with tag {tag:#x} and permissions {bits:#o}"));
        }
        if tag < previous || (tag == previous && !repeatable) {
            return Err(format!("ACL entry with tag {tag:#x} out of order"));
        }
        previous = tag;
        permissions[usize::from(tag)] = Some(bits);
    }
    if entries.is_empty() {
        return Ok(None);
    }
    let of = |tag: u16| permissions[usize::from(tag)];
    if of(USER_OBJ).is_none() || of(GROUP_OBJ).is_none() || of(OTHER).is_none() {
        return Err("an ACL without owner, group or others".to_owned());
    }
    if of(MASK).is_none() && (of(USER).is_some() || of(GROUP).is_some()) {
        return Err("an ACL with names but without a mask".to_owned());
    }
    Ok(of(MASK).or(of(GROUP_OBJ)))
}
