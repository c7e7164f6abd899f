//! Folding of names for lookups that ignore case.
//!
//! Every image carries its own table. The one that Windows writes is not public; ours has the simple upper-case
//! mappings of Unicode inside the basic plane, except those that would make an ASCII letter of another character
//! (such as U+0131, the i without a dot), unverified on Windows.

mod runs;

use std::cmp::Ordering;
use std::sync::OnceLock;

use crate::format::UPCASE_UNITS;

/// A table with the upper-case form of each UTF-16 code unit.
#[derive(Clone, PartialEq, Eq)]
pub struct Upcase(Box<[u16]>);

impl Upcase {
    /// The table that the writer stores in fresh images.
    pub fn standard() -> &'static Self {
        static STANDARD: OnceLock<Upcase> = OnceLock::new();
        STANDARD.get_or_init(|| {
            let mut table: Vec<u16> = (0..=u16::MAX).collect();
            for &(first, count, step, delta) in runs::RUNS {
                for unit in (0..count).map(|index| first + index * step) {
                    table[usize::from(unit)] = unit.wrapping_add(delta);
                }
            }
            Self(table.into())
        })
    }

    /// A table of [`UPCASE_UNITS`] code units, or `None` if there are more or fewer.
    pub fn from_units(units: Vec<u16>) -> Option<Self> {
        (units.len() == UPCASE_UNITS).then(|| Self(units.into()))
    }

    /// All [`UPCASE_UNITS`] code units.
    pub fn units(&self) -> &[u16] {
        &self.0
    }

    /// The upper-case form of a code unit.
    pub fn fold(&self, unit: u16) -> u16 {
        self.0[usize::from(unit)]
    }

    /// The upper-case form of a name.
    pub fn fold_units(&self, name: &[u16]) -> Box<[u16]> {
        name.iter().map(|unit| self.fold(*unit)).collect()
    }

    /// Compares two names as link tables are sorted: by upcased code units, the shorter first.
    pub fn compare(&self, left: &[u16], right: &[u16]) -> Ordering {
        let [left, right] = [left, right].map(|name| name.iter().map(|unit| self.fold(*unit)));
        left.cmp(right)
    }

    /// The same by characters: surrogate pairs come behind everything else.
    pub(crate) fn compare_by_character(&self, left: &[u16], right: &[u16]) -> Ordering {
        let [left, right] = [left, right].map(|name| {
            let folded = name.iter().map(|unit| self.fold(*unit));
            char::decode_utf16(folded).map(|char| match char {
                Ok(char) => u32::from(char),
                Err(unpaired) => u32::from(unpaired.unpaired_surrogate()),
            })
        });
        left.cmp(right)
    }
}

impl std::fmt::Debug for Upcase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let changed = (0..=u16::MAX).zip(&*self.0).filter(|(unit, upper)| unit != *upper);
        f.debug_struct("Upcase").field("changed", &changed.count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(char: char) -> u16 {
        Upcase::standard().fold(u16::try_from(u32::from(char)).unwrap())
    }

    #[test]
    fn letters_are_folded_and_nothing_becomes_ascii_that_was_not() {
        for (from, to) in [('a', 'A'), ('ä', 'Ä'), ('ÿ', 'Ÿ'), ('я', 'Я'), ('ᾀ', 'ᾈ'), ('ａ', 'Ａ')]
        {
            assert_eq!(u32::from(fold(from)), u32::from(to), "{from}");
        }
        for same in ['A', '1', 'ß', 'ı', 'ſ', 'Ä', '\u{212A}', '語'] {
            assert_eq!(u32::from(fold(same)), u32::from(same), "{same}");
        }
        let table = Upcase::standard();
        assert!((0x80..=u16::MAX).all(|unit| table.fold(unit) >= 0x80));
        assert!((0..=u16::MAX).all(|unit| table.fold(table.fold(unit)) == table.fold(unit)));
    }

    #[test]
    fn the_mappings_are_those_of_unicode() {
        let table = Upcase::standard();
        for unit in 0x80..=u16::MAX {
            let Some(char) = char::from_u32(unit.into()) else {
                assert_eq!(table.fold(unit), unit, "surrogates stay");
                continue;
            };
            let mut upper = char.to_uppercase();
            if let (Some(only), None) = (upper.next(), upper.next())
                && table.fold(unit) != unit
            {
                assert_eq!(u32::from(table.fold(unit)), u32::from(only), "{char}");
            }
        }
    }

    #[test]
    fn the_two_orders_differ_only_above_surrogates() {
        let table = Upcase::standard();
        let [private, emoji] = ["\u{E000}", "😀"].map(|s| s.encode_utf16().collect::<Vec<_>>());
        assert_eq!(table.compare(&private, &emoji), Ordering::Greater);
        assert_eq!(table.compare_by_character(&private, &emoji), Ordering::Less);
        let [a, b] = ["abc", "ABCD"].map(|s| s.encode_utf16().collect::<Vec<_>>());
        assert_eq!(table.compare(&a, &b), Ordering::Less);
        assert_eq!(table.compare_by_character(&a, &b), Ordering::Less);
        assert_eq!(table.compare(&a, &b[..3]), Ordering::Equal);
    }
}
