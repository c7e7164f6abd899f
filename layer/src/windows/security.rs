//! Security descriptors in self-relative form (MS-DTYP 2.4.6).

mod sddl;

use super::sid::Sid;
use crate::error::{Error, ErrorKind, Result};

/// Bits of [`SecurityDescriptor::control`].
pub mod control {
    /// There is a DACL, if only an absent (NULL) one.
    pub const DACL_PRESENT: u16 = 0x4;
    /// There is a SACL.
    pub const SACL_PRESENT: u16 = 0x10;
    /// Inheritance into the DACL was asked for.
    pub const DACL_AUTO_INHERIT_REQ: u16 = 0x100;
    /// Inheritance into the SACL was asked for.
    pub const SACL_AUTO_INHERIT_REQ: u16 = 0x200;
    /// The DACL was inherited automatically.
    pub const DACL_AUTO_INHERITED: u16 = 0x400;
    /// The SACL was inherited automatically.
    pub const SACL_AUTO_INHERITED: u16 = 0x800;
    /// Nothing is inherited into the DACL.
    pub const DACL_PROTECTED: u16 = 0x1000;
    /// Nothing is inherited into the SACL.
    pub const SACL_PROTECTED: u16 = 0x2000;
    /// The second byte means something.
    pub const RM_CONTROL_VALID: u16 = 0x4000;
    /// The parts are found by offsets; always set.
    pub const SELF_RELATIVE: u16 = 0x8000;
}

/// Owner, group and access lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecurityDescriptor {
    /// Bits of [`control`], without [`control::SELF_RELATIVE`].
    pub control: u16,
    /// Byte of the resource manager; 0 unless [`control::RM_CONTROL_VALID`].
    pub resource_manager: u8,
    /// Who owns the file.
    pub owner: Option<Sid>,
    /// Its primary group.
    pub group: Option<Sid>,
    /// Who is watched, and labels.
    pub sacl: Option<Acl>,
    /// Who may do what. With [`control::DACL_PRESENT`] but without a list, everyone may do everything.
    pub dacl: Option<Acl>,
}

/// An access list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    /// 2, or 4 with entries about objects.
    pub revision: u8,
    /// Its entries, the order matters.
    pub aces: Vec<Ace>,
}

/// An entry of an access list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ace {
    /// `ACCESS_ALLOWED_ACE_TYPE` (0) and so on.
    pub kind: u8,
    /// How it is inherited, and what is audited.
    pub flags: u8,
    /// What follows.
    pub body: AceBody,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AceBody {
    /// An access mask and whom it is about, in all public kinds.
    Rights {
        /// The access mask.
        mask: u32,
        /// Object types (MS-DTYP 2.4.4.3), if the kind has room for them: of the object and of what inherits.
        objects: Option<[Option<[u8; 16]>; 2]>,
        /// Whom it is about.
        sid: Sid,
        /// What follows: conditions and resource attributes.
        data: Vec<u8>,
    },
    /// The bytes of kinds that are not known.
    Other(Vec<u8>),
}

const HEADER: usize = 20;

/// Kinds that have object types between mask and identifier.
pub(super) fn has_objects(kind: u8) -> bool {
    matches!(kind, 0x05..=0x08 | 0x0B | 0x0C | 0x0F | 0x10)
}

/// Kinds whose form is known.
pub(super) fn is_known(kind: u8) -> bool {
    matches!(kind, 0x00..=0x03 | 0x05..=0x15)
}

fn damaged(what: &str) -> Error {
    Error::corrupt(format!("the security descriptor is damaged: {what}"))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl SecurityDescriptor {
    /// Takes the bytes apart. Bytes that no offset leads to are ignored.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if they are none.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let short = || damaged("fewer than 20 bytes");
        let header = bytes.first_chunk::<HEADER>().ok_or_else(short)?;
        let control = u16_at(header, 2).unwrap_or(0);
        if header[0] != 1 || control & control::SELF_RELATIVE == 0 {
            return Err(damaged("not revision 1 in self-relative form"));
        }
        let part = |at: usize, what: &str| -> Result<Option<&[u8]>> {
            match u32_at(header, at).unwrap_or(0) as usize {
                0 => Ok(None),
                offset if offset < HEADER => Err(damaged(what)),
                offset => bytes.get(offset..).map(Some).ok_or_else(|| damaged(what)),
            }
        };
        let sid = |at: usize, what: &str| {
            let read = |bytes| Sid::read(bytes).ok_or_else(|| damaged(what));
            part(at, what)?.map(read).transpose()
        };
        let acl = |at: usize, present: u16, what: &str| {
            // Without the bit the offset means nothing.
            let bytes = if control & present == 0 { None } else { part(at, what)? };
            bytes.map(|bytes| Acl::read(bytes).ok_or_else(|| damaged(what))).transpose()
        };
        Ok(Self {
            control: control & !control::SELF_RELATIVE,
            resource_manager: header[1],
            owner: sid(4, "its owner")?,
            group: sid(8, "its group")?,
            sacl: acl(12, control::SACL_PRESENT, "its SACL")?,
            dacl: acl(16, control::DACL_PRESENT, "its DACL")?,
        })
    }

    /// The bytes: owner, group, SACL and DACL in this order, as Windows' own conversions were seen to do.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if a list needs more than 65,535 bytes.
    pub fn write(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; HEADER];
        bytes[..2].copy_from_slice(&[1, self.resource_manager]);
        let control = self.control | control::SELF_RELATIVE;
        bytes[2..4].copy_from_slice(&control.to_le_bytes());
        let mut put = |at: usize, part: Option<Vec<u8>>| {
            let Some(part) = part else { return };
            let offset = (bytes.len() as u32).to_le_bytes();
            bytes[at..at + 4].copy_from_slice(&offset);
            bytes.extend_from_slice(&part);
        };
        let sid = |sid: &Sid| {
            let mut bytes = Vec::new();
            sid.write(&mut bytes);
            bytes
        };
        put(4, self.owner.as_ref().map(sid));
        put(8, self.group.as_ref().map(sid));
        put(12, self.sacl.as_ref().map(Acl::write).transpose()?);
        put(16, self.dacl.as_ref().map(Acl::write).transpose()?);
        Ok(bytes)
    }
}

impl Acl {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (&revision, size) = (bytes.first()?, u16_at(bytes, 2)?);
        let count = u16_at(bytes, 4)?;
        let mut rest = bytes.get(8..usize::from(size))?;
        let mut aces = Vec::new();
        for _ in 0..count {
            let length = usize::from(u16_at(rest, 2)?);
            let (ace, behind) = rest.split_at_checked(length)?;
            aces.push(Ace::read(ace)?);
            rest = behind;
        }
        Some(Self { revision, aces })
    }

    fn write(&self) -> Result<Vec<u8>> {
        let large = |_| Error::new(ErrorKind::TooLarge, "an access list of more than 65,535 bytes");
        let mut bytes = vec![self.revision, 0, 0, 0, 0, 0, 0, 0];
        for ace in &self.aces {
            let start = bytes.len();
            ace.write(&mut bytes);
            let length = u16::try_from(bytes.len() - start).map_err(large)?;
            bytes[start + 2..start + 4].copy_from_slice(&length.to_le_bytes());
        }
        let size = u16::try_from(bytes.len()).map_err(large)?;
        bytes[2..4].copy_from_slice(&size.to_le_bytes());
        let count = u16::try_from(self.aces.len()).map_err(large)?;
        bytes[4..6].copy_from_slice(&count.to_le_bytes());
        Ok(bytes)
    }
}

impl Ace {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (&[kind, flags, ..], body) = bytes.split_first_chunk::<4>()?;
        if !is_known(kind) {
            return Some(Self { kind, flags, body: AceBody::Other(body.to_vec()) });
        }
        let mask = u32_at(body, 0)?;
        let mut rest = body.get(4..)?;
        let mut objects = None;
        if has_objects(kind) {
            let which = u32_at(rest, 0)?;
            rest = &rest[4..];
            let mut guid = |bit: u32| {
                if which & bit == 0 {
                    return Some(None);
                }
                let (guid, behind) = rest.split_first_chunk()?;
                rest = behind;
                Some(Some(*guid))
            };
            objects = Some([guid(1)?, guid(2)?]);
        }
        let sid = Sid::read(rest)?;
        let data = rest[sid.length()..].to_vec();
        Some(Self { kind, flags, body: AceBody::Rights { mask, objects, sid, data } })
    }

    /// The length is left to the caller.
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&[self.kind, self.flags, 0, 0]);
        match &self.body {
            AceBody::Other(body) => bytes.extend_from_slice(body),
            AceBody::Rights { mask, objects, sid, data } => {
                bytes.extend_from_slice(&mask.to_le_bytes());
                if let Some(objects) = objects {
                    let [object, inherited] = objects.map(|guid| u32::from(guid.is_some()));
                    bytes.extend_from_slice(&(object | inherited << 1).to_le_bytes());
                    objects.iter().flatten().for_each(|guid| bytes.extend_from_slice(guid));
                }
                sid.write(bytes);
                bytes.extend_from_slice(data);
            }
        }
    }
}

#[cfg(test)]
mod tests;
