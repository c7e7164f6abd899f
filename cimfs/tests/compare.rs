//! What two images differ in, and what comparing them reads.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cimfs::{
    ErrorKind, FileFlags, FileSet, Image, ImageWriter, MemoryFile, MemorySet, Metadata, Name,
    ReadAt, WriterOptions, compare,
};
use support::{eas, fill, guid, junction, metadata, open, path, sample, security};

fn lines<A: ReadAt, B: ReadAt>(a: &Image<A>, b: &Image<B>) -> Vec<String> {
    let changes = compare(a, b).unwrap();
    let show = |change: &cimfs::Change| {
        let details: Vec<_> = change.differences.iter().map(ToString::to_string).collect();
        let line = format!("{:?} {}: {}", change.kind, change.path, details.join("; "));
        line.trim_end_matches([' ', ':']).to_owned()
    };
    changes.iter().map(show).collect()
}

fn fork(set: &MemorySet, name: &str) -> ImageWriter<MemorySet> {
    ImageWriter::fork(set.clone(), "a.cim", name, guid(name), WriterOptions::default()).unwrap()
}

fn stream(writer: &mut ImageWriter<MemorySet>, file: &str, name: &str, bytes: &[u8]) {
    writer.begin_stream(&path(file), &Name::from(name), bytes.len() as u64).unwrap();
    writer.write_data(bytes).unwrap();
    writer.end().unwrap();
}

#[test]
fn how_an_image_stores_things_is_no_difference() {
    let plain = sample(WriterOptions::default());
    let other = sample(WriterOptions {
        version: 1,
        entry_size: Some(104),
        large_data_from: 1,
        stream_framing: cimfs::StreamFraming::Counted,
        ..WriterOptions::default()
    });
    let none: [String; 0] = [];
    assert_eq!(lines(&open(&plain, "a.cim"), &open(&other, "a.cim")), none);
    assert_eq!(lines(&open(&plain, "a.cim"), &open(&plain, "a.cim")), none);
}

/// Changes everything that can be, the same way in a fork and in a fresh image.
fn change(writer: &mut ImageWriter<MemorySet>) {
    let plain = metadata(1_000_000_000);
    let odd = Metadata {
        flags: FileFlags::HIDDEN,
        security: security(),
        eas: eas(),
        ..metadata(1_000_000_001)
    };
    writer.add_file(&path("Files/small"), &odd, b"smell").unwrap();
    let mut large: Vec<u8> = (0..9000_u32).flat_map(u32::to_le_bytes).collect();
    large[35_999] = 1;
    writer.add_file(&path("Files/Windows/again.dll"), &plain, &large).unwrap();
    writer.remove(&path("Files/none")).unwrap();
    writer.add_file(&path("Files/NONE"), &plain, b"").unwrap();
    writer.remove(&path("Files/empty")).unwrap();
    writer.add_file(&path("Files/empty"), &plain, b"a file now").unwrap();
    writer.remove(&path("Files/link")).unwrap();
    writer.add_directory(&path("New"), &plain).unwrap();
    writer.add_directory(&path("New/deep"), &plain).unwrap();
    writer.add_link(&path("New/deep/link"), &path("Files/sparse")).unwrap();
    writer.remove(&path("Files/junction")).unwrap();
    writer.add_directory(&path("Files/junction"), &plain).unwrap();
    let reparse = Metadata { reparse: junction(), ..plain };
    writer
        .add_directory(&path("Files/Windows"), &Metadata { security: security(), ..reparse })
        .unwrap();
    stream(writer, "Files/small", "large", b"small now");
    stream(writer, "Files/small", "new", b"");
}

#[test]
fn every_difference_is_told_in_forks_and_in_strangers() {
    let set = sample(WriterOptions::default());
    let mut writer = fork(&set, "b.cim");
    change(&mut writer);
    writer.commit().unwrap();
    let [a, b] = ["a.cim", "b.cim"].map(|name| open(&set, name));
    let found = lines(&a, &b);
    insta::assert_snapshot!(found.join("\n"));

    // The same without a byte in common.
    let strange = MemorySet::new();
    let mut writer =
        ImageWriter::create(strange.clone(), "c.cim", guid("c"), WriterOptions::default()).unwrap();
    fill(&mut writer).unwrap();
    change(&mut writer);
    writer.commit().unwrap();
    let c = open(&strange, "c.cim");
    assert_eq!(lines(&a, &c), found);
    assert_eq!(lines(&b, &c), [""; 0]);

    // The other way round.
    let back = lines(&b, &a);
    assert_eq!(back.len(), found.len());
    assert!(back.contains(&"Removed \\New\\deep\\link".to_owned()), "{back:?}");
}

#[test]
fn siblings_are_compared_through_what_they_share() {
    let set = sample(WriterOptions::default());
    for (name, bytes) in [("b.cim", b"one"), ("c.cim", b"two")] {
        let mut writer = fork(&set, name);
        writer.add_file(&path("Files/x"), &metadata(1), bytes).unwrap();
        writer.commit().unwrap();
    }
    let found = lines(&open(&set, "b.cim"), &open(&set, "c.cim"));
    assert_eq!(found, ["Modified \\Files\\x: data from byte 0"]);
}

#[test]
fn what_makes_no_sense_is_an_error_with_its_path() {
    let set = sample(WriterOptions::default());
    let image = open(&set, "a.cim");
    let other = sample(WriterOptions { version: 3, ..WriterOptions::default() });
    let region = format!("region_{}_0", image.guid());
    let files = image.resolve(&path("Files"), cimfs::Case::Exact).unwrap();
    let table = usize::try_from(files.entry.default_stream.offset.byte()).unwrap();
    let mut bytes = other.bytes(&region).unwrap();
    bytes[table + 8..table + 12].copy_from_slice(&1_u32.to_le_bytes());
    other.insert(&region, bytes);
    let error = compare(&image, &open(&other, "a.cim")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("\\Files\\"), "{error}");
}

/// Counts the bytes that are read.
#[derive(Clone)]
struct Counting(MemorySet, Arc<AtomicU64>);
struct CountingFile(MemoryFile, Arc<AtomicU64>);

impl FileSet for Counting {
    type File = CountingFile;

    fn open(&self, name: &str) -> io::Result<CountingFile> {
        Ok(CountingFile(self.0.open(name)?, self.1.clone()))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.0.names()
    }
}

impl ReadAt for CountingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.0.read_at(buf, offset)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn identity(&self) -> Option<[u64; 2]> {
        self.0.identity()
    }
}

#[test]
fn of_what_a_fork_shares_no_name_descriptor_or_data_is_read() {
    let set = MemorySet::new();
    let mut writer =
        ImageWriter::create(set.clone(), "a.cim", guid("a"), WriterOptions::default()).unwrap();
    for number in 0..10_u32 {
        let directory = path(&format!("d{number}"));
        writer.add_directory(&directory, &metadata(1)).unwrap();
        for file in 0..500_u32 {
            let name = format!("{file:0200}");
            let security = [&security()[..], &file.to_le_bytes()].concat();
            let metadata = Metadata { security, ..metadata(1) };
            writer
                .add_file(
                    &directory.join(&*name),
                    &metadata,
                    &[number, file].map(|n| n.to_le_bytes()).concat(),
                )
                .unwrap();
        }
    }
    writer.commit().unwrap();
    let mut writer = fork(&set, "b.cim");
    writer.add_file(&path("d7/new"), &metadata(1), &[2; 5000]).unwrap();
    writer.commit().unwrap();

    let read = Arc::new(AtomicU64::new(0));
    let counting = Counting(set, read.clone());
    let [a, b] = ["a.cim", "b.cim"].map(|name| Image::open(&counting, name).unwrap());
    assert_eq!(lines(&a, &b), ["Added \\d7\\new"]);
    // 5000 entries of 96 bytes, looked at three times, two upcase tables, and the names of one directory; all names are
    // 2,000,000 bytes in each image.
    let read = read.load(Ordering::Relaxed);
    assert!(read < 3_000_000, "{read}");
}
