//! Several processes and threads on one store, stores that cannot be written, stores of newer versions.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fixture::{Fixture, add_layer, committed, kind, open, prepare, tree};
use store::{ErrorKind, FsckOptions, Labels, OpenOptions, SCHEMA, Scratch, Store};

const ROOT: &str = "PLYWOOD_TEST_PROCESS_ROOT";

#[test]
#[ignore = "the part of the child process, started by the test of two processes"]
fn child() {
    let root = std::env::var_os(ROOT).expect("started by the test of two processes");
    let store = open(Path::new(&root)).unwrap();
    prepare(&store, "of the child", "").unwrap();
    std::fs::write(Path::new(&root).with_extension("ready"), "").unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

fn no_wait() -> OpenOptions {
    OpenOptions { wait: Duration::ZERO, ..OpenOptions::default() }
}

/// A child that has the store open, and its store.
fn holder(directory: &tempfile::TempDir) -> (Child, PathBuf) {
    let root = directory.path().join("root");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--test-threads=1"])
        .env(ROOT, &root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !root.with_extension("ready").exists() {
        assert!(Instant::now() < deadline, "the child does not get there");
        std::thread::sleep(Duration::from_millis(10));
    }
    (child, root)
}

#[test]
fn a_reader_recovers_what_a_killed_writer_left() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, root) = holder(&directory);
    child.kill().unwrap();
    child.wait().unwrap();
    let reading = OpenOptions { read_only: true, ..OpenOptions::default() };
    let one = Store::open(&root, reading.clone()).unwrap();
    let other = Store::open(&root, reading).unwrap();
    assert_eq!(one.list(&[]).unwrap().len(), 1);
    assert_eq!(kind(prepare(&other, "new", "")), ErrorKind::ReadOnly);
}

#[test]
fn a_second_process_waits_or_is_told_who_has_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, root) = holder(&directory);
    for options in [no_wait(), OpenOptions { read_only: true, ..no_wait() }] {
        let error = Store::open(&root, options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains(&format!("process {}", child.id())), "{error}");
    }
    let waiting = std::thread::spawn({
        let root = root.clone();
        move || open(&root).map(|store| store.list(&[]).unwrap().len())
    });
    std::thread::sleep(Duration::from_millis(50));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), 1, "what the killed process did is there");
}

#[test]
fn a_store_opened_for_reading_answers_and_changes_nothing() {
    let Fixture { directory, store } = Fixture::new();
    let base = committed(&store, "base", "");
    let root = directory.path().join("root");
    drop(store);
    std::fs::create_dir(root.join("rm-left")).unwrap();
    let before = (tree(&root), std::fs::read(root.join("metadata.redb")).unwrap());
    // A process that another test starts has a copy of the lock until it has begun.
    let reading = || Store::open(&root, OpenOptions { read_only: true, ..OpenOptions::default() });
    let store = reading().unwrap();
    let other = reading().unwrap();
    assert_eq!(store.stat(b"base").unwrap(), base);
    assert_eq!(other.list(&[]).unwrap(), [base]);
    assert_eq!(kind(Store::open(&root, no_wait())), ErrorKind::Busy, "readers keep writers out");
    assert_eq!(kind(prepare(&store, "new", "base")), ErrorKind::ReadOnly);
    assert_eq!(kind(store.remove(b"base")), ErrorKind::ReadOnly);
    assert_eq!(kind(store.put_blob(b"new")), ErrorKind::ReadOnly);
    assert_eq!(kind(store.update(b"base", Labels::new(), &[])), ErrorKind::ReadOnly);
    assert_eq!(
        kind(store.fsck(FsckOptions { repair: true, ..FsckOptions::default() })),
        ErrorKind::ReadOnly
    );
    let report = store.fsck(FsckOptions::default()).unwrap();
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!(report.findings[0].code, "leftover");
    let garbage = store.gc(store::GcOptions { dry_run: true }, &|_| false).unwrap();
    assert_eq!(garbage.len(), 1);
    drop((store, other));
    assert_eq!((tree(&root), std::fs::read(root.join("metadata.redb")).unwrap()), before);
}

/// A bind mount of its own that is read-only: root ignores modes.
#[test]
fn privileged_read_only_file_system_gives_read_only() {
    assert!(rootly(), "this test mounts and must run as root");
    let Fixture { directory, store } = Fixture::new();
    committed(&store, "base", "");
    let root = directory.path().join("root");
    drop(store);
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && exec \"$2\" --exact read_only_child --ignored --test-threads=1";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&root)
        .arg(std::env::current_exe().unwrap())
        .env(ROOT, &root)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "the part of the child process, started by the test of the read-only file system"]
fn read_only_child() {
    let root = std::env::var_os(ROOT).expect("started by the test of the read-only file system");
    let root = Path::new(&root);
    assert!(std::fs::write(root.join("probe"), "").is_err(), "the file system is read-only");
    let error = Store::open(root, no_wait()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
    assert_eq!(kind(store::Staging::new(root)), ErrorKind::ReadOnly);
    let store = Store::open(root, OpenOptions { read_only: true, ..no_wait() }).unwrap();
    assert_eq!(store.list(&[]).unwrap().len(), 1);
}

fn rootly() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|line| line.starts_with("Uid:\t0\t"))
}

#[test]
fn a_newer_store_is_refused_untouched() {
    let Fixture { directory, store } = Fixture::new();
    committed(&store, "base", "");
    drop(store);
    let root = directory.path().join("root");
    let newer = SCHEMA + 1;
    {
        let database = redb::Database::open(root.join("metadata.redb")).unwrap();
        let write = database.begin_write().unwrap();
        let table: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("meta");
        write
            .open_table(table)
            .unwrap()
            .insert(&b"schema"[..], newer.to_string().as_bytes())
            .unwrap();
        write.commit().unwrap();
    }
    std::fs::create_dir(root.join("rm-left")).unwrap();
    let before = (tree(&root), std::fs::read(root.join("metadata.redb")).unwrap());
    for options in [no_wait(), OpenOptions { read_only: true, ..no_wait() }] {
        let error = Store::open(&root, options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NewerVersion);
        let text = error.to_string();
        assert!(
            text.contains(&format!("version {newer}")) && text.contains(&format!("up to {SCHEMA}")),
            "{text}"
        );
        assert!(text.contains("use the newer Plywood"), "{text}");
    }
    assert_eq!((tree(&root), std::fs::read(root.join("metadata.redb")).unwrap()), before);
}

#[test]
fn a_file_that_is_no_database_is_corrupt_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("metadata.redb"), vec![0x55; 9000]).unwrap();
    assert_eq!(kind(Store::open(&root, no_wait())), ErrorKind::Corrupt);
    assert_eq!(std::fs::read(root.join("metadata.redb")).unwrap(), vec![0x55; 9000]);
}

#[test]
fn a_store_is_for_its_owner_alone() {
    let Fixture { directory, store } = Fixture::new();
    drop(store);
    let mode = std::fs::metadata(directory.path().join("root")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn threads_prepare_and_remove_at_once() {
    let Fixture { store, directory } = Fixture::fast();
    committed(&store, "base", "");
    let layer = add_layer(&store, b"layer");
    let made = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (store, made, layer) = (&store, &made, &layer);
            scope.spawn(move || {
                for round in 0..20 {
                    let key = format!("{thread}-{round}");
                    let snapshot = prepare(store, &key, "base").unwrap();
                    made.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(store.chain(key.as_bytes()).unwrap().layers.len(), 1);
                    // All want this name; one gets it.
                    let shared = format!("shared-{round}");
                    match prepare(store, &shared, "") {
                        Ok(_) => drop(made.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
                    }
                    store
                        .commit_layer(
                            format!("imported-{round}").as_bytes(),
                            None,
                            layer,
                            Labels::new(),
                        )
                        .unwrap();
                    if round % 7 == thread {
                        store.cleanup().unwrap();
                    }
                    if round % 3 != 0 {
                        store.remove(&snapshot.key).unwrap();
                    }
                }
            });
        }
    });
    let snapshots = store.list(&["kind==active"]).unwrap();
    assert_eq!(snapshots.len(), 6 * 7 + 20);
    let mut numbers: Vec<u64> =
        store.list(&[]).unwrap().iter().map(|snapshot| snapshot.id).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 6 * 7 + 20 + 20 + 1, "every number once");
    drop(store);
    let store = open(&directory.path().join("root")).unwrap();
    assert!(store.swept().is_empty(), "{:?}", store.swept());
    assert!(store.fsck(FsckOptions::default()).unwrap().is_clean());
}

#[test]
fn one_of_two_commits_of_a_key_wins() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    for round in 0..5 {
        let key = format!("key-{round}");
        store.prepare(key.as_bytes(), None, Labels::new(), Scratch::Directory).unwrap();
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|thread| {
                    let (store, key) = (&store, &key);
                    scope.spawn(move || fixture::commit(store, &format!("{key}-{thread}"), key))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        for error in results.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        }
    }
    assert_eq!(store.list(&[]).unwrap().len(), 5);
    assert!(store.cleanup().unwrap().is_empty());
}

/// Sixty-four clients that do everything on a few keys: whatever order it comes to, every answer is one of the table's.
#[test]
fn sixty_four_threads_get_only_answers_of_the_table() {
    use ErrorKind::{AlreadyExists, FailedPrecondition, Invalid, NotFound};
    let Fixture { store, directory } = Fixture::fast();
    let only = |what: &str, result: store::Result<()>, allowed: &[ErrorKind]| {
        if let Err(error) = result {
            assert!(allowed.contains(&error.kind()), "{what}: {error:?}");
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..64_usize {
            let (store, only) = (&store, &only);
            scope.spawn(move || {
                for round in 0..20 {
                    let step = thread.wrapping_mul(31) + round * 7;
                    let key = format!("key-{}", step % 5);
                    let name = format!("name-{}", step / 5 % 3);
                    let parent = (step % 2 == 0).then_some(name.as_bytes());
                    let labels = || fixture::labels(&[("thread", &thread.to_string())]);
                    match step % 8 {
                        0 | 1 => only(
                            "prepare",
                            store
                                .prepare(key.as_bytes(), parent, labels(), Scratch::Directory)
                                .map(drop),
                            &[AlreadyExists, NotFound],
                        ),
                        2 => only(
                            "view",
                            store.view(key.as_bytes(), parent, labels()).map(drop),
                            &[AlreadyExists, NotFound],
                        ),
                        3 | 4 => only(
                            "commit",
                            fixture::commit(store, &name, &key).map(drop),
                            &[NotFound, AlreadyExists, FailedPrecondition],
                        ),
                        5 => {
                            only(
                                "remove",
                                store.remove(name.as_bytes()),
                                &[NotFound, FailedPrecondition],
                            );
                            only(
                                "remove",
                                store.remove(key.as_bytes()),
                                &[NotFound, FailedPrecondition],
                            );
                        }
                        6 => {
                            only("stat", store.stat(key.as_bytes()).map(drop), &[NotFound]);
                            only("usage", store.usage(name.as_bytes()).map(drop), &[NotFound]);
                            only(
                                "chain",
                                store.chain(key.as_bytes()).map(drop),
                                &[NotFound, FailedPrecondition],
                            );
                            only("list", store.list(&[]).map(drop), &[]);
                        }
                        _ => {
                            only(
                                "update",
                                store
                                    .update(key.as_bytes(), labels(), &["labels.thread"])
                                    .map(drop),
                                &[NotFound],
                            );
                            only(
                                "bad update",
                                store.update(key.as_bytes(), labels(), &["name"]).map(drop),
                                &[NotFound, Invalid],
                            );
                            only("collect", store.collect(&|_| false).map(drop), &[]);
                        }
                    }
                }
            });
        }
    });
    drop(store);
    let store = open(&directory.path().join("root")).unwrap();
    assert!(store.swept().is_empty(), "{:?}", store.swept());
    assert_eq!(store.fsck(FsckOptions::default()).unwrap().findings, []);
}

/// A parent that is removed while children are prepared on it: one of the two wins, each time.
#[test]
fn parents_are_removed_while_children_are_prepared() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    for round in 0..30 {
        let parent = format!("parent-{round}");
        committed(&store, &parent, "");
        let (removed, made) = std::thread::scope(|scope| {
            let remover = scope.spawn(|| store.remove(parent.as_bytes()));
            let makers: Vec<_> = (0..4)
                .map(|child| {
                    let (store, parent) = (&store, &parent);
                    scope.spawn(move || prepare(store, &format!("{parent}-{child}"), parent))
                })
                .collect();
            let made: Vec<_> = makers.into_iter().map(|maker| maker.join().unwrap()).collect();
            (remover.join().unwrap(), made)
        });
        let children = made.iter().filter(|made| made.is_ok()).count();
        match removed {
            Ok(()) => assert_eq!(children, 0, "no child without parent"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
                assert!(children > 0);
            }
        }
        for error in made.into_iter().filter_map(Result::err) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        }
    }
    assert_eq!(store.fsck(FsckOptions::default()).unwrap().findings, []);
}

const DONE: &str = "PLYWOOD_TEST_DONE";

/// The child: many threads at once, which write down what they were told has happened.
#[test]
#[ignore = "the part of the child process, started by the test of the commits in groups"]
fn writing_child() {
    let root = std::env::var_os(ROOT).expect("started by the test of the commits in groups");
    let done = std::env::var_os(DONE).expect("started by the test of the commits in groups");
    let store = open(Path::new(&root)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                for round in 0..200 {
                    let key = format!("{thread}-{round}");
                    prepare(store, &key, "").unwrap();
                    std::fs::write(Path::new(done).join(&key), "").unwrap();
                }
            });
        }
    });
}

/// What is committed without an fsync of its own lives in the process's memory only, so a kill shows what a power cut
/// would.
#[test]
fn no_commit_returns_before_it_is_durable() {
    for count in [1, 2, 10, 40] {
        let Fixture { store, directory } = Fixture::fast();
        drop(store);
        let root = directory.path().join("root");
        let done = directory.path().join("done");
        std::fs::create_dir(&done).unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writing_child", "--ignored", "--test-threads=1"])
            .env(ROOT, &root)
            .env(DONE, &done)
            .env("PLYWOOD_FAILPOINT", format!("commit-not-durable:{count}"))
            .output()
            .unwrap()
            .status;
        assert!(!status.success(), "16 threads share fsyncs, so the point is passed");
        let store = open(&root).unwrap();
        for key in std::fs::read_dir(&done).unwrap() {
            let key = key.unwrap().file_name().into_string().unwrap();
            assert!(store.stat(key.as_bytes()).is_ok(), "{key} had been made");
        }
        assert_eq!(store.fsck(FsckOptions::default()).unwrap().findings, []);
    }
}
