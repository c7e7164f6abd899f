//! What containerd's snapshotter suite asserts and needs no mount to see, and what it leaves out.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use std::os::unix::fs::MetadataExt;

use fixture::{
    Fixture, add_image, add_layer, commit, commit_on, commit_options, committed, kind, labels,
    prepare, staged_layer, upper, view,
};
use store::{ErrorKind, Kind, Labels, LayerRecord, Scratch, ScratchPaths, Timestamp, Usage};

#[test]
fn basic_layers_on_layers() {
    let Fixture { store, directory: _directory } = Fixture::new();
    let active = store
        .prepare(b"prepare-1", None, labels(&[("gc", "x"), ("empty", "")]), Scratch::Directory)
        .unwrap();
    assert_eq!((active.kind, &active.parent), (Kind::Active, &None));
    assert_eq!(active.labels, labels(&[("gc", "x")]), "a label without value is none");
    assert_eq!(store.stat(b"prepare-1").unwrap(), active);
    std::fs::write(upper(&store, &active).join("one"), "1").unwrap();
    let one = store.commit(b"one", b"prepare-1", &commit_options(&[("own", "label")])).unwrap();
    assert_eq!((one.kind, &one.parent, one.id), (Kind::Committed, &None, active.id));
    assert_eq!(
        one.labels,
        labels(&[("own", "label")]),
        "nothing is inherited from the active snapshot"
    );
    assert!(one.created > active.created);
    assert_eq!(one.created, one.updated);
    assert_eq!(kind(store.stat(b"prepare-1")), ErrorKind::NotFound);
    assert!(!upper(&store, &active).exists());

    let next = prepare(&store, "prepare-2", "one").unwrap();
    assert_eq!(next.parent.as_deref(), Some(&b"one"[..]));
    assert_eq!(std::fs::read_dir(upper(&store, &next)).unwrap().count(), 0);
    std::fs::write(upper(&store, &next).join("two"), "2").unwrap();
    let two = commit(&store, "two", "prepare-2").unwrap();
    assert_eq!(two.parent.as_deref(), Some(&b"one"[..]));

    let look = view(&store, "look", "two").unwrap();
    let chain = store.chain(b"look").unwrap();
    assert_eq!(chain.snapshot, look);
    assert!(chain.scratch.is_none() && chain.empty.is_none());
    let ids: Vec<_> = chain.layers.iter().map(|layer| layer.id.clone()).collect();
    assert_eq!(ids, [two.layers[0].clone(), one.layers[0].clone()], "nearest first");
    assert!(chain.layers.iter().all(|layer| layer.path.is_file()));
    assert_eq!(store.committed_layers(b"two").unwrap(), chain.layers);
    assert_eq!(
        store.list(&[]).unwrap(),
        [look, one, two],
        "List and Stat agree exactly, in byte order of the key"
    );

    assert!(store.remove(b"one").unwrap_err().to_string().contains("remove"));
    for key in ["look", "two", "one"] {
        store.remove(key.as_bytes()).unwrap();
    }
    assert_eq!(store.list(&[]).unwrap(), []);
}

#[test]
fn a_committed_image_holds_what_the_scratch_held() {
    let Fixture { store, directory: _directory } = Fixture::new();
    let active = prepare(&store, "a", "").unwrap();
    let upper = upper(&store, &active);
    std::fs::create_dir(upper.join("etc")).unwrap();
    std::fs::write(upper.join("etc/motd"), "welcome").unwrap();
    std::fs::hard_link(upper.join("etc/motd"), upper.join("etc/link")).unwrap();
    let snapshot = commit(&store, "c", "a").unwrap();
    let layer = store.layer(&snapshot.layers[0]).unwrap().unwrap();
    let image = erofs::Image::open(std::fs::File::open(&layer.path).unwrap()).unwrap();
    let motd = image.resolve(b"/etc/motd", false).unwrap();
    let mut content = [0; 16];
    let length = image.read_at(&motd, &mut content, 0).unwrap();
    assert_eq!(&content[..length], b"welcome");
    assert_eq!(motd.nlink, 2);
    assert_eq!(layer.record.image_size, std::fs::metadata(&layer.path).unwrap().len());
    assert_eq!(layer.record.entries, 4);
    assert_eq!(
        snapshot.usage,
        Usage { size: std::fs::metadata(&layer.path).unwrap().blocks() * 512, inodes: 1 }
    );
}

#[test]
fn equal_scratches_share_one_layer_even_empty_ones() {
    let Fixture { store, directory: _directory } = Fixture::new();
    for key in ["a", "b"] {
        prepare(&store, key, "").unwrap();
        // The root's times are part of the layer.
        let stamp = std::fs::File::open(
            store
                .root()
                .join("snapshots")
                .join(store.stat(key.as_bytes()).unwrap().id.to_string())
                .join("fs"),
        )
        .unwrap();
        stamp.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let one = commit(&store, "one", "a").unwrap();
    let other = commit(&store, "other", "b").unwrap();
    assert!(!one.layers.is_empty());
    assert_eq!(one.layers, other.layers);
    assert_eq!(store.layers().unwrap().len(), 1);
}

#[test]
fn views_and_prepares_fail_on_a_taken_key() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    prepare(&store, "a", "").unwrap();
    view(&store, "v", "").unwrap();
    for key in ["a", "v"] {
        assert_eq!(kind(prepare(&store, key, "")), ErrorKind::AlreadyExists);
        assert_eq!(kind(view(&store, key, "")), ErrorKind::AlreadyExists);
    }
}

#[test]
fn update_changes_labels_only() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    committed(&store, "base", "");
    committed(&store, "committed", "base");
    prepare(&store, "active", "base").unwrap();
    view(&store, "view", "base").unwrap();
    for key in ["committed", "active", "view"] {
        let key = key.as_bytes();
        let before = store.stat(key).unwrap();
        assert_eq!(before.created, before.updated);
        let start = Timestamp::now();
        let all = store.update(key, labels(&[("l1", "a"), ("l2", "b"), ("l3", "")]), &[]).unwrap();
        let end = Timestamp::now();
        assert_eq!(all.labels, labels(&[("l1", "a"), ("l2", "b")]));
        assert!(start <= all.updated && all.updated <= end);
        assert_eq!(
            (all.created, &all.parent, all.kind, all.id),
            (before.created, &before.parent, before.kind, before.id)
        );
        assert_eq!(store.stat(key).unwrap(), all);
        let some = store
            .update(key, labels(&[("l1", "A"), ("l4", "d")]), &["labels.l1", "labels.l2"])
            .unwrap();
        assert_eq!(some.labels, labels(&[("l1", "A")]), "l1 set, l2 deleted, l4 not named");
        let dotted = store
            .update(
                key,
                labels(&[("containerd.io/gc.root", "x")]),
                &["labels.containerd.io/gc.root"],
            )
            .unwrap();
        assert_eq!(dotted.labels, labels(&[("l1", "A"), ("containerd.io/gc.root", "x")]));
        assert_eq!(
            kind(store.update(key, Labels::new(), &["labels.l1", "parent"])),
            ErrorKind::Invalid
        );
        assert_eq!(store.stat(key).unwrap(), dotted, "a bad path after a good one changes nothing");
        let replaced = store.update(key, labels(&[("only", "1")]), &["labels"]).unwrap();
        assert_eq!(replaced.labels, labels(&[("only", "1")]));
        let none = store.update(key, labels(&[("only", "")]), &["labels.only"]).unwrap();
        assert_eq!(none.labels, Labels::new());
    }
    assert_eq!(
        store.remove(b"base").unwrap_err().kind(),
        ErrorKind::FailedPrecondition,
        "back links survive updates"
    );
}

#[test]
fn labels_may_be_as_long_as_the_limit() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    let longest = labels(&[("key", &"v".repeat(4093))]);
    assert_eq!(
        store.prepare(b"a", None, longest.clone(), Scratch::Directory).unwrap().labels,
        longest
    );
}

#[test]
fn a_removed_key_is_free_at_once() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    committed(&store, "base", "");
    let mut numbers = Vec::new();
    numbers.push(prepare(&store, "key", "base").unwrap().id);
    store.remove(b"key").unwrap();
    numbers.push(view(&store, "key", "base").unwrap().id);
    store.remove(b"key").unwrap();
    numbers.push(prepare(&store, "key", "").unwrap().id);
    store.remove(b"key").unwrap();
    numbers.push(committed(&store, "key", "").id);
    store.remove(b"key").unwrap();
    numbers.push(committed(&store, "key", "base").id);
    assert!(
        numbers.is_sorted_by(|one, next| one < next),
        "numbers rise and are never given out again: {numbers:?}"
    );
}

#[test]
fn numbers_are_not_reused_after_reopening_or_rollback() {
    let fixture = Fixture::fast();
    let one = prepare(&fixture.store, "a", "").unwrap().id;
    fixture.store.remove(b"a").unwrap();
    let fixture = fixture.reopened();
    let two = prepare(&fixture.store, "a", "").unwrap().id;
    assert!(two > one);
    // A prepare that fails after its number was given out: its directory's name is taken by a file that cannot be
    // moved away, because a directory that is not empty stands where it would go.
    let next = two + 1;
    let snapshots = fixture.root().join("snapshots");
    std::fs::write(snapshots.join(next.to_string()), "in the way").unwrap();
    let b = prepare(&fixture.store, "b", "").unwrap();
    assert_eq!(b.id, next, "a leftover of that number is no obstacle");
    assert!(upper(&fixture.store, &b).is_dir());
    let fixture = fixture.reopened();
    assert!(prepare(&fixture.store, "c", "").unwrap().id > next);
}

#[test]
fn intermediate_snapshots_go_from_the_top() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    committed(&store, "base", "");
    committed(&store, "inter", "base");
    prepare(&store, "active", "inter").unwrap();
    for key in ["inter", "base"] {
        assert_eq!(kind(store.remove(key.as_bytes())), ErrorKind::FailedPrecondition);
    }
    for key in ["active", "inter", "base"] {
        store.remove(key.as_bytes()).unwrap();
    }
}

#[test]
fn commit_can_give_a_parentless_snapshot_its_parent() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    let base = committed(&store, "base", "");
    prepare(&store, "a", "").unwrap();
    let rebased = commit_on(&store, "rebased", "a", "base").unwrap();
    assert_eq!(rebased.parent.as_deref(), Some(&b"base"[..]));
    assert_eq!(kind(store.remove(b"base")), ErrorKind::FailedPrecondition);
    view(&store, "v", "rebased").unwrap();
    let layers = store.chain(b"v").unwrap().layers;
    assert_eq!(layers[1].id, base.layers[0]);
    prepare(&store, "same", "base").unwrap();
    assert_eq!(
        commit_on(&store, "kept", "same", "base").unwrap().parent.as_deref(),
        Some(&b"base"[..])
    );
    prepare(&store, "unsaid", "base").unwrap();
    assert_eq!(commit(&store, "stays", "unsaid").unwrap().parent.as_deref(), Some(&b"base"[..]));
    for key in ["v", "rebased", "kept", "stays", "base"] {
        store.remove(key.as_bytes()).unwrap();
    }
}

#[test]
fn walking_with_filters() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    committed(&store, "base", "");
    store
        .prepare(
            b"a",
            Some(b"base"),
            labels(&[("containerd.io/gc.root", "x"), ("team", "one")]),
            Scratch::Directory,
        )
        .unwrap();
    store.prepare(b"b", None, labels(&[("team", "two")]), Scratch::Directory).unwrap();
    store.view(b"v", Some(b"base"), labels(&[("containerd.io/gc.root", "y")])).unwrap();
    let keys = |filters: &[&str]| -> Vec<String> {
        store.list(filters).unwrap().iter().map(store::Snapshot::name).collect()
    };
    assert_eq!(keys(&[]), ["a", "b", "base", "v"]);
    assert_eq!(keys(&[""]), ["a", "b", "base", "v"]);
    assert_eq!(keys(&[r#"labels."containerd.io/gc.root"==x"#]), ["a"]);
    assert_eq!(keys(&[r#"labels."containerd.io/gc.root""#]), ["a", "v"]);
    assert_eq!(keys(&["kind==active"]), ["a", "b"]);
    assert_eq!(keys(&["kind==committed"]), ["base"]);
    assert_eq!(keys(&["name==a", "name==v"]), ["a", "v"]);
    assert_eq!(keys(&["parent==base,kind==view"]), ["v"]);
    assert_eq!(keys(&[r#"parent!="""#]), ["a", "v"]);
    assert_eq!(keys(&["labels.team~=^t"]), ["b"]);
    for snapshot in store.list(&[]).unwrap() {
        assert_eq!(store.stat(&snapshot.key).unwrap(), snapshot);
    }
}

#[test]
fn scratches_have_the_modes_that_a_root_needs() {
    let Fixture { store, directory } = Fixture::new();
    let active = prepare(&store, "a", "").unwrap();
    let chain = store.chain(b"a").unwrap();
    let Some(ScratchPaths::Directory { upper: fs, work }) = chain.scratch else {
        panic!("{chain:?}")
    };
    let look = |path: &std::path::Path| {
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    let (uid, gid) = (look(directory.path()).1, look(directory.path()).2);
    assert_eq!(look(&fs), (0o755, uid, gid));
    assert_eq!(look(&work), (0o711, uid, gid));
    assert_eq!(fs, upper(&store, &active));
    for private in ["", "layers", "snapshots", "staging", "snapshots/1"] {
        assert_eq!(look(&store.root().join(private)).0, 0o700, "{private}");
    }
    view(&store, "v", "").unwrap();
    let empty = store.chain(b"v").unwrap();
    assert!(empty.scratch.is_none() && empty.layers.is_empty());
    assert_eq!(look(&empty.empty.unwrap()).0, 0o755);
}

#[test]
fn a_scratch_image_is_sparse_and_committed_from_where_it_is_mounted() {
    let Fixture { store, directory } = Fixture::new();
    let size = 1 << 30;
    store.prepare(b"a", None, Labels::new(), Scratch::Image { size }).unwrap();
    let Some(ScratchPaths::Image { path, size: recorded }) = store.chain(b"a").unwrap().scratch
    else {
        panic!()
    };
    assert_eq!(recorded, size);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
    assert!(store.usage(b"a").unwrap().size < 1 << 20);
    assert_eq!(kind(commit(&store, "c", "a")), ErrorKind::Invalid, "the store cannot look into it");
    let mounted = directory.path().join("mounted");
    std::fs::create_dir(&mounted).unwrap();
    std::fs::write(mounted.join("file"), "content").unwrap();
    let options = store::CommitOptions { upper: Some(mounted.clone()), ..Default::default() };
    store.commit(b"c", b"a", &options).unwrap();
    assert!(!path.exists());
    assert!(mounted.join("file").exists(), "what the caller mounted is the caller's");
}

#[test]
fn usage_is_walked_for_active_ones_and_stored_for_others() {
    let Fixture { store, directory: _directory } = Fixture::new();
    let active = prepare(&store, "a", "").unwrap();
    let before = store.usage(b"a").unwrap();
    std::fs::write(upper(&store, &active).join("f"), vec![1; 300_000]).unwrap();
    let after = store.usage(b"a").unwrap();
    assert_eq!(after.inodes, before.inodes + 1);
    assert!(after.size >= before.size + 300_000);
    let snapshot = commit(&store, "c", "a").unwrap();
    assert_eq!(store.usage(b"c").unwrap(), snapshot.usage);
    assert!(snapshot.usage.size >= 300_000);
    view(&store, "v", "c").unwrap();
    assert_eq!(store.usage(b"v").unwrap(), Usage::default());
    let child = prepare(&store, "b", "c").unwrap();
    assert!(store.usage(b"b").unwrap().size < 300_000, "parents are left out");
    drop(child);
}

#[test]
fn keys_are_any_bytes() {
    let fixture = Fixture::fast();
    let keys: [&[u8]; 4] =
        [b"default/1/extract-1 sha256:9e", b"\xff\x00\xfe", b"../../etc", "schlüssel".as_bytes()];
    for key in keys {
        let snapshot = fixture.store.prepare(key, None, Labels::new(), Scratch::Directory).unwrap();
        assert_eq!(snapshot.key, key);
    }
    let mut name = b"committed ".to_vec();
    name.push(0xff);
    fixture.store.commit(&name, keys[1], &commit_options(&[])).unwrap();
    let child =
        fixture.store.prepare(b"child", Some(&name), Labels::new(), Scratch::Directory).unwrap();
    let fixture = fixture.reopened();
    assert_eq!(
        fixture.store.stat(b"child").unwrap(),
        child,
        "times to the nanosecond, and a parent that is no text"
    );
    assert_eq!(child.parent.as_deref(), Some(name.as_slice()));
    assert_eq!(kind(fixture.store.remove(&name)), ErrorKind::FailedPrecondition);
}

#[test]
fn imported_snapshots_are_made_from_layers_and_made_once() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    let one = add_layer(&store, b"one");
    let two = add_layer(&store, b"two");
    assert_eq!(add_layer(&store, b"one"), one);
    assert!(store.has_layer(&one).unwrap());
    assert_eq!(store.layers().unwrap().len(), 2);
    let base = store.commit_layer(b"base", None, &one, Labels::new()).unwrap();
    assert_eq!(
        store.commit_layer(b"base", None, &one, Labels::new()).unwrap(),
        base,
        "equal is success"
    );
    assert_eq!(
        kind(store.commit_layer(b"base", None, &two, Labels::new())),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        kind(store.commit_layer(b"x", Some(b"missing"), &two, Labels::new())),
        ErrorKind::NotFound
    );
    assert_eq!(kind(store.commit_layer(b"", None, &two, Labels::new())), ErrorKind::Invalid);
    let unknown = store::LayerId::of_diff(&layer::Digest::of(b"unknown"));
    assert_eq!(kind(store.commit_layer(b"x", None, &unknown, Labels::new())), ErrorKind::NotFound);
    assert!(!store.has_layer(&unknown).unwrap());
    prepare(&store, "a", "base").unwrap();
    assert_eq!(kind(store.commit_layer(b"x", Some(b"a"), &two, Labels::new())), ErrorKind::Invalid);
}

#[test]
fn images_need_what_they_name() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    let image = add_image(&store, "example.org/app:1", &["base", "app"]);
    assert_eq!(store.image("example.org/app:1").unwrap().unwrap(), image);
    assert_eq!(store.images().unwrap(), std::slice::from_ref(&image));
    assert_eq!(store.blob(&image.manifest).unwrap().unwrap(), b"manifest of example.org/app:1");
    let mut broken = image.clone();
    broken.chain.push("missing".to_owned());
    assert_eq!(kind(store.put_image(&broken)), ErrorKind::FailedPrecondition);
    let mut broken = image.clone();
    broken.config = layer::Digest::of(b"missing");
    assert_eq!(kind(store.put_image(&broken)), ErrorKind::FailedPrecondition);
    store.remove_image("example.org/app:1").unwrap();
    assert_eq!(store.image("example.org/app:1").unwrap(), None);
    assert_eq!(store.layers().unwrap().len(), 2, "only the name is gone");
}

#[test]
fn privileged_a_rolled_back_number_is_spent() {
    let fixture = Fixture::new();
    let last = prepare(&fixture.store, "last", "").unwrap().id;
    // Something immovable where the next directory has to go: the transaction is rolled back at its last step.
    let obstacle = fixture.root().join(format!("snapshots/{}", last + 1));
    std::fs::create_dir(&obstacle).unwrap();
    let immutable = |flag: &str| {
        let status =
            std::process::Command::new("chattr").arg(flag).arg(&obstacle).status().unwrap();
        assert!(
            status.success(),
            "this test sets the immutable flag and must run as root on a file system that has it"
        );
    };
    immutable("+i");
    let refused = prepare(&fixture.store, "refused", "");
    immutable("-i");
    assert_eq!(kind(refused), ErrorKind::ReadOnly);
    assert_eq!(kind(fixture.store.stat(b"refused")), ErrorKind::NotFound);
    let names: Vec<_> = std::fs::read_dir(fixture.root().join("snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "the directory without number is gone: {names:?}");
    std::fs::remove_dir(&obstacle).unwrap();
    let fixture = fixture.reopened();
    assert!(fixture.store.swept().is_empty());
    assert_eq!(prepare(&fixture.store, "next", "").unwrap().id, last + 2);
}

#[test]
fn a_cancelled_commit_changes_nothing() {
    let fixture = Fixture::fast();
    let active = prepare(&fixture.store, "a", "").unwrap();
    std::fs::write(upper(&fixture.store, &active).join("file"), "content").unwrap();
    let options = store::CommitOptions::default();
    options.cancel.cancel();
    assert_eq!(kind(fixture.store.commit(b"c", b"a", &options)), ErrorKind::Cancelled);
    assert_eq!(fixture.store.list(&[]).unwrap(), [active]);
    assert_eq!(fixture.store.layers().unwrap(), []);
    assert_eq!(std::fs::read_dir(fixture.root().join("staging")).unwrap().count(), 0);
    commit(&fixture.store, "c", "a").unwrap();
}

#[test]
fn a_chain_ends_at_a_layer_that_hides_all_below_and_has_no_layer_twice() {
    let Fixture { store, directory: _directory } = Fixture::new();
    let hiding = {
        let (staging, id, record) = staged_layer(&store, b"hiding");
        let record = LayerRecord { hides_lower: true, ..record };
        store.add_layer(&staging, "image", id, record).unwrap()
    };
    let [bottom, empty, top] = ["bottom", "empty", "top"].map(|c| add_layer(&store, c.as_bytes()));
    let mut below: Option<String> = None;
    for (index, layer) in [&bottom, &hiding, &empty, &top, &empty].into_iter().enumerate() {
        let name = format!("chain-{index}");
        let parent = below.as_deref().map(str::as_bytes);
        store.commit_layer(name.as_bytes(), parent, layer, Labels::new()).unwrap();
        below = Some(name);
    }
    prepare(&store, "container", "chain-4").unwrap();
    let chain = store.chain(b"container").unwrap();
    let layers: Vec<_> = chain.layers.into_iter().map(|layer| layer.id).collect();
    assert_eq!(layers, [empty, top, hiding]);
}
