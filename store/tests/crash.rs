//! A child process is killed at every failpoint of an operation; then the store is opened again and must be as it
//! was before or as it is after, with nothing left over, and the operation must work when tried again.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use fixture::{
    Fixture, add_cim, add_image, add_layer, commit, commit_on, committed, open, prepare,
    staged_layer, tree, upper, view,
};
use layer::{Compression, Digest};
use store::import::{ImportOptions, Source, import};
use store::{DeferredLayer, FsckOptions, GcOptions, Kind, Labels, LayerId, Scratch, Store};

/// What the child does, and the failpoints on its way.
struct Case {
    name: &'static str,
    /// Opens the store at this path.
    act: fn(&Path),
    points: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "prepare",
        act: |root| drop(prepare(&open(root).unwrap(), "new", "base").unwrap()),
        points: &["prepare-half", "prepare-renamed", "commit-metadata", "prepare-done"],
    },
    Case {
        name: "prepare-image",
        act: |root| {
            let store = open(root).unwrap();
            store
                .prepare(b"new", Some(b"base"), Labels::new(), Scratch::Image { size: 8 << 20 })
                .unwrap();
        },
        points: &["prepare-renamed", "commit-metadata", "prepare-done"],
    },
    Case {
        name: "view",
        act: |root| drop(view(&open(root).unwrap(), "new", "").unwrap()),
        points: &["prepare-half", "prepare-renamed", "commit-metadata", "prepare-done"],
    },
    Case {
        name: "commit",
        act: |root| drop(commit(&open(root).unwrap(), "new", "active").unwrap()),
        points: &[
            "commit-converted",
            "layer-synced",
            "layer-renamed",
            "layer-directory-synced",
            "commit-metadata",
            "commit-done",
            "buried",
        ],
    },
    Case {
        name: "remove",
        act: |root| open(root).unwrap().remove(b"active").unwrap(),
        points: &["commit-metadata", "remove-committed", "buried"],
    },
    Case {
        name: "add-layer",
        act: |root| drop(add_layer(&open(root).unwrap(), b"new layer")),
        points: &[
            "layer-synced",
            "layer-renamed",
            "layer-directory-synced",
            "commit-metadata",
            "add-layer-done",
        ],
    },
    Case {
        name: "add-cim",
        act: |root| {
            let store = open(root).unwrap();
            let base = LayerId::of_cim(&Digest::of(b"windows"));
            add_cim(&store, "changes", Some(&base));
        },
        points: &[
            "layer-synced",
            "layer-renamed",
            "layer-directory-synced",
            "commit-metadata",
            "add-layer-done",
        ],
    },
    Case {
        name: "apply",
        act: |root| {
            let store = open(root).unwrap();
            let (staging, id, record) = staged_layer(&store, b"applied");
            store.apply_layer(b"empty", &staging, "image", &id, &record).unwrap();
        },
        points: &[
            "layer-synced",
            "layer-renamed",
            "layer-directory-synced",
            "commit-metadata",
            "apply-done",
        ],
    },
    Case {
        name: "defer",
        act: |root| {
            let store = open(root).unwrap();
            defer(&store, "empty");
        },
        points: &["defer-synced", "defer-renamed", "commit-metadata", "defer-done"],
    },
    Case {
        name: "commit-deferred",
        act: |root| drop(commit_on(&open(root).unwrap(), "new", "deferred", "base").unwrap()),
        points: &[
            "commit-converted",
            "layer-synced",
            "layer-renamed",
            "layer-directory-synced",
            "commit-metadata",
            "commit-done",
            "buried",
        ],
    },
    Case {
        name: "commit-applied",
        act: |root| drop(commit(&open(root).unwrap(), "new", "applied").unwrap()),
        points: &["commit-metadata", "commit-done", "buried"],
    },
    Case {
        name: "seal",
        act: |root| {
            let applied = LayerId::of_diff(&Digest::of(b"already applied"));
            open(root).unwrap().seal_layer(&applied).unwrap();
        },
        points: &["tree-synced", "tree-renamed", "commit-metadata", "tree-recorded"],
    },
    Case {
        name: "collect",
        act: |root| {
            let store = open(root).unwrap();
            store.collect(&|_| false).unwrap();
        },
        points: &["commit-metadata", "collect-committed", "buried"],
    },
    Case {
        name: "gc",
        act: |root| drop(open(root).unwrap().gc(GcOptions::default(), &|_| false).unwrap()),
        points: &["commit-metadata", "gc-committed", "gc-removed"],
    },
    Case {
        name: "import",
        act: |root| {
            let layer = root.with_file_name("layer.tar");
            let mut tar = tar::Builder::new(std::fs::File::create(&layer).unwrap());
            let mut header = tar::Header::new_ustar();
            header.set_size(7);
            header.set_mode(0o644);
            tar.append_data(&mut header, "file", &b"content"[..]).unwrap();
            tar.finish().unwrap();
            let options = ImportOptions {
                references: vec!["example.org/new:1".to_owned()],
                ..Default::default()
            };
            let cancel = layer::Cancel::default();
            import(root, vec![Source::Path(layer)], &options, &(), &cancel).unwrap();
        },
        points: &[
            "import-converted",
            "layer-synced",
            "layer-renamed",
            "layer-directory-synced",
            "commit-metadata",
            "import-done",
        ],
    },
];

const CHILD: &str = "PLYWOOD_TEST_CRASH_CASE";
const ROOT: &str = "PLYWOOD_TEST_CRASH_ROOT";

/// A store with `base` (committed), `active` on it with content, and an image whose name is gone, for gc.
fn populated() -> Fixture {
    // A kill loses nothing that the kernel has, so memory will do.
    let fixture = Fixture::fast();
    committed(&fixture.store, "base", "");
    let active = prepare(&fixture.store, "active", "base").unwrap();
    std::fs::write(upper(&fixture.store, &active).join("file"), "content").unwrap();
    prepare(&fixture.store, "empty", "").unwrap();
    let deferred = prepare(&fixture.store, "deferred", "").unwrap();
    defer(&fixture.store, "deferred");
    std::fs::write(upper(&fixture.store, &deferred).join("over"), "it").unwrap();
    let applied = add_layer(&fixture.store, b"already applied");
    prepare(&fixture.store, "applied", "base").unwrap();
    fixture.store.apply_known_layer(b"applied", &applied).unwrap();
    add_layer(&fixture.store, b"of nobody");
    let windows = add_cim(&fixture.store, "windows", None);
    fixture.store.commit_layer(b"windows", None, &windows, Labels::new()).unwrap();
    let nobodys = add_cim(&fixture.store, "nobody's", Some(&windows));
    add_cim(&fixture.store, "nobody's either", Some(&nobodys));
    add_image(&fixture.store, "example.org/old:1", &["one", "two"]);
    fixture.store.remove_image("example.org/old:1").unwrap();
    fixture
}

/// A layer with a file in a directory that only its parents describe.
fn defer(store: &Store, key: &str) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o644);
    tar.append_data(&mut header, "directory/new", &b"new"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let staging = store::Staging::new(store.root()).unwrap();
    std::io::Write::write_all(&mut staging.create("blob").unwrap(), &tar).unwrap();
    let deferred = DeferredLayer {
        digest: Digest::of(&tar),
        size: tar.len() as u64,
        diff_id: Digest::of(&tar),
        tar_size: tar.len() as u64,
        compression: Compression::None,
    };
    store.defer_layer(key.as_bytes(), &staging, "blob", deferred).unwrap();
}

/// Everything that matters, without numbers and times.
fn state(store: &Store) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for snapshot in store.list(&[]).unwrap() {
        let parent = snapshot.parent.as_deref().map(String::from_utf8_lossy);
        lines.push(format!(
            "{} {} {parent:?} {:?} {:?}",
            snapshot.kind,
            snapshot.name(),
            snapshot.layers,
            snapshot.deferred.map(|deferred| deferred.digest)
        ));
        if snapshot.kind != Kind::Committed {
            let mut files = tree(&store.root().join("snapshots").join(snapshot.id.to_string()));
            files.retain(|file| !file.is_empty());
            lines.push(format!("  {files:?}"));
        }
    }
    lines.extend(store.layers().unwrap().iter().map(|layer| {
        let tree = layer.verity().map(|(path, _)| path.exists());
        format!("{} {} {tree:?}", layer.id, layer.path.exists())
    }));
    lines.extend(store.images().unwrap().iter().map(|image| image.reference.clone()));
    lines
}

/// The child: not a test of its own, only started by the one below.
#[test]
#[ignore = "the part of the child process, started by the test of the crashes"]
fn child() {
    let case = std::env::var(CHILD).expect("started by the test of the crashes");
    let root = std::env::var_os(ROOT).expect("started by the test of the crashes");
    let case = CASES.iter().find(|known| known.name == case).expect("a known case");
    (case.act)(Path::new(&root));
}

/// Runs a case in a child; whether it was killed.
fn killed(case: &Case, root: &Path, point: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--test-threads=1"])
        .env(CHILD, case.name)
        .env(ROOT, root)
        .env("PLYWOOD_FAILPOINT", point)
        .output()
        .unwrap();
    match (status.status.signal(), status.status.success()) {
        (Some(_), _) => true,
        (None, true) => false,
        (None, false) => panic!("{}: {}", case.name, String::from_utf8_lossy(&status.stdout)),
    }
}

#[test]
fn a_kill_at_any_failpoint_leaves_before_or_after() {
    for case in CASES {
        let reference = populated();
        let before = state(&reference.store);
        let Fixture { directory, store } = reference;
        drop(store);
        let root = directory.path().join("root");
        assert!(!killed(case, &root, "no-such-point"));
        let store = open(&root).unwrap();
        assert!(
            store.swept().is_empty(),
            "{}: an undisturbed run leaves nothing over: {:?}",
            case.name,
            store.swept()
        );
        let after = state(&store);
        assert_ne!(before, after, "{}: the case does something", case.name);
        drop(store);

        for point in case.points {
            for count in 1..20 {
                let what = format!("{} killed at {point}:{count}", case.name);
                let Fixture { directory, store } = populated();
                let numbers: Vec<u64> =
                    store.list(&[]).unwrap().iter().map(|snapshot| snapshot.id).collect();
                drop(store);
                let root = directory.path().join("root");
                if !killed(case, &root, &format!("{point}:{count}")) {
                    assert!(count > 1, "{what}: the point is never passed");
                    break;
                }
                recovered(&what, &root, &before, &after, &numbers);
                if comparable(&state(&open(&root).unwrap())) == comparable(&before) {
                    (case.act)(&root);
                }
                let store = open(&root).unwrap();
                assert_eq!(
                    comparable(&state(&store)),
                    comparable(&after),
                    "{what}, then tried again"
                );
                assert!(
                    store
                        .fsck(FsckOptions { deep: true, ..FsckOptions::default() })
                        .unwrap()
                        .is_clean(),
                    "{what}"
                );
            }
        }
    }
}

/// States of two runs differ in the layers that hold times of the run, and in those on top of them: their ids stand for
/// each other.
fn comparable(state: &[String]) -> Vec<String> {
    let mut known: Vec<String> = Vec::new();
    let mut replace = |word: &str| {
        let found = ["commit:", "chain:sha256:"]
            .into_iter()
            .find_map(|mark| Some((word.find(mark)?, mark.len() + 64)));
        let Some((start, length)) = found else { return word.to_owned() };
        let id: String = word[start..].chars().take(length).collect();
        let number = known.iter().position(|other| *other == id).unwrap_or_else(|| {
            known.push(id.clone());
            known.len() - 1
        });
        word.replace(&id, &format!("layer-{number}"))
    };
    let mut lines: Vec<String> = state
        .iter()
        .map(|line| line.split(' ').map(&mut replace).collect::<Vec<_>>().join(" "))
        .collect();
    lines.sort();
    lines
}

fn recovered(what: &str, root: &Path, before: &[String], after: &[String], numbers: &[u64]) {
    let store = open(root).unwrap();
    assert!(store.swept().kept.is_empty(), "{what}: {:?}", store.swept());
    assert!(
        store.swept().restored.is_empty(),
        "{what}: nothing is lost by a kill: {:?}",
        store.swept()
    );
    let now = comparable(&state(&store));
    assert!(
        now == comparable(before) || now == comparable(after),
        "{what}: neither before nor after:\n{now:#?}\nbefore:\n{before:#?}\nafter:\n{after:#?}"
    );
    let report = store.fsck(FsckOptions { deep: true, ..FsckOptions::default() }).unwrap();
    assert!(report.findings.is_empty(), "{what}: {:?}", report.findings);
    let left: Vec<String> = tree(root)
        .into_iter()
        .filter(|path| path.starts_with("rm-") || path.starts_with("staging/"))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "{what}: leftovers");
    let probe = prepare(&store, "probe", "").unwrap().id;
    let given: Vec<u64> = store
        .list(&[])
        .unwrap()
        .iter()
        .map(|snapshot| snapshot.id)
        .filter(|id| *id != probe)
        .collect();
    assert!(
        given.iter().chain(numbers).all(|id| *id < probe),
        "{what}: number {probe} was given out before"
    );
    store.remove(b"probe").unwrap();
    drop(store);
    assert!(open(root).unwrap().swept().is_empty(), "{what}: a second opening finds nothing");
}

#[test]
fn a_number_whose_prepare_was_killed_is_spent() {
    let Fixture { directory, store } = populated();
    let root = directory.path().join("root");
    let last = prepare(&store, "last", "").unwrap().id;
    drop(store);
    let case = CASES.iter().find(|case| case.name == "prepare").unwrap();
    assert!(killed(case, &root, "prepare-renamed"));
    assert!(root.join(format!("snapshots/{}", last + 1)).is_dir(), "it got as far as its number");
    let store = open(&root).unwrap();
    assert_eq!(prepare(&store, "next", "").unwrap().id, last + 2);
}

#[test]
fn staging_directories_live_as_long_as_their_process() {
    let Fixture { directory, store } = Fixture::new();
    let root = directory.path().join("root");
    let staging = store::Staging::new(&root).unwrap();
    staging.create("growing").unwrap();
    drop(store);
    let store = open(&root).unwrap();
    assert!(store.swept().is_empty(), "somebody still writes there");
    let path = staging.path().to_owned();
    assert!(path.join("growing").exists());
    drop(staging);
    assert!(!path.exists());
    // What a killed process leaves: a directory, a claim file, no lock.
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("claim"), "1").unwrap();
    std::fs::write(path.join("growing"), "half").unwrap();
    std::fs::create_dir(root.join("staging/without-claim")).unwrap();
    drop(store);
    let store = open(&root).unwrap();
    assert_eq!(store.swept().removed, [path.clone(), root.join("staging/without-claim")]);
    assert!(!path.exists());
    assert!(store.cleanup().unwrap().is_empty());
}

#[test]
fn leftovers_of_every_kind_are_swept_and_reported() {
    let Fixture { directory, store } = populated();
    let root = directory.path().join("root");
    let stale = LayerId::of_diff(&layer::Digest::of(b"stale"));
    let file =
        root.join("layers").join(format!("{}.erofs", stale.as_str().trim_start_matches("sha256:")));
    std::fs::write(&file, "half").unwrap();
    std::fs::create_dir_all(root.join("snapshots/977/fs")).unwrap();
    std::fs::create_dir_all(root.join("snapshots/new-3/fs")).unwrap();
    std::fs::create_dir_all(root.join("rm-12/fs")).unwrap();
    let base = store.stat(b"base").unwrap().id;
    std::fs::create_dir_all(root.join(format!("snapshots/{base}/fs"))).unwrap();
    drop(store);
    let store = open(&root).unwrap();
    let mut removed = store.swept().removed.clone();
    removed.sort();
    let mut expected = vec![
        file,
        root.join("rm-12"),
        root.join("snapshots/977"),
        root.join(format!("snapshots/{base}")),
        root.join("snapshots/new-3"),
    ];
    expected.sort();
    assert_eq!(removed, expected);
    assert!(expected.iter().all(|path| !path.exists()));
    assert!(prepare(&store, "next", "").unwrap().id > 977, "the number of a leftover is spent");
}

#[test]
fn a_scratch_lost_to_a_power_cut_is_made_again_empty() {
    let Fixture { directory, store } = populated();
    let root = directory.path().join("root");
    let active = store.stat(b"active").unwrap();
    drop(store);
    std::fs::remove_dir_all(root.join(format!("snapshots/{}", active.id))).unwrap();
    let store = open(&root).unwrap();
    assert_eq!(store.swept().restored, [root.join(format!("snapshots/{}", active.id))]);
    assert!(upper(&store, &active).is_dir());
    // What it held is gone, and fsck says so although there is nothing left to do.
    let report = store.fsck(FsckOptions::default()).unwrap();
    let lost = &report.findings[..];
    assert_eq!((lost.len(), &*lost[0].code), (1, "scratch-missing"), "{lost:?}");
    assert_eq!(lost[0].subject, "snapshot active");
    assert!(report.is_clean());
}
