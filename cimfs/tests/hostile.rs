//! Any byte may be anything: reading gives a value or an error, in time and memory that the image's size bounds.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use cimfs::{
    Case, Eas, ErrorKind, FileSet, Image, ImagePath, ImageWriter, MemorySet, Name, ReadAt,
    StreamFraming, WriterOptions,
};
use support::{describe, fill, guid, metadata, path, sample};

/// Bytes of data that are read of a stream; a sparse one can claim 2^48.
const ENOUGH: u64 = 1 << 20;

/// Asks for everything that there is. Returns how many things were read and how many were errors.
fn read_everything<R: ReadAt>(image: &Image<R>) -> (usize, usize) {
    let (mut good, mut bad) = (0, 0);
    let mut count = |ok: bool| *(if ok { &mut good } else { &mut bad }) += 1;
    let mut buf = vec![0; 64 << 10];
    let mut drain = |stream| -> bool {
        let Ok(reader) = image.open_stream(&stream) else { return false };
        let mut position = 0;
        while position < ENOUGH {
            match reader.read_at(&mut buf, position) {
                Ok(0) => break,
                Ok(read) => position += read as u64,
                Err(_) => return false,
            }
        }
        true
    };
    for entry in image.walk() {
        let Ok(entry) = entry else {
            count(false);
            continue;
        };
        let file = entry.file;
        count(image.security_descriptor(&file).is_ok());
        count(image.reparse_buffer(&file).is_ok());
        match image.ea_buffer(&file) {
            Ok(buffer) => count(Eas::new(&buffer).all(|ea| ea.is_ok())),
            Err(_) => count(false),
        }
        match image.alternate_streams(&file) {
            Ok(streams) => {
                for stream in streams {
                    count(stream.is_ok_and(|stream| drain(stream.stream)));
                }
            }
            Err(_) => count(false),
        }
        if !file.is_dir() {
            count(drain(file.data()));
        } else if let (Ok(entries), Ok(listing)) = (image.entries(&file), image.listing(&file)) {
            // Both ways of reading a directory say the same, of damage too.
            for (one, other) in entries.zip(listing.iter()) {
                let other = other.map(|(name, id)| {
                    let units: Vec<u16> = name.iter().map(|unit| unit.get()).collect();
                    (Name::from_units(units), id)
                });
                assert_eq!(one.ok().map(|entry| (entry.name, entry.id)), other.ok());
            }
        }
        count(image.resolve(&entry.path(), Case::Ignored).is_ok());
    }
    (good, bad)
}

/// A set with one file replaced.
fn with(set: &MemorySet, name: &str, bytes: Vec<u8>) -> MemorySet {
    let copy = MemorySet::new();
    for name in set.names().unwrap() {
        copy.insert(&name, set.bytes(&name).unwrap());
    }
    copy.insert(name, bytes);
    copy
}

/// Offsets of all bytes but those of the upcase table, of which a few must do.
fn interesting(name: &str, bytes: &[u8]) -> Vec<usize> {
    const UPCASE: std::ops::Range<usize> = 40..40 + 131_072;
    let table = name.starts_with("region") && bytes.len() > UPCASE.end;
    (0..bytes.len()).filter(|at| !table || !UPCASE.contains(at) || at % 9001 == 0).collect()
}

fn tiny(options: WriterOptions) -> MemorySet {
    let set = MemorySet::new();
    let mut writer = ImageWriter::create(set.clone(), "a.cim", guid("a"), options).unwrap();
    let odd = cimfs::Metadata { eas: support::eas(), ..metadata(1) };
    writer.add_directory(&path("d"), &metadata(1)).unwrap();
    writer.add_file(&path("d/f"), &odd, b"data").unwrap();
    writer.add_link(&path("l"), &path("d/f")).unwrap();
    let reparse = cimfs::Metadata { reparse: support::junction(), ..metadata(1) };
    writer.add_directory(&path("j"), &reparse).unwrap();
    writer.begin_stream(&path("l"), &Name::from("s"), 3).unwrap();
    writer.write_data(b"ads").unwrap();
    writer.end().unwrap();
    writer.commit().unwrap();
    set
}

#[test]
fn every_byte_can_have_every_bit_flipped() {
    for stream_framing in [StreamFraming::Plain, StreamFraming::Counted] {
        let set = tiny(WriterOptions { stream_framing, ..WriterOptions::default() });
        let (good, bad) = read_everything(&support::open(&set, "a.cim"));
        assert!(good > 20 && bad == 0, "{good} {bad}");
        for name in set.names().unwrap() {
            let original = set.bytes(&name).unwrap();
            // The reader has no business with object-ID files.
            for at in interesting(&name, &original).into_iter().filter(|_| !name.starts_with('o')) {
                for flip in [0x01, 0x80, 0xFF] {
                    let mut bytes = original.clone();
                    bytes[at] ^= flip;
                    let set = with(&set, &name, bytes);
                    if let Ok(image) = Image::open(&set, "a.cim") {
                        let (_, bad) = read_everything(&image);
                        let report = cimfs::check(&set, "a.cim").unwrap();
                        assert!(bad == 0 || !report.is_sound(), "{name} {at}: {report:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn files_may_end_anywhere() {
    let set = tiny(WriterOptions::default());
    let whole = describe(&support::open(&set, "a.cim")).unwrap();
    for name in set.names().unwrap() {
        let original = set.bytes(&name).unwrap();
        for length in interesting(&name, &original) {
            let cut = with(&set, &name, original[..length].to_vec());
            if let Ok(image) = Image::open(&cut, "a.cim") {
                read_everything(&image);
                if !name.starts_with('o') {
                    assert!(describe(&image).is_err(), "{name} cut to {length} reads as before");
                } else {
                    assert_eq!(describe(&image).unwrap(), whole);
                }
            }
        }
    }
}

#[test]
fn cycles_and_second_names_of_directories_are_errors() {
    let set = MemorySet::new();
    let mut writer =
        ImageWriter::create(set.clone(), "a.cim", guid("a"), WriterOptions::default()).unwrap();
    writer.add_directory(&path("a"), &metadata(1)).unwrap();
    writer.add_directory(&path("a/b"), &metadata(1)).unwrap();
    writer.commit().unwrap();
    let image = support::open(&set, "a.cim");
    let a = image.resolve(&path("a"), Case::Exact).unwrap();
    let table = a.entry.default_stream.offset;
    let region = format!("region_{}_0", image.guid());
    for (target, what) in [(1_u32, "the root"), (2, "itself")] {
        let mut bytes = set.bytes(&region).unwrap();
        let value = usize::try_from(table.byte()).unwrap() + 8;
        bytes[value..value + 4].copy_from_slice(&target.to_le_bytes());
        let image = Image::open(&with(&set, &region, bytes), "a.cim").unwrap();
        let errors: Vec<_> = image.walk().filter_map(Result::err).collect();
        assert_eq!(errors.len(), 1, "{what}");
        assert_eq!(errors[0].kind(), ErrorKind::Corrupt);
        assert!(errors[0].to_string().starts_with("\\a\\b: directory"), "{}", errors[0]);
        // Following a path is bounded by the path.
        let deep = ImagePath::from_names(vec![Name::from("b"); 1000]);
        assert!(image.resolve(&deep, Case::Ignored).is_err());
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let set = sample(WriterOptions::default());
    let id = support::open(&set, "a.cim").guid();
    let refused = |set: &MemorySet, name: &str| Image::open(set, name).unwrap_err();
    for (other, kind) in [
        (format!("region_{id}_0"), ErrorKind::NotCim),
        (format!("objectid_{id}_0"), ErrorKind::NotCim),
        ("b.cim".into(), ErrorKind::Missing),
    ] {
        assert_eq!(refused(&set, &other).kind(), kind, "{other}");
    }
    set.insert("text", b"some text".to_vec());
    assert_eq!(refused(&set, "text").kind(), ErrorKind::NotCim);
    set.insert("empty", Vec::new());
    assert_eq!(refused(&set, "empty").kind(), ErrorKind::NotCim);

    let mut disk = vec![0; 8192];
    disk[8192 - 512..][..8].copy_from_slice(b"conectix");
    for name in ["layer.vhd", "layer.bcim"] {
        set.insert(name, disk.clone());
        let error = refused(&set, name);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("block CIM"), "{error}");
    }

    let header = set.bytes("a.cim").unwrap();
    for (at, value, kind, word) in [
        (0x10, 4, ErrorKind::Unsupported, "version 4"),
        (0x10, 0, ErrorKind::Unsupported, "version 0"),
        (0x0C, 7, ErrorKind::Unsupported, "file type 7"),
        (0x30, 0, ErrorKind::Corrupt, "0 regions"),
        (0x30, 9, ErrorKind::Missing, "there is no file region_"),
        (0x46, 1, ErrorKind::Corrupt, "parents"),
    ] {
        let mut bytes = header.clone();
        bytes[at] = value;
        set.insert("b.cim", bytes);
        let error = refused(&set, "b.cim");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn files_of_merged_images_and_unknown_streams_are_refused_by_name() {
    let set = sample(WriterOptions::default());
    let image = support::open(&set, "a.cim");
    let file = image.resolve(&path("Files/small"), Case::Exact).unwrap();
    let region = format!("region_{}_0", image.guid());
    let entry = usize::try_from(file.position.byte()).unwrap();
    let patched = |at: usize, value: u8| {
        let mut bytes = set.bytes(&region).unwrap();
        bytes[entry + at] = value;
        Image::open(&with(&set, &region, bytes), "a.cim").unwrap()
    };
    let error = patched(0x5C, 1).file(file.id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("merged CIM"), "{error}");
    for (at, value, word) in [(0x36, 3, "kind 3"), (0x37, 2, "flags 0x1")] {
        let image = patched(at, value);
        let view = image.file(file.id).unwrap();
        let error = image.open_stream(&view.data()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn thousands_of_parents_cost_little() {
    let set = tiny(WriterOptions::default());
    let mut header = set.bytes("a.cim").unwrap();
    header[0x46..0x48].fill(0xFF);
    // Without regions, each with another identifier; then all the same, with regions.
    let empty = (0..0xFFFF_u32).flat_map(|n| [[n; 4], [0; 4]]).flatten().flat_map(u32::to_le_bytes);
    let parents: Vec<u8> =
        empty.collect::<Vec<_>>().chunks(32).flat_map(|c| &c[..24]).copied().collect();
    set.insert("b.cim", [header.clone(), parents].concat());
    assert_eq!(Image::open(&set, "b.cim").unwrap().parents().len(), 0xFFFF);
    let own = header[0x20..0x38].repeat(0xFFFF);
    set.insert("c.cim", [header, own].concat());
    let error = Image::open(&set, "c.cim").unwrap_err();
    assert!(error.to_string().contains("regions, 1 to 65536"), "{error}");
}

/// A data set with a fork, for the flips in what only forks have.
#[test]
fn headers_of_forks_can_have_every_bit_flipped() {
    let set = sample(WriterOptions::default());
    let mut fork =
        ImageWriter::fork(set.clone(), "a.cim", "b.cim", guid("b"), WriterOptions::default())
            .unwrap();
    fork.remove(&path("Files/none")).unwrap();
    fork.add_directory(&path("second"), &metadata(9)).unwrap();
    fork.commit().unwrap();
    let original = set.bytes("b.cim").unwrap();
    assert_eq!(original.len(), 72 + 24);
    for at in 0..original.len() {
        for bit in 0..8 {
            let mut bytes = original.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(image) = Image::open(&with(&set, "b.cim", bytes), "b.cim") {
                read_everything(&image);
            }
        }
    }
    // Nothing stops a writer from building on hostile bytes either.
    let region = format!("region_{}_0", guid("a"));
    let original = set.bytes(&region).unwrap();
    for at in interesting(&region, &original).into_iter().step_by(7) {
        let mut bytes = original.clone();
        bytes[at] ^= 0xFF;
        let set = with(&set, &region, bytes);
        let options = WriterOptions::default();
        if let Ok(mut writer) = ImageWriter::fork(set, "a.cim", "c.cim", guid("c"), options)
            && fill(&mut writer).is_ok()
        {
            let _ = writer.commit();
        }
    }
}
