//! What the writer makes of calls, good and bad.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::io::Read as _;

use cimfs::{
    Case, ErrorKind, FileSet, Image, ImageWriter, MemoryFile, MemorySet, Metadata, Name, ReadAt,
    WriterOptions,
};
use support::{describe, fill, guid, junction, metadata, open, path, sample};

fn content(image: &Image<MemoryFile>, name: &str) -> Vec<u8> {
    let file = image.resolve(&path(name), Case::Ignored).unwrap();
    let mut bytes = Vec::new();
    image.open_stream(&file.data()).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn names(image: &Image<MemoryFile>) -> Vec<String> {
    image.walk().map(|entry| entry.unwrap().path().to_string()).collect()
}

fn create(set: &MemorySet, name: &str) -> ImageWriter<MemorySet> {
    ImageWriter::create(set.clone(), name, guid(name), WriterOptions::default()).unwrap()
}

fn fork(set: &MemorySet, parent: &str, name: &str) -> ImageWriter<MemorySet> {
    ImageWriter::fork(set.clone(), parent, name, guid(name), WriterOptions::default()).unwrap()
}

#[test]
fn the_same_calls_give_the_same_bytes() {
    let [one, two] = [(), ()].map(|()| sample(WriterOptions::default()));
    let files = one.names().unwrap();
    assert_eq!(files, two.names().unwrap());
    assert_eq!(files.len(), 7, "{files:?}");
    for name in files {
        assert!(one.bytes(&name) == two.bytes(&name), "{name}");
    }
}

#[test]
fn everything_comes_back() {
    let image = open(&sample(WriterOptions::default()), "a.cim");
    let windows = image.resolve(&path("FILES/windows"), Case::Ignored).unwrap();
    assert_eq!(image.security_descriptor(&windows).unwrap().unwrap(), support::security());
    assert_eq!(windows.attributes(), 0x30);
    let large = image.resolve(&path("Files/Windows/large.dll"), Case::Exact).unwrap();
    assert_eq!(large.attributes(), 0x7);
    assert_eq!(image.ea_buffer(&large).unwrap(), support::eas());
    assert_eq!(large.creation_time().to_unix(), (1_000_000_000, 123_456_700));
    let files = image.resolve(&path("Files"), Case::Exact).unwrap();
    // The name "link" comes before the directory "Windows".
    assert_eq!(large.parent(), Some(files.id));
    assert_eq!((files.parent(), windows.parent()), (Some(image.root()), Some(files.id)));
    assert_eq!(image.file(image.root()).unwrap().parent(), None);
    let link = image.resolve(&path("Files/link"), Case::Exact).unwrap();
    assert_eq!(link.id, large.id);
    let none = image.resolve(&path("Files/none"), Case::Exact).unwrap();
    assert_eq!(image.security_descriptor(&none).unwrap().unwrap(), cimfs::format::NULL_DACL);
    let target = image.resolve(&path("Files/junction"), Case::Exact).unwrap();
    assert_eq!((target.attributes(), target.reparse_tag()), (0x430, 0xA000_0003));
    assert_eq!(image.reparse_buffer(&target).unwrap().unwrap(), junction());
    let small = image.resolve(&path("files/SMALL"), Case::Ignored).unwrap();
    let zone = image.alternate_stream(&small, &"zone.identifier".into()).unwrap().unwrap();
    let mut text = [0; 32];
    assert_eq!(image.read_at(&zone, &mut text, 1).unwrap(), 13);
    assert_eq!(&text[..13], b"ZoneTransfer]");
    assert_eq!(content(&image, "files/ÜNÏCÖDÉ 語 😀"), b"text");
    assert!(content(&image, "Files/sparse") == vec![0; 1 << 20]);

    assert_eq!(image.resolve(&path("files"), Case::Exact).unwrap_err().kind(), ErrorKind::NotFound);
    let error = image.resolve(&path("Files/small/x/y"), Case::Ignored).unwrap_err();
    assert_eq!(error.to_string(), "there is no \\Files\\small\\x");
}

#[test]
fn equal_bytes_are_stored_once_and_at_their_alignment() {
    let set = sample(WriterOptions::default());
    let image = open(&set, "a.cim");
    let place = |name: &str| {
        let file = image.resolve(&path(name), Case::Exact).unwrap();
        image.segments(&file.data()).unwrap()[0].source.unwrap()
    };
    assert_eq!(place("Files/small"), place("Files/Same as small"));
    assert_eq!(place("Files/Windows/large.dll"), place("Files/Windows/again.dll"));
    assert_eq!((place("Files/small").region(), place("Files/small").byte() % 8), (1, 0));
    let large = place("Files/Windows/large.dll");
    assert_eq!((large.region(), large.byte() % 4096), (2, 0));
    // The 36,000 bytes once, and the 5,000 of an alternate stream.
    assert_eq!(image.region(2).unwrap().size().unwrap(), 4096 + 36_864 + 5_000);

    let limit = WriterOptions { large_data_from: 5, ..WriterOptions::default() };
    let image = open(&sample(limit), "a.cim");
    let small = image.resolve(&path("Files/small"), Case::Exact).unwrap();
    assert_eq!(image.segments(&small.data()).unwrap()[0].source.unwrap().region(), 2);
}

#[test]
fn regions_without_objects_are_left_out() {
    let set = MemorySet::new();
    let mut writer = create(&set, "a.cim");
    writer.add_file(&path("large"), &metadata(1), &[7; 5000]).unwrap();
    writer.commit().unwrap();
    let image = open(&set, "a.cim");
    assert_eq!(image.region_count(), 2);
    assert_eq!(content(&image, "large"), [7; 5000]);
    create(&set, "b.cim").commit().unwrap();
    assert_eq!(names(&open(&set, "b.cim")), ["\\"]);
}

#[test]
fn adding_replaces_and_removing_takes_all_below() {
    let set = MemorySet::new();
    let mut writer = create(&set, "a.cim");
    let plain = Metadata::default();
    writer.add_directory(&path("d"), &plain).unwrap();
    writer.add_directory(&path("d/e"), &plain).unwrap();
    writer.add_file(&path("d/e/f"), &plain, b"one").unwrap();
    writer.add_link(&path("kept"), &path("d/e/f")).unwrap();
    writer.add_file(&path("D/E/F"), &plain, b"two").unwrap();
    writer.add_directory(&path("d"), &metadata(5)).unwrap();
    writer.add_directory(&path("gone"), &plain).unwrap();
    writer.add_file(&path("gone/x"), &plain, b"x").unwrap();
    writer.remove(&path("GONE")).unwrap();
    writer.add_directory(&path("file"), &plain).unwrap();
    writer.add_file(&path("file"), &plain, b"now a file").unwrap();
    assert_eq!(writer.is_directory(&path("file")).unwrap(), Some(false));
    assert_eq!(writer.is_directory(&path("gone")).unwrap(), None);
    writer.commit().unwrap();
    let image = open(&set, "a.cim");
    assert_eq!(names(&image), ["\\", "\\d", "\\d\\e", "\\d\\e\\F", "\\file", "\\kept"]);
    assert_eq!(content(&image, "d/e/f"), b"two");
    assert_eq!(content(&image, "kept"), b"one");
    assert_eq!(content(&image, "file"), b"now a file");
    let d = image.resolve(&path("d"), Case::Exact).unwrap();
    assert_eq!(d.last_write_time().to_unix().0, 6);
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let set = MemorySet::new();
    let plain = Metadata::default();
    let mut writer = create(&set, "a.cim");
    let mut refused = |call: &dyn Fn(&mut ImageWriter<MemorySet>) -> cimfs::Result<()>, kind| {
        let error = call(&mut writer).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    };
    refused(&|w| w.add_directory(&path("a/b"), &plain), ErrorKind::NotFound);
    refused(&|w| w.begin_file(&path(".."), &plain, 1), ErrorKind::Invalid);
    refused(&|w| w.begin_file(&path(""), &plain, 1), ErrorKind::Invalid);
    refused(&|w| w.begin_file(&path("f"), &plain, 1 << 48), ErrorKind::TooLarge);
    refused(&|w| w.add_link(&path("l"), &path("f")), ErrorKind::NotFound);
    refused(&|w| w.add_link(&path("l"), &path("")), ErrorKind::Invalid);
    refused(&|w| w.remove(&path("f")), ErrorKind::NotFound);
    refused(&|w| w.remove(&path("")), ErrorKind::Invalid);
    refused(&|w| w.write_data(b"x"), ErrorKind::Invalid);
    refused(&|w| w.end(), ErrorKind::Invalid);
    refused(&|w| w.begin_stream(&path(""), &"a:b".into(), 1), ErrorKind::Invalid);
    for bad in [
        Metadata { security: vec![1; 20], ..plain.clone() },
        Metadata { security: vec![1; 70_000], ..plain.clone() },
        Metadata { eas: vec![1; 9], ..plain.clone() },
        Metadata { reparse: vec![1; 7], ..plain.clone() },
    ] {
        refused(&|w| w.add_directory(&path("d"), &bad), ErrorKind::Invalid);
    }
    writer.begin_file(&path("f"), &plain, 3).unwrap();
    assert_eq!(writer.write_data(b"four").unwrap_err().kind(), ErrorKind::Invalid);
    writer.write_data(b"tw").unwrap();
    assert_eq!(writer.remove(&path("f")).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(writer.end().unwrap_err().kind(), ErrorKind::Invalid);
    writer.commit().unwrap();
    assert_eq!(names(&open(&set, "a.cim")), ["\\"]);

    for bad in ["", "a/b", "a\\b", ".."] {
        let options = WriterOptions::default();
        let error = ImageWriter::create(set.clone(), bad, guid(bad), options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    for options in [
        WriterOptions { version: 4, ..WriterOptions::default() },
        WriterOptions { entry_size: Some(80), ..WriterOptions::default() },
        WriterOptions { entry_size: Some(90), ..WriterOptions::default() },
    ] {
        let error = ImageWriter::create(set.clone(), "b", guid("b"), options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn an_abort_leaves_nothing_and_names_are_never_taken_over() {
    let set = sample(WriterOptions::default());
    let before = set.names().unwrap();
    let mut writer = create(&set, "b.cim");
    fill(&mut writer).unwrap();
    assert!(set.names().unwrap().len() > before.len());
    let options = WriterOptions::default();
    for (name, id) in
        [("b.cim", "b.cim"), ("b.cim", "c"), ("c.cim", "b.cim"), ("a.cim", "c"), ("c.cim", "a")]
    {
        let error = ImageWriter::create(set.clone(), name, guid(id), options.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists, "{name} {id}: {error}");
    }
    drop(writer);
    assert_eq!(set.names().unwrap(), before);
    let error = ImageWriter::fork(set.clone(), "a.cim", "b.cim", guid("a"), options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(set.names().unwrap(), before);
}

#[test]
fn a_fork_writes_what_is_new_and_leaves_its_parent_alone() {
    let set = MemorySet::new();
    let mut writer = create(&set, "a.cim");
    fill(&mut writer).unwrap();
    for number in 0..3000 {
        let name = path(&format!("Files/Windows/{number}"));
        writer.add_file(&name, &metadata(number), number.to_string().as_bytes()).unwrap();
    }
    writer.commit().unwrap();
    let before = describe(&open(&set, "a.cim")).unwrap();

    let mut writer = fork(&set, "a.cim", "b.cim");
    let large: Vec<u8> = (0..9000_u32).flat_map(|i| i.to_le_bytes()).collect();
    writer.add_file(&path("Files/copy.dll"), &metadata(7), &large).unwrap();
    writer.add_file(&path("Files/WINDOWS/1500"), &metadata(8), b"changed").unwrap();
    writer.remove(&path("Files/Windows/large.dll")).unwrap();
    writer.begin_stream(&path("Files/small"), &Name::from("more"), 2).unwrap();
    writer.write_data(b"ok").unwrap();
    writer.end().unwrap();
    let summary = writer.commit().unwrap();
    // The directory of 3,000 names, three tables of 1024 entries at most, and little else.
    assert!(summary.regions.iter().sum::<u64>() < 400_000, "{summary:?}");
    assert_eq!(summary.regions.len(), 2, "the parent has the large file: {summary:?}");

    let image = open(&set, "b.cim");
    assert_eq!(image.parent_guids().collect::<Vec<_>>(), [guid("a.cim")]);
    assert_eq!(content(&image, "Files/copy.dll"), large);
    assert_eq!(content(&image, "Files/Windows/1500"), b"changed");
    assert_eq!(content(&image, "Files/Windows/1501"), b"1501");
    assert_eq!(content(&image, "Files/link"), large, "another name of what was removed");
    assert!(image.resolve(&path("Files/Windows/large.dll"), Case::Ignored).is_err());
    let small = image.resolve(&path("Files/small"), Case::Exact).unwrap();
    let streams = image.alternate_streams(&small).unwrap();
    let streams: Vec<_> = streams.map(|s| s.unwrap().name.to_string()).collect();
    assert_eq!(streams, ["empty", "large", "more", "Zone.Identifier"]);
    assert_eq!(describe(&open(&set, "a.cim")).unwrap(), before);

    // A fork of the fork that changes nothing is the same tree.
    fork(&set, "b.cim", "c.cim").commit().unwrap();
    let image_c = open(&set, "c.cim");
    assert_eq!(image_c.parent_guids().count(), 2);
    assert_eq!(describe(&image_c).unwrap(), describe(&image).unwrap());
}

#[test]
fn names_are_found_in_either_order_of_characters_beyond_the_basic_plane() {
    let set = MemorySet::new();
    let mut writer = create(&set, "a.cim");
    for name in ["a", "\u{E000}", "😀"] {
        writer.add_file(&path(name), &metadata(1), name.as_bytes()).unwrap();
    }
    writer.commit().unwrap();
    let image = open(&set, "a.cim");
    let root = image.file(image.root()).unwrap();
    let table = usize::try_from(root.entry.default_stream.offset.byte()).unwrap();
    let region = format!("region_{}_0", image.guid());
    let mut bytes = set.bytes(&region).unwrap();
    // Values and offsets of names of the second and third link change places: order by characters.
    for first in [table + 12, table + 24] {
        let (left, right) = bytes[first..first + 8].split_at_mut(4);
        left.swap_with_slice(right);
    }
    set.insert(region, bytes);
    let swapped = open(&set, "a.cim");
    assert_eq!(names(&image), ["\\", "\\a", "\\😀", "\\\u{E000}"]);
    assert_eq!(names(&swapped), ["\\", "\\a", "\\\u{E000}", "\\😀"]);
    for image in [image, swapped] {
        for name in ["a", "\u{E000}", "😀"] {
            assert_eq!(content(&image, name), name.as_bytes());
        }
        assert!(image.resolve(&path("\u{E001}"), Case::Ignored).is_err());
    }
}

#[test]
fn an_image_gets_the_identifier_of_what_it_turned_out_to_hold() {
    let set = MemorySet::new();
    for (name, begun) in [("a.cim", "x"), ("b.cim", "y")] {
        let mut writer =
            ImageWriter::create(set.clone(), name, guid(begun), WriterOptions::default()).unwrap();
        fill(&mut writer).unwrap();
        let small = path("Files/small");
        writer.add_sparse_stream(&small, &Name::from("zeros"), 1 << 30).unwrap();
        writer.set_guid(guid(name)).unwrap();
        assert_eq!(writer.commit().unwrap().guid, guid(name));
    }
    let image = open(&set, "a.cim");
    assert_eq!(image.guid(), guid("a.cim"));
    let file = image.resolve(&path("Files/small"), cimfs::Case::Exact).unwrap();
    let streams: Vec<_> =
        image.alternate_streams(&file).unwrap().map(|stream| stream.unwrap().stream).collect();
    assert!(streams.iter().any(|stream| stream.is_sparse() && stream.length() == 1 << 30));
    assert!(cimfs::orphans(&set).unwrap().is_empty());
    assert!(cimfs::check(&set, "a.cim").unwrap().findings.is_empty());

    let mut fork =
        ImageWriter::fork(set.clone(), "a.cim", "c.cim", guid("c"), WriterOptions::default())
            .unwrap();
    assert_eq!(fork.set_guid(guid("a.cim")).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(fork.set_guid(guid("b.cim")).unwrap_err().kind(), ErrorKind::Exists);
}
