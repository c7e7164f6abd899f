//! The oracle, a reader in another language that was written from the description of the format alone, says the
//! same of images as the crate's reader.

mod support;

use std::path::Path;
use std::process::Command;

use cimfs::{DirectorySet, Image, ImageWriter, Metadata, StreamFraming, WriterOptions};
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
