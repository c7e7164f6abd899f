//! The registry of a child layer: what an importer makes of it, as hivex sees it.

use std::process::Command;

use cimfs::{Image, MemorySet};
use layer::hive::{Hive, Key, Layer, Semantics, Value};
use layer::windows::WindowsOptions;

use crate::fixture::{HIVES, content, import, sound};
use crate::support::Tar;

fn key(name: &str) -> Key<'static> {
    Key::new(name, Hive::DEFAULT_SECURITY.into())
}

/// A hive with three keys, one of them below another, and values.
fn base() -> Hive<'static> {
    let mut hive = Hive::new(key("ROOT"));
    for name in ["Gone", "Kept", "Changed"] {
        let id = hive.add_key(hive.root(), key(name)).unwrap();
        hive.values_mut(id).extend([
            Value::new("old", 4, vec![1, 0, 0, 0]),
            Value::new("Other", 3, vec![7; 20_000]),
        ]);
        hive.add_key(id, key("Below")).unwrap();
    }
    hive
}

fn delta() -> Vec<u8> {
    let mut hive = Hive::new(key("ROOT"));
    hive.set_layered(true);
    let mut gone = key("GONE");
    gone.layer.semantics = Semantics::Tombstone;
    hive.add_key(hive.root(), gone).unwrap();
    let mut changed = key("Changed");
    changed.layer = Layer { semantics: Semantics::Merge, inherits_class: true };
    changed.values = vec![Value::tombstone("OLD"), Value::new("new", 1, b"x\0\0\0".as_slice())];
    hive.add_key(hive.root(), changed).unwrap();
    hive.write().unwrap()
}

/// What Debian's `python3-hivex` sees of a hive in an image: a line for every key and value.
fn seen_by_hivex(set: &MemorySet, image: &str, path: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hive");
    std::fs::write(&file, content(&Image::open(set, image).unwrap(), path)).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hive_judge.py");
    let output = Command::new("/usr/bin/python3").args([script, "hivex"]).arg(&file).output();
    let output = output.expect("Debian's python3 is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split(" 0x").next().unwrap().to_owned()).collect()
}

fn base_layer(system: &[u8]) -> Tar {
    let mut tar = Tar::new();
    for directory in ["Files", "Files/Windows", "Files/Windows/System32"] {
        tar = tar.dir(directory.as_bytes());
    }
    tar = tar.dir(b"Files/Windows/System32/config");
    for name in HIVES {
        let path = format!("Files/Windows/System32/config/{name}");
        tar = tar.file(path.as_bytes(), system);
    }
    tar
}

#[test]
fn the_registry_of_a_child_is_what_hivex_expects() {
    let set = MemorySet::new();
    let options = WindowsOptions::default();
    let bytes = base().write().unwrap();
    import(&set, &base_layer(&bytes).end(), "base.cim", None, &options).unwrap();
    let child = Tar::new().dir(b"Files").dir(b"Hives").file(b"Hives/Software_Delta", &delta());
    let layer = import(&set, &child.end(), "child.cim", Some("base.cim"), &options).unwrap();
    assert_eq!((layer.merged_hives, layer.hive_warnings), (1, 0));
    sound(&set, "child.cim");
    let seen = seen_by_hivex(&set, "child.cim", r"Hives\SOFTWARE_BASE");
    assert_eq!(
        seen,
        [
            r"key \ 0",
            r"key \Changed\ 0",
            r"value \Changed\ 'Other'",
            r"value \Changed\ 'new'",
            r"key \Changed\Below\ 0",
            r"key \Kept\ 0",
            r"value \Kept\ 'old'",
            r"value \Kept\ 'Other'",
            r"key \Kept\Below\ 0",
        ]
    );
    for unchanged in [r"Hives\SYSTEM_BASE", r"Files\Windows\System32\config\SOFTWARE"] {
        assert_eq!(seen_by_hivex(&set, "child.cim", unchanged).len(), 13, "{unchanged}");
    }
}

/// Sets the sequence numbers and the type in a base block, and its checksum.
fn sealed(bytes: &mut [u8], sequences: [u32; 2], file_type: u32) {
    bytes[4..8].copy_from_slice(&sequences[0].to_le_bytes());
    bytes[8..12].copy_from_slice(&sequences[1].to_le_bytes());
    bytes[28..32].copy_from_slice(&file_type.to_le_bytes());
    let words = bytes[..508].as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
    let sum = words.fold(0, |sum, word| sum ^ word);
    bytes[508..512].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_base_that_was_not_closed_needs_its_log() {
    let mut dirty = base().write().unwrap();
    let mut late = base();
    late.add_key(late.root(), key("Late")).unwrap();
    let late = late.write().unwrap();
    assert_eq!(dirty.len(), late.len(), "the log has no more bins than the hive");
    sealed(&mut dirty, [2, 1], 0);
    // A log with all pages, as systems before Windows 8.1 write it.
    let mut log = late[..512].to_vec();
    sealed(&mut log, [2, 2], 1);
    log.extend(*b"DIRT");
    log.resize(log.len() + (late.len() - 4096) / 512 / 8, 0xFF);
    log.resize(log.len().next_multiple_of(512), 0);
    log.extend(&late[4096..]);

    let set = MemorySet::new();
    let options = WindowsOptions::default();
    let with_log = base_layer(&dirty).file(b"Files/Windows/System32/config/System.LOG1", &log);
    import(&set, &with_log.end(), "base.cim", None, &options).unwrap();
    let child = |name: &[u8]| Tar::new().dir(b"Files").dir(b"Hives").file(name, &delta()).end();
    let system = child(b"Hives/System_Delta");
    import(&set, &system, "child.cim", Some("base.cim"), &options).unwrap();
    let seen = seen_by_hivex(&set, "child.cim", r"Hives\SYSTEM_BASE");
    assert!(seen.contains(&r"key \Late\ 0".to_owned()), "{seen:?}");
    assert!(!seen.iter().any(|line| line.contains("Gone")), "{seen:?}");

    let security = child(b"Hives/Security_Delta");
    let error = import(&set, &security, "bad.cim", Some("base.cim"), &options).unwrap_err();
    assert_eq!(error.kind(), layer::ErrorKind::Corrupt);
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("not closed properly"), "{cause}");
}
