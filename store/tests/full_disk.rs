//! The store on a file system that fills up, and has room again.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::{labels, open, prepare};
use store::{ErrorKind, Kind, Store};

/// A tmpfs that goes away with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mount = ["-t", "tmpfs", "-o", options, "plywood-test", at.to_str().unwrap()];
        let status = Command::new("mount").args(mount).status().unwrap();
        assert!(status.success(), "this test must be run as root: mount {mount:?} failed");
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

/// Views by four threads until one of them fails for want of space; none that was made may be missing.
fn fill_metadata(store: &Store, round: usize) -> Vec<ErrorKind> {
    let long = labels(&[("long", &"x".repeat(4000))]);
    let write = |writer: usize| {
        let (mut made, mut failures) = (Vec::new(), Vec::new());
        for number in 0..1000 {
            let key = format!("full-{round}-{writer}-{number}");
            match store.view(key.as_bytes(), None, long.clone()) {
                Ok(view) => made.push(view),
                Err(error) => failures.push(error.kind()),
            }
            if failures.len() > 20 {
                break;
            }
        }
        (made, failures)
    };
    let ended: Vec<_> = std::thread::scope(|threads| {
        let write = &write;
        let writers: Vec<_> = (0..4).map(|writer| threads.spawn(move || write(writer))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    for view in ended.iter().flat_map(|(made, _)| made) {
        assert_eq!(store.stat(&view.key).unwrap(), *view);
    }
    ended.into_iter().flat_map(|(_, failures)| failures).collect()
}

/// The database refuses everything after it could not write once, until it is opened anew.
#[test]
fn privileged_metadata_are_written_again_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let _mounted = Mounted::tmpfs(&root, "size=12m");
    let store = open(&root).unwrap();
    prepare(&store, "before", "").unwrap();
    for round in 0..3 {
        let filler = root.join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        for block in [64 << 10, 4 << 10] {
            while file.write_all(&vec![1_u8; block]).is_ok() {}
        }
        drop(file);
        let failures = fill_metadata(&store, round);
        assert!(failures.contains(&ErrorKind::NoSpace), "{failures:?}");
        assert_eq!(store.stat(b"before").unwrap().kind, Kind::Active, "reading goes on");

        std::fs::remove_file(&filler).unwrap();
        let key = format!("after-{round}");
        prepare(&store, &key, "").unwrap();
        assert_eq!(store.stat(key.as_bytes()).unwrap().kind, Kind::Active);
        for view in store.list(&["name~=^full"]).unwrap() {
            store.remove(&view.key).unwrap();
        }
    }
    assert_eq!(store.list(&[]).unwrap().len(), 4);
    drop(store);
    // Directories of which it was not known whether their records were written are swept now.
    let store = open(&root).unwrap();
    let report = store.fsck(store::FsckOptions::default()).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

/// Who has no room left removes something; that must need none.
#[test]
fn privileged_a_full_disk_lets_snapshots_go() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let label = labels(&[("some", &"x".repeat(500))]);
    // However full the database itself is.
    for count in [1, 20, 70, 150, 280, 450, 700] {
        let _mounted = Mounted::tmpfs(&root, "size=24m");
        let store = open(&root).unwrap();
        prepare(&store, "making", "").unwrap();
        fixture::commit(&store, "base", "making").unwrap();
        let keys: Vec<_> = (0..count).map(|number| format!("key-{number}").into_bytes()).collect();
        for key in &keys {
            let scratch = store::Scratch::Directory;
            store.prepare(key, Some(b"base"), label.clone(), scratch).unwrap();
        }
        let mut file = std::fs::File::create(root.join("filler")).unwrap();
        for block in [64 << 10, 4 << 10, 1] {
            while file.write_all(&vec![1_u8; block]).is_ok() {}
        }
        for key in &keys {
            let removed = store.remove(key);
            assert!(removed.is_ok(), "{removed:?} of {count}");
        }
    }
}
