//! Long xattr name prefixes: beginnings of names that are frequent enough to be worth a table entry.

use std::collections::BTreeMap;

use super::round_up;
use super::xattr::split_name;
use crate::format::XATTR_LONG_PREFIX;

/// A prefix is one of the format's own and an infix: `trusted.` and `overlay.`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LongPrefix {
    base: u8,
    infix: Vec<u8>,
}

/// The prefixes in use, longest infix first, so that the first match is the best.
#[derive(Debug, Default)]
pub(super) struct LongPrefixes(Vec<LongPrefix>);

/// `name_index` has 7 bits for the number.
const COUNT_MAX: usize = 128;
/// A record is at most 256 bytes with its base index.
const INFIX_MAX: usize = 255;

impl LongPrefixes {
    /// Picks prefixes that save more than they cost; `names` counts the stored entries by full name.
    ///
    /// Candidates are whole names and their beginnings up to a dot. Longer ones choose first, and names
    /// that they serve no longer count for shorter ones.
    pub(super) fn choose(names: &BTreeMap<&[u8], u64>) -> Self {
        let mut candidates: BTreeMap<(u8, &[u8]), u64> = BTreeMap::new();
        for name in names.keys() {
            let Some((base, rest)) = split_name(name) else { continue };
            let ends =
                rest.iter().enumerate().filter(|&(_, &byte)| byte == b'.').map(|(i, _)| i + 1);
            for end in ends.chain([rest.len()]).filter(|end| (1..=INFIX_MAX).contains(end)) {
                candidates.insert((base, &rest[..end]), 0);
            }
        }
        let mut order: Vec<(u8, &[u8])> = candidates.keys().copied().collect();
        order.sort_by_key(|&(base, infix)| (std::cmp::Reverse(infix.len()), base, infix));
        let mut served = vec![false; names.len()];
        let mut chosen = Vec::new();
        for (base, infix) in order {
            let members = names.iter().zip(&mut served).filter(|((name, _), served)| {
                !**served
                    && split_name(name)
                        .is_some_and(|(b, rest)| b == base && rest.starts_with(infix))
            });
            let members: Vec<_> = members.collect();
            let uses: u64 = members.iter().map(|((_, uses), _)| **uses).sum();
            let saved = uses * infix.len() as u64;
            let cost = record_length(infix);
            if saved > cost {
                members.into_iter().for_each(|(_, served)| *served = true);
                chosen.push((saved - cost, LongPrefix { base, infix: infix.to_vec() }));
            }
        }
        chosen.sort_by_key(|(gain, _)| std::cmp::Reverse(*gain));
        chosen.truncate(COUNT_MAX);
        let mut prefixes: Vec<_> = chosen.into_iter().map(|(_, prefix)| prefix).collect();
        prefixes.sort_by(|a, b| {
            (b.infix.len(), a.base, &a.infix).cmp(&(a.infix.len(), b.base, &b.infix))
        });
        Self(prefixes)
    }

    /// The index and rest under which a name is stored.
    pub(super) fn apply<'n>(&self, base: u8, rest: &'n [u8]) -> (u8, &'n [u8]) {
        let matching = |prefix: &LongPrefix| prefix.base == base && rest.starts_with(&prefix.infix);
        match self.0.iter().position(matching) {
            Some(index) => {
                let number = u8::try_from(index).expect("at most 128 prefixes");
                (XATTR_LONG_PREFIX | number, &rest[self.0[index].infix.len()..])
            }
            None => (base, rest),
        }
    }

    pub(super) fn count(&self) -> u8 {
        u8::try_from(self.0.len()).expect("at most 128 prefixes")
    }

    /// The table: length of what follows, base index, infix; each record starts at a multiple of 4.
    pub(super) fn table(&self) -> Vec<u8> {
        let mut table = Vec::new();
        for LongPrefix { base, infix } in &self.0 {
            let length = u16::try_from(1 + infix.len()).expect("an infix is at most 255 bytes");
            table.extend_from_slice(&length.to_le_bytes());
            table.push(*base);
            table.extend_from_slice(infix);
            table.resize(table.len().next_multiple_of(4), 0);
        }
        table
    }
}

fn record_length(infix: &[u8]) -> u64 {
    round_up(3 + infix.len() as u64, 4)
}
