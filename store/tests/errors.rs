//! The error table of containerd's snapshotters (reference section 4), row by row, on a store never written and on
//! one in use, with the stricter choices where containerd has no class.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use fixture::{
    Fixture, add_image, commit, commit_on, committed, kind, labels, prepare, tree, view,
};
use store::{CommitOptions, ErrorKind, Labels, Scratch, Store};

type Row = (&'static str, fn(&Store) -> ErrorKind, ErrorKind);

/// Rows that need nothing in the store.
const ANYWHERE: &[Row] = &[
    ("stat of a missing key", |store| kind(store.stat(b"missing")), ErrorKind::NotFound),
    ("stat of the empty key", |store| kind(store.stat(b"")), ErrorKind::NotFound),
    ("usage of a missing key", |store| kind(store.usage(b"missing")), ErrorKind::NotFound),
    ("usage of the empty key", |store| kind(store.usage(b"")), ErrorKind::NotFound),
    (
        "update of a missing key",
        |store| kind(store.update(b"missing", Labels::new(), &[])),
        ErrorKind::NotFound,
    ),
    (
        "update of the empty key",
        |store| kind(store.update(b"", Labels::new(), &["labels"])),
        ErrorKind::NotFound,
    ),
    ("chain of a missing key", |store| kind(store.chain(b"missing")), ErrorKind::NotFound),
    ("chain of the empty key", |store| kind(store.chain(b"")), ErrorKind::NotFound),
    (
        "prepare on a missing parent",
        |store| kind(prepare(store, "new", "missing")),
        ErrorKind::NotFound,
    ),
    ("view of a missing parent", |store| kind(view(store, "new", "missing")), ErrorKind::NotFound),
    ("prepare of the empty key", |store| kind(prepare(store, "", "")), ErrorKind::Invalid),
    ("view of the empty key", |store| kind(view(store, "", "")), ErrorKind::Invalid),
    (
        "prepare of the empty key on a missing parent",
        |store| kind(prepare(store, "", "missing")),
        ErrorKind::Invalid,
    ),
    (
        "commit of a missing key",
        |store| kind(commit(store, "name", "missing")),
        ErrorKind::NotFound,
    ),
    ("commit of the empty key", |store| kind(commit(store, "name", "")), ErrorKind::NotFound),
    (
        "commit of a missing key to the empty name",
        |store| kind(commit(store, "", "missing")),
        ErrorKind::NotFound,
    ),
    ("remove of a missing key", |store| kind(store.remove(b"missing")), ErrorKind::NotFound),
    ("remove of the empty key", |store| kind(store.remove(b"")), ErrorKind::NotFound),
    ("list with a bad filter", |store| kind(store.list(&["name="])), ErrorKind::Invalid),
    (
        "prepare with a label over the limit",
        |store| {
            let labels = labels(&[("k", &"v".repeat(4096))]);
            kind(store.prepare(b"new", None, labels, Scratch::Directory))
        },
        ErrorKind::Invalid,
    ),
    (
        "prepare with a tiny scratch image",
        |store| kind(store.prepare(b"new", None, Labels::new(), Scratch::Image { size: 4096 })),
        ErrorKind::Invalid,
    ),
    (
        "prepare of a key over the limit",
        |store| kind(prepare(store, &long(), "")),
        ErrorKind::Invalid,
    ),
    ("view of a key over the limit", |store| kind(view(store, &long(), "")), ErrorKind::Invalid),
    (
        "stat of a key over the limit",
        |store| kind(store.stat(long().as_bytes())),
        ErrorKind::NotFound,
    ),
    (
        "remove of a key over the limit",
        |store| kind(store.remove(long().as_bytes())),
        ErrorKind::NotFound,
    ),
    (
        "prepare on a parent over the limit",
        |store| kind(prepare(store, "new", &long())),
        ErrorKind::NotFound,
    ),
    (
        "prepare with ten thousand labels",
        |store| kind(store.prepare(b"new", None, many(), Scratch::Directory)),
        ErrorKind::Invalid,
    ),
    (
        "view with ten thousand labels",
        |store| kind(store.view(b"new", None, many())),
        ErrorKind::Invalid,
    ),
    (
        "prepare with a label without key",
        |store| kind(store.prepare(b"new", None, labels(&[("", "x")]), Scratch::Directory)),
        ErrorKind::Invalid,
    ),
    (
        "layers of a missing snapshot",
        |store| kind(store.committed_layers(b"missing")),
        ErrorKind::NotFound,
    ),
    ("removing a missing image", |store| kind(store.remove_image("missing")), ErrorKind::NotFound),
];

/// Rows on a store with `base` ← `top` (committed), `active` on `top`, `orphan` (active, no parent), `view` of `top`.
const IN_USE: &[Row] = &[
    (
        "chain of a committed snapshot",
        |store| kind(store.chain(b"top")),
        ErrorKind::FailedPrecondition,
    ),
    (
        "prepare of a key that is active",
        |store| kind(prepare(store, "active", "top")),
        ErrorKind::AlreadyExists,
    ),
    (
        "prepare of a key that is a view",
        |store| kind(prepare(store, "view", "top")),
        ErrorKind::AlreadyExists,
    ),
    (
        "prepare of a key that is committed",
        |store| kind(prepare(store, "base", "top")),
        ErrorKind::AlreadyExists,
    ),
    (
        "view of a key that is active",
        |store| kind(view(store, "active", "")),
        ErrorKind::AlreadyExists,
    ),
    (
        "view of a key that is a view",
        |store| kind(view(store, "view", "")),
        ErrorKind::AlreadyExists,
    ),
    (
        "view of a key that is committed",
        |store| kind(view(store, "base", "")),
        ErrorKind::AlreadyExists,
    ),
    (
        "prepare of a taken key on a missing parent",
        |store| kind(prepare(store, "active", "missing")),
        ErrorKind::NotFound,
    ),
    (
        "view of a taken key on a missing parent",
        |store| kind(view(store, "base", "missing")),
        ErrorKind::NotFound,
    ),
    (
        "prepare on an active parent",
        |store| kind(prepare(store, "new", "active")),
        ErrorKind::Invalid,
    ),
    ("prepare on a view", |store| kind(prepare(store, "new", "view")), ErrorKind::Invalid),
    ("view of an active parent", |store| kind(view(store, "new", "active")), ErrorKind::Invalid),
    ("view of a view", |store| kind(view(store, "new", "view")), ErrorKind::Invalid),
    (
        "prepare of a taken key on an active parent",
        |store| kind(prepare(store, "base", "view")),
        ErrorKind::Invalid,
    ),
    (
        "commit of a missing key to a taken name",
        |store| kind(commit(store, "base", "missing")),
        ErrorKind::NotFound,
    ),
    (
        "commit to a committed name",
        |store| kind(commit(store, "base", "active")),
        ErrorKind::AlreadyExists,
    ),
    (
        "commit to the name of a view",
        |store| kind(commit(store, "view", "active")),
        ErrorKind::AlreadyExists,
    ),
    (
        "commit to its own key",
        |store| kind(commit(store, "active", "active")),
        ErrorKind::AlreadyExists,
    ),
    ("commit of a view", |store| kind(commit(store, "new", "view")), ErrorKind::FailedPrecondition),
    (
        "commit of a committed snapshot",
        |store| kind(commit(store, "new", "top")),
        ErrorKind::FailedPrecondition,
    ),
    ("commit to the empty name", |store| kind(commit(store, "", "active")), ErrorKind::Invalid),
    (
        "commit on another parent",
        |store| kind(commit_on(store, "new", "active", "base")),
        ErrorKind::Invalid,
    ),
    (
        "commit on a missing parent",
        |store| kind(commit_on(store, "new", "orphan", "missing")),
        ErrorKind::NotFound,
    ),
    (
        "commit on itself",
        |store| kind(commit_on(store, "new", "orphan", "orphan")),
        ErrorKind::NotFound,
    ),
    (
        "commit on its own name",
        |store| kind(commit_on(store, "new", "orphan", "new")),
        ErrorKind::NotFound,
    ),
    (
        "commit on an active parent",
        |store| kind(commit_on(store, "new", "orphan", "active")),
        ErrorKind::FailedPrecondition,
    ),
    (
        "commit on a view",
        |store| kind(commit_on(store, "new", "orphan", "view")),
        ErrorKind::FailedPrecondition,
    ),
    (
        "commit with a label over the limit",
        |store| {
            let options = CommitOptions {
                labels: labels(&[("k", &"v".repeat(4096))]),
                ..CommitOptions::default()
            };
            kind(store.commit(b"new", b"active", &options))
        },
        ErrorKind::Invalid,
    ),
    (
        "commit of a directory from elsewhere",
        |store| {
            let options = CommitOptions { upper: Some("/".into()), ..CommitOptions::default() };
            kind(store.commit(b"new", b"active", &options))
        },
        ErrorKind::Invalid,
    ),
    (
        "remove of the parent of a committed one",
        |store| kind(store.remove(b"base")),
        ErrorKind::FailedPrecondition,
    ),
    (
        "remove of the parent of active and view",
        |store| kind(store.remove(b"top")),
        ErrorKind::FailedPrecondition,
    ),
    ("update of the name", |store| kind(update(store, &["name"])), ErrorKind::Invalid),
    ("update of the kind", |store| kind(update(store, &["kind"])), ErrorKind::Invalid),
    ("update of the parent", |store| kind(update(store, &["parent"])), ErrorKind::Invalid),
    ("update of created_at", |store| kind(update(store, &["created_at"])), ErrorKind::Invalid),
    ("update of nothing named", |store| kind(update(store, &[""])), ErrorKind::Invalid),
    ("update of Labels", |store| kind(update(store, &["Labels"])), ErrorKind::Invalid),
    ("update of labels.", |store| kind(update(store, &["labels."])), ErrorKind::Invalid),
    (
        "update of a label and of the name",
        |store| kind(update(store, &["labels.new", "name"])),
        ErrorKind::Invalid,
    ),
    (
        "commit to a name over the limit",
        |store| kind(commit(store, &long(), "active")),
        ErrorKind::Invalid,
    ),
    (
        "commit on a parent over the limit",
        |store| kind(commit_on(store, "new", "orphan", &long())),
        ErrorKind::NotFound,
    ),
    (
        "commit with ten thousand labels",
        |store| {
            let options = CommitOptions { labels: many(), ..CommitOptions::default() };
            kind(store.commit(b"new", b"active", &options))
        },
        ErrorKind::Invalid,
    ),
    (
        "update with ten thousand labels",
        |store| kind(store.update(b"active", many(), &["labels"])),
        ErrorKind::Invalid,
    ),
    (
        "update that adds up to too many labels",
        |store| {
            let mask: Vec<String> = many().keys().map(|key| format!("labels.{key}")).collect();
            let mask: Vec<&str> = mask.iter().map(String::as_str).collect();
            kind(store.update(b"active", many(), &mask))
        },
        ErrorKind::Invalid,
    ),
    (
        "update of all labels, one without key",
        |store| kind(store.update(b"active", labels(&[("", "x")]), &[])),
        ErrorKind::Invalid,
    ),
    (
        "layers of an active snapshot",
        |store| kind(store.committed_layers(b"active")),
        ErrorKind::FailedPrecondition,
    ),
    (
        "update with a label over the limit",
        |store| kind(store.update(b"active", labels(&[("k", &"v".repeat(4096))]), &[])),
        ErrorKind::Invalid,
    ),
];

fn long() -> String {
    "k".repeat(64 << 10)
}

fn many() -> Labels {
    (0..10_000).map(|index| (format!("label-{index}"), "value".to_owned())).collect()
}

fn update(store: &Store, mask: &[&str]) -> store::Result<store::Snapshot> {
    store.update(b"active", labels(&[("new", "1"), ("", "2")]), mask)
}

#[test]
fn every_bad_input_has_its_kind_and_changes_nothing() {
    let empty = Fixture::fast();
    run(&empty, ANYWHERE);
    assert_eq!(empty.store.list(&[]).unwrap(), [], "a store never written lists nothing");
    assert!(empty.store.cleanup().unwrap().is_empty(), "and has nothing to clean");

    let used = Fixture::fast();
    committed(&used.store, "base", "");
    committed(&used.store, "top", "base");
    prepare(&used.store, "active", "top").unwrap();
    prepare(&used.store, "orphan", "").unwrap();
    view(&used.store, "view", "top").unwrap();
    run(&used, ANYWHERE);
    run(&used, IN_USE);
}

fn run(fixture: &Fixture, rows: &[Row]) {
    let before = (fixture.store.list(&[]).unwrap(), tree(&fixture.root()));
    for (what, call, expected) in rows {
        assert_eq!(call(&fixture.store), *expected, "{what}");
        let after = (fixture.store.list(&[]).unwrap(), tree(&fixture.root()));
        assert_eq!(after, before, "{what}: something changed");
    }
}

#[test]
fn the_limits_themselves_are_fine() {
    let fixture = Fixture::fast();
    let store = &fixture.store;
    let key = "k".repeat(store::KEY_LIMIT);
    let each = 100 + store::LABEL_OVERHEAD;
    let count = store::LABELS_LIMIT / each;
    let full: Labels = (0..count).map(|index| (format!("{index:099}"), "v".to_owned())).collect();
    let active = store.prepare(key.as_bytes(), None, full.clone(), Scratch::Directory).unwrap();
    assert_eq!((active.labels.len(), &active.labels), (count, &full));
    let name = "n".repeat(store::KEY_LIMIT);
    let done = store.commit(name.as_bytes(), key.as_bytes(), &CommitOptions::default()).unwrap();
    let child = prepare(store, "child", &name).unwrap();
    assert_eq!(child.parent.as_deref(), Some(name.as_bytes()));
    assert_eq!(store.list(&["kind==committed"]).unwrap(), [done]);
    let one_more = full.into_iter().chain([("x".to_owned(), "v".repeat(200))]).collect();
    assert_eq!(kind(store.update(b"child", one_more, &[])), ErrorKind::Invalid);
}

#[test]
fn a_refused_removal_says_so() {
    let fixture = Fixture::fast();
    committed(&fixture.store, "base", "");
    prepare(&fixture.store, "child", "base").unwrap();
    let error = fixture.store.remove(b"base").unwrap_err();
    assert_eq!(error.to_string(), "cannot remove snapshot base: snapshot child is based on it");
    let image = add_image(&fixture.store, "example.org/a:1", &["one", "two"]);
    let error = fixture.store.remove(image.chain[1].as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("cannot remove"), "{error}");
    assert!(error.to_string().contains(&image.reference), "{error}");
}

#[test]
fn no_store_is_not_found_where_none_is_to_be_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("none");
    for options in [
        store::OpenOptions { create: false, ..Default::default() },
        store::OpenOptions { read_only: true, ..Default::default() },
    ] {
        assert_eq!(kind(Store::open(&root, options)), ErrorKind::NotFound);
        assert!(!root.exists());
    }
    assert_eq!(kind(store::Staging::new(&root)), ErrorKind::NotFound);
}
