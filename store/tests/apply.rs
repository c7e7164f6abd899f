//! Layers applied to active snapshots, deferred ones, the origins of snapshots, and collecting what nothing needs.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use std::path::Path;

use fixture::{
    Fixture, add_image, add_layer, commit, commit_on, committed, kind, labels, open, prepare,
    staged_layer, upper, view,
};
use layer::{Cancel, Compression, Digest};
use store::{
    BLOBS_PER_LAYER, CommitOptions, DeferredLayer, ErrorKind, FsckOptions, Kind, Labels, LayerId,
    Origin, Scratch, ScratchPaths, Snapshot, Staging, Store,
};

fn apply(store: &Store, key: &str, content: &[u8]) -> store::Result<Snapshot> {
    let (staging, id, record) = staged_layer(store, content);
    store.apply_layer(key.as_bytes(), &staging, "image", &id, &record)
}

fn ids(store: &Store, key: &str) -> Vec<LayerId> {
    let layers = store.chain(key.as_bytes()).unwrap().layers;
    layers.into_iter().map(|layer| layer.id).collect()
}

fn layer_files(store: &Store) -> usize {
    std::fs::read_dir(store.root().join("layers")).unwrap().count()
}

fn of(content: &[u8]) -> LayerId {
    LayerId::of_diff(&Digest::of(content))
}

#[test]
fn an_applied_layer_shows_at_once_and_is_what_is_committed() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    let base = committed(&store, "base", "");
    let before = prepare(&store, "a", "base").unwrap();
    let after = apply(&store, "a", b"one").unwrap();
    assert_eq!(after, Snapshot { layers: vec![of(b"one")], ..before.clone() });
    assert_eq!(store.stat(b"a").unwrap(), after);
    assert_eq!(ids(&store, "a"), [of(b"one"), base.layers[0].clone()]);
    // Tried again: as it was. A second layer lies above the first.
    assert_eq!(apply(&store, "a", b"one").unwrap(), after);
    apply(&store, "a", b"two").unwrap();
    assert_eq!(ids(&store, "a"), [of(b"two"), of(b"one"), base.layers[0].clone()]);
    let usage = store.usage(b"a").unwrap();
    assert!(usage.inodes >= 3, "the scratch and both layers: {usage:?}");

    let images = layer_files(&store);
    let done = commit(&store, "done", "a").unwrap();
    assert_eq!(done.layers, [of(b"two"), of(b"one")], "nothing was written over them");
    assert_eq!(layer_files(&store), images);
    assert_eq!((done.usage.inodes, done.kind), (2, Kind::Committed));
    assert_eq!(store.usage(b"done").unwrap(), done.usage);
    view(&store, "v", "done").unwrap();
    assert_eq!(ids(&store, "v"), [of(b"two"), of(b"one"), base.layers[0].clone()]);
}

#[test]
fn what_is_written_over_applied_layers_becomes_one_above_them() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    let active = prepare(&store, "a", "").unwrap();
    apply(&store, "a", b"one").unwrap();
    std::fs::write(upper(&store, &active).join("over"), "it").unwrap();
    assert_eq!(kind(apply(&store, "a", b"two")), ErrorKind::FailedPrecondition);
    assert_eq!(store.layer(&of(b"two")).unwrap(), None, "a refused layer is not kept");
    assert_eq!(layer_files(&store), 1);
    let done = commit(&store, "done", "a").unwrap();
    assert_eq!(done.layers.len(), 2);
    assert_eq!(done.layers[1], of(b"one"));
    assert!(done.layers[0].as_str().starts_with("commit:"));

    // A change of the root alone counts.
    let active = prepare(&store, "b", "").unwrap();
    apply(&store, "b", b"one").unwrap();
    let root = upper(&store, &active);
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(commit(&store, "changed", "b").unwrap().layers.len(), 2);
}

#[test]
fn layers_go_into_active_snapshots_only() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    committed(&store, "base", "");
    view(&store, "view", "base").unwrap();
    prepare(&store, "a", "base").unwrap();
    let known = add_layer(&store, b"known");
    for (key, expected) in [
        ("missing", ErrorKind::NotFound),
        ("", ErrorKind::NotFound),
        ("base", ErrorKind::FailedPrecondition),
        ("view", ErrorKind::FailedPrecondition),
    ] {
        assert_eq!(kind(apply(&store, key, b"one")), expected, "{key}");
        assert_eq!(kind(store.apply_known_layer(key.as_bytes(), &known)), expected, "{key}");
        assert_eq!(kind(store.below(key.as_bytes(), None)), expected, "{key}");
    }
    assert_eq!(kind(store.apply_known_layer(b"a", &of(b"unknown"))), ErrorKind::NotFound);
    let (staging, id, mut record) = staged_layer(&store, b"short");
    record.image_size += 1;
    let short = store.apply_layer(b"a", &staging, "image", &id, &record);
    assert_eq!(kind(short), ErrorKind::Invalid);
    assert_eq!(store.stat(b"a").unwrap().layers, []);

    assert_eq!(store.apply_known_layer(b"a", &known).unwrap().layers.first(), Some(&known));
    std::fs::remove_file(store.layer(&known).unwrap().unwrap().path).unwrap();
    prepare(&store, "b", "").unwrap();
    assert_eq!(kind(store.apply_known_layer(b"b", &known)), ErrorKind::NotFound, "no file");
}

#[test]
fn scratch_images_take_layers_too() {
    let Fixture { store, directory } = Fixture::fast();
    let image = Scratch::Image { size: 8 << 20 };
    let prepare = |key: &str| {
        store.prepare(key.as_bytes(), None, Labels::new(), image).unwrap();
        apply(&store, key, b"one").unwrap();
    };
    let mounted = directory.path().join("mounted");
    std::fs::create_dir(&mounted).unwrap();
    let options = CommitOptions { upper: Some(mounted.clone()), ..CommitOptions::default() };

    prepare("never-mounted");
    assert_eq!(commit(&store, "one", "never-mounted").unwrap().layers, [of(b"one")]);
    prepare("mounted");
    assert_eq!(store.commit(b"two", b"mounted", &options).unwrap().layers, [of(b"one")]);
    prepare("written");
    std::fs::write(mounted.join("file"), "content").unwrap();
    let Some(ScratchPaths::Image { path, .. }) = store.chain(b"written").unwrap().scratch else {
        panic!("it has a disk image");
    };
    std::fs::write(path, [1; 4096]).unwrap();
    assert_eq!(kind(commit(&store, "three", "written")), ErrorKind::Invalid, "what is in it?");
    let three = store.commit(b"three", b"written", &options).unwrap();
    assert_eq!((three.layers.len(), &three.layers[1]), (2, &of(b"one")));
}

#[test]
fn sizes_of_scratches_come_from_labels() {
    const MAX: &str = "containerd.io/snapshot/max-size";
    const BYTES: &str = "containerd.io/snapshot/windows/rootfs.sizebytes";
    const GB: &str = "containerd.io/snapshot/io.microsoft.container.storage.rootfs.size-gb";
    let image = |size| Some(Scratch::Image { size });
    let cases = [
        (&[][..], None),
        (&[("other", "12")], None),
        (&[(MAX, "")], None),
        (&[(MAX, "8388608")], image(8 << 20)),
        (&[(BYTES, "8388608")], image(8 << 20)),
        (&[(GB, "20")], image(20 << 30)),
        (&[(GB, "20"), (BYTES, "8388608")], image(8 << 20)),
        (&[(MAX, "16777216"), (BYTES, "8388608")], image(16 << 20)),
    ];
    for (given, expected) in cases {
        assert_eq!(Scratch::from_labels(&labels(given)).unwrap(), expected, "{given:?}");
    }
    let configured = Scratch::Image { size: 32 << 20 };
    let bad = ["x", "-1", "1.5", "1g", " 1", "18446744073709551616", "9223372036854775808"];
    for (label, text) in bad.iter().flat_map(|text| [MAX, BYTES, GB].map(|label| (label, text))) {
        let labels = labels(&[(label, text)]);
        assert_eq!(kind(Scratch::from_labels(&labels)), ErrorKind::Invalid, "{label}={text}");
        let unpacked =
            Scratch::for_key(b"default/1/extract-1-x sha256:1", &labels, configured).unwrap();
        assert_eq!(unpacked, Scratch::Directory);
    }
    assert_eq!(kind(Scratch::from_labels(&labels(&[(GB, "8589934592")]))), ErrorKind::Invalid);
    let asked = Scratch::for_key(b"default/2/c", &labels(&[(MAX, "8388608")]), configured).unwrap();
    assert_eq!(Some(asked), image(8 << 20));
    let not_asked = Scratch::for_key(b"default/2/c", &Labels::new(), configured).unwrap();
    assert_eq!(not_asked, configured);
}

#[test]
fn containerd_sees_its_own_snapshots_only() {
    let Fixture { store, directory } = Fixture::fast();
    let theirs = store.scope(Origin::Containerd);
    committed(&store, "mine", "");
    assert_eq!(theirs.list(&[]).unwrap(), []);
    for result in [
        theirs.stat(b"mine").map(drop),
        theirs.usage(b"mine").map(drop),
        theirs.remove(b"mine"),
        theirs.update(b"mine", Labels::new(), &[]).map(drop),
        theirs.chain(b"mine").map(drop),
        theirs.committed_layers(b"mine").map(drop),
        theirs.view(b"v", Some(b"mine"), Labels::new()).map(drop),
        theirs.prepare(b"p", Some(b"mine"), Labels::new(), Scratch::Directory).map(drop),
    ] {
        assert_eq!(kind(result), ErrorKind::NotFound);
    }
    let prepare = |key: &[u8]| theirs.prepare(key, None, Labels::new(), Scratch::Directory);
    assert_eq!(kind(prepare(b"mine")), ErrorKind::AlreadyExists, "one space of keys");

    let active = prepare(b"a").unwrap();
    assert_eq!(active.origin, Origin::Containerd);
    assert_eq!(theirs.list(&["kind==active"]).unwrap(), std::slice::from_ref(&active));
    assert_eq!(
        kind(theirs.commit(b"mine", b"a", &CommitOptions::default())),
        ErrorKind::AlreadyExists
    );
    let options = CommitOptions { parent: Some(b"mine".to_vec()), ..CommitOptions::default() };
    assert_eq!(kind(theirs.commit(b"c", b"a", &options)), ErrorKind::NotFound);
    assert_eq!(theirs.stat(b"a").unwrap(), active, "as it was");
    let done = theirs.commit(b"c", b"a", &CommitOptions::default()).unwrap();
    assert_eq!(done.origin, Origin::Containerd);
    assert_eq!(theirs.view(b"v", Some(b"c"), Labels::new()).unwrap().origin, Origin::Containerd);

    // A user sees all, and may stand on it; containerd is told that it cannot remove it.
    let on_it = store.prepare(b"on-it", Some(b"c"), Labels::new(), Scratch::Directory).unwrap();
    assert_eq!(on_it.origin, Origin::Local);
    theirs.remove(b"v").unwrap();
    let refused = theirs.remove(b"c").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert!(refused.to_string().contains("remove"));
    assert_eq!(store.list(&[]).unwrap().len(), 3);
    drop(store);
    let store = open(&directory.path().join("root")).unwrap();
    assert_eq!(store.scope(Origin::Containerd).list(&[]).unwrap(), [done]);
}

#[test]
fn an_active_snapshot_is_found_by_its_directory() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    let base = committed(&store, "base", "");
    let active = prepare(&store, "a", "base").unwrap();
    let look = view(&store, "v", "").unwrap();
    assert_eq!(store.active_by_number(active.id).unwrap(), active);
    for number in [base.id, look.id, 0, active.id + 100, u64::MAX] {
        assert_eq!(kind(store.active_by_number(number)), ErrorKind::NotFound);
    }
}

/// A layer that needs the one below: a hard link to its `lower`, and a file in its undescribed `dir`.
fn dependent_tar(with_link: bool) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    header.set_mode(0o644);
    tar.append_data(&mut header, "dir/new", &b"new"[..]).unwrap();
    if with_link {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        tar.append_link(&mut header, "link", "lower").unwrap();
    }
    tar.into_inner().unwrap()
}

fn defer(store: &Store, key: &str, tar: &[u8]) -> store::Result<Snapshot> {
    let blob = zstd::encode_all(tar, 1).unwrap();
    let staging = Staging::new(store.root()).unwrap();
    std::io::Write::write_all(&mut staging.create("blob").unwrap(), &blob).unwrap();
    let deferred = DeferredLayer {
        digest: Digest::of(&blob),
        size: blob.len() as u64,
        diff_id: Digest::of(tar),
        tar_size: tar.len() as u64,
        compression: Compression::Zstd,
    };
    store.defer_layer(key.as_bytes(), &staging, "blob", deferred)
}

/// A base layer with `lower` and a `dir` of mode 0700, applied and committed.
fn lower(store: &Store) -> Snapshot {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    header.set_mode(0o640);
    tar.append_data(&mut header, "lower", &b"below"[..]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o700);
    tar.append_data(&mut header, "dir", &b""[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    prepare(store, "lower-being-made", "").unwrap();
    let staging = Staging::new(store.root()).unwrap();
    let file = staging.create("image").unwrap();
    let options = layer::LayerOptions::default();
    let image = layer::write_layer_image(
        &tar[..],
        &file,
        &layer::LayerOptions { diff_id: Some(Digest::of(&tar)), ..options },
        None,
        &(),
        &Cancel::new(),
    )
    .unwrap();
    let record = store::LayerRecord::of(&image);
    let id = LayerId::of_diff(&image.diff_id);
    store.apply_layer(b"lower-being-made", &staging, "image", &id, &record).unwrap();
    commit(store, "lower", "lower-being-made").unwrap()
}

fn file_of(path: &Path, name: &str) -> (u16, Vec<u8>) {
    let image = erofs::Image::open(std::fs::File::open(path).unwrap()).unwrap();
    let mut inode = image.inode(image.root()).unwrap();
    for part in name.split('/') {
        let entry = image.lookup(&inode, part.as_bytes()).unwrap().unwrap();
        inode = image.inode(entry.nid).unwrap();
    }
    let mut content = Vec::new();
    if !inode.is_dir() {
        std::io::Read::read_to_end(&mut image.reader(&inode), &mut content).unwrap();
    }
    (inode.permissions, content)
}

#[test]
fn a_deferred_layer_is_converted_when_its_parent_is_known() {
    let Fixture { store, directory } = Fixture::fast();
    let below = lower(&store);
    prepare(&store, "a", "").unwrap();
    let tar = dependent_tar(true);
    let deferred = defer(&store, "a", &tar).unwrap();
    assert_eq!(deferred.deferred.unwrap().diff_id, Digest::of(&tar));
    assert_eq!(defer(&store, "a", &tar).unwrap(), deferred, "tried again");
    assert_eq!(kind(defer(&store, "a", b"another")), ErrorKind::FailedPrecondition);
    assert_eq!(kind(apply(&store, "a", b"above")), ErrorKind::FailedPrecondition);
    assert_eq!(ids(&store, "a"), [], "mounts do not show it");
    assert!(store.usage(b"a").unwrap().size > 0);
    drop(store);
    let root = directory.path().join("root");
    let store = open(&root).unwrap();
    assert!(store.swept().is_empty(), "{:?}", store.swept());
    let deep = FsckOptions { deep: true, ..FsckOptions::default() };
    assert_eq!(store.fsck(deep).unwrap().findings, []);

    // Wrong parents first: nothing changes.
    assert_eq!(kind(commit_on(&store, "done", "a", "missing")), ErrorKind::NotFound);
    assert_eq!(kind(commit(&store, "done", "a")), ErrorKind::Invalid, "nothing to link to");
    assert_eq!(store.stat(b"a").unwrap(), deferred);
    let done = commit_on(&store, "done", "a", "lower").unwrap();
    let chain = Digest::of(format!("{} {}", &below.layers[0], Digest::of(&tar)).as_bytes());
    assert_eq!(done.layers, [LayerId::of_chain(&chain)], "as an import of the image calls it");
    let layer = store.layer(&done.layers[0]).unwrap().unwrap();
    assert_eq!(layer.record.blobs, [], "the blob gives another layer elsewhere");
    assert_eq!(file_of(&layer.path, "link"), (0o640, b"below".to_vec()));
    assert_eq!(file_of(&layer.path, "dir").0, 0o700, "as it is below");
    assert!(!root.join(format!("snapshots/{}", done.id)).exists());

    // The same once more needs no conversion, and what was written comes on top.
    let active = prepare(&store, "b", "lower").unwrap();
    defer(&store, "b", &tar).unwrap();
    std::fs::write(upper(&store, &active).join("over"), "it").unwrap();
    let twice = commit(&store, "twice", "b").unwrap();
    assert_eq!((twice.layers.len(), &twice.layers[1]), (2, &done.layers[0]));
    assert_eq!(store.fsck(deep).unwrap().findings, []);
}

#[test]
fn a_deferred_layer_without_parent_is_a_base_layer() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    prepare(&store, "a", "").unwrap();
    let tar = dependent_tar(false);
    defer(&store, "a", &tar).unwrap();
    let done = commit(&store, "done", "a").unwrap();
    assert_eq!(done.layers, [LayerId::of_chain(&Digest::of(&tar))]);
    let layer = store.layer(&done.layers[0]).unwrap().unwrap();
    assert_eq!(file_of(&layer.path, "dir").0, 0o755);
}

#[test]
fn a_deferred_layer_that_was_damaged_is_refused_and_found() {
    let Fixture { store, directory } = Fixture::fast();
    let active = prepare(&store, "a", "").unwrap();
    defer(&store, "a", &dependent_tar(false)).unwrap();
    let root = directory.path().join("root");
    let path = root.join(format!("snapshots/{}/deferred", active.id));
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(kind(commit(&store, "done", "a")), ErrorKind::Corrupt);
    assert!(store.stat(b"a").unwrap().deferred.is_some());
    let report = store.fsck(FsckOptions::default()).unwrap();
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].code, "deferred-layer");
    // Lost altogether, it can be applied again.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(kind(commit(&store, "done", "a")), ErrorKind::NotFound);
    assert_eq!(store.fsck(FsckOptions::default()).unwrap().findings.len(), 1);
    defer(&store, "a", &dependent_tar(false)).unwrap();
    commit(&store, "done", "a").unwrap();
    assert_eq!(store.fsck(FsckOptions::default()).unwrap().findings, []);
}

#[test]
fn blobs_lead_to_the_layer_that_they_give() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    let blob = |index: u8| Digest::of(&[index]);
    let give = |store: &Store, index: u8| {
        let (staging, id, mut record) = staged_layer(store, b"layer");
        record.blobs = vec![blob(index)];
        store.add_layer(&staging, "image", id, record).unwrap()
    };
    let id = give(&store, 0);
    assert_eq!(store.layer_of_blob(&blob(1)).unwrap(), None);
    let count = u8::try_from(BLOBS_PER_LAYER).unwrap();
    for index in 0..=count {
        give(&store, index);
        let found = store.layer_of_blob(&blob(index)).unwrap().unwrap();
        assert_eq!(found.id, id);
    }
    assert_eq!(store.layer_of_blob(&blob(0)).unwrap(), None, "the oldest is forgotten");
    let record = store.layer(&id).unwrap().unwrap().record;
    assert_eq!(record.blobs, (1..=count).map(blob).collect::<Vec<_>>());
    assert_eq!(store.fsck(FsckOptions::default()).unwrap().findings, []);

    // One that depends on its parents is not found by its blob.
    let (staging, _, mut record) = staged_layer(&store, b"dependent");
    record.blobs = vec![blob(100)];
    store.add_layer(&staging, "image", LayerId::of_chain(&blob(7)), record).unwrap();
    assert_eq!(store.layer_of_blob(&blob(100)).unwrap(), None);

    std::fs::remove_file(store.layer(&id).unwrap().unwrap().path).unwrap();
    assert_eq!(store.layer_of_blob(&blob(1)).unwrap(), None, "no file");
    store.collect(&|_| false).unwrap();
    assert_eq!(store.export_metadata().unwrap()["layers"], serde_json::json!([]));
    assert_eq!(store.fsck(FsckOptions::default()).unwrap().findings, []);
}

#[test]
fn collecting_removes_layers_that_nothing_needs_and_nothing_else() {
    let Fixture { store, directory } = Fixture::fast();
    let image = add_image(&store, "example.org/one:1", &["base"]);
    store.remove_image("example.org/one:1").unwrap();
    committed(&store, "mine", "");
    prepare(&store, "a", "").unwrap();
    apply(&store, "a", b"applied").unwrap();
    let [mounted, pinned, free] =
        [&b"mounted"[..], b"pinned", b"free"].map(|content| add_layer(&store, content));
    let staging = Staging::new(store.root()).unwrap();
    staging.pin(&pinned).unwrap();
    let leftover = directory.path().join("root/snapshots/977");
    std::fs::create_dir(&leftover).unwrap();

    let collected = store.collect(&|id| *id == mounted).unwrap();
    assert_eq!(collected.layers, std::slice::from_ref(&free));
    assert!(collected.bytes > 0);
    assert_eq!(collected.kept.len(), 2);
    assert_eq!(collected.swept.removed, [leftover]);
    assert!(store.layer(&free).unwrap().is_none());
    assert!(store.stat(image.chain[0].as_bytes()).is_ok(), "an import's is gc's to remove");
    assert!(store.blob(&image.manifest).unwrap().is_some());
    drop(staging);
    let collected = store.collect(&|_| false).unwrap();
    assert_eq!(collected.layers.len(), 2);
    assert!(collected.kept.is_empty() && collected.swept.is_empty());
    assert_eq!(store.collect(&|_| false).unwrap(), store::Collected::default());
    assert_eq!(layer_files(&store), 3);
}

#[test]
fn what_is_gone_is_deleted_by_whoever_removed_it_or_by_a_later_sweep() {
    let Fixture { store, directory } = Fixture::fast();
    prepare(&store, "a", "").unwrap();
    prepare(&store, "b", "").unwrap();
    let layer = add_layer(&store, b"unneeded");
    let left = |root: &Path| {
        let names = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("rm-")).count()
    };
    let scope = store.scope(Origin::Local);
    let one = scope.unlink(b"a").unwrap();
    let (collected, other) = store.unlink_unneeded(&|_| false).unwrap();
    assert_eq!(kind(store.stat(b"a")), ErrorKind::NotFound);
    assert_eq!(collected.layers, [layer]);
    assert_eq!((layer_files(&store), left(store.root())), (0, 2));
    // Not a sweep's business while somebody is at it.
    assert!(store.collect(&|_| false).unwrap().swept.is_empty());
    one.delete();
    other.delete();
    assert_eq!(left(store.root()), 0);

    drop(scope.unlink(b"b").unwrap());
    assert_eq!(left(store.root()), 1, "nobody has deleted it");
    assert_eq!(store.collect(&|_| false).unwrap().swept.removed.len(), 1);
    assert_eq!(left(&directory.path().join("root")), 0);
}

#[test]
fn nothing_that_is_just_applied_is_collected() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..3)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..20 {
                        let key = format!("{thread}-{round}");
                        prepare(store, &key, "").unwrap();
                        // The same contents again and again, so that one thread's are another's leftovers.
                        apply(store, &key, format!("{}", round % 3).as_bytes()).unwrap();
                        let name = format!("{key}-done");
                        let done = commit(store, &name, &key).unwrap();
                        let layer = store.layer(&done.layers[0]).unwrap().unwrap();
                        assert!(layer.path.is_file());
                        store.remove(name.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        while running.iter().any(|thread| !thread.is_finished()) {
            let collected = store.collect(&|_| false).unwrap();
            assert!(collected.swept.kept.is_empty(), "{collected:?}");
        }
    });
    store.collect(&|_| false).unwrap();
    assert_eq!(layer_files(&store), 0);
    assert_eq!(store.fsck(FsckOptions::default()).unwrap().findings, []);
}
