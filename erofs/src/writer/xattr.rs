//! Extended attributes: which are shared, and the bytes of a body.

use std::collections::{BTreeMap, HashMap};

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

use super::WriterOptions;
use super::census::Census;
use super::prefix::LongPrefixes;
use crate::format::{XATTR_PREFIXES, XattrEntry, XattrHeader};
use crate::tree::{Tree, Xattr};

/// A pair that is used more often than this is stored once and referred to, as mkfs does.
const SHARED_ABOVE: u32 = 2;
/// `shared_count` of a body is one byte.
const SHARED_PER_INODE: usize = 255;
/// Largest body: 12 bytes and 65,534 words.
pub(super) const BODY_MAX: u64 = 12 + 4 * 65_534;

type Pair<'t> = (&'t [u8], &'t [u8]);

/// Where every extended attribute goes.
#[derive(Debug, Default)]
pub(super) struct XattrPlan<'t> {
    shared: HashMap<Pair<'t>, u32>,
    prefixes: LongPrefixes,
    /// Bytes of the shared entries; an id counts 4-byte words in it.
    pub(super) table: Vec<u8>,
}

impl<'t> XattrPlan<'t> {
    /// `position` is where metadata begins, at a block's start.
    pub(super) fn new(
        tree: &'t Tree,
        census: &Census,
        options: &WriterOptions,
        position: u64,
    ) -> Self {
        let all = || census.order.iter().flat_map(|&id| &tree[id].xattrs);
        let mut uses: HashMap<Pair<'t>, u32> = HashMap::new();
        for xattr in all() {
            *uses.entry((&xattr.name, &xattr.value)).or_default() += 1;
        }
        let mut plan = Self::default();
        // The prefix table's position is stored in 32 bits of 4 bytes; the table follows at most the
        // shared entries, for which half of that range is left.
        if options.long_xattr_prefixes && position < 1 << 33 {
            let mut names: BTreeMap<&[u8], u64> = BTreeMap::new();
            for (&(name, _), &count) in &uses {
                let stored = if count > SHARED_ABOVE { 1 } else { u64::from(count) };
                *names.entry(name).or_default() += stored;
            }
            plan.prefixes = LongPrefixes::choose(&names);
        }
        for xattr in census.order.iter().flat_map(|&id| by_name(&tree[id].xattrs)) {
            let pair: Pair<'t> = (&xattr.name, &xattr.value);
            if uses[&pair] > SHARED_ABOVE && !plan.shared.contains_key(&pair) {
                let id = u32::try_from(plan.table.len() / 4).expect("less than 16 GiB of xattrs");
                encode_entry(&plan.prefixes, xattr, &mut plan.table);
                plan.shared.insert(pair, id);
            }
        }
        plan
    }

    pub(super) fn shared_count(&self) -> u64 {
        self.shared.len() as u64
    }

    pub(super) fn prefix_count(&self) -> u8 {
        self.prefixes.count()
    }

    pub(super) fn prefix_table(&self) -> Vec<u8> {
        self.prefixes.table()
    }

    /// Length of an inode's body: 0 without attributes.
    pub(super) fn body_length(&self, xattrs: &[Xattr]) -> u64 {
        if xattrs.is_empty() {
            return 0;
        }
        let mut length = size_of::<XattrHeader>();
        self.split(xattrs, |item| {
            length += match item {
                Item::Shared(_) => 4,
                Item::Inline(xattr) => entry_length(&self.prefixes, xattr),
            }
        });
        length as u64
    }

    /// Appends an inode's body.
    pub(super) fn encode_body(&self, xattrs: &[Xattr], out: &mut Vec<u8>) {
        if xattrs.is_empty() {
            return;
        }
        let start = out.len();
        out.extend_from_slice(&[0; size_of::<XattrHeader>()]);
        let mut shared_count = 0;
        self.split(xattrs, |item| {
            if let Item::Shared(id) = item {
                out.extend_from_slice(U32::new(id).as_bytes());
                shared_count += 1;
            }
        });
        self.split(xattrs, |item| {
            if let Item::Inline(xattr) = item {
                encode_entry(&self.prefixes, xattr, out);
            }
        });
        let header = XattrHeader { name_filter: U32::ZERO, shared_count, reserved: [0; 7] };
        out[start..start + size_of::<XattrHeader>()].copy_from_slice(header.as_bytes());
    }

    /// Hands out attributes in the order of their names, each as shared or inline.
    fn split<'x>(&self, xattrs: &'x [Xattr], mut take: impl FnMut(Item<'x>)) {
        let mut shared_count = 0;
        for xattr in by_name(xattrs) {
            let pair: Pair<'_> = (&xattr.name, &xattr.value);
            match self.shared.get(&pair) {
                Some(&id) if shared_count < SHARED_PER_INODE => {
                    shared_count += 1;
                    take(Item::Shared(id));
                }
                _ => take(Item::Inline(xattr)),
            }
        }
    }
}

/// Attributes in the order of their names, which is the order of everything stored: the order in memory
/// must not show in an image.
fn by_name(xattrs: &[Xattr]) -> Vec<&Xattr> {
    let mut sorted: Vec<_> = xattrs.iter().collect();
    sorted.sort_unstable_by_key(|xattr| &xattr.name);
    sorted
}

enum Item<'x> {
    Shared(u32),
    Inline(&'x Xattr),
}

/// Splits a full name into the format's prefix index and the rest; `None` for a name that has no place.
pub(super) fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_PREFIXES.iter().find_map(|&(index, prefix)| {
        let rest = name.strip_prefix(prefix)?;
        // A prefix that ends in a dot is a namespace; the others are whole names.
        (prefix.ends_with(b".") != rest.is_empty()).then_some((index, rest))
    })
}

fn stored_name<'x>(prefixes: &LongPrefixes, xattr: &'x Xattr) -> (u8, &'x [u8]) {
    let (base, rest) = split_name(&xattr.name).expect("names have been checked");
    prefixes.apply(base, rest)
}

fn entry_length(prefixes: &LongPrefixes, xattr: &Xattr) -> usize {
    let (_, name) = stored_name(prefixes, xattr);
    (size_of::<XattrEntry>() + name.len() + xattr.value.len()).next_multiple_of(4)
}

fn encode_entry(prefixes: &LongPrefixes, xattr: &Xattr, out: &mut Vec<u8>) {
    let (name_index, name) = stored_name(prefixes, xattr);
    let entry = XattrEntry {
        name_len: u8::try_from(name.len()).expect("names have been checked"),
        name_index,
        value_len: U16::new(u16::try_from(xattr.value.len()).expect("values have been checked")),
    };
    // `out` may begin anywhere in the image, so the padding counts from the entry's start.
    let start = out.len();
    out.extend_from_slice(entry.as_bytes());
    out.extend_from_slice(name);
    out.extend_from_slice(&xattr.value);
    out.resize(start + (out.len() - start).next_multiple_of(4), 0);
}
