//! Any bytes as a Windows layer, alone and on a parent: refused without a trace, or an image that is sound, comes back
//! from its own tar, and differs from its parent by a tar that makes it again. And any bytes to the codecs.

#![no_main]

use cimfs::{FileSet, Guid, Image, ImageWriter, MemorySet, Metadata, Severity, WriterOptions};
use layer::hive::{Hive, Key};
use layer::windows::{
    Processing, ReparsePoint, SecurityDescriptor, decode_wtf8, encode_wtf8, parse_time, time_text,
    write_windows_layer_to,
};
use layer::{Cancel, ErrorKind, LayerOptions, WindowsOptions, write_windows_layer_tar};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;

thread_local! {
    static SET: MemorySet = parent();
}

fuzz_target!(|bytes: &[u8]| {
    codecs(bytes);
    run(bytes);
    run(&sealed(bytes));
});

/// Something to delete, link to and change.
fn parent() -> MemorySet {
    let set = MemorySet::new();
    let guid = Guid::for_content(b"parent");
    let options = WriterOptions::default();
    let mut writer =
        ImageWriter::create(set.clone(), "parent", guid, options).expect("an empty set");
    let mut hive = Hive::new(Key::new("ROOT", vec![0; 20].into()));
    hive.add_key(hive.root(), Key::new("k", vec![0; 20].into())).expect("one key");
    let hive = hive.write().expect("a small hive");
    let metadata = Metadata::default();
    for directory in ["Files", "Files/d", "Hives"] {
        writer.add_directory(&directory.into(), &metadata).expect("a directory");
    }
    for (file, bytes) in
        [("Files/f", &b"f"[..]), ("Files/d/x", b"x"), ("Hives/SYSTEM_BASE", hive.as_slice())]
    {
        writer.add_file(&file.into(), &metadata, bytes).expect("a file");
    }
    writer.add_link(&"Files/g".into(), &"Files/f".into()).expect("a link");
    writer.commit().expect("memory can be written");
    set
}

fn run(bytes: &[u8]) {
    SET.with(|set| {
        for parent in [None, Some("parent")] {
            let processing = if parent.is_some() { Processing::Layer } else { Processing::None };
            let before = set.names().expect("memory can be listed").len();
            if convert(set, bytes, "a", parent, processing, 1 << 20) {
                if let Some(tar) = export(set, "a", parent) {
                    let again = convert(set, &tar, "b", parent, processing, 1 << 30);
                    assert!(again, "an exported tar is a layer");
                    equal(set);
                    let same = export(set, "b", parent).is_some_and(|other| other == tar);
                    assert!(same, "the tar of an exported tar is the same");
                    cimfs::destroy(set, "b").expect("memory can be removed");
                }
                cimfs::destroy(set, "a").expect("memory can be removed");
            }
            assert_eq!(set.names().expect("memory can be listed").len(), before);
        }
    });
}

fn equal(set: &MemorySet) {
    let [a, b] = ["a", "b"].map(|name| Image::open(set, name).expect("what was written opens"));
    let changes = cimfs::compare(&a, &b).expect("what was written is read");
    assert!(changes.is_empty(), "{changes:?}");
}

/// Whether it is a layer.
fn convert(
    set: &MemorySet,
    bytes: &[u8],
    name: &str,
    parent: Option<&str>,
    processing: Processing,
    max_size: u64,
) -> bool {
    let blob = LayerOptions { max_size: Some(max_size), ..LayerOptions::default() };
    let variant = name.to_owned();
    let options = WindowsOptions { blob, processing, variant, ..WindowsOptions::default() };
    if write_windows_layer_to(bytes, set, name, parent, &options, &(), &Cancel::new()).is_err() {
        return false;
    }
    let report = cimfs::check(set, name).expect("what was written is checked");
    let bad = |it: &&cimfs::Finding| it.code.severity() == Severity::Error;
    assert_eq!(report.findings.iter().find(bad), None);
    true
}

/// Nothing for a directory that only changed the case of its letters.
fn export(set: &MemorySet, name: &str, parent: Option<&str>) -> Option<Vec<u8>> {
    let mut tar = Vec::new();
    match write_windows_layer_tar(set, name, parent, &mut tar, &Cancel::new()) {
        Ok(_) => Some(tar),
        Err(error) if error.kind() == ErrorKind::Unsupported => None,
        Err(error) => panic!("{error:?}"),
    }
}

fn codecs(bytes: &[u8]) {
    if let Ok(descriptor) = SecurityDescriptor::read(bytes) {
        if let Ok(written) = descriptor.write() {
            assert_eq!(SecurityDescriptor::read(&written).expect("ours is read"), descriptor);
        }
        if let Ok(text) = descriptor.to_sddl() {
            SecurityDescriptor::from_sddl(&text).expect("our text is read");
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(descriptor) = SecurityDescriptor::from_sddl(text)
    {
        let text = descriptor.to_sddl().expect("what came from text has one");
        assert_eq!(SecurityDescriptor::from_sddl(&text).expect("our text is read"), descriptor);
    }
    if let Ok(point) = ReparsePoint::read(bytes)
        && let Ok(written) = point.write()
    {
        assert_eq!(ReparsePoint::read(&written).expect("ours is read"), point);
    }
    if let Some(time) = parse_time(bytes) {
        assert_eq!(parse_time(time_text(time).as_bytes()), Some(time));
    }
    if let Some(units) = decode_wtf8(bytes) {
        assert_eq!(decode_wtf8(&encode_wtf8(units.iter().copied())), Some(units));
    }
}

/// Makes the checksums of all headers right, which no fuzzer finds.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
    bytes
}
