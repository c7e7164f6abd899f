//! Any bytes as a CIM with its regions: opened, walked, read, checked, dumped, compared, repaired, and built upon.

#![no_main]

mod container;
mod mutation;

use std::io;

use cimfs::{
    Case, Code, Eas, FileSet, Guid, Image, ImageWriter, MemorySet, Metadata, ReadAt, Severity,
    WriterOptions, check, compare, dump, repair,
};
use container::Container;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use mutation::{Dice, mutate};

/// Bytes of data read in all: shared and sparse ones make any size legal.
const DATA: u64 = 1 << 20;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut dice = Dice::new(seed);
    let Some(mut container) = Container::parse(&data[..size]) else {
        return fuzzer_mutate(data, size, max_size);
    };
    match dice.below(4) {
        // The bytes of one file, as the fuzzer likes.
        0 => {
            let count = container.files.len();
            let file = &mut container.files[dice.below(count)].0;
            let length = file.len();
            file.resize(length + 64, 0);
            let changed = fuzzer_mutate(file, length, length + 64);
            file.truncate(changed);
        }
        more => (0..more).for_each(|_| mutate(&mut container, &mut dice)),
    }
    match container.bytes().filter(|bytes| bytes.len() <= max_size) {
        Some(bytes) => {
            data[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});

fuzz_target!(|bytes: &[u8]| {
    let Some(container) = Container::parse(bytes) else { return };
    let set = container.set();
    let _ = cimfs::usage(&set, "a.cim");
    let _ = cimfs::orphans(&set);
    let Ok(image) = Image::open(&set, "a.cim") else { return };
    let report = check(&set, "a.cim").expect("what opens can be checked");
    let errors = read_everything(&image);
    assert!(errors == 0 || !report.is_sound(), "{errors} errors in a sound image: {report:?}");
    dump(&image, &mut io::sink()).expect("a sink takes everything");
    // Data that is bounded; what differs nowhere is read to its end.
    if report.counts.data_bytes < DATA
        && let Ok(changes) = compare(&image, &image)
    {
        assert_eq!(changes, [], "an image is equal to itself");
    }
    build_upon(&set, &report);
    if let Ok(rebuilt) = repair(&set, "a.cim") {
        assert!(rebuilt.len() <= image.region_count());
        let again = check(&set, "a.cim").expect("repair leaves what can be opened");
        let ids = |finding: &cimfs::Finding| finding.code == Code::ObjectIds;
        assert!(!again.findings.iter().any(ids), "{again:?}");
    }
});

/// Asks for everything that there is; how much of it were errors.
fn read_everything<R: ReadAt>(image: &Image<R>) -> usize {
    let mut errors = 0;
    let mut left = DATA;
    let mut buf = vec![0; 16 << 10];
    let mut drain = |stream: &cimfs::Stream| -> bool {
        let Ok(reader) = image.open_stream(stream) else { return false };
        let mut position = 0;
        while left > 0 {
            match reader.read_at(&mut buf, position) {
                Ok(0) => break,
                Ok(read) => {
                    position += read as u64;
                    left = left.saturating_sub(read as u64);
                }
                Err(_) => return false,
            }
        }
        true
    };
    for entry in image.walk() {
        let Ok(entry) = entry else {
            errors += 1;
            continue;
        };
        let file = entry.file;
        let eas = image.ea_buffer(&file);
        let streams = image.alternate_streams(&file);
        let good = [
            image.security_descriptor(&file).is_ok(),
            image.reparse_buffer(&file).is_ok(),
            eas.is_ok_and(|eas| Eas::new(&eas).all(|ea| ea.is_ok())),
            streams.is_ok_and(|mut streams| {
                streams.all(|stream| stream.is_ok_and(|stream| drain(&stream.stream)))
            }),
            file.is_dir() || drain(&file.data()),
            image.resolve(&entry.path(), Case::Exact).is_ok_and(|found| found.id == file.id),
        ];
        errors += good.iter().filter(|good| !**good).count();
        if file.is_dir()
            && let (Ok(entries), Ok(listing)) = (image.entries(&file), image.listing(&file))
        {
            for (one, other) in entries.zip(listing.iter()) {
                assert_eq!(one.ok().map(|entry| entry.id), other.ok().map(|(_, id)| id));
            }
        }
    }
    errors
}

/// A fork of a sound image is sound, and of any other it is refused or written, in bounded time.
fn build_upon(set: &MemorySet, report: &cimfs::Report) {
    let guid = Guid::for_content(b"a fork");
    let options = WriterOptions::default();
    let Ok(mut fork) = ImageWriter::fork(set.clone(), "a.cim", "b.cim", guid, options) else {
        assert!(!report.is_sound(), "no fork of a sound image");
        return;
    };
    let metadata = Metadata::default();
    let done = fork
        .add_directory(&"new".into(), &metadata)
        .and_then(|()| fork.add_file(&"new/file".into(), &metadata, b"data"))
        .and_then(|()| fork.add_directory(&"d".into(), &metadata))
        .and_then(|()| fork.add_file(&"d/f".into(), &metadata, b"data"))
        .and_then(|()| fork.commit());
    match done {
        Ok(_) if report.is_sound() => {
            let forked = check(set, "b.cim").expect("what was written opens");
            let bad = forked.findings.iter().filter(|f| f.code.severity() == Severity::Error);
            assert_eq!(bad.count(), 0, "{forked:?} of {report:?}");
            let image = Image::open(set, "b.cim").expect("what was written opens");
            assert!(image.resolve(&"NEW/file".into(), Case::Ignored).is_ok());
        }
        Ok(_) => {}
        Err(error) => assert!(!report.is_sound(), "{error} of a sound image"),
    }
    let names = set.names().expect("memory has names");
    assert!(!names.iter().any(|name| name.ends_with(".cimtmp")), "{names:?}");
}
