//! Security descriptors as text (MS-DTYP 2.5.1; "ACE Strings", Win32).

use std::fmt::Write as _;

use super::{Ace, AceBody, Acl, SecurityDescriptor, control, has_objects};
use crate::error::{Error, ErrorKind, Result};
use crate::windows::sid::Sid;

const KINDS: [(&str, u8); 17] = [
    ("A", 0x00),
    ("D", 0x01),
    ("AU", 0x02),
    ("AL", 0x03),
    ("OA", 0x05),
    ("OD", 0x06),
    ("OU", 0x07),
    ("OL", 0x08),
    ("XA", 0x09),
    ("XD", 0x0A),
    ("ZA", 0x0B),
    ("XU", 0x0D),
    ("ML", 0x11),
    ("RA", 0x12),
    ("SP", 0x13),
    ("TL", 0x14),
    ("FL", 0x15),
];

const FLAGS: [(&str, u8); 8] = [
    ("OI", 0x01),
    ("CI", 0x02),
    ("NP", 0x04),
    ("IO", 0x08),
    ("ID", 0x10),
    ("CR", 0x20),
    ("SA", 0x40),
    ("FA", 0x80),
];

/// Masks that have one name, the most telling first.
const WHOLE_MASKS: [(&str, u32); 8] = [
    ("FA", 0x001F_01FF),
    ("FR", 0x0012_0089),
    ("FW", 0x0012_0116),
    ("FX", 0x0012_00A0),
    ("KA", 0x000F_003F),
    ("KR", 0x0002_0019),
    ("KW", 0x0002_0006),
    ("KX", 0x0002_0019),
];

const RIGHTS: [(&str, u32); 17] = [
    ("CC", 0x001),
    ("DC", 0x002),
    ("LC", 0x004),
    ("SW", 0x008),
    ("RP", 0x010),
    ("WP", 0x020),
    ("DT", 0x040),
    ("LO", 0x080),
    ("CR", 0x100),
    ("SD", 0x0001_0000),
    ("RC", 0x0002_0000),
    ("WD", 0x0004_0000),
    ("WO", 0x0008_0000),
    ("GA", 0x1000_0000),
    ("GX", 0x2000_0000),
    ("GW", 0x4000_0000),
    ("GR", 0x8000_0000),
];

/// In mandatory labels.
const LABELS: [(&str, u32); 3] = [("NW", 1), ("NR", 2), ("NX", 4)];
const LABEL: u8 = 0x11;

fn invalid(what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("not a security descriptor in SDDL: {what}"))
}

impl SecurityDescriptor {
    /// From SDDL text. Conditions and resource attributes are not known.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what is no SDDL, [`ErrorKind::Unsupported`].
    pub fn from_sddl(text: &str) -> Result<Self> {
        let mut descriptor = Self::default();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let mut chars = rest.chars();
            let (part, colon) = (chars.next(), chars.next());
            if colon != Some(':') {
                return Err(invalid(format_args!("{rest:?}")));
            }
            let body = chars.as_str();
            rest = match part {
                Some('O') if descriptor.owner.is_none() => take_sid(body, &mut descriptor.owner)?,
                Some('G') if descriptor.group.is_none() => take_sid(body, &mut descriptor.group)?,
                Some('D') if descriptor.control & control::DACL_PRESENT == 0 => {
                    descriptor.control |= control::DACL_PRESENT;
                    let (bits, acl, rest) = take_acl(body)?;
                    descriptor.control |= bits;
                    descriptor.dacl = acl;
                    rest
                }
                Some('S') if descriptor.control & control::SACL_PRESENT == 0 => {
                    descriptor.control |= control::SACL_PRESENT;
                    let (bits, acl, rest) = take_acl(body)?;
                    // The bits of the SACL lie one above those of the DACL.
                    descriptor.control |= bits << 1;
                    descriptor.sacl = acl;
                    rest
                }
                _ => return Err(invalid(format_args!("{rest:?}"))),
            };
        }
        Ok(descriptor)
    }

    /// As SDDL text, which leaves out some bits of [`control`](Self::control).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for entries that have conditions, resource attributes or an unknown kind.
    pub fn to_sddl(&self) -> Result<String> {
        let mut text = String::new();
        for (part, sid) in [("O:", &self.owner), ("G:", &self.group)] {
            if let Some(sid) = sid {
                text += part;
                text += &sid.to_sddl();
            }
        }
        for (part, present, acl, shift) in [
            ("D:", control::DACL_PRESENT, &self.dacl, 0),
            ("S:", control::SACL_PRESENT, &self.sacl, 1),
        ] {
            if self.control & present == 0 {
                continue;
            }
            text += part;
            for (name, bit) in ACL_FLAGS {
                if self.control & bit << shift != 0 {
                    text += name;
                }
            }
            match acl {
                None => text += NULL_ACL,
                Some(acl) => acl.aces.iter().try_for_each(|ace| write_ace(ace, &mut text))?,
            }
        }
        Ok(text)
    }
}

const NULL_ACL: &str = "NO_ACCESS_CONTROL";
const ACL_FLAGS: [(&str, u16); 3] = [
    ("P", control::DACL_PROTECTED),
    ("AR", control::DACL_AUTO_INHERIT_REQ),
    ("AI", control::DACL_AUTO_INHERITED),
];

/// Where the next part begins: one letter before a colon.
fn part_end(text: &str) -> usize {
    match text.find(':') {
        Some(colon) => text[..colon].char_indices().next_back().map_or(0, |(start, _)| start),
        None => text.len(),
    }
}

fn take_sid<'t>(text: &'t str, sid: &mut Option<Sid>) -> Result<&'t str> {
    let (name, rest) = text.split_at(part_end(text));
    let name = name.trim();
    *sid = Some(Sid::from_sddl(name).ok_or_else(|| invalid(format_args!("no SID {name:?}")))?);
    Ok(rest)
}

fn take_acl(text: &str) -> Result<(u16, Option<Acl>, &str)> {
    let end = text.find('(').unwrap_or(text.len()).min(part_end(text));
    let (flags, mut rest) = text.split_at(end);
    let mut flags = flags.trim();
    let mut bits = 0;
    let mut null = false;
    while !flags.is_empty() {
        let known =
            ACL_FLAGS.iter().find_map(|(name, bit)| Some((flags.strip_prefix(name)?, *bit)));
        flags = match known {
            Some((rest, bit)) => {
                bits |= bit;
                rest
            }
            None => match flags.strip_prefix(NULL_ACL) {
                Some(rest) => {
                    null = true;
                    rest
                }
                None => return Err(invalid(format_args!("flags {flags:?} of a list"))),
            },
        };
    }
    let mut aces = Vec::new();
    while let Some(body) = rest.strip_prefix('(') {
        let end = body.find(')').ok_or_else(|| invalid("an entry without its end"))?;
        aces.push(read_ace(&body[..end])?);
        rest = body[end + 1..].trim_start();
    }
    if null {
        return match aces.is_empty() {
            true => Ok((bits, None, rest)),
            false => Err(invalid(NULL_ACL)),
        };
    }
    let revision = if aces.iter().any(|ace| has_objects(ace.kind)) { 4 } else { 2 };
    Ok((bits, Some(Acl { revision, aces }), rest))
}

fn read_ace(text: &str) -> Result<Ace> {
    let fields: Vec<&str> = text.split(';').map(str::trim).collect();
    let [kind, flags, rights, object, inherited, sid, more @ ..] = fields.as_slice() else {
        return Err(invalid(format_args!("the entry {text:?}")));
    };
    if !more.is_empty() {
        let what = "conditions and resource attributes in SDDL are not supported";
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let known = KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind));
    let (_, kind) = *known.ok_or_else(|| invalid(format_args!("a {kind:?} entry")))?;
    let sid = Sid::from_sddl(sid).ok_or_else(|| invalid(format_args!("no SID {sid:?}")))?;
    let guids = [read_guid(object)?, read_guid(inherited)?];
    let objects = match (has_objects(kind), guids) {
        (true, guids) => Some(guids),
        (false, [None, None]) => None,
        _ => return Err(invalid("object types in an entry that has none")),
    };
    let flags = pairs(flags, &FLAGS).ok_or_else(|| invalid(format_args!("flags {flags:?}")))?;
    let mask = read_mask(rights).ok_or_else(|| invalid(format_args!("rights {rights:?}")))?;
    Ok(Ace { kind, flags, body: AceBody::Rights { mask, objects, sid, data: Vec::new() } })
}

/// The union of two-letter names.
fn pairs<T: Copy + Default + std::ops::BitOr<Output = T>>(
    text: &str,
    names: &[(&str, T)],
) -> Option<T> {
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    let value = |pair: &[u8; 2]| {
        let found = names.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(pair))?;
        Some(found.1)
    };
    pairs.iter().try_fold(T::default(), |all, pair| Some(all | value(pair)?))
}

fn read_mask(text: &str) -> Option<u32> {
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(hex) if !hex.starts_with('+') => u32::from_str_radix(hex, 16).ok(),
            Some(_) => None,
            None if text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
            None => text.parse().ok(),
        };
    }
    let names: Vec<_> = WHOLE_MASKS.iter().chain(&RIGHTS).chain(&LABELS).copied().collect();
    pairs(text, &names)
}

/// A GUID in the layout of Windows; nothing for no text.
fn read_guid(text: &str) -> Result<Option<[u8; 16]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let guid =
        uuid::Uuid::try_parse(text).map_err(|_| invalid(format_args!("no GUID {text:?}")))?;
    Ok(Some(guid.to_bytes_le()))
}

fn write_ace(ace: &Ace, text: &mut String) -> Result<()> {
    let unsupported = |what: &str| {
        let what = format!("an entry of kind {:#04x} with {what} has no text", ace.kind);
        Err(Error::new(ErrorKind::Unsupported, what))
    };
    let Some((kind, _)) = KINDS.iter().find(|(_, kind)| *kind == ace.kind) else {
        return unsupported("an unknown form");
    };
    let AceBody::Rights { mask, objects, sid, data } = &ace.body else {
        return unsupported("an unknown form");
    };
    if !data.is_empty() {
        return unsupported("data behind its SID");
    }
    let _ = write!(text, "({kind};");
    for (name, bit) in FLAGS {
        if ace.flags & bit != 0 {
            *text += name;
        }
    }
    *text += ";";
    write_mask(*mask, ace.kind, text);
    for guid in objects.unwrap_or_default() {
        let guid = guid.map(|guid| uuid::Uuid::from_bytes_le(guid).to_string());
        *text += ";";
        *text += &guid.unwrap_or_default();
    }
    let _ = write!(text, ";{})", sid.to_sddl());
    Ok(())
}

fn write_mask(mask: u32, kind: u8, text: &mut String) {
    if kind != LABEL
        && let Some((name, _)) = WHOLE_MASKS.iter().find(|(_, whole)| *whole == mask)
    {
        *text += name;
        return;
    }
    let names: &[_] = if kind == LABEL { &LABELS } else { &RIGHTS };
    if names.iter().fold(mask, |rest, (_, bit)| rest & !bit) != 0 {
        let _ = write!(text, "{mask:#x}");
        return;
    }
    names.iter().filter(|(_, bit)| mask & bit != 0).for_each(|(name, _)| *text += name);
}
