//! The oracle, a reader in another language that was written from the description of the format alone, says the
//! same of images as the crate's reader.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use cimfs::{Case, DirectorySet, Image, ImageWriter, Metadata, StreamFraming, WriterOptions};
use zerocopy::IntoBytes as _;

use support::{describe, fill, guid, metadata, path};

fn oracle(directory: &Path, name: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/cim.py");
    let output = Command::new("python3").arg(script).arg(directory).arg(name).output();
    let output = output.expect("python3 is needed for this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn agree(directory: &Path, name: &str) -> String {
    let ours = describe(&Image::open(&DirectorySet::new(directory), name).unwrap()).unwrap();
    let theirs = oracle(directory, name);
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
    ours
}

#[test]
fn the_oracle_agrees_on_every_version_entry_size_and_framing() {
    let versions = [(1, None), (1, Some(96)), (2, None), (3, None), (3, Some(88)), (3, Some(104))];
    for (version, entry_size) in versions {
        for stream_framing in [StreamFraming::Plain, StreamFraming::Counted] {
            let directory = tempfile::tempdir().unwrap();
            let set = DirectorySet::new(directory.path());
            let options =
                WriterOptions { version, entry_size, stream_framing, ..WriterOptions::default() };
            let mut writer = ImageWriter::create(set, "a.cim", guid("a"), options).unwrap();
            fill(&mut writer).unwrap();
            writer.commit().unwrap();
            assert_eq!(agree(directory.path(), "a.cim").lines().count(), 13);
        }
    }
}

#[test]
fn the_oracle_agrees_on_images_of_several_file_tables_and_on_forks() {
    let directory = tempfile::tempdir().unwrap();
    let set = DirectorySet::new(directory.path());
    let options = WriterOptions::default();
    let mut writer = ImageWriter::create(set.clone(), "0.cim", guid("0"), options.clone()).unwrap();
    fill(&mut writer).unwrap();
    for number in 0..3000 {
        let name = path(&format!("Files/Windows/{number}"));
        writer.add_file(&name, &metadata(number), number.to_string().as_bytes()).unwrap();
    }
    writer.commit().unwrap();
    let before = agree(directory.path(), "0.cim");
    for fork in 1..4 {
        let (parent, name) = (format!("{}.cim", fork - 1), format!("{fork}.cim"));
        let id = guid(&fork.to_string());
        let mut writer =
            ImageWriter::fork(set.clone(), &parent, &name, id, options.clone()).unwrap();
        writer.remove(&path(&format!("Files/Windows/{fork}"))).unwrap();
        let new = path(&format!("Files/Windows/new {fork}"));
        writer.add_file(&new, &Metadata::default(), b"new").unwrap();
        writer.add_directory(&path("Files"), &metadata(fork)).unwrap();
        let link = path(&format!("link {fork}"));
        writer.add_link(&link, &path("FILES/small")).unwrap();
        writer.commit().unwrap();
        agree(directory.path(), &name);
    }
    assert!(before == agree(directory.path(), "0.cim"), "forks leave their parent alone");
}

/// No writer makes executables in the layout of memory, so one is made by hand: 500 bytes whose second and third
/// part lie further on.
#[test]
fn the_oracle_agrees_on_executables_in_the_layout_of_memory() {
    let directory = tempfile::tempdir().unwrap();
    let set = DirectorySet::new(directory.path());
    let mut writer =
        ImageWriter::create(set.clone(), "a.cim", guid("a"), WriterOptions::default()).unwrap();
    fill(&mut writer).unwrap();
    writer.commit().unwrap();
    let image = Image::open(&set, "a.cim").unwrap();
    let view = image.resolve(&path("Files/link"), Case::Exact).unwrap();
    let data = view.entry.default_stream.offset;

    let region = directory.path().join(format!("region_{}_0", image.guid()));
    let mut bytes = std::fs::read(&region).unwrap();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let descriptor = bytes.len() as u64;
    bytes.extend_from_slice(data.as_bytes());
    bytes.extend_from_slice(&(500_u64 | 1 << 63).to_le_bytes());
    bytes.extend_from_slice(&12_288_u32.to_le_bytes());
    bytes.extend_from_slice(&[2, 0, 1, 0]);
    for (offset, delta) in [(100_u32, 4096_u32), (300, 8192)] {
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&delta.to_le_bytes());
    }
    let entry = usize::try_from(view.position.byte()).unwrap() + 0x28;
    bytes[entry..entry + 8].copy_from_slice(&descriptor.to_le_bytes());
    bytes[entry + 8..entry + 16].copy_from_slice(&(500_u64 | 2 << 48).to_le_bytes());
    std::fs::write(&region, bytes).unwrap();

    agree(directory.path(), "a.cim");
    let image = Image::open(&set, "a.cim").unwrap();
    let view = image.file(view.id).unwrap();
    let segments = image.segments(&view.data()).unwrap();
    let found: Vec<_> =
        segments.iter().map(|s| (s.offset, s.length, s.source.unwrap().byte())).collect();
    let base = data.byte();
    let expected = [(0, 100, base), (100, 200, base + 100 + 4096), (300, 200, base + 300 + 8192)];
    assert_eq!(found, expected);
    let mut text = Vec::new();
    image.open_stream(&view.data()).unwrap().read_to_end(&mut text).unwrap();
    let all: Vec<u8> = (0..9000_u32).flat_map(|i| i.to_le_bytes()).collect();
    assert_eq!(text[96..104], [&all[96..100], &all[4196..4200]].concat());
    assert_eq!(text[499], all[499 + 8192]);
}
