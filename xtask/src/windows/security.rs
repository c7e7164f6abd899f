//! Security descriptors as system files, program files and profiles of Windows have them.

/// A security identifier: authority and sub-authorities.
struct Sid(u8, &'static [u32]);

const SYSTEM: Sid = Sid(5, &[18]);
const ADMINISTRATORS: Sid = Sid(5, &[32, 544]);
const USERS: Sid = Sid(5, &[32, 545]);
const AUTHENTICATED: Sid = Sid(5, &[11]);
const EVERYONE: Sid = Sid(1, &[0]);
const CREATOR_OWNER: Sid = Sid(3, &[0]);
const ALL_PACKAGES: Sid = Sid(15, &[2, 1]);
const CONTAINER_USER: Sid = Sid(5, &[93, 2, 2]);
const LOW_LABEL: Sid = Sid(16, &[4096]);
const TRUSTED_INSTALLER: Sid =
    Sid(5, &[80, 956_008_885, 3_418_522_649, 1_831_038_044, 1_853_292_631, 2_271_478_464]);

const ALLOW: u8 = 0;
const MANDATORY_LABEL: u8 = 0x11;

const OBJECT_INHERIT: u8 = 0x1;
const CONTAINER_INHERIT: u8 = 0x2;
const BOTH: u8 = OBJECT_INHERIT | CONTAINER_INHERIT;
const INHERIT_ONLY: u8 = 0x8;
const INHERITED: u8 = 0x10;

const ALL: u32 = 0x001f_01ff;
const MODIFY: u32 = 0x0013_01bf;
const READ_EXECUTE: u32 = 0x0012_00a9;
const GENERIC_ALL: u32 = 0x1000_0000;
const GENERIC_READ_EXECUTE: u32 = 0xa000_0000;

const SELF_RELATIVE: u16 = 0x8000;
const DACL_PRESENT: u16 = 0x4;
const SACL_PRESENT: u16 = 0x10;
const AUTO_INHERITED: u16 = 0x400;
const PROTECTED: u16 = 0x1000;

struct Ace(u8, u8, u32, &'static Sid);

/// What the trees' objects share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Descriptor {
    /// `C:\`
    Root,
    /// A directory of the system, TrustedInstaller's.
    SystemDirectory,
    /// A file of the system, TrustedInstaller's.
    SystemFile,
    /// What inherits everything from a directory that SYSTEM owns.
    Inherited,
    /// Of a user's profile.
    Profile,
    /// As `AppData\LocalLow`: with a mandatory label.
    Low,
    /// A hive: SYSTEM and administrators only.
    Hive,
}

impl Descriptor {
    pub(super) fn bytes(self) -> Vec<u8> {
        let allow = |flags, mask, sid| Ace(ALLOW, flags, mask, sid);
        match self {
            Self::Root => descriptor(
                &TRUSTED_INSTALLER,
                PROTECTED | AUTO_INHERITED,
                &[
                    allow(BOTH, ALL, &ADMINISTRATORS),
                    allow(BOTH, ALL, &SYSTEM),
                    allow(BOTH | INHERIT_ONLY, GENERIC_ALL, &CREATOR_OWNER),
                    allow(BOTH, READ_EXECUTE, &USERS),
                    allow(CONTAINER_INHERIT, 4, &USERS),
                    allow(CONTAINER_INHERIT | INHERIT_ONLY, 2, &USERS),
                    allow(0, READ_EXECUTE, &EVERYONE),
                ],
                None,
            ),
            Self::SystemDirectory => descriptor(
                &TRUSTED_INSTALLER,
                PROTECTED | AUTO_INHERITED,
                &[
                    allow(0, ALL, &TRUSTED_INSTALLER),
                    allow(CONTAINER_INHERIT | INHERIT_ONLY, GENERIC_ALL, &TRUSTED_INSTALLER),
                    allow(0, MODIFY, &SYSTEM),
                    allow(BOTH | INHERIT_ONLY, GENERIC_ALL, &SYSTEM),
                    allow(0, MODIFY, &ADMINISTRATORS),
                    allow(BOTH | INHERIT_ONLY, GENERIC_READ_EXECUTE, &USERS),
                    allow(0, READ_EXECUTE, &USERS),
                    allow(0, READ_EXECUTE, &ALL_PACKAGES),
                ],
                None,
            ),
            Self::SystemFile => descriptor(
                &TRUSTED_INSTALLER,
                PROTECTED | AUTO_INHERITED,
                &[
                    allow(0, READ_EXECUTE, &ADMINISTRATORS),
                    allow(0, READ_EXECUTE, &SYSTEM),
                    allow(0, READ_EXECUTE, &USERS),
                    allow(0, ALL, &TRUSTED_INSTALLER),
                    allow(0, READ_EXECUTE, &ALL_PACKAGES),
                ],
                None,
            ),
            Self::Inherited => descriptor(
                &SYSTEM,
                AUTO_INHERITED,
                &[
                    allow(INHERITED, ALL, &SYSTEM),
                    allow(INHERITED, ALL, &ADMINISTRATORS),
                    allow(INHERITED, READ_EXECUTE, &USERS),
                ],
                None,
            ),
            Self::Profile => descriptor(
                &ADMINISTRATORS,
                AUTO_INHERITED,
                &[
                    allow(BOTH, ALL, &SYSTEM),
                    allow(BOTH, ALL, &ADMINISTRATORS),
                    allow(BOTH, MODIFY, &CONTAINER_USER),
                    allow(0, READ_EXECUTE, &AUTHENTICATED),
                ],
                None,
            ),
            Self::Low => descriptor(
                &ADMINISTRATORS,
                AUTO_INHERITED,
                &[allow(BOTH, ALL, &SYSTEM), allow(BOTH, ALL, &CONTAINER_USER)],
                Some(Ace(MANDATORY_LABEL, BOTH, 1, &LOW_LABEL)),
            ),
            Self::Hive => descriptor(
                &ADMINISTRATORS,
                PROTECTED,
                &[allow(0, ALL, &SYSTEM), allow(0, ALL, &ADMINISTRATORS)],
                None,
            ),
        }
    }
}

/// Owner, group, SACL, DACL, in the order of the blobs seen. SYSTEM is everything's group.
fn descriptor(owner: &Sid, control: u16, dacl: &[Ace], label: Option<Ace>) -> Vec<u8> {
    let mut bytes = vec![1, 0];
    let sacl_present = if label.is_some() { SACL_PRESENT } else { 0 };
    let control = control | SELF_RELATIVE | DACL_PRESENT | sacl_present;
    bytes.extend(control.to_le_bytes());
    bytes.extend([0; 16]);
    let parts = [
        (4, Some(sid(owner))),
        (8, Some(sid(&SYSTEM))),
        (12, label.map(|label| acl(&[label]))),
        (16, Some(acl(dacl))),
    ];
    for (field, part) in parts {
        let Some(part) = part else { continue };
        let offset = length(bytes.len()).to_le_bytes();
        bytes[field..field + 4].copy_from_slice(&offset);
        bytes.extend(part);
    }
    bytes
}

fn sid(Sid(authority, parts): &Sid) -> Vec<u8> {
    let count = parts.iter().fold(0, |count, _| count + 1);
    let mut bytes = vec![1, count, 0, 0, 0, 0, 0, *authority];
    bytes.extend(parts.iter().flat_map(|part| part.to_le_bytes()));
    bytes
}

fn acl(aces: &[Ace]) -> Vec<u8> {
    let body: Vec<u8> = aces.iter().flat_map(ace).collect();
    let mut bytes = length(2 + ((8 + body.len()) << 16)).to_le_bytes().to_vec();
    bytes.extend(length(aces.len()).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn ace(Ace(kind, flags, mask, who): &Ace) -> Vec<u8> {
    let who = sid(who);
    let mut bytes = vec![*kind, *flags];
    bytes.extend(length(8 + who.len()).to_le_bytes().iter().take(2));
    bytes.extend(mask.to_le_bytes());
    bytes.extend(who);
    bytes
}

/// Descriptors are a few hundred bytes.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windows::tar::base64;

    #[test]
    fn as_a_known_descriptor() {
        // O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU), as BuildKit writes it.
        let aces = [
            Ace(ALLOW, 0, ALL, &ADMINISTRATORS),
            Ace(ALLOW, 0, ALL, &SYSTEM),
            Ace(ALLOW, 0, READ_EXECUTE, &USERS),
        ];
        let known = "AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgBMAAMAAAAAABgA/wEfAAECAAAAAAAFIAAAACACAAAAABQA/wEfAAEBAAAAAAAFEgAAAAAAGACpABIAAQIAAAAAAAUgAAAAIQIAAA==";
        assert_eq!(base64(&descriptor(&ADMINISTRATORS, 0, &aces, None)), known);
    }
}
