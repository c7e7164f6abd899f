//! Extended attributes: which are shared, and the bytes of a body.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

use super::WriterOptions;
use super::census::Census;
use super::hasher::Keyed;
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

/// In place of the id of a shared entry: the entry is in the inode's own body.
const INLINE: u32 = u32::MAX;

/// Where every extended attribute goes.
#[derive(Debug, Default)]
pub(super) struct XattrPlan {
    /// Id of the shared entry or [`INLINE`], for every attribute of every inode: inodes in the census's order, the
    /// attributes of each in the order of their names.
    places: Vec<u32>,
    /// Where in `places` the attributes of an inode begin, by position in the census's order.
    starts: Vec<u32>,
    shared_count: u64,
    /// Whether all inodes have their attributes in the order of their names.
    sorted: bool,
    prefixes: LongPrefixes,
    /// Bytes of the shared entries; an id counts 4-byte words in it.
    pub(super) table: Vec<u8>,
}

impl XattrPlan {
    /// `position` is where metadata begins, at a block's start.
    pub(super) fn new(
        tree: &Tree,
        census: &Census,
        options: &WriterOptions,
        position: u64,
    ) -> Self {
        let mut pairs = Pairs::default();
        let mut plan = Self { sorted: true, ..Self::default() };
        plan.starts.reserve(census.order.len());
        plan.places.reserve(census.order.len());
        for &id in &census.order {
            plan.starts.push(count(&plan.places));
            let xattrs = &tree[id].xattrs;
            plan.sorted &= is_by_name(xattrs);
            let alone = |xattr: &Xattr| options.distinct_xattrs && !is_shared(xattr);
            plan.places.extend(by_name(xattrs, plan.sorted).map(|xattr| match alone(xattr) {
                true => INLINE,
                false => pairs.number(xattr),
            }));
        }
        // The prefix table's position is stored in 32 bits of 4 bytes; the table follows at most the
        // shared entries, for which half of that range is left.
        if options.long_xattr_prefixes && position < 1 << 33 {
            let mut names: BTreeMap<&[u8], u64> = BTreeMap::new();
            for (xattr, uses) in &pairs.found {
                let stored = if *uses > SHARED_ABOVE { 1 } else { u64::from(*uses) };
                *names.entry(&xattr.name).or_default() += stored;
            }
            plan.prefixes = LongPrefixes::choose(&names);
        }
        let mut ids = Vec::with_capacity(pairs.found.len());
        for (xattr, uses) in &pairs.found {
            ids.push(match *uses > SHARED_ABOVE {
                true => {
                    let id =
                        u32::try_from(plan.table.len() / 4).expect("less than 16 GiB of xattrs");
                    encode_entry(&plan.prefixes, xattr, &mut plan.table);
                    plan.shared_count += 1;
                    id
                }
                false => INLINE,
            });
        }
        for place in &mut plan.places {
            *place = ids.get(*place as usize).copied().unwrap_or(INLINE);
        }
        // A body has room for so many ids; what is more stays inline.
        let ends = plan.starts.iter().skip(1).copied().chain([count(&plan.places)]);
        for (start, end) in plan.starts.iter().zip(ends) {
            let places = &mut plan.places[*start as usize..end as usize];
            if places.len() > SHARED_PER_INODE {
                let shared = places.iter_mut().filter(|place| **place != INLINE);
                shared.skip(SHARED_PER_INODE).for_each(|place| *place = INLINE);
            }
        }
        plan
    }

    pub(super) fn shared_count(&self) -> u64 {
        self.shared_count
    }

    pub(super) fn prefix_count(&self) -> u8 {
        self.prefixes.count()
    }

    pub(super) fn prefix_table(&self) -> Vec<u8> {
        self.prefixes.table()
    }

    /// The attributes of an inode by its position in the census's order, in the order of their names, each with the
    /// id of its shared entry or [`INLINE`].
    fn placed<'x>(
        &self,
        position: usize,
        xattrs: &'x [Xattr],
    ) -> impl Iterator<Item = (&'x Xattr, u32)> {
        let places = &self.places[self.starts[position] as usize..][..xattrs.len()];
        by_name(xattrs, self.sorted).zip(places.iter().copied())
    }

    /// Length of an inode's body: 0 without attributes.
    pub(super) fn body_length(&self, position: usize, xattrs: &[Xattr]) -> u64 {
        if xattrs.is_empty() {
            return 0;
        }
        let lengths = self.placed(position, xattrs).map(|(xattr, place)| match place {
            INLINE => entry_length(&self.prefixes, xattr),
            _ => 4,
        });
        (size_of::<XattrHeader>() + lengths.sum::<usize>()) as u64
    }

    /// Appends an inode's body.
    pub(super) fn encode_body(&self, position: usize, xattrs: &[Xattr], out: &mut Vec<u8>) {
        if xattrs.is_empty() {
            return;
        }
        let start = out.len();
        out.extend_from_slice(&[0; size_of::<XattrHeader>()]);
        let mut shared_count = 0;
        for (_, place) in self.placed(position, xattrs).filter(|(_, place)| *place != INLINE) {
            out.extend_from_slice(U32::new(place).as_bytes());
            shared_count += 1;
        }
        for (xattr, _) in self.placed(position, xattrs).filter(|(_, place)| *place == INLINE) {
            encode_entry(&self.prefixes, xattr, out);
        }
        let header = XattrHeader { name_filter: U32::ZERO, shared_count, reserved: [0; 7] };
        out[start..start + size_of::<XattrHeader>()].copy_from_slice(header.as_bytes());
    }
}

fn count(places: &[u32]) -> u32 {
    u32::try_from(places.len()).expect("fewer than 2^32 xattrs in memory")
}

/// Numbers for pairs of name and value, in the order in which they turn up.
struct Pairs<'t> {
    numbers: HashMap<Pair<'t>, u32, Keyed>,
    /// The same by address: most values that inodes have in common are in memory once.
    addresses: HashMap<(*const u8, *const u8), u32, Keyed>,
    /// What was looked up in `addresses` last, by the low bits of the value's address: neighbours have much in common.
    last: [Option<((*const u8, *const u8), u32)>; LAST],
    /// By number: the first of its kind, and how many there are.
    found: Vec<(&'t Xattr, u32)>,
}

/// Places of what was looked up last.
const LAST: usize = 64;

/// Whether more than one inode has the value in memory.
fn is_shared(xattr: &Xattr) -> bool {
    Arc::strong_count(&xattr.value) > 1
}

impl Default for Pairs<'_> {
    fn default() -> Self {
        Self {
            numbers: HashMap::default(),
            addresses: HashMap::default(),
            last: [None; LAST],
            found: Vec::new(),
        }
    }
}

impl<'t> Pairs<'t> {
    /// The number of a pair, counted once more.
    fn number(&mut self, xattr: &'t Xattr) -> u32 {
        let is_shared = is_shared(xattr);
        let address = (xattr.name.as_ptr(), xattr.value.as_ptr());
        let place = (address.1.addr() >> 4) % LAST;
        if let Some((_, number)) =
            self.last[place].filter(|(last, _)| is_shared && *last == address)
        {
            self.found[number as usize].1 += 1;
            return number;
        }
        let known = if is_shared { self.addresses.get(&address).copied() } else { None };
        let number = known.unwrap_or_else(|| {
            let next = u32::try_from(self.found.len()).expect("fewer than 2^32 xattrs in memory");
            let number = *self.numbers.entry((&xattr.name, &xattr.value)).or_insert(next);
            if number == next {
                self.found.push((xattr, 0));
            }
            if is_shared {
                self.addresses.insert(address, number);
            }
            number
        });
        if is_shared {
            self.last[place] = Some((address, number));
        }
        self.found[number as usize].1 += 1;
        number
    }
}

fn is_by_name(xattrs: &[Xattr]) -> bool {
    xattrs.is_sorted_by_key(|xattr| &xattr.name)
}

/// Attributes in the order of their names (`sorted`: they are known to be in it), which is the order of everything stored: the order in memory
/// must not show in an image.
fn by_name(xattrs: &[Xattr], sorted: bool) -> impl Iterator<Item = &Xattr> {
    let sorted = (!sorted && !is_by_name(xattrs)).then(|| {
        let mut sorted: Vec<_> = xattrs.iter().collect();
        sorted.sort_unstable_by_key(|xattr| &xattr.name);
        sorted
    });
    (0..xattrs.len()).map(move |index| match &sorted {
        Some(sorted) => sorted[index],
        None => &xattrs[index],
    })
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
