//! Security identifiers (MS-DTYP 2.4.2) and their two-letter names in SDDL.

use std::fmt;

/// Whom a security descriptor speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sid {
    /// The identifier's authority, 48 bits.
    authority: u64,
    /// Up to 15 numbers below it.
    sub_authorities: Vec<u32>,
}

const SUB_AUTHORITIES_MAX: usize = 15;

impl Sid {
    /// From its parts; `None` if an authority needs more than 48 bits or there are more than 15 numbers below it.
    pub fn new(authority: u64, sub_authorities: &[u32]) -> Option<Self> {
        let fits = authority < 1 << 48 && sub_authorities.len() <= SUB_AUTHORITIES_MAX;
        fits.then(|| Self { authority, sub_authorities: sub_authorities.to_vec() })
    }

    /// The identifier that bytes begin with; what follows it is ignored.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let [1, count, authority @ ..] = *head else { return None };
        let authority = authority.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let count = Some(usize::from(count)).filter(|count| *count <= SUB_AUTHORITIES_MAX)?;
        let numbers = rest.get(..4 * count)?.as_chunks::<4>().0;
        let sub_authorities = numbers.iter().map(|number| u32::from_le_bytes(*number)).collect();
        Some(Self { authority, sub_authorities })
    }

    /// Number of bytes in binary form.
    pub fn length(&self) -> usize {
        8 + 4 * self.sub_authorities.len()
    }

    /// Appends the binary form.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&[1, self.sub_authorities.len() as u8]);
        bytes.extend_from_slice(&self.authority.to_be_bytes()[2..]);
        bytes.extend(self.sub_authorities.iter().flat_map(|number| number.to_le_bytes()));
    }

    /// From `S-1-…` or a two-letter name. Names of accounts of a domain (`DA`, `LA`, …) are not known, since an image
    /// has no domain.
    pub fn from_sddl(text: &str) -> Option<Self> {
        let Some(numbers) = text.strip_prefix("S-1-").or_else(|| text.strip_prefix("s-1-")) else {
            let (_, authority, numbers) =
                ALIASES.iter().find(|(name, ..)| name.eq_ignore_ascii_case(text))?;
            return Self::new(*authority, numbers);
        };
        let mut numbers = numbers.split('-').map(number);
        let authority = numbers.next()??;
        let below =
            numbers.map(|number| u32::try_from(number?).ok()).collect::<Option<Vec<_>>>()?;
        Self::new(authority, &below)
    }

    /// As in SDDL: a two-letter name where there is one, else `S-1-…`.
    pub fn to_sddl(&self) -> String {
        let same = |(_, authority, numbers): &&(&str, u64, &[u32])| {
            *authority == self.authority && *numbers == self.sub_authorities
        };
        match ALIASES.iter().find(same) {
            Some((name, ..)) => (*name).into(),
            None => self.to_string(),
        }
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u64::from_str_radix(hex, 16).ok()
        }
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// `S-1-…`; authorities of 2^32 and more in hexadecimal.
impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u32::try_from(self.authority) {
            Ok(authority) => write!(f, "S-1-{authority}")?,
            Err(_) => write!(f, "S-1-{:#014x}", self.authority)?,
        }
        self.sub_authorities.iter().try_for_each(|number| write!(f, "-{number}"))
    }
}

/// Names that do not depend on a domain ("SID Strings", Win32).
const ALIASES: [(&str, u64, &[u32]); 49] = [
    ("BA", 5, &[32, 544]),
    ("BU", 5, &[32, 545]),
    ("BG", 5, &[32, 546]),
    ("PU", 5, &[32, 547]),
    ("AO", 5, &[32, 548]),
    ("SO", 5, &[32, 549]),
    ("PO", 5, &[32, 550]),
    ("BO", 5, &[32, 551]),
    ("RE", 5, &[32, 552]),
    ("RU", 5, &[32, 554]),
    ("RD", 5, &[32, 555]),
    ("NO", 5, &[32, 556]),
    ("MU", 5, &[32, 558]),
    ("LU", 5, &[32, 559]),
    ("IS", 5, &[32, 568]),
    ("CY", 5, &[32, 569]),
    ("ER", 5, &[32, 573]),
    ("CD", 5, &[32, 574]),
    ("RA", 5, &[32, 575]),
    ("ES", 5, &[32, 576]),
    ("MS", 5, &[32, 577]),
    ("HA", 5, &[32, 578]),
    ("AA", 5, &[32, 579]),
    ("RM", 5, &[32, 580]),
    ("SY", 5, &[18]),
    ("LS", 5, &[19]),
    ("NS", 5, &[20]),
    ("AU", 5, &[11]),
    ("AN", 5, &[7]),
    ("IU", 5, &[4]),
    ("NU", 5, &[2]),
    ("SU", 5, &[6]),
    ("PS", 5, &[10]),
    ("RC", 5, &[12]),
    ("WR", 5, &[33]),
    ("ED", 5, &[9]),
    ("WD", 1, &[0]),
    ("CO", 3, &[0]),
    ("CG", 3, &[1]),
    ("OW", 3, &[4]),
    ("AC", 15, &[2, 1]),
    ("LW", 16, &[4096]),
    ("ME", 16, &[8192]),
    ("MP", 16, &[8448]),
    ("HI", 16, &[12288]),
    ("SI", 16, &[16384]),
    ("AS", 18, &[1]),
    ("SS", 18, &[2]),
    ("UD", 5, &[84, 0, 0, 0, 0, 0]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_texts_agree() {
        let trusted = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464";
        for text in
            ["BA", "SY", "WD", "CO", trusted, "S-1-5-93-2-1", "S-1-0x123456789abc-1", "S-1-0"]
        {
            let sid = Sid::from_sddl(text).unwrap();
            assert_eq!(sid.to_sddl(), text);
            let mut bytes = Vec::new();
            sid.write(&mut bytes);
            assert_eq!(bytes.len(), sid.length());
            assert_eq!(Sid::read(&bytes), Some(sid));
            assert_eq!(Sid::read(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(Sid::from_sddl("S-1-5-32-544"), Sid::from_sddl("ba"));
        for (name, ..) in ALIASES {
            assert_eq!(Sid::from_sddl(name).unwrap().to_sddl(), name);
        }
        let many = format!("S-1-5{}", "-1".repeat(16));
        for bad in ["", "XY", "S-1-", "S-1-5-", "S-1-5-4294967296", "S-2-5", "S-1-+5", "DA", &many]
        {
            assert_eq!(Sid::from_sddl(bad), None, "{bad:?}");
        }
    }
}
