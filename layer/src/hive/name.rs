//! Names of keys and values: UTF-16 code units, compared as the kernel compares them.

mod runs;

use std::cmp::Ordering;
use std::fmt;
use std::sync::OnceLock;

/// A name: any sequence of UTF-16 code units, unpaired surrogates and zeros included.
///
/// `==` compares units; [`Name::compare`] ignores case, as every look-up in a registry does.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Name(Box<[u16]>);

impl Name {
    /// The name with these code units.
    pub fn new(units: impl Into<Box<[u16]>>) -> Self {
        Self(units.into())
    }

    /// Its UTF-16 code units.
    pub fn units(&self) -> &[u16] {
        &self.0
    }

    /// Whether it has no units, as the name of a key's default value.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The order of sorted lists of subkeys: by upper-case code units as numbers, a prefix first.
    pub fn compare(&self, other: &Self) -> Ordering {
        let [left, right] = [self, other].map(|name| name.0.iter().map(|unit| fold(*unit)));
        left.cmp(right)
    }

    /// Every unit in upper case: equal for names that are the same to a registry.
    pub(super) fn folded(&self) -> Box<[u16]> {
        self.0.iter().map(|unit| fold(*unit)).collect()
    }

    /// The hash in `lh` lists.
    pub(super) fn hash(&self) -> u32 {
        self.0
            .iter()
            .fold(0, |hash: u32, unit| hash.wrapping_mul(37).wrapping_add(u32::from(fold(*unit))))
    }

    /// One byte a unit, if every unit fits: the "compressed" form, which is Latin-1.
    pub(super) fn latin1(&self) -> Option<Vec<u8>> {
        self.0.iter().map(|unit| u8::try_from(*unit).ok()).collect()
    }

    pub(super) fn from_latin1(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|byte| u16::from(*byte)).collect())
    }

    /// From UTF-16LE; a last odd byte is ignored.
    pub(super) fn from_utf16(bytes: &[u8]) -> Self {
        Self(bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect())
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(text.encode_utf16().collect())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in char::decode_utf16(self.0.iter().copied()) {
            match char {
                Ok(char) if char.is_control() => write!(f, "{}", char.escape_default())?,
                Ok(char) => write!(f, "{char}")?,
                Err(unpaired) => write!(f, "\\u{{{:x}}}", unpaired.unpaired_surrogate())?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// The upper-case form of a code unit in the table of Windows 10. Surrogates are neither folded nor combined.
fn fold(unit: u16) -> u16 {
    static TABLE: OnceLock<Box<[u16]>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table: Vec<u16> = (0..=u16::MAX).collect();
        for &(first, count, step, delta) in runs::RUNS {
            for unit in (0..count).map(|index| first + index * step) {
                table[usize::from(unit)] = unit.wrapping_add(delta);
            }
        }
        table.into()
    });
    table[usize::from(unit)]
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn the_table_is_that_of_windows_10() {
        let table: Vec<u8> = (0..=u16::MAX).flat_map(|unit| fold(unit).to_le_bytes()).collect();
        let digest: String =
            Sha256::digest(&table).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, "41c26bc7a12bdaeb26025c93118697c7e3ef81ee048b00fe5cce2a472e0e0742");
    }

    #[test]
    fn hashes_of_real_lists() {
        for (name, hash) in [
            ("ROOT", 0x0041_1300),
            ("Microsoft", 0x7F00_CD26),
            ("Windows", 0x2F7D_E68B),
            ("CurrentVersion", 0x7E25_F69D),
            ("ControlSet001", 0x8F3B_A9A2),
            ("Services", 0x227A_F730),
            ("Café", 0x0035_2F57),
            ("Ωmega", 0x68E8_C913),
            ("ÿ", 0x0000_0178),
            ("日本", 0x000F_2145),
            ("ﬀß", 0x0024_47DF),
            ("\u{10438}", 0x0020_145D),
        ] {
            assert_eq!(Name::from(name).hash(), hash, "{name}");
        }
    }

    #[test]
    fn order_is_by_units() {
        let names =
            ["", "a", "A\0", "AB", "b", "\u{10410}", "\u{10438}", "\u{FF21}"].map(Name::from);
        assert!(names.is_sorted_by(|left, right| left.compare(right).is_lt()));
        for (left, right, same) in [
            ("\u{FF21}", "\u{FF41}", true),
            ("\u{10410}", "\u{10438}", false),
            ("µ", "Μ", false),
            ("ß", "SS", false),
            ("ÿ", "Ÿ", true),
        ] {
            assert_eq!(
                Name::from(left).compare(&Name::from(right)).is_eq(),
                same,
                "{left} {right}"
            );
        }
    }
}
