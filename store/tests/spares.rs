//! Scratches of removed snapshots, kept for new ones: only such as nobody could tell from new ones.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fixture::{Fixture, commit, labels, open, prepare, upper};
use store::{OpenOptions, Scratch, Snapshot, Store};

const MOST: usize = 2;

/// A store that keeps spares, with a committed snapshot `base`.
fn keeping() -> (tempfile::TempDir, Store) {
    let Fixture { directory, store } = Fixture::fast();
    drop(store);
    let store = open(&directory.path().join("root")).unwrap().with_spares(MOST);
    prepare(&store, "making", "").unwrap();
    commit(&store, "base", "making").unwrap();
    (directory, store)
}

fn inode(store: &Store, snapshot: &Snapshot) -> u64 {
    upper(store, snapshot).metadata().unwrap().ino()
}

fn graves(root: &Path) -> BTreeSet<PathBuf> {
    let entries = root.read_dir().unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("rm-")).collect()
}

#[test]
fn an_untouched_scratch_serves_the_next_snapshot() {
    let (_directory, store) = keeping();
    let first = prepare(&store, "first", "base").unwrap();
    let fs = inode(&store, &first);
    let long_ago = SystemTime::now() - Duration::from_hours(1);
    store.remove(b"first").unwrap();
    assert!(!upper(&store, &first).exists());
    let grave = graves(store.root()).pop_first().unwrap();
    std::fs::File::open(grave.join("fs")).unwrap().set_modified(long_ago).unwrap();

    let second = prepare(&store, "second", "base").unwrap();
    assert!(second.id > first.id);
    assert_eq!(inode(&store, &second), fs, "made anew");
    assert!(graves(store.root()).is_empty());
    let metadata = upper(&store, &second).metadata().unwrap();
    assert!(metadata.modified().unwrap() > SystemTime::now() - Duration::from_mins(1));
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
    let work = upper(&store, &second).with_file_name("work").metadata().unwrap();
    assert_eq!(work.permissions().mode() & 0o7777, 0o711);
}

#[test]
fn what_was_written_to_is_deleted() {
    let (_directory, store) = keeping();
    type Touch<'a> = (&'a str, &'a dyn Fn(&Path));
    let touch: [Touch<'_>; 5] = [
        ("a file", &|fs| std::fs::write(fs.join(".hidden"), "").unwrap()),
        ("a mode", &|fs| {
            std::fs::set_permissions(fs, std::fs::Permissions::from_mode(0o750)).unwrap();
        }),
        ("an xattr", &|fs| {
            sys::xattr::set_xattr(fs.as_os_str().as_bytes(), b"user.it", b"").unwrap();
        }),
        ("a mount's work", &|fs| std::fs::create_dir(fs.with_file_name("work/work")).unwrap()),
        ("nothing there", &|fs| std::fs::remove_dir(fs).unwrap()),
    ];
    for (what, touch) in touch {
        let used = prepare(&store, "used", "base").unwrap();
        touch(&upper(&store, &used));
        store.remove(b"used").unwrap();
        assert!(graves(store.root()).is_empty(), "{what}");
    }
}

#[test]
fn what_could_be_mounted_without_a_trace_is_deleted() {
    let (_directory, store) = keeping();
    prepare(&store, "bound", "").unwrap();
    store.remove(b"bound").unwrap();
    let image = Scratch::Image { size: 8 << 20 };
    store.prepare(b"image", Some(b"base"), labels(&[]), image).unwrap();
    store.remove(b"image").unwrap();
    fixture::view(&store, "view", "base").unwrap();
    store.remove(b"view").unwrap();
    assert!(graves(store.root()).is_empty());
}

#[test]
fn no_more_are_kept_than_were_asked_for() {
    let (_directory, store) = keeping();
    for number in 0..MOST + 3 {
        prepare(&store, &format!("{number}"), "base").unwrap();
    }
    for number in 0..MOST + 3 {
        store.remove(format!("{number}").as_bytes()).unwrap();
    }
    assert_eq!(graves(store.root()).len(), MOST);
    // They are nobody's leftovers, but go with them.
    assert!(store.fsck(store::FsckOptions::default()).unwrap().findings.is_empty());
    assert_eq!(graves(store.root()).len(), MOST);
    assert!(store.cleanup().unwrap().is_empty());
    assert!(graves(store.root()).is_empty());
    prepare(&store, "after", "base").unwrap();
}

#[test]
fn the_end_of_the_process_keeps_none() {
    let (directory, store) = keeping();
    let root = store.root().to_owned();
    prepare(&store, "a", "base").unwrap();
    store.remove(b"a").unwrap();
    assert_eq!(graves(&root).len(), 1);
    drop(store);
    assert!(graves(&root).is_empty());
    // A killed one's are swept by the next.
    std::fs::create_dir_all(root.join("rm-9/fs")).unwrap();
    let next = Store::open(&root, OpenOptions::default()).unwrap();
    assert!(graves(&root).is_empty());
    drop((next, directory));
}
