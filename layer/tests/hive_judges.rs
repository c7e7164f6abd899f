//! Hives that are written here, read by others; and hives that others wrote, read here.
//!
//! The judges are Debian's `python3-hivex`, `python3-libregf` and `reglookup`; a missing one fails the tests. Known
//! defects of theirs are allowed for; no names with unpaired surrogates, which hivex refuses.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use layer::Digest;
use layer::hive::{
    Hive, Key, KeyFlags, KeyId, Layer, Name, Semantics, Value, WarningKind, merge, recover,
};

/// Runs the judge on a file and returns what it prints.
fn judge(verb: &str, file: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hive_judge.py");
    // Debian's, which sees Debian's packages, whatever comes first in the path.
    let output = Command::new("/usr/bin/python3")
        .arg(script)
        .arg(verb)
        .arg(file)
        .output()
        .expect("Debian's python3 is needed");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{verb}: {stderr}");
    String::from_utf8(output.stdout).expect("the judge prints ASCII")
}

fn shown(name: &Name) -> String {
    let mut text = String::new();
    for &unit in name.units() {
        match u8::try_from(unit) {
            Ok(byte @ 0x21..0x7F) if !b"\\%".contains(&byte) => text.push(char::from(byte)),
            _ => write!(text, "%{unit:04x}").unwrap(),
        }
    }
    text
}

/// The same lines as the judge's, of what is read here. libregf tells class names too.
fn seen_here(hive: &Hive<'_>, libregf: bool) -> String {
    let mut text = String::new();
    let mut pending = vec![(hive.root(), r"\".to_owned())];
    while let Some((id, path)) = pending.pop() {
        let key = hive.key(id);
        write!(text, "key {path} {}", key.written).unwrap();
        if libregf {
            let units: Vec<u16> =
                key.class.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
            write!(text, " '{}'", shown(&Name::new(units))).unwrap();
        }
        text.push('\n');
        for Value { name, kind, data, .. } in &key.values {
            let digest = &Digest::of(data).hex()[..16];
            let name = shown(name);
            write!(text, "value {path} '{name}' {kind:#x}").unwrap();
            // See the judge about the data that libregf misreads.
            if !(libregf && (matches!(kind, 1 | 2 | 6 | 7) || data.len() < 4)) {
                write!(text, " {} {digest}", data.len()).unwrap();
            }
            text.push('\n');
        }
        pending.extend(hive.subkeys(id).iter().rev().map(|id| {
            let name = shown(&hive.key(*id).name);
            (*id, format!(r"{path}{name}\"))
        }));
    }
    text
}

#[track_caller]
fn assert_same(judge: &str, theirs: &str, ours: &str) {
    if theirs == ours {
        return;
    }
    let difference = theirs.lines().zip(ours.lines()).find(|(theirs, ours)| theirs != ours);
    let (theirs, ours) = (theirs.lines().count(), ours.lines().count());
    panic!("{judge} sees {difference:#?}; {theirs} lines, not {ours}");
}

/// All judges read the file, and see what is in the hive.
fn all_agree(hive: &Hive<'_>, file: &Path) {
    for (name, libregf) in [("hivex", false), ("libregf", true)] {
        assert_same(name, &judge(name, file), &seen_here(hive, libregf));
    }
    let keys = judge("reglookup", file);
    assert_eq!(keys.lines().count(), hive.key_count(), "reglookup");
}

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hive");
    (directory, file)
}

fn default_security() -> Arc<[u8]> {
    Hive::DEFAULT_SECURITY.into()
}

/// The default descriptor, but of the user SYSTEM.
fn system_security() -> Arc<[u8]> {
    let mut bytes = Hive::DEFAULT_SECURITY[..112].to_vec();
    bytes[4..8].copy_from_slice(&112_u32.to_le_bytes());
    bytes[8..12].copy_from_slice(&112_u32.to_le_bytes());
    bytes.extend([1, 1, 0, 0, 0, 0, 0, 5, 0x12, 0, 0, 0]);
    bytes.into()
}

fn key(name: &str) -> Key<'static> {
    Key { written: 0x01D9_2B31_0000_0000, ..Key::new(name, default_security()) }
}

/// One of everything that the judges can see.
fn rich() -> Hive<'static> {
    let mut hive = Hive::new(key("ROOT"));
    let root = hive.root();
    let add = |hive: &mut Hive<'static>, parent: KeyId, key| hive.add_key(parent, key).unwrap();
    let sizes = add(&mut hive, root, key("sizes"));
    for size in [0, 1, 2, 4, 5, 16_344, 16_345, 32_688, 32_689, 102_400] {
        let data: Vec<u8> = (0..size).map(|at: u32| (at / 7) as u8 ^ 0x5A).collect();
        hive.values_mut(sizes).push(Value::new(format!("of {size}").as_str(), 3, data));
    }
    let kinds = add(&mut hive, root, key("kinds"));
    for kind in (0..12).chain([0xFFFF_0012, 0x8000_0001]) {
        let name = format!("kind {kind}");
        hive.values_mut(kinds).push(Value::new(name.as_str(), kind, b"1234567".as_slice()));
    }
    let text = "t\u{20ac}xt\0".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    hive.values_mut(root).extend([
        Value::new("", 1, text),
        Value::new(r"a\b", 4, 7_u32.to_le_bytes().to_vec()),
        Value::new("größe", 3, vec![1]),
        Value::new("日本 😀", 3, vec![1]),
    ]);
    for name in ["Ünï", "日本", "😀", "\u{FF21}", "a/b", "with space", &"x".repeat(255)] {
        add(&mut hive, root, key(name));
    }
    let class = "0123abcd".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let lsa = Key { class: class.into(), security: system_security(), ..key("Lsa") };
    add(&mut hive, root, lsa);
    let target = r"\Registry\Machine\ROOT".encode_utf16().flat_map(u16::to_le_bytes);
    let mut link = Key { flags: KeyFlags::LINK, ..key("Link") };
    link.values.push(Value::new("SymbolicLinkValue", 6, target.collect::<Vec<u8>>()));
    add(&mut hive, root, link);
    let mut deep = root;
    for level in 0..200 {
        deep = add(&mut hive, deep, key(&format!("level {level}")));
    }
    let many = add(&mut hive, root, key("many"));
    for number in 0..1_100 {
        add(&mut hive, many, key(&format!("{number:x}")));
    }
    hive
}

#[test]
fn other_readers_see_what_was_written() {
    let (_directory, file) = temporary();
    let hive = rich();
    std::fs::write(&file, hive.write().unwrap()).unwrap();
    all_agree(&hive, &file);
    let owners = judge("reglookup", &file);
    let line = |name: &str| owners.lines().find(|line| line.contains(name)).unwrap();
    assert_eq!(line("/Lsa "), "key /Lsa S-1-5-18 S-1-5-18 4 0123abcd");
    assert_eq!(line("/kinds "), "key /kinds S-1-5-32-544 S-1-5-32-544 4 ");
}

/// What hivex makes of a hive of ours.
fn foreign(file: &Path) -> Vec<u8> {
    let seed = Hive::new(Key::new("ROOT", default_security()));
    std::fs::write(file, seed.write().unwrap()).unwrap();
    judge("make", file);
    std::fs::read(file).unwrap()
}

#[test]
fn what_hivex_wrote_is_read_as_hivex_reads_it() {
    let (_directory, file) = temporary();
    let bytes = foreign(&file);
    let hive = Hive::read(&bytes).unwrap();
    assert_same("hivex", &judge("hivex", &file), &seen_here(&hive, false));
    assert_eq!(hive.subkeys(hive.find(r"Base\Many").unwrap()).len(), 600);
    // Its two habits: hashes of ASCII only, and never more than one cell for data.
    let kinds: Vec<_> = hive.warnings().iter().map(|warning| warning.kind()).collect();
    assert_eq!(kinds, [WarningKind::LongCell, WarningKind::Hint], "{:?}", hive.warnings());
}

#[test]
fn a_delta_merged_onto_a_hive_of_hivex() {
    let (_directory, file) = temporary();
    let bytes = foreign(&file);
    let base = Hive::read(&bytes).unwrap();

    let mut delta = Hive::new(key("ROOT"));
    delta.set_layered(true);
    let marked = |name: &str, semantics, inherits_class| {
        let layer = Layer { semantics, inherits_class };
        Key { layer, ..key(name) }
    };
    let mut promoted = marked("BASE", Semantics::Merge, true);
    promoted.values.extend([
        Value::new("changed", 3, b"after".as_slice()),
        Value::tombstone("DELETED"),
        Value::new("new", 3, vec![9; 70_000]),
    ]);
    let top = delta.add_key(delta.root(), promoted).unwrap();
    delta.add_key(top, marked("GONE", Semantics::Tombstone, false)).unwrap();
    let mut again = marked("Again", Semantics::SupersedeTree, false);
    again.values.push(Value::new("new", 4, vec![1, 0, 0, 0]));
    let again = delta.add_key(top, again).unwrap();
    delta.add_key(again, marked("Other", Semantics::SupersedeTree, false)).unwrap();
    let many = delta.add_key(top, marked("Many", Semantics::Merge, true)).unwrap();
    for number in 590..620 {
        let mark = if number % 2 == 0 { Semantics::Tombstone } else { Semantics::Merge };
        delta.add_key(many, marked(&format!("KEY {number}"), mark, false)).unwrap();
    }
    let delta = delta.write().unwrap();

    let merged = merge(&base, &Hive::read(&delta).unwrap()).unwrap();
    assert_eq!(merged.hive.warnings(), []);
    std::fs::write(&file, merged.hive.write().unwrap()).unwrap();
    all_agree(&merged.hive, &file);

    // And without a line of the code under test.
    let lines = judge("hivex", &file);
    let lines: Vec<&str> = lines.lines().collect();
    let values: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix(r"value \Base\ '"))
        .map(|line| line.split('\'').next().unwrap())
        .collect();
    assert_eq!(values, ["", "kept", "changed", "long", "new"]);
    let keys: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix(r"key \Base\"))
        .map(|line| line.split(' ').next().unwrap())
        .filter(|path| !path.starts_with(r"Many\K"))
        .collect();
    assert_eq!(keys, ["", r"Again\", r"Again\Other\", r"Gr%00f6%00dfe%0020%65e5%672c\", r"Many\"]);
    let many = lines.iter().filter(|line| line.starts_with(r"key \Base\Many\K")).count();
    assert_eq!(many, 600 - 5 + 10);
}

/// Reads a hive of the directory named by `PLYWOOD_HIVES`. Hives that Windows wrote cannot be part of this project:
/// `System_Delta`, `BigDataHive` and the others are `hives_for_tests` of msuhanov/yarp, `testhive` is ColinFinck/nt-hive's.
fn real(name: &str) -> (PathBuf, Vec<u8>) {
    let directory = std::env::var_os("PLYWOOD_HIVES").expect("PLYWOOD_HIVES names their directory");
    let file = Path::new(&directory).join(name);
    let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    (file, bytes)
}

#[test]
#[ignore = "needs hives that Windows wrote: PLYWOOD_HIVES"]
fn hives_that_windows_wrote() {
    let (_directory, copy) = temporary();
    for (name, keys, values) in [
        ("BigDataHive", 2, 2),
        ("EmptyHive", 1, 0),
        ("ExtendedASCIIHive", 2, 1),
        ("ManySubkeysHive", 5003, 0),
        ("OffHive", 1, 0),
        ("testhive", 528, 12),
    ] {
        let (file, bytes) = real(name);
        let hive = Hive::read(&bytes).unwrap();
        assert_eq!((hive.key_count(), hive.value_count()), (keys, values), "{name}");
        assert_eq!(hive.warnings(), [], "{name}");
        assert_same(name, &judge("hivex", &file), &seen_here(&hive, false));
        let written = hive.write().unwrap();
        assert!(Hive::read(&written).unwrap() == hive, "{name}");
        std::fs::write(&copy, written).unwrap();
        all_agree(&hive, &copy);
    }
    for (name, message) in [
        ("BadListHive", r"registry key \2: its list of subkeys is used by another record too"),
        ("BadSubkeyHive", r"registry key \2: its key is used by another record too"),
        ("NewDirtyHive", "not closed properly"),
    ] {
        let error = Hive::read(&real(name).1).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
#[ignore = "needs hives that Windows wrote: PLYWOOD_HIVES"]
fn a_hive_that_windows_did_not_close() {
    let (_directory, copy) = temporary();
    let [hive, log1, log2] = ["NewDirtyHive", "NewDirtyHive.LOG1", "NewDirtyHive.LOG2"].map(real);
    let recovered = recover(&hive.1, &[&log1.1, &log2.1]).unwrap();
    // What Windows 10 ends with, after one entry of the first log and three of the second.
    assert_eq!(recovered.bytes[4..12], [6, 0, 0, 0, 6, 0, 0, 0]);
    let hive = Hive::read(&recovered.bytes).unwrap();
    assert_eq!(hive.warnings(), []);
    std::fs::write(&copy, &recovered.bytes).unwrap();
    assert_same("hivex", &judge("hivex", &copy), &seen_here(&hive, false));
}

/// Bytes all over them changed: an error, or a hive that is written and read again.
#[test]
#[ignore = "needs hives that Windows wrote: PLYWOOD_HIVES"]
fn changed_hives_of_windows() {
    for name in ["System_Delta", "testhive", "BadListHive"] {
        let (_, bytes) = real(name);
        for at in (0..bytes.len()).step_by(409) {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0xFF;
            let Ok(hive) = Hive::read_without_log(&bytes) else { continue };
            if at % 2 == 0
                && let Ok(written) = hive.write()
            {
                assert!(Hive::read(&written).unwrap() == hive, "{name}, byte {at:#x}");
            }
        }
    }
}

/// The delta of a container: onto a base made here that has what it was promoted from, and onto nothing of the kind.
#[test]
#[ignore = "needs hives that Windows wrote: PLYWOOD_HIVES"]
fn the_delta_of_a_container() {
    let (_directory, file) = temporary();
    let (_, bytes) = real("System_Delta");
    let delta = Hive::read(&bytes).unwrap();
    assert!(delta.is_layered());
    assert_eq!((delta.key_count(), delta.value_count(), delta.warnings()), (586, 820, &[][..]));
    let mut marks = std::collections::BTreeMap::new();
    let mut pending = vec![delta.root()];
    let mut tombstones = Vec::new();
    while let Some(id) = pending.pop() {
        let key = delta.key(id);
        *marks.entry(format!("{:?}", key.layer)).or_insert(0) += 1;
        if key.layer.semantics == Semantics::Tombstone {
            tombstones.push(id);
        }
        pending.extend(delta.subkeys(id));
    }
    assert_eq!(marks.values().sum::<i32>(), 586);
    assert_eq!(tombstones.len(), 2);
    assert_eq!(marks.values().copied().collect::<Vec<_>>(), [8, 514, 61, 1, 2], "{marks:?}");

    // A base by hivex with the deleted keys in it, and something that the delta knows nothing of.
    let foreign = foreign(&file);
    let mut base = Hive::read(&foreign).unwrap();
    for &id in &tombstones {
        let path = delta.path(id).to_lowercase();
        let mut parent = base.root();
        for name in path.split('\\').filter(|name| !name.is_empty()) {
            let name = Name::from(name);
            parent = base.subkey(parent, &name).unwrap_or_else(|| {
                base.add_key(parent, Key::new(name, default_security())).unwrap()
            });
        }
        base.add_key(parent, Key::new("below", default_security())).unwrap();
    }
    let before = base.key_count();
    let merged = merge(&base, &delta).unwrap();
    for &id in &tombstones {
        assert!(
            base.find(&delta.path(id)).is_some() && merged.hive.find(&delta.path(id)).is_none()
        );
    }
    assert_eq!(merged.hive.subkeys(merged.hive.find(r"Base\Many").unwrap()).len(), 600);
    assert_eq!(merged.counts.tombstones, 2);
    assert_eq!(merged.counts.merged + merged.counts.added, 584);
    let gone = 2 * 2;
    let known = usize::try_from(merged.counts.merged).unwrap();
    assert_eq!(merged.hive.key_count(), before - gone + 584 - known);
    std::fs::write(&file, merged.hive.write().unwrap()).unwrap();
    all_agree(&merged.hive, &file);
    // Once more changes nothing, and neither does the delta through our own file.
    let again = delta.write().unwrap();
    let again = Hive::read(&again).unwrap();
    assert!(merge(&merged.hive, &again).unwrap().hive == merged.hive);
}
