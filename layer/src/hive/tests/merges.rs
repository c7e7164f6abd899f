//! What a delta makes of a base: the cases of the rules, malformed deltas, and any stack of deltas against a model
//! that looks at all layers for every path.

use proptest::prelude::*;

use super::super::*;
use super::{security, with_base};
use crate::ErrorKind;

/// A key and those below it. The text is its name, then `class:`, `time:` (1 if missing), `security:`, `mark:` (the
/// byte of the layer in hexadecimal) and `flags:`, then values as `name=data`, and deleted ones as `-name`.
struct Spec(&'static str, &'static [Spec]);

fn tree(keys: &'static [Spec]) -> Hive<'static> {
    let mut hive = Hive::new(parsed("R"));
    let mut pending = vec![(hive.root(), keys)];
    while let Some((parent, keys)) = pending.pop() {
        for Spec(text, below) in keys {
            let id = hive.add_key(parent, parsed(text)).unwrap();
            pending.push((id, below));
        }
    }
    hive
}

fn delta(keys: &'static [Spec]) -> Hive<'static> {
    let mut hive = tree(keys);
    hive.set_layered(true);
    hive
}

fn parsed(text: &'static str) -> Key<'static> {
    let mut words = text.split_whitespace();
    let mut key = Key::new(words.next().unwrap(), security("S"));
    key.written = 1;
    for word in words {
        if let Some((name, data)) = word.split_once('=') {
            key.values.push(Value::new(name, 1, data.as_bytes()));
            continue;
        }
        match word.split_once(':') {
            None => key.values.push(Value::tombstone(word.strip_prefix('-').unwrap())),
            Some(("class", class)) => key.class = class.as_bytes().into(),
            Some(("time", time)) => key.written = time.parse().unwrap(),
            Some(("security", text)) => key.security = security(text),
            Some(("flags", bits)) => {
                key.flags = KeyFlags::from_bits(u16::from_str_radix(bits, 16).unwrap()).unwrap();
            }
            Some(("mark", mark)) => {
                let mark = u8::from_str_radix(mark, 16).unwrap();
                key.layer = Layer {
                    semantics: match mark & 3 {
                        0 => Semantics::Merge,
                        1 => Semantics::Tombstone,
                        2 => Semantics::SupersedeLocal,
                        _ => Semantics::SupersedeTree,
                    },
                    inherits_class: mark & 0x80 != 0,
                };
            }
            Some(other) => panic!("{other:?}"),
        }
    }
    key
}

/// The base of all cases.
const BASE: &[Spec] = &[
    Spec("A class:C time:5 security:SB p=1 Q=2", &[Spec("X x=1", &[]), Spec("Y", &[])]),
    Spec("Bb time:3", &[]),
];

const BB: Spec = Spec("Bb time:3", &[]);

/// Merges deltas onto the base, one after the other, and through files.
fn merged(base: Hive<'_>, deltas: &[Hive<'_>]) -> (Vec<WarningKind>, Vec<u8>) {
    let mut warnings = Vec::new();
    let mut bytes = base.write().unwrap();
    for delta in deltas {
        let delta = delta.write().unwrap();
        let delta = Hive::read(&delta).unwrap();
        let base = Hive::read(&bytes).unwrap();
        let merged = merge(&base, &delta).unwrap();
        assert!(!merged.hive.is_layered());
        warnings.extend(merged.hive.warnings().iter().map(Warning::kind));
        bytes = merged.hive.write().unwrap();
    }
    (warnings, bytes)
}

#[track_caller]
fn check(
    base: &'static [Spec],
    deltas: &[&'static [Spec]],
    expected: &'static [Spec],
    warnings: &[WarningKind],
) {
    let deltas: Vec<_> = deltas.iter().map(|keys| delta(keys)).collect();
    let (warned, bytes) = merged(tree(base), &deltas);
    let found = Hive::read(&bytes).unwrap();
    let expected = tree(expected);
    assert!(found == expected, "{found:#?}\ninstead of\n{expected:#?}");
    assert_eq!(warned, warnings);
}

#[test]
fn cases_of_the_rules() {
    // 1: values replaced, deleted and added in a key that keeps what is below.
    check(
        BASE,
        &[&[Spec("a mark:80 time:9 security:D P=7 -q new=3", &[])]],
        &[Spec("A class:C time:9 security:D P=7 new=3", &[Spec("X x=1", &[]), Spec("Y", &[])]), BB],
        &[],
    );
    // 2, 3: a deleted key, and a mark with nothing to delete.
    check(BASE, &[&[Spec("A mark:1 time:0", &[])]], &[BB], &[]);
    check(BASE, &[&[Spec("Zz mark:1 time:0", &[])]], BASE, &[]);
    // 4: a key that hides only itself, which no known delta holds.
    check(
        BASE,
        &[&[Spec("A mark:2 time:9 k=1", &[Spec("X mark:80 y=2", &[])])]],
        &[Spec("A time:9 k=1", &[Spec("X x=1 y=2", &[]), Spec("Y", &[])]), BB],
        &[WarningKind::SupersedesLocally],
    );
    // 5, 6: a key that hides the tree below, rightly and wrongly marked further down.
    check(
        BASE,
        &[&[Spec("A mark:3 k=1 -p", &[Spec("X mark:3 y=2", &[])])]],
        &[Spec("A k=1", &[Spec("X y=2", &[])]), BB],
        &[],
    );
    check(
        BASE,
        &[&[Spec("A mark:3", &[Spec("X y=2", &[])])]],
        &[Spec("A", &[Spec("X y=2", &[])]), BB],
        &[WarningKind::NotSuperseding],
    );
    // 7: new keys; there is no class to inherit.
    check(
        BASE,
        &[&[Spec("New", &[Spec("Sub mark:80 class:Z", &[])])]],
        &[BASE_A, BB, Spec("New", &[Spec("Sub", &[])])],
        &[],
    );
    // 8, 9: a class of its own, and none.
    check(
        BASE,
        &[&[Spec("A class:Z", &[])]],
        &[Spec("A class:Z time:5 p=1 Q=2", &[Spec("X x=1", &[]), Spec("Y", &[])]), BB],
        &[],
    );
    check(
        BASE,
        &[&[Spec("A", &[])]],
        &[Spec("A time:5 p=1 Q=2", &[Spec("X x=1", &[]), Spec("Y", &[])]), BB],
        &[],
    );
    // 10, 11: deleted in one layer, made again in the next.
    check(
        BASE,
        &[&[Spec("A mark:1", &[])], &[Spec("A mark:3 n=1", &[Spec("X mark:3", &[])])]],
        &[Spec("A n=1", &[Spec("X", &[])]), BB],
        &[],
    );
    check(BASE, &[&[Spec("A mark:1", &[])], &[Spec("A n=1", &[])]], &[Spec("A n=1", &[]), BB], &[]);
    // 12: nothing but a root.
    check(BASE, &[&[]], BASE, &[]);
}

const BASE_A: Spec =
    Spec("A class:C time:5 security:SB p=1 Q=2", &[Spec("X x=1", &[]), Spec("Y", &[])]);

#[test]
fn names_and_data_of_every_kind() {
    // 13: the default value is deleted.
    let mut base = tree(BASE);
    let a = base.find("A").unwrap();
    base.values_mut(a).insert(0, Value::new("", 1, b"default".as_slice()));
    let mut upper = delta(&[Spec("A mark:80", &[])]);
    let a = upper.find("A").unwrap();
    upper.values_mut(a).push(Value::tombstone(""));
    let found = merge(&base, &upper).unwrap().hive;
    let names: Vec<_> =
        found.key(found.find("A").unwrap()).values.iter().map(|v| &v.name).collect();
    assert_eq!(names, [&Name::from("p"), &Name::from("Q")]);

    // 14: only the first pair is one name.
    let root = || Hive::new(Key::new("R", security("S")));
    let (mut base, mut upper) = (root(), root());
    upper.set_layered(true);
    for (lower, higher) in [("\u{FF21}", "\u{FF41}"), ("\u{10410}", "\u{10438}"), ("µ", "Μ")] {
        base.add_key(base.root(), Key::new(lower, security("S"))).unwrap();
        upper.add_key(upper.root(), Key::new(higher, security("S"))).unwrap();
    }
    let found = merge(&base, &upper).unwrap().hive;
    assert_eq!(found.subkeys(found.root()).len(), 5);
    assert!(found.find("\u{FF21}").is_some());

    // 15: unknown types, strings of odd length, big data, from either side.
    let data = |seed: u8| -> Vec<Value<'static>> {
        vec![
            Value::new(format!("type{seed}").as_str(), 0xFFFF_0012, vec![seed]),
            Value::new(format!("odd{seed}").as_str(), 1, vec![seed; 7]),
            Value::new(format!("big{seed}").as_str(), 3, vec![seed; 40_000]),
        ]
    };
    let (mut base, mut upper) = (root(), delta(&[]));
    base.values_mut(base.root()).extend(data(1));
    upper.values_mut(upper.root()).extend(data(2));
    let (_, bytes) = merged(base, &[upper]);
    let found = Hive::read(&bytes).unwrap();
    assert_eq!(found.key(found.root()).values, [data(1), data(2)].concat());
}

#[test]
fn what_a_merged_key_has_of_either() {
    // A link stays one, and is not followed, as long as its target is there.
    let base = || {
        let mut base = tree(&[Spec("Link flags:18", &[])]);
        let link = base.find("Link").unwrap();
        base.values_mut(link).push(Value::new("SYMBOLICLINKVALUE", 6, b"x".as_slice()));
        base
    };
    let upper = delta(&[Spec("LINK mark:80 flags:80", &[Spec("below", &[])])]);
    let found = merge(&base(), &upper).unwrap().hive;
    let link = found.key(found.find("link").unwrap());
    assert_eq!(link.flags.bits(), 0x98);
    assert_eq!(link.name, Name::from("Link"), "the base's spelling");
    assert!(found.find(r"Link\below").is_some());
    assert_eq!(found.warnings()[0].kind(), WarningKind::BelowLink);
    assert_eq!(found.warnings()[0].path(), r"\LINK");
    let upper = delta(&[Spec("LINK mark:80 -SymbolicLinkValue", &[])]);
    let found = merge(&base(), &upper).unwrap().hive;
    assert_eq!(found.key(found.find("link").unwrap()).flags.bits(), 0x8);

    let mut upper = delta(&[]);
    let mut key = parsed("Link mark:80 time:0");
    key.virtualization = 0x21;
    upper.add_key(upper.root(), key).unwrap();
    let found = merge(&base(), &upper).unwrap();
    let key = found.hive.key(found.hive.find("link").unwrap());
    assert_eq!((key.virtualization, key.written), (0x21, 1));
    let counts = MergeCounts { untouched: 0, merged: 2, added: 0, tombstones: 0 };
    assert_eq!(found.counts, counts);
}

#[test]
fn roots() {
    let mut upper = delta(&[Spec("New", &[])]);
    let base = tree(BASE);
    let root = |mark: &'static str| {
        let mut root = Hive::new(parsed(mark));
        root.set_layered(true);
        root.add_key(root.root(), parsed("New mark:3")).unwrap();
        root
    };
    let error = merge(&base, &root("other mark:1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let superseded = merge(&base, &root("other mark:3")).unwrap().hive;
    assert_eq!(superseded.warnings()[0].kind(), WarningKind::SupersedingRoot);
    assert_eq!(superseded.key_count(), 2);
    assert_eq!(superseded.key(superseded.root()).name, Name::from("R"));
    let local = merge(&base, &root("other mark:2 v=1")).unwrap().hive;
    assert_eq!(local.key_count(), 6);
    let kinds: Vec<_> = local.warnings().iter().map(Warning::kind).collect();
    assert_eq!(kinds, [WarningKind::SupersedesLocally, WarningKind::SupersedingRoot]);

    // A base with marks is resolved first.
    let marked = delta(&[
        Spec("A mark:1", &[]),
        Spec("B mark:83 class:Z -x", &[Spec("C", &[])]),
        Spec("D mark:80 class:Z", &[]),
    ]);
    let found = merge(&marked, &delta(&[Spec("A k=1", &[])])).unwrap().hive;
    let expected =
        tree(&[Spec("A k=1", &[]), Spec("B class:Z", &[Spec("C", &[])]), Spec("D", &[])]);
    assert!(found == expected, "{found:#?}");
    assert_eq!(found.warnings()[0].kind(), WarningKind::NotSuperseding);

    // A delta without marks is one all the same; its flag of deleted values means nothing.
    upper.set_layered(false);
    assert_eq!(merge(&base, &upper).unwrap().hive.key_count(), 6);
}

#[test]
fn malformed_deltas() {
    check(
        BASE,
        &[&[Spec("A mark:1 class:Z v=1", &[Spec("X", &[])])]],
        &[BB],
        &[WarningKind::TombstoneWithContent],
    );
    // A value twice: the later of a deletion and a value counts, and the first of two values.
    check(
        &[Spec("A p=0 q=0 r=0", &[])],
        &[&[Spec("A mark:80 -p P=1 Q=1 -q r=1 R=2", &[])]],
        &[Spec("A P=1 r=1", &[])],
        &[WarningKind::DuplicateValue],
    );
    let handle = tree(&[Spec("A flags:40", &[])]);
    let mut handle_delta = delta(&[Spec("A flags:40", &[])]);
    assert_eq!(merge(&handle, &delta(&[])).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(merge(&tree(BASE), &handle_delta).unwrap_err().kind(), ErrorKind::Unsupported);
    handle_delta.set_layered(false);
    assert_eq!(merge(&tree(BASE), &handle_delta).unwrap_err().kind(), ErrorKind::Unsupported);

    // Unknown bits of a mark, and a deleted value with data.
    let mut bytes = delta(&[Spec("A mark:1", &[]), Spec("Bb mark:80 -v", &[])]).write().unwrap();
    super::with_key(&mut bytes, "A", |key| key.layer |= 0x40);
    let value = super::cell_of(&bytes, b"vk", |_| true);
    bytes[value + 4] = 9;
    let upper = Hive::read(&bytes).unwrap();
    let kinds: Vec<_> = upper.warnings().iter().map(Warning::kind).collect();
    assert_eq!(kinds, [WarningKind::SpareLayerBits, WarningKind::TombstoneWithContent]);
    assert_eq!(merge(&tree(BASE), &upper).unwrap().hive.key_count(), 2);
    with_base(&mut bytes, |base| base.sequence.set(7));
    assert_eq!(Hive::read(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A random delta (or base, without marks): few names, so that the layers meet.
fn random(layered: bool) -> impl Strategy<Value = Hive<'static>> {
    // Each key: where it is attached, and a number that says everything about it.
    prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..24).prop_map(
        move |keys| {
            const NAMES: [&str; 8] = ["a", "B", "c", "D", "A", "b", "C", "d"];
            let mut hive = Hive::new(Key::new("R", security("S")));
            hive.set_layered(layered);
            let mut ids = vec![hive.root()];
            for (parent, number) in keys {
                let parent = ids[parent.index(ids.len())];
                let above = hive.key(parent).layer.semantics;
                let mut bits = number;
                let mut take = |count: u64| {
                    let taken = bits % count;
                    bits /= count;
                    usize::try_from(taken).unwrap()
                };
                let mut key = Key::new(NAMES[take(8)], security(["S", "T"][take(2)]));
                key.written = take(50) as u64;
                if take(2) == 1 {
                    key.class = vec![b'a' + u8::try_from(take(3)).unwrap()].into();
                }
                if layered {
                    key.layer.inherits_class = take(2) == 1;
                    key.layer.semantics = match (take(8), above) {
                        (0, _) => Semantics::Tombstone,
                        (_, Semantics::SupersedeTree) | (1, _) => Semantics::SupersedeTree,
                        (2, _) => Semantics::SupersedeLocal,
                        _ => Semantics::Merge,
                    };
                }
                if key.layer.semantics == Semantics::Tombstone {
                    key.class = vec![].into();
                } else {
                    for name in ["v", "W", "x"] {
                        match take(4) {
                            0 if layered => key.values.push(Value::tombstone(name)),
                            1 => key.values.push(Value::new(name, 1, vec![key.written as u8])),
                            _ => {}
                        }
                    }
                }
                if above != Semantics::Tombstone
                    && let Ok(id) = hive.add_key(parent, key)
                {
                    ids.push(id);
                }
            }
            hive
        },
    )
}

/// What a container sees of a path: every layer is asked, from the top. Written from the description of the kernel's
/// view, not from the merge: nothing is folded.
fn view(stack: &[&Hive<'_>]) -> Vec<String> {
    let mut lines = Vec::new();
    // By key: its path, and its nodes from the top with their layers.
    let roots: Vec<_> = stack.iter().map(|hive| (*hive, hive.root())).collect();
    let mut pending = vec![("".to_owned(), roots)];
    while let Some((path, nodes)) = pending.pop() {
        let mut reachable = Vec::new();
        let mut taking_part = Vec::new();
        let mut hidden = false;
        for (hive, id) in nodes {
            let semantics = hive.key(id).layer.semantics;
            if semantics == Semantics::Tombstone {
                break;
            }
            reachable.push((hive, id));
            if !hidden {
                taking_part.push(hive.key(id));
            }
            hidden |= semantics == Semantics::SupersedeLocal;
            if semantics == Semantics::SupersedeTree {
                break;
            }
        }
        let Some(top) = taking_part.first() else { continue };
        let class = taking_part
            .iter()
            .find(|key| !key.layer.inherits_class || key.layer.semantics != Semantics::Merge)
            .map_or(&[][..], |key| &key.class);
        let time = taking_part.iter().map(|key| key.written).max().unwrap();
        let mut values: Vec<(String, String)> = Vec::new();
        for value in taking_part.iter().flat_map(|key| &key.values) {
            let name = value.name.to_string().to_lowercase();
            if values.iter().all(|(known, _)| *known != name) {
                let data = if value.deleted { "-".into() } else { format!("{:?}", value.data) };
                values.push((name, data));
            }
        }
        values.retain(|(_, data)| data != "-");
        values.sort();
        lines.push(format!("{path} {class:?} {time} {:?} {values:?}", &top.security[..1]));
        let mut names: Vec<String> = reachable
            .iter()
            .flat_map(|(hive, id)| hive.subkeys(*id).iter().map(|id| hive.key(*id)))
            .map(|key| key.name.to_string().to_lowercase())
            .collect();
        names.sort();
        names.dedup();
        for name in names {
            let below = reachable.iter().filter_map(|(hive, id)| {
                hive.subkey(*id, &name.as_str().into()).map(|id| (*hive, id))
            });
            pending.push((format!(r"{path}\{name}"), below.collect()));
        }
    }
    lines.sort();
    lines
}

proptest! {
    #[test]
    fn merging_upwards_is_looking_through_all_layers(
        base in random(false),
        deltas in prop::collection::vec(random(true), 1..4),
    ) {
        let mut folded = base.clone();
        let mut stack = vec![&base];
        for delta in &deltas {
            stack.insert(0, delta);
            folded = merge(&folded, delta).unwrap().hive;
            prop_assert_eq!(view(&[&folded]), view(&stack));
        }
        let bytes = folded.write().unwrap();
        prop_assert!(Hive::read(&bytes).unwrap() == folded);
        // The last delta once more changes nothing.
        let again = merge(&folded, deltas.last().unwrap()).unwrap().hive;
        prop_assert_eq!(view(&[&again]), view(&[&folded]));
        // A delta of nothing changes nothing at all.
        let mut empty = Hive::new(Key::new("R", security("S")));
        empty.set_layered(true);
        prop_assert!(merge(&folded, &empty).unwrap().hive == folded);
    }
}
