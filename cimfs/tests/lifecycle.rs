//! Usage, removal, and what belongs to no image.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use cimfs::{
    DirectorySet, ErrorKind, FileSet, Image, ImageWriter, MemorySet, WritableSet, WriterOptions,
    destroy, forks, orphans, usage,
};
use support::{describe, fill, guid, metadata, path};

fn write<S: WritableSet + Clone>(set: &S, parent: Option<&str>, name: &str) {
    let options = WriterOptions::default();
    let mut writer = match parent {
        Some(parent) => ImageWriter::fork(set.clone(), parent, name, guid(name), options).unwrap(),
        None => ImageWriter::create(set.clone(), name, guid(name), options).unwrap(),
    };
    match parent {
        Some(_) => writer.add_file(&path(name), &metadata(1), name.as_bytes()).unwrap(),
        None => fill(&mut writer).unwrap(),
    }
    writer.commit().unwrap();
}

fn lengths(set: &MemorySet, id: &str) -> u64 {
    let id = guid(id).to_string();
    let names = set.names().unwrap().into_iter().filter(|name| name.contains(&id));
    names.map(|name| set.bytes(&name).unwrap().len() as u64).sum()
}

#[test]
fn usage_tells_own_shared_and_missing_bytes() {
    let set = MemorySet::new();
    write(&set, None, "a.cim");
    write(&set, Some("a.cim"), "b.cim");
    write(&set, Some("b.cim"), "c.cim");
    let used = usage(&set, "c.cim").unwrap();
    assert_eq!(used.regions, lengths(&set, "c.cim"));
    assert_eq!(used.parents, lengths(&set, "a.cim") + lengths(&set, "b.cim"));
    assert_eq!((used.filesystem, used.missing), (72 + 48, 0));
    set.remove(&format!("objectid_{}_0", guid("c.cim"))).unwrap();
    set.remove(&format!("region_{}_1", guid("a.cim"))).unwrap();
    assert_eq!(usage(&set, "c.cim").unwrap().missing, 2);
    assert_eq!(usage(&set, "d.cim").unwrap_err().kind(), ErrorKind::Missing);
}

#[test]
fn images_go_with_all_their_files_and_never_before_their_forks() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("something else")).unwrap();
    let set = DirectorySet::new(directory.path());
    write(&set, None, "a.cim");
    let alone = set.names().unwrap().len();
    write(&set, Some("a.cim"), "b.cim");
    write(&set, Some("b.cim"), "c.cim");
    assert_eq!(forks(&set, "a.cim").unwrap(), ["b.cim", "c.cim"]);
    assert_eq!(forks(&set, "c.cim").unwrap(), [""; 0]);
    for name in ["a.cim", "b.cim"] {
        let error = destroy(&set, name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(orphans(&set).unwrap(), [""; 0]);
    destroy(&set, "c.cim").unwrap();
    destroy(&set, "b.cim").unwrap();
    assert_eq!(set.names().unwrap().len(), alone);
    describe(&Image::open(&set, "a.cim").unwrap()).unwrap();
    destroy(&set, "a.cim").unwrap();
    assert_eq!(set.names().unwrap(), ["something else"]);
    assert_eq!(destroy(&set, "a.cim").unwrap_err().kind(), ErrorKind::Missing);
}

#[test]
fn what_belongs_to_no_image_is_found() {
    let set = MemorySet::new();
    write(&set, None, "a.cim");
    write(&set, Some("a.cim"), "b.cim");
    let kept = set.names().unwrap();
    let lost = guid("lost");
    let mut orphaned = vec![
        format!("region_{lost}_0"),
        format!("objectid_{lost}_12"),
        format!("region_{lost}_data.cimtmp"),
        format!("region_{}_small.cimtmp", guid("a.cim")),
        "c.cim.cimtmp".to_string(),
    ];
    orphaned.sort_unstable();
    for name in orphaned.iter().map(String::as_str).chain(["note", "region_x_0", "objectid_"]) {
        set.insert(name, b"x".to_vec());
    }
    assert_eq!(orphans(&set).unwrap(), orphaned);
    for name in orphaned {
        set.remove(&name).unwrap();
    }
    assert_eq!(set.names().unwrap().len(), kept.len() + 3);
    // The image is gone, its fork is not.
    set.remove("a.cim").unwrap();
    assert_eq!(orphans(&set).unwrap(), [""; 0]);
    describe(&Image::open(&set, "b.cim").unwrap()).unwrap();
    set.remove("b.cim").unwrap();
    assert_eq!(orphans(&set).unwrap().len(), kept.len() - 2);
}
