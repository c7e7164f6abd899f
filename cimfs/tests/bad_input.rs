//! Images whose files are missing, cut, exchanged or lead in circles: each a clear error where it is read, and a
//! finding where it is checked.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use cimfs::{
    Case, Code, ErrorKind, FileSet, Image, ImageWriter, MemorySet, Name, ReadAt, WritableSet,
    WriterOptions, check, check_data,
};
use support::{guid, metadata, open, path, sample};

/// A set with `a.cim`, its fork `b.cim`, and a stranger `c.cim` with as many regions.
fn family() -> MemorySet {
    let set = sample(WriterOptions::default());
    let options = WriterOptions::default();
    let mut fork =
        ImageWriter::fork(set.clone(), "a.cim", "b.cim", guid("b"), options.clone()).unwrap();
    fork.add_file(&path("Files/new"), &metadata(1), b"new").unwrap();
    fork.commit().unwrap();
    let mut writer = ImageWriter::create(set.clone(), "c.cim", guid("c"), options).unwrap();
    for number in 0..50 {
        let bytes = vec![number; 3000 + 200 * usize::from(number)];
        writer.add_file(&path(&format!("file {number}")), &metadata(1), &bytes).unwrap();
    }
    writer.commit().unwrap();
    set
}

fn refused(set: &MemorySet, name: &str) -> (ErrorKind, String) {
    let error = Image::open(set, name).unwrap_err();
    assert_eq!(check(set, name).unwrap_err().kind(), error.kind());
    (error.kind(), error.to_string())
}

fn errors(set: &MemorySet, name: &str) -> Vec<Code> {
    let report = check(set, name).unwrap();
    let errors = report.findings.iter().filter(|f| f.code.severity() == cimfs::Severity::Error);
    let mut codes: Vec<_> = errors.map(|finding| finding.code).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// Everything that reading every file gives.
fn read_errors<R: ReadAt>(image: &Image<R>) -> Vec<ErrorKind> {
    let mut kinds = Vec::new();
    for entry in image.walk() {
        let file = match entry {
            Ok(entry) => entry.file,
            Err(error) => {
                kinds.push(error.kind());
                continue;
            }
        };
        kinds.extend(image.security_descriptor(&file).err().map(|error| error.kind()));
        if !file.is_dir() {
            kinds.extend(image.open_stream(&file.data()).err().map(|error| error.kind()));
        }
    }
    kinds
}

fn patched(set: &MemorySet, name: &str, at: usize, bytes: &[u8]) {
    let mut content = set.bytes(name).unwrap();
    content[at..at + bytes.len()].copy_from_slice(bytes);
    set.insert(name, content);
}

#[test]
fn wrong_parents_are_found() {
    let stranger = guid("c").to_disk();
    // Not there at all.
    let set = family();
    patched(&set, "b.cim", 72, &guid("nobody").to_disk());
    let (kind, text) = refused(&set, "b.cim");
    assert_eq!(kind, ErrorKind::Missing);
    assert!(text.contains(&format!("region_{}_0", guid("nobody"))), "{text}");
    // Another image's.
    let set = family();
    patched(&set, "b.cim", 72, &stranger);
    assert!(
        errors(&set, "b.cim").contains(&Code::File) || errors(&set, "b.cim").contains(&Code::Root)
    );
    let kinds = read_errors(&open(&set, "b.cim"));
    assert!(kinds.contains(&ErrorKind::Corrupt), "{kinds:?}");
    // With fewer regions than it has, so that all others are counted wrong.
    let set = family();
    patched(&set, "b.cim", 72 + 16, &2_u16.to_le_bytes());
    match Image::open(&set, "b.cim") {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        Ok(image) => {
            assert_ne!(errors(&set, "b.cim"), []);
            assert!(read_errors(&image).contains(&ErrorKind::Corrupt));
        }
    }
    // The image as its own parent.
    let set = family();
    let own = set.bytes("b.cim").unwrap()[0x20..0x38].to_vec();
    patched(&set, "b.cim", 72, &own);
    let found = check(&set, "b.cim").map(|report| report.findings);
    match found {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        Ok(found) => assert!(found.iter().any(|finding| finding.code == Code::RegionSetTwice)),
    }
    // None, where there should be one.
    let set = family();
    patched(&set, "b.cim", 0x46, &[0, 0]);
    assert_eq!(refused(&set, "b.cim").0, ErrorKind::Corrupt);
}

#[test]
fn region_files_that_are_missing_or_short_are_found() {
    for index in 0..3 {
        let set = family();
        let region = format!("region_{}_{index}", guid("a"));
        let content = set.bytes(&region).unwrap();
        set.remove(&region).unwrap();
        for name in ["a.cim", "b.cim"] {
            let (kind, text) = refused(&set, name);
            assert_eq!(kind, ErrorKind::Missing);
            assert!(text.contains(&region), "{text}");
        }
        // Too short for its header.
        set.insert(&region, content[..39].to_vec());
        assert_eq!(refused(&set, "b.cim").0, ErrorKind::Corrupt);
        // Without its last bytes: something that a name leads to, or nearly all.
        set.insert(&region, content[..content.len() - 1].to_vec());
        match Image::open(&set, "a.cim") {
            // The filesystem object is the last of the metadata.
            Err(error) => assert_eq!((index, error.kind()), (0, ErrorKind::Corrupt)),
            Ok(image) => {
                assert_eq!(errors(&set, "a.cim"), [Code::Data], "{index}");
                assert_eq!(streams_that_fail(&image), 1, "{index}");
            }
        }
    }
}

/// How many streams, alternate ones too, cannot be opened; all of them for one reason.
fn streams_that_fail<R: ReadAt>(image: &Image<R>) -> usize {
    let mut streams = std::collections::HashSet::new();
    for entry in image.walk() {
        let file = entry.unwrap().file;
        let alternate =
            image.alternate_streams(&file).unwrap().map(|stream| stream.unwrap().stream);
        let own = (!file.is_dir()).then(|| file.data());
        for stream in alternate.chain(own) {
            if let Err(error) = image.open_stream(&stream) {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().contains("past the end of the region"), "{error}");
                streams.insert(stream.descriptor().offset);
            }
        }
    }
    streams.len()
}

#[test]
fn region_files_of_another_image_are_found() {
    // Of other kinds and numbers: by their headers.
    let set = family();
    let [zero, one, two] = [0, 1, 2].map(|index| format!("region_{}_{index}", guid("a")));
    let (small, data) = (set.bytes(&one).unwrap(), set.bytes(&two).unwrap());
    set.insert(&one, data);
    set.insert(&two, small);
    assert!(errors(&set, "a.cim").contains(&Code::RegionHeader));
    // The stranger's metadata: nothing is where it should be.
    let set = family();
    set.insert(&zero, set.bytes(&format!("region_{}_0", guid("c"))).unwrap());
    match Image::open(&set, "a.cim") {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
        Ok(image) => {
            assert!(!read_errors(&image).is_empty());
            assert_ne!(errors(&set, "a.cim"), []);
        }
    }
    // The stranger's data, in which every file finds some bytes: by the digests alone.
    let set = family();
    assert_eq!(check_data(&set, "a.cim").unwrap().findings, []);
    assert_eq!(check_data(&set, "b.cim").unwrap().findings, []);
    set.insert(&two, set.bytes(&format!("region_{}_2", guid("c"))).unwrap());
    assert_eq!(errors(&set, "a.cim"), []);
    let found = check_data(&set, "a.cim").unwrap().findings;
    assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), [Code::Digest]);
    assert!(found[0].message.contains("objects of region_"), "{}", found[0]);
    // Digests of an algorithm that we do not know say nothing.
    let set = family();
    for index in 0..3 {
        let ids = format!("objectid_{}_{index}", guid("a"));
        let mut content = set.bytes(&ids).unwrap();
        content[48..].chunks_mut(40).for_each(|entry| entry[8] ^= 1);
        set.insert(&ids, content);
    }
    let report = check_data(&set, "a.cim").unwrap();
    assert_eq!(report.findings[0].code, Code::Digests);
    assert!(report.is_sound());
}

#[test]
fn offsets_into_headers_are_found() {
    let set = sample(WriterOptions::default());
    let image = open(&set, "a.cim");
    let file = image.resolve(&path("Files/small"), Case::Exact).unwrap();
    let region = format!("region_{}_0", image.guid());
    let entry = usize::try_from(file.position.byte()).unwrap();
    let original = set.bytes(&region).unwrap();
    for (at, byte, code) in
        [(0x28, 39_u8, Code::Data), (0x38, 8, Code::Security), (0x50, 32, Code::Streams)]
    {
        let mut bytes = original.clone();
        bytes[entry + at] = byte;
        bytes[entry + at + 1..entry + at + 8].fill(0);
        set.insert(&region, bytes);
        assert_eq!(errors(&set, "a.cim"), [code]);
        let image = open(&set, "a.cim");
        let file = image.file(file.id).unwrap();
        let error = match code {
            Code::Data => image.open_stream(&file.data()).err(),
            Code::Security => image.security_descriptor(&file).err(),
            _ => image.alternate_stream(&file, &Name::from("empty")).err(),
        };
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("into the header of a region"), "{error}");
    }
    set.insert(&region, original);
    for at in [0x38, 0x3A] {
        patched(&set, "a.cim", at, &[0, 0, 0, 0]);
    }
    assert_eq!(refused(&set, "a.cim").0, ErrorKind::Corrupt);
}

#[test]
fn circles_of_directories_are_found_by_all_who_walk() {
    let set = sample(WriterOptions::default());
    let image = open(&set, "a.cim");
    let region = format!("region_{}_0", image.guid());
    let files = image.resolve(&path("Files"), Case::Exact).unwrap();
    let table = usize::try_from(files.entry.default_stream.offset.byte()).unwrap();
    // The first name of the directory leads to the directory itself.
    patched(&set, &region, table + 8, &files.id.0.to_le_bytes());
    let image = open(&set, "a.cim");
    assert_eq!(read_errors(&image), [ErrorKind::Corrupt]);
    assert_eq!(errors(&set, "a.cim"), [Code::File]);
    assert_eq!(cimfs::compare(&image, &image).unwrap_err().kind(), ErrorKind::Corrupt);
    let mut text = Vec::new();
    cimfs::dump(&image, &mut text).unwrap();
    assert!(
        String::from_utf8(text).unwrap().contains("unreadable: the directory has another name")
    );
    set.remove(&format!("objectid_{}_0", image.guid())).unwrap();
    assert_eq!(cimfs::repair(&set, "a.cim").unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn metadata_that_overlaps_is_found() {
    let set = sample(WriterOptions::default());
    let image = open(&set, "a.cim");
    let region = format!("region_{}_0", image.guid());
    let [one, other] =
        ["Files/link", "Files/small"].map(|name| image.resolve(&path(name), Case::Exact).unwrap());
    let entry = usize::try_from(other.position.byte()).unwrap();
    // A security descriptor in the middle of another, whose length it reads from its bytes.
    let inside = one.entry.security.checked_add(8).unwrap();
    let mut bytes = set.bytes(&region).unwrap();
    let at = usize::try_from(inside.byte()).unwrap();
    bytes[at..at + 2].copy_from_slice(&22_u16.to_le_bytes());
    bytes[at + 2] = 1;
    bytes[entry + 0x38..entry + 0x3E].copy_from_slice(&inside.byte().to_le_bytes()[..6]);
    set.insert(&region, bytes);
    assert!(errors(&set, "a.cim").contains(&Code::Overlap), "{:?}", errors(&set, "a.cim"));
    // Reading has no reason to mind.
    assert_eq!(read_errors(&open(&set, "a.cim")), []);
    assert_eq!(set.names().unwrap().len(), 7);
}
