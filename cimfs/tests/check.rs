//! What the checker finds, and that it finds nothing where nothing is wrong.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use cimfs::{
    Case, Code, FileSet, ImageWriter, MemorySet, StreamFraming, WritableSet, WriterOptions, check,
};
use support::{guid, metadata, open, path, sample};

fn codes(set: &MemorySet, name: &str) -> Vec<Code> {
    let report = check(set, name).unwrap();
    let mut codes: Vec<_> = report.findings.iter().map(|finding| finding.code).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[test]
fn what_the_writer_writes_is_sound() {
    for version in 1..=3 {
        for stream_framing in [StreamFraming::Plain, StreamFraming::Counted] {
            let options = WriterOptions { version, stream_framing, ..WriterOptions::default() };
            let set = sample(options.clone());
            let report = check(&set, "a.cim").unwrap();
            let framed = stream_framing == StreamFraming::Counted;
            assert_eq!(report.findings, [], "{version} {framed}");
            assert_eq!((report.counts.names, report.counts.directories), (12, 5));
            assert_eq!((report.counts.files, report.counts.streams), (7, 4));
            let mut fork =
                ImageWriter::fork(set.clone(), "a.cim", "b.cim", guid("b"), options).unwrap();
            fork.remove(&path("Files/Windows")).unwrap();
            fork.add_file(&path("Files/small"), &metadata(1), b"other").unwrap();
            fork.commit().unwrap();
            assert_eq!(check(&set, "b.cim").unwrap().findings, []);
        }
    }
}

#[test]
fn each_kind_of_damage_has_its_code() {
    let set = sample(WriterOptions::default());
    let image = open(&set, "a.cim");
    let id = image.guid();
    let [metadata, small] = [0, 1].map(|index| format!("region_{id}_{index}"));
    let ids = format!("objectid_{id}_1");
    let place = |offset: cimfs::RegionOffset| usize::try_from(offset.byte()).unwrap();
    let view = |name: &str| image.resolve(&path(name), Case::Exact).unwrap();
    let root = view("");
    let files = view("Files");
    let file = view("Files/small");
    let large = view("Files/link");
    let table = place(files.entry.default_stream.offset);
    let count = 9;
    let names = table + 8 + 8 * count;
    let entry = place(file.position);
    let filesystem = place(image.header().filesystem);
    // Where, what, and the codes that must be among the findings.
    let cases: &[(&str, usize, &[u8], Code)] = &[
        ("a.cim", 8, &[1], Code::Header),
        ("a.cim", 0x14, &[1], Code::Header),
        ("a.cim", 0x44, &[1], Code::Header),
        (&metadata, 0x0C, &[2], Code::RegionHeader),
        (&small, 0x20, &[7], Code::RegionHeader),
        (&small, 0x22, &[9], Code::Header),
        (&ids, 0x00, b"x", Code::ObjectIds),
        (&ids, 0x20, &[5], Code::ObjectIds),
        (&ids, 0x2C, &[0xFF], Code::ObjectIds),
        (&ids, 48 + 32, &[0xFF, 0xFF, 0xFF], Code::ObjectIds),
        (&metadata, filesystem, &[1], Code::Upcase),
        (&metadata, 40 + 2 * 0x61, &[0x62, 0], Code::UpcaseTwice),
        (&metadata, filesystem + 8, &[0xFF; 6], Code::FileTable),
        (&metadata, filesystem + 20, &[0xFF], Code::Root),
        (&metadata, entry + 1, &[0x80], Code::Flags),
        (&metadata, entry + 2, &[9], Code::Eas),
        (&metadata, entry + 4, &[9], Code::Reparse),
        (&metadata, entry + 0x28, &[0xFF; 3], Code::Data),
        (&metadata, entry + 0x36, &[9], Code::StreamKind),
        (&metadata, entry + 0x38, &[0; 8], Code::SecurityMissing),
        (&metadata, place(file.entry.security) + 2, &[9], Code::Security),
        (&metadata, entry + 0x50, &[0xFF; 3], Code::Streams),
        (&metadata, entry + 0x58, &[77], Code::Parent),
        (&metadata, entry + 0x5C, &[1], Code::Merged),
        (&metadata, place(large.position) + 0x28, &[1], Code::Alignment),
        (&metadata, place(root.position) + 0x36, &[0], Code::Root),
        (&metadata, table + 4, &[0xFF, 0xFF], Code::File),
        (&metadata, table + 8, &[0xFF, 0xFF], Code::File),
        (&metadata, table + 8, &root.id.0.to_le_bytes(), Code::File),
        // The first name's first letter: "empty" becomes "zmpty", ":mpty", "?mpty".
        (&metadata, names + 2, b"z", Code::LinkOrder),
        (&metadata, names + 2, b":", Code::Name),
        (&metadata, names + 2, b"?", Code::NameOdd),
        (&metadata, entry + 0x38, &[41], Code::Security),
    ];
    for (name, at, bytes, code) in cases {
        let original = set.bytes(name).unwrap();
        let mut damaged = original.clone();
        damaged[*at..*at + bytes.len()].copy_from_slice(bytes);
        set.insert(*name, damaged);
        let found = codes(&set, "a.cim");
        assert!(found.contains(code), "{name} {at:#x}: {code} is not among {found:?}");
        set.insert(*name, original);
    }
    assert_eq!(codes(&set, "a.cim"), []);
    set.remove(&ids).unwrap();
    assert_eq!(codes(&set, "a.cim"), [Code::ObjectIds]);
}

#[test]
fn bytes_that_are_used_twice_are_found() {
    let set = sample(WriterOptions::default());
    let image = open(&set, "a.cim");
    let region = format!("region_{}_0", image.guid());
    let file = image.resolve(&path("Files/link"), Case::Exact).unwrap();
    let entry = usize::try_from(file.position.byte()).unwrap();
    let original = set.bytes(&region).unwrap();
    // The file of 36,000 bytes begins a page later, so it shares bytes with the stream behind it and its twin.
    let mut damaged = original.clone();
    damaged[entry + 0x29] = damaged[entry + 0x29].wrapping_add(0x10);
    damaged[entry + 0x30..entry + 0x32].copy_from_slice(&9000_u16.to_le_bytes());
    set.insert(&region, damaged);
    assert_eq!(codes(&set, "a.cim"), [Code::DataOverlap]);
    // Data in the metadata: at the upcase table.
    let mut damaged = original;
    damaged[entry + 0x28..entry + 0x30].copy_from_slice(&48_u64.to_le_bytes());
    set.insert(&region, damaged);
    assert_eq!(codes(&set, "a.cim"), [Code::Overlap]);
    assert_eq!(set.names().unwrap().len(), 7);
}

#[test]
fn object_id_files_are_built_again_as_the_writer_wrote_them() {
    for stream_framing in [StreamFraming::Plain, StreamFraming::Counted] {
        let set = sample(WriterOptions { stream_framing, ..WriterOptions::default() });
        let mut fork = ImageWriter::fork(
            set.clone(),
            "a.cim",
            "b.cim",
            guid("b"),
            WriterOptions { stream_framing, ..WriterOptions::default() },
        )
        .unwrap();
        fork.add_file(&path("Files/small"), &metadata(1), b"other").unwrap();
        fork.commit().unwrap();
        assert_eq!(cimfs::repair(&set, "a.cim").unwrap(), []);
        for image in ["a.cim", "b.cim"] {
            let id = open(&set, image).guid();
            let names: Vec<_> = set.names().unwrap();
            let names: Vec<_> = names
                .into_iter()
                .filter(|name| name.starts_with(&format!("objectid_{id}")))
                .collect();
            let before: Vec<_> = names.iter().map(|name| set.bytes(name).unwrap()).collect();
            set.remove(&names[0]).unwrap();
            set.insert(&names[1], b"not one".to_vec());
            // Of a repair that was cut.
            set.insert(format!("{}.cimtmp", names[0]), b"half".to_vec());
            let rebuilt = cimfs::repair(&set, image).unwrap();
            assert_eq!(rebuilt.iter().map(|r| r.name.clone()).collect::<Vec<_>>(), names[..2]);
            assert!(rebuilt[0].fault.contains("cannot be opened"), "{rebuilt:?}");
            assert!(rebuilt[1].fault.contains("is not an object-ID file"), "{rebuilt:?}");
            let after: Vec<_> = names.iter().map(|name| set.bytes(name).unwrap()).collect();
            assert!(before == after, "{image}");
            assert_eq!(check(&set, image).unwrap().findings, []);
            assert_eq!(cimfs::orphans(&set).unwrap(), [""; 0]);
        }
    }
}

/// Found by fuzzing.
#[test]
fn regions_of_unknown_kind_are_repaired_as_they_are() {
    let set = sample(WriterOptions::default());
    let region = format!("region_{}_1", guid("a"));
    let mut bytes = set.bytes(&region).unwrap();
    bytes[0x22] = 9;
    set.insert(&region, bytes);
    assert_eq!(codes(&set, "a.cim"), [Code::Header, Code::ObjectIds]);
    assert_eq!(cimfs::repair(&set, "a.cim").unwrap().len(), 1);
    assert_eq!(codes(&set, "a.cim"), [Code::Header]);
}

#[test]
fn what_cannot_be_read_is_not_repaired() {
    let set = sample(WriterOptions::default());
    let image = open(&set, "a.cim");
    let [region, ids] = ["region", "objectid"].map(|kind| format!("{kind}_{}_0", image.guid()));
    set.remove(&ids).unwrap();
    let small = image.resolve(&path("Files/small"), Case::Exact).unwrap();
    let mut bytes = set.bytes(&region).unwrap();
    let entry = usize::try_from(small.position.byte()).unwrap();
    bytes[entry + 0x28..entry + 0x2B].fill(0xFF);
    set.insert(&region, bytes);
    assert_eq!(cimfs::repair(&set, "a.cim").unwrap_err().kind(), cimfs::ErrorKind::Corrupt);
    assert!(!set.names().unwrap().iter().any(|name| name.starts_with(&ids)));
}
