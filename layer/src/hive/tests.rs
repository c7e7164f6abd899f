//! Hives made by hand, and every way in which they can be wrong.

mod logs;
mod merges;

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use zerocopy::{FromBytes, IntoBytes};

use super::format::{BLOCK, BaseBlock, BinHeader, KeyNode};
use super::*;
use crate::{Error, ErrorKind};

pub(super) fn security(text: &str) -> Arc<[u8]> {
    match text {
        "" => Hive::DEFAULT_SECURITY.into(),
        // What it says is nobody's business here.
        text => text.as_bytes().into(),
    }
}

pub(super) fn key(name: &str) -> Key<'static> {
    Key::new(name, security(""))
}

pub(super) fn hive() -> Hive<'static> {
    Hive::new(key("ROOT"))
}

/// Changes the base block and makes its checksum right.
fn with_base(bytes: &mut [u8], change: impl FnOnce(&mut BaseBlock)) {
    let (base, _) = BaseBlock::mut_from_prefix(bytes).unwrap();
    change(base);
    base.checksum.set(base.computed_checksum());
}

/// Changes the record of the key of this name, which must be in one byte a unit.
fn with_key(bytes: &mut [u8], name: &str, change: impl FnOnce(&mut KeyNode)) {
    let at = cell_of(bytes, b"nk", |content| content[76..].starts_with(name.as_bytes()));
    change(KeyNode::mut_from_prefix(&mut bytes[at..]).unwrap().0);
}

/// Position of the content of the first allocated cell with this signature that the test agrees to.
fn cell_of(bytes: &[u8], signature: &[u8], matches: impl Fn(&[u8]) -> bool) -> usize {
    let found = (BLOCK..bytes.len()).step_by(8).map(|cell| cell + 4).find(|&at| {
        bytes[at..].starts_with(signature) && bytes[at - 1] & 0x80 != 0 && matches(&bytes[at..])
    });
    found.expect("there is such a cell")
}

fn refused(bytes: &[u8]) -> Error {
    Hive::read(bytes).map(|hive| hive.key_count()).expect_err("damage is not read")
}

fn warned(hive: &Hive<'_>) -> Vec<WarningKind> {
    hive.warnings().iter().map(Warning::kind).collect()
}

#[test]
fn the_smallest_hive() {
    let bytes = hive().write().unwrap();
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, "7d6db9fa24a1728730c579f63fda0a9581ec3391f6c94ca53c5c90f95362db10");
    assert_eq!(bytes[508..512], 0x6667_7556_u32.to_le_bytes());
    assert_eq!(Hive::read(&bytes).unwrap(), hive());
}

/// A hive with one of everything; what it holds survives all readers that are judges of ours.
fn rich() -> Hive<'static> {
    let mut rich = hive();
    let root = rich.root();
    rich.values_mut(root).extend([
        Value::new("", 1, b"d\0e\0f\0\0\0".as_slice()),
        Value::new("Größe", 4, 7_u32.to_le_bytes().to_vec()),
        Value::new("日本", 0xFFFF_0012, b"odd".as_slice()),
    ]);
    let sizes = rich.add_key(root, key("sizes")).unwrap();
    for size in [0, 1, 2, 4, 5, 16_344, 16_345, 32_688, 102_400] {
        let data: Vec<u8> = (0..size).map(|at: u32| at.to_le_bytes()[1] ^ 0x5A).collect();
        rich.values_mut(sizes).push(Value::new(size.to_string().as_str(), 3, data));
    }
    let mut lsa = key("Lsa");
    lsa.class = b"1\0a\0".as_slice().into();
    lsa.security = security("another");
    lsa.written = 0x01D0_0000_0000_0000;
    lsa.virtualization = 0x23;
    rich.add_key(root, lsa).unwrap();
    let mut link = key("Link");
    link.flags = KeyFlags::LINK;
    link.values.push(Value::new("SymbolicLinkValue", 6, b"\\\0R\0".as_slice()));
    rich.add_key(root, link).unwrap();
    for units in [&[0xD801][..], &[0xDC01, 0xD801], &[0x41, 0, 0x42], &[0xD801, 0xDC10], &[0xFF21]]
    {
        rich.add_key(root, Key::new(Name::new(units), security("another"))).unwrap();
    }
    let many = rich.add_key(root, key("many")).unwrap();
    for number in 0..1_200 {
        rich.add_key(many, key(&format!("key {number}"))).unwrap();
    }
    rich
}

#[test]
fn everything_survives() {
    let rich = rich();
    let bytes = rich.write().unwrap();
    let read = Hive::read(&bytes).unwrap();
    assert!(read == rich);
    assert_eq!(read.warnings(), []);
    assert!(read.write().unwrap() == bytes, "the same hive is written to the same bytes");
    let found = read.find(r"\MANY\Key 777").unwrap();
    assert_eq!(read.path(found), r"\many\key 777");
    assert_eq!(read.key(read.root()).value(&"GRÖSSE".into()), None);
    assert_eq!(read.key(read.root()).value(&"GRÖßE".into()).unwrap().kind, 4);
}

#[test]
fn a_delta_keeps_its_marks_and_a_plain_hive_has_none() {
    let mut delta = hive();
    delta.set_layered(true);
    let root = delta.root();
    for (name, semantics, inherits_class) in [
        ("a", Semantics::Merge, true),
        ("b", Semantics::Tombstone, false),
        ("c", Semantics::SupersedeLocal, false),
        ("d", Semantics::SupersedeTree, true),
    ] {
        let mut marked = key(name);
        marked.layer = Layer { semantics, inherits_class };
        marked.values.push(Value::tombstone("gone"));
        delta.add_key(root, marked).unwrap();
    }
    let bytes = delta.write().unwrap();
    let read = Hive::read(&bytes).unwrap();
    assert!(read == delta && read.is_layered());
    assert_eq!(read.warnings(), []);
    // The same bytes without the flag: the marks are garbage then, and the values ordinary.
    let mut plain = bytes.clone();
    with_base(&mut plain, |base| base.flags.set(0));
    let plain = Hive::read(&plain).unwrap();
    assert_eq!(warned(&plain), [WarningKind::VersionOfLayers]);
    let b = plain.key(plain.find("b").unwrap());
    assert_eq!((b.layer, b.values[0].deleted), (Layer::default(), false));
    // And with an older version: the flag decides.
    let mut old = bytes;
    with_base(&mut old, |base| base.minor.set(3));
    let old = Hive::read(&old).unwrap();
    assert_eq!(warned(&old), [WarningKind::VersionOfLayers]);
    assert!(old == delta);
    delta.set_layered(false);
    assert_eq!(delta.write().unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let refused = |key: Key<'static>, kind| {
        let mut hive = hive();
        hive.add_key(hive.root(), key).unwrap();
        assert_eq!(hive.write().unwrap_err().kind(), kind, "{hive:?}");
    };
    for name in ["", r"a\b", &"x".repeat(256)] {
        refused(key(name), ErrorKind::Invalid);
    }
    refused(Key { class: vec![0; 65_536].into(), ..key("a") }, ErrorKind::TooLarge);
    refused(Key { flags: KeyFlags::PREDEFINED, ..key("a") }, ErrorKind::Unsupported);
    let long = Value::new(Name::new([0x41; 16_384]), 0, vec![]);
    refused(Key { values: vec![long], ..key("a") }, ErrorKind::TooLarge);

    let mut deep = hive();
    let mut id = deep.root();
    for _ in 0..512 {
        id = deep.add_key(id, key("down")).unwrap();
    }
    let deepest = deep.write().unwrap();
    assert!(Hive::read(&deepest).unwrap() == deep);
    assert_eq!(deep.add_key(id, key("down")).unwrap_err().kind(), ErrorKind::TooLarge);
    let root = deep.root();
    assert_eq!(deep.add_key(root, key("DOWN")).unwrap_err().kind(), ErrorKind::Invalid);
}

/// A hive with the keys `a`, `ab` and `é` in one `lh` list below the root, and a value in `a`.
fn three() -> Vec<u8> {
    let mut three = hive();
    for name in ["a", "ab", "é"] {
        three.add_key(three.root(), key(name)).unwrap();
    }
    let a = three.find("a").unwrap();
    three.values_mut(a).push(Value::new("value", 3, vec![1; 100]));
    three.write().unwrap()
}

#[test]
fn all_kinds_of_lists() {
    let bytes = three();
    let at = cell_of(&bytes, b"lh", |_| true);
    let expected = Hive::read(&bytes).unwrap();

    let mut hinted = bytes.clone();
    hinted[at + 1] = b'f';
    for (place, hint) in [*b"a\0\0\0", *b"ab\0\0", [0xE9, 0, 0, 0]].iter().enumerate() {
        hinted[at + 8 + place * 8..][..4].copy_from_slice(hint);
    }
    let read = Hive::read(&hinted).unwrap();
    assert!(read == expected);
    assert_eq!(read.warnings(), []);

    let cells: Vec<[u8; 4]> =
        (0..3).map(|place| bytes[at + 4 + place * 8..].first_chunk().copied().unwrap()).collect();
    let mut bare = bytes.clone();
    bare[at..at + 2].copy_from_slice(b"li");
    bare[at + 4..at + 16].copy_from_slice(cells.as_flattened());
    let read = Hive::read(&bare).unwrap();
    assert!(read == expected);

    // Out of order, and so with wrong hashes.
    let mut swapped = bytes.clone();
    swapped[at + 4..at + 8].copy_from_slice(&cells[2]);
    swapped[at + 20..at + 24].copy_from_slice(&cells[0]);
    let read = Hive::read(&swapped).unwrap();
    assert!(read == expected);
    assert_eq!(warned(&read), [WarningKind::Hint, WarningKind::Hint, WarningKind::Order]);

    // Two keys of one name: the first one counts.
    let mut twice = bytes;
    with_key(&mut twice, "ab", |key| key.name_length.set(1));
    let read = Hive::read(&twice).unwrap();
    assert_eq!(read.key_count(), 3);
    assert!(warned(&read).contains(&WarningKind::DuplicateKey));
    assert_eq!(read.key(read.find("a").unwrap()).values.len(), 1);
    with_base(&mut twice, |base| base.flags.set(2));
    assert!(refused(&twice).to_string().contains("two subkeys"));
}

#[test]
fn an_index_of_lists() {
    let bytes = rich().write().unwrap();
    let index = cell_of(&bytes, b"ri", |_| true);
    let leaf = u32::from_le_bytes(*bytes[index + 4..].first_chunk().unwrap());
    let leaf = BLOCK + leaf as usize + 4;
    assert_eq!(bytes[index + 2..index + 4], [3, 0], "1200 keys are three leaves");
    assert_eq!(bytes[leaf..leaf + 4], *b"lh\xFB\x01");
    for (place, damage, message) in [
        (index + 2, [2, 0], "1014 subkeys are listed where 1200 should be"),
        (index + 2, [200, 0], "a list is longer than its cell"),
        (leaf, *b"ri", "an index of lists is inside of another"),
        (leaf, *b"xy", "a list of subkeys is something else"),
        (leaf + 2, [0xFF, 0xFF], "a list of subkeys is longer than its cell"),
    ] {
        let mut bytes = bytes.clone();
        bytes[place..place + 2].copy_from_slice(&damage);
        let error = refused(&bytes).to_string();
        assert!(error.starts_with(r"registry key \many") && error.contains(message), "{error}");
    }
    let mut same = bytes.clone();
    same.copy_within(index + 4..index + 8, index + 8);
    let error = refused(&same).to_string();
    assert!(error.contains("used by another record too"), "{error}");
}

#[test]
fn real_oddities_are_read() {
    let mut bytes = three();
    // As offreg leaves roots.
    with_key(&mut bytes, "ROOT", |key| key.flags.set(0x20));
    with_key(&mut bytes, "a", |key| {
        key.access = 3;
        key.layer = 0x55;
        key.volatile_subkeys.set(9);
        key.volatile_list.set(0x8000_0180);
        key.class.set(0);
        key.work.set(77);
    });
    bytes.resize(bytes.len() + 100, 0xEE);
    let read = Hive::read(&bytes).unwrap();
    let expected = three();
    assert!(read == Hive::read(&expected).unwrap());
    assert_eq!(read.warnings(), []);

    with_key(&mut bytes, "ab", |key| key.parent.set(0x20 + 8));
    let read = Hive::read(&bytes).unwrap();
    assert_eq!(warned(&read), [WarningKind::Parent]);
    with_key(&mut bytes, "ab", |key| key.flags.set(0x21));
    let read = Hive::read(&bytes).unwrap();
    assert_eq!((warned(&read), read.key_count()), (vec![WarningKind::NotStored], 3));
    with_key(&mut bytes, "a", |key| {
        key.flags.set(0x60);
        key.values.set(0x8000_0050);
    });
    let read = Hive::read(&bytes).unwrap();
    assert!(warned(&read).contains(&WarningKind::PredefinedHandle));
    assert_eq!(read.value_count(), 0);
}

#[test]
fn damage_is_named() {
    let bytes = three();
    type Damage = fn(&mut Vec<u8>);
    let cases: &[(&str, Damage)] = &[
        ("the file is empty", Vec::clear),
        ("it is too short", |bytes| bytes.truncate(511)),
        ("it has no signature", |bytes| bytes[0] = b'R'),
        ("the size of its bins is impossible", |bytes| bytes.truncate(BLOCK + 100)),
        ("the size of its bins is impossible", |bytes| with_base(bytes, |b| b.bins_size.set(0))),
        ("the size of its bins is impossible", |bytes| with_base(bytes, |b| b.bins_size.set(512))),
        ("the size of its bins is impossible", |bytes| {
            with_base(bytes, |base| base.bins_size.set(u32::MAX));
        }),
        ("not a primary file", |bytes| with_base(bytes, |base| base.file_type.set(6))),
        ("version 1.2; 1.3 to 1.6 are known", |bytes| with_base(bytes, |base| base.minor.set(2))),
        ("version 2.5; 1.3 to 1.6 are known", |bytes| with_base(bytes, |base| base.major.set(2))),
        ("it was not closed properly", |bytes| with_base(bytes, |base| base.sequence.set(9))),
        ("it was not closed properly", |bytes| bytes[508] ^= 1),
        ("the root: its key is in no allocated cell", |bytes| {
            with_base(bytes, |base| base.root.set(0x24));
        }),
        ("the root: it has no key", |bytes| with_base(bytes, |base| base.root.set(u32::MAX))),
        ("the bin at 0x0 has no signature", |bytes| bytes[BLOCK] = 0),
        ("the bin at 0x0 says that it is somewhere else", |bytes| bytes[BLOCK + 5] = 0x10),
        ("the bin at 0x0 has an impossible size", |bytes| bytes[BLOCK + 9] = 0x20),
        ("the cell at 0x20 has an impossible size", |bytes| bytes[BLOCK + 0x20] ^= 4),
        ("the cell at 0x20 has an impossible size", |bytes| bytes[BLOCK + 0x22] = 0),
        ("a key is something else", |bytes| with_key(bytes, "ab", |key| key.signature = *b"kn")),
        ("the name of a key is longer than its cell", |bytes| {
            with_key(bytes, "ab", |key| key.name_length.set(40));
        }),
        ("the name of a key is empty or too long", |bytes| {
            with_key(bytes, "ab", |key| key.name_length.set(0));
        }),
        ("a backslash is in the name", |bytes| {
            let at = cell_of(bytes, b"nk", |content| content[76..].starts_with(b"ab"));
            bytes[at + 77] = b'\\';
        }),
        ("3 subkeys are listed where 2 should be", |bytes| {
            with_key(bytes, "ROOT", |key| key.subkeys.set(2));
        }),
        ("it has no list of subkeys", |bytes| {
            with_key(bytes, "ROOT", |key| key.subkey_list.set(u32::MAX));
        }),
        ("its list of subkeys is used by another record too", |bytes| {
            let mut list = 0;
            with_key(bytes, "ROOT", |key| list = key.subkey_list.get());
            with_key(bytes, "ab", |key| {
                key.subkeys.set(3);
                key.subkey_list.set(list);
            });
        }),
        ("subkey ab: its security descriptor is in no allocated cell", |bytes| {
            with_key(bytes, "ab", |key| key.security.set(8));
        }),
        ("subkey ab: it has no class name", |bytes| {
            with_key(bytes, "ab", |key| key.class_length.set(8));
        }),
        ("subkey a: it has more values than its list", |bytes| {
            with_key(bytes, "a", |key| key.values.set(3));
        }),
        ("subkey a: a value is something else", |bytes| {
            let at = cell_of(bytes, b"vk", |_| true);
            bytes[at] = b'V';
        }),
        ("subkey a: the name of a value is longer than its cell", |bytes| {
            let at = cell_of(bytes, b"vk", |_| true);
            bytes[at + 3] = 1;
        }),
        ("value value: the data is longer than its cell", |bytes| {
            let at = cell_of(bytes, b"vk", |_| true);
            bytes[at + 6] = 1;
        }),
        ("value value has more data than fits its record", |bytes| {
            let at = cell_of(bytes, b"vk", |_| true);
            bytes[at + 7] = 0x80;
        }),
    ];
    for (message, damage) in cases {
        let mut bytes = bytes.clone();
        damage(&mut bytes);
        let error = refused(&bytes).to_string();
        assert!(error.contains(message), "{error} instead of {message}");
    }
    let mut dirty = bytes.clone();
    with_base(&mut dirty, |base| base.sequence.set(9));
    let read = Hive::read_without_log(&dirty).unwrap();
    assert_eq!(warned(&read), [WarningKind::Dirty]);
}

#[test]
fn segments_of_big_data_are_held_to_their_cells() {
    let mut big = hive();
    big.values_mut(big.root()).push(Value::new("big", 3, vec![7; 16_344 + 1]));
    let bytes = big.write().unwrap();
    let at = cell_of(&bytes, b"db", |_| true);
    let list = BLOCK + u32::from_le_bytes(*bytes[at + 4..].first_chunk().unwrap()) as usize + 4;
    let mut three = bytes.clone();
    three[at + 2] = 3;
    assert!(refused(&three).to_string().contains("wrong number of segments"));
    let mut shared = bytes.clone();
    shared.copy_within(list..list + 4, list + 4);
    assert!(refused(&shared).to_string().contains("its segment is used by another record"));
    let mut short = bytes.clone();
    with_key(&mut short, "ROOT", |key| key.values.set(1));
    let size = cell_of(&bytes, b"vk", |_| true) + 4;
    short[size..size + 4].copy_from_slice(&(16_344_u32 * 2).to_le_bytes());
    assert!(Hive::read(&short).is_ok(), "the cell of the last segment is a full one");
    short[size..size + 4].copy_from_slice(&(16_344_u32 * 2 + 1).to_le_bytes());
    assert!(refused(&short).to_string().contains("wrong number of segments"));
    // Without big data in the format, the record is data that is too short.
    let mut old = bytes;
    with_base(&mut old, |base| base.minor.set(3));
    assert!(refused(&old).to_string().contains("the data is longer than its cell"));
}

#[test]
fn data_of_few_bytes_may_have_a_cell() {
    let mut small = hive();
    small.values_mut(small.root()).push(Value::new("small", 4, vec![7; 5]));
    let mut bytes = small.write().unwrap();
    let value = cell_of(&bytes, b"vk", |_| true);
    bytes[value + 4] = 3;
    let read = Hive::read(&bytes).unwrap();
    assert_eq!(*read.key(read.root()).values[0].data, [7; 3]);
}

/// Every byte changed in several ways: an error or a hive that can be written and read again.
#[test]
fn changed_bytes_never_panic() {
    let mut seed = hive();
    let root = seed.root();
    seed.set_layered(true);
    for name in ["a", "é", "日本"] {
        let mut key = key(name);
        key.class = b"c\0".as_slice().into();
        key.values = vec![Value::new("", 1, vec![1; 2]), Value::new(name, 3, vec![2; 60])];
        let id = seed.add_key(root, key).unwrap();
        seed.add_key(id, Key::new("below", security("other"))).unwrap();
    }
    seed.values_mut(root).push(Value::tombstone("gone"));
    let bytes = seed.write().unwrap();
    assert_eq!(bytes.len(), 2 * BLOCK);
    let used = cell_of(&bytes, b"lh", |content| content[2] == 3) + 64;
    let mut read = 0;
    for at in (0..512).chain(BLOCK..used) {
        for change in [0xFF, 0x80, 0x01, 0x04] {
            let mut bytes = bytes.clone();
            bytes[at] ^= change;
            if at < 508 {
                with_base(&mut bytes, |_| ());
            }
            let Ok(hive) = Hive::read(&bytes) else { continue };
            read += 1;
            if let Ok(written) = hive.write() {
                assert!(Hive::read(&written).unwrap() == hive, "byte {at:#x}");
            }
        }
    }
    assert!(read > 1000, "most bytes are content: {read}");
}

#[test]
fn bins_are_multiples_of_a_block() {
    let bytes = rich().write().unwrap();
    let mut at = BLOCK;
    let mut bins = 0;
    while at < bytes.len() {
        let (bin, _) = BinHeader::ref_from_prefix(&bytes[at..]).unwrap();
        assert_eq!(bin.offset.get() as usize, at - BLOCK);
        assert_eq!(bin.as_bytes()[12..], [0; 20], "no time is stored");
        at += bin.size.get() as usize;
        bins += 1;
    }
    assert!(bins > 30 && at == bytes.len(), "{bins}");
}
