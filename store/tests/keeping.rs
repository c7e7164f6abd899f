//! gc, fsck, repair, and the exported metadata.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use std::os::unix::fs::FileExt;
use std::path::Path;

use fixture::{
    Fixture, add_image, add_layer, committed, labels, open, prepare, staged_layer, view,
};
use store::{
    Finding, FsckOptions, FsckReport, GcItem, GcObject, GcOptions, Labels, LayerId, Scratch, Store,
};

const TABLE_SNAPSHOTS: &str = "snapshots";

fn gc(store: &Store) -> Vec<GcItem> {
    let planned = store.gc(GcOptions { dry_run: true }, &|_| false).unwrap();
    let done = store.gc(GcOptions::default(), &|_| false).unwrap();
    assert_eq!(planned, done, "a dry run says what is then done");
    done
}

fn gone(items: &[GcItem]) -> Vec<String> {
    let text = |what: &GcObject| match what {
        GcObject::Snapshot(key) => format!("snapshot {}", String::from_utf8_lossy(key)),
        GcObject::Layer(id) => format!("layer {id}"),
        GcObject::Blob(digest) => format!("blob {digest}"),
        GcObject::Leftover(path) => format!("leftover {}", path.file_name().unwrap().display()),
    };
    let mut gone: Vec<String> =
        items.iter().filter(|item| !item.kept).map(|item| text(&item.what)).collect();
    gone.sort();
    gone
}

#[test]
fn gc_keeps_what_images_and_users_need() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    let one = add_image(&store, "example.org/one:1", &["base", "one"]);
    let two = add_image(&store, "example.org/two:1", &["base", "two"]);
    assert_eq!(gc(&store), []);
    prepare(&store, "container", &two.chain[1]).unwrap();
    committed(&store, "mine", &one.chain[1]);
    store.remove_image("example.org/one:1").unwrap();
    store.remove_image("example.org/two:1").unwrap();
    // Only the documents: an active snapshot and a user's commit hold both chains.
    let mut blobs: Vec<String> = [one.manifest, one.config, two.manifest, two.config]
        .iter()
        .map(|digest| format!("blob {digest}"))
        .collect();
    blobs.sort();
    assert_eq!(gone(&gc(&store)), blobs);
    assert!(gc(&store).is_empty());

    store.remove(b"container").unwrap();
    assert_eq!(
        gone(&gc(&store)),
        [format!("layer {}", two.layers[1]), format!("snapshot {}", two.chain[1])]
    );
    let mine = store.stat(b"mine").unwrap().layers[0].clone();
    store.remove(b"mine").unwrap();
    let items = gc(&store);
    assert_eq!(items.len(), 5);
    for item in &items {
        let layer = matches!(item.what, GcObject::Layer(_));
        assert_eq!(item.bytes > 0, layer, "{item:?}");
        assert!(!item.why.is_empty());
    }
    assert!(gone(&items).contains(&format!("layer {mine}")));
    assert_eq!(store.layers().unwrap(), []);
    assert_eq!(std::fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
    assert_eq!(store.list(&[]).unwrap(), []);
}

#[test]
fn gc_leaves_mounted_and_pinned_layers() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    let [mounted, pinned, free] =
        [&b"mounted"[..], b"pinned", b"free"].map(|content| add_layer(&store, content));
    let staging = store::Staging::new(store.root()).unwrap();
    staging.pin(&pinned).unwrap();
    staging.pin(&pinned).unwrap();
    let items = store.gc(GcOptions::default(), &|id| *id == mounted).unwrap();
    let of =
        |id: &LayerId| items.iter().find(|item| item.what == GcObject::Layer(id.clone())).unwrap();
    assert!(of(&mounted).kept && of(&mounted).why.contains("mounted"));
    assert!(of(&pinned).kept && of(&pinned).why.contains("pinned"));
    assert!(!of(&free).kept);
    assert!(
        store.has_layer(&mounted).unwrap()
            && store.has_layer(&pinned).unwrap()
            && !store.has_layer(&free).unwrap()
    );
    drop(staging);
    assert_eq!(gone(&gc(&store)).len(), 2, "nobody needs them any more");
}

#[test]
fn gc_names_leftovers() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    std::fs::create_dir(store.root().join("rm-5")).unwrap();
    assert_eq!(gone(&gc(&store)), ["leftover rm-5"]);
    assert!(!store.root().join("rm-5").exists());
}

fn fsck(root: &Path, repair: bool) -> FsckReport {
    open(root).unwrap().fsck(FsckOptions { repair, deep: true, ..FsckOptions::default() }).unwrap()
}

fn codes(report: &FsckReport) -> Vec<(&str, bool)> {
    report.findings.iter().map(|finding| (&*finding.code, finding.repaired.is_some())).collect()
}

/// Writes into the tables behind the store's back; `None` deletes.
fn tamper(root: &Path, table: &str, key: &[u8], change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
    let database = redb::Database::open(root.join("metadata.redb")).unwrap();
    let write = database.begin_write().unwrap();
    {
        let table: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new(table);
        let mut table = write.open_table(table).unwrap();
        let old =
            redb::ReadableTable::get(&table, key).unwrap().map(|value| value.value().to_vec());
        match change(old.unwrap_or_default()) {
            Some(new) => drop(table.insert(key, new.as_slice()).unwrap()),
            None => drop(table.remove(key).unwrap()),
        }
    }
    write.commit().unwrap();
}

fn replaced(from: &'static str, to: &'static str) -> impl FnOnce(Vec<u8>) -> Option<Vec<u8>> {
    move |old| {
        let old = String::from_utf8(old).unwrap();
        let new = old.replace(from, to);
        assert_ne!(old, new);
        Some(new.into_bytes())
    }
}

#[test]
fn a_healthy_store_is_clean() {
    let Fixture { store, directory } = Fixture::fast();
    add_image(&store, "example.org/one:1", &["base", "one"]);
    committed(&store, "mine", "");
    prepare(&store, "a", "mine").unwrap();
    store.prepare(b"i", Some(b"mine"), Labels::new(), Scratch::Image { size: 8 << 20 }).unwrap();
    view(&store, "v", "").unwrap();
    drop(store);
    let report = fsck(&directory.path().join("root"), false);
    assert_eq!(report.findings, []);
    assert!(report.is_clean());
    assert_eq!((report.snapshots, report.layers, report.images, report.blobs), (6, 3, 1, 2));
    assert!(report.bytes > 0);
}

/// Schema 1 had one `layer` for a snapshot.
#[test]
fn a_store_of_schema_1_is_read_as_it_is() {
    let Fixture { store, directory } = Fixture::fast();
    let root = directory.path().join("root");
    let mine = committed(&store, "mine", "");
    add_image(&store, "example.org/one:1", &["base", "one"]);
    let before = store.list(&[]).unwrap();
    drop(store);
    let older = |old: Vec<u8>| {
        let old = String::from_utf8(old).unwrap();
        let new = old.replace("\"layers\":[", "\"layer\":").replace("\"],", "\",");
        assert_ne!(old, new);
        Some(new.into_bytes())
    };
    for snapshot in &before {
        tamper(&root, "snapshots", &snapshot.key, older);
    }
    tamper(&root, "meta", b"schema", |_| Some(b"1".to_vec()));
    let reading = store::OpenOptions { read_only: true, ..store::OpenOptions::default() };
    assert_eq!(Store::open(&root, reading).unwrap().list(&[]).unwrap(), before);
    tamper(&root, "meta", b"schema", |schema| {
        assert_eq!(schema, b"1", "reading changes nothing");
        Some(schema)
    });
    let store = open(&root).unwrap();
    assert_eq!(store.list(&[]).unwrap(), before);
    view(&store, "v", "mine").unwrap();
    assert_eq!(store.chain(b"v").unwrap().layers[0].id, mine.layers[0]);
    assert!(store.gc(GcOptions::default(), &|_| false).unwrap().is_empty(), "all is needed");
    assert_eq!(store.fsck(FsckOptions::default()).unwrap().findings, []);
    drop(store);
    tamper(&root, "meta", b"schema", |schema| {
        assert_eq!(
            schema,
            store::SCHEMA.to_string().as_bytes(),
            "an older Plywood would drop layers"
        );
        Some(schema)
    });
}

#[test]
fn links_and_counters_are_rebuilt() {
    let Fixture { store, directory } = Fixture::fast();
    let root = directory.path().join("root");
    let base = committed(&store, "base", "").id;
    let child = prepare(&store, "child", "base").unwrap().id;
    // Without a directory whose name would tell its number.
    let last = committed(&store, "last", "").id;
    drop(store);
    let link = [base.to_be_bytes(), child.to_be_bytes()].concat();
    tamper(&root, "children", &link, |_| None);
    tamper(&root, "children", &[9; 16], |_| Some(b"nobody".to_vec()));
    tamper(&root, "meta", b"sequence", |_| Some(b"1".to_vec()));
    let found = fsck(&root, false);
    assert_eq!(codes(&found), [("back-links", false), ("sequence", false)]);
    assert!(!found.is_clean());
    let repaired = fsck(&root, true);
    assert_eq!(codes(&repaired), [("back-links", true), ("sequence", true)]);
    assert!(repaired.is_clean());
    assert_eq!(fsck(&root, false).findings, []);
    let store = open(&root).unwrap();
    assert!(store.remove(b"base").is_err());
    assert_eq!(prepare(&store, "next", "").unwrap().id, last + 1);
}

#[test]
fn damaged_layers_name_the_images_to_import_again() {
    let Fixture { store, directory } = Fixture::new();
    let root = directory.path().join("root");
    add_image(&store, "example.org/one:1", &["base", "one"]);
    add_image(&store, "example.org/two:1", &["base", "two"]);
    let mine = committed(&store, "mine", "").layers[0].clone();
    let path = |id: &LayerId| store.layer(id).unwrap().unwrap().path;
    let image = store.image("example.org/one:1").unwrap().unwrap();
    let [base, one] = [path(&image.layers[0]), path(&image.layers[1])];
    let mine = path(&mine);
    drop(store);
    let flip = std::fs::OpenOptions::new().read(true).write(true).open(&base).unwrap();
    let mut byte = [0];
    let at = flip.metadata().unwrap().len() - 1;
    flip.read_exact_at(&mut byte, at).unwrap();
    flip.write_all_at(&[byte[0] ^ 1], at).unwrap();
    std::fs::remove_file(&one).unwrap();
    std::fs::OpenOptions::new().append(true).open(&mine).unwrap().set_len(100).unwrap();

    let report = fsck(&root, false);
    let of = |report: &FsckReport, code: &str| -> Finding {
        let found: Vec<_> = report.findings.iter().filter(|finding| finding.code == code).collect();
        assert_eq!(found.len(), 1, "{code}: {report:?}");
        found[0].clone()
    };
    assert_eq!(report.findings.len(), 3);
    assert_eq!(
        of(&report, "layer-checksum").advice.unwrap(),
        "import again: example.org/one:1, example.org/two:1"
    );
    assert_eq!(of(&report, "layer-missing").advice.unwrap(), "import again: example.org/one:1");
    assert!(of(&report, "layer-length").advice.unwrap().contains("remove what is based on mine"));
    assert!(base.exists() && mine.exists(), "only a repair moves anything");

    let report = fsck(&root, true);
    assert!(!report.is_clean(), "what is lost cannot be repaired");
    assert!(of(&report, "layer-checksum").advice.unwrap().starts_with("set aside as "));
    assert!(!base.exists() && !mine.exists());
    // Importing again brings them back.
    let store = open(&root).unwrap();
    assert!(
        store.swept().is_empty(),
        "what was set aside is nobody's leftover: {:?}",
        store.swept()
    );
    for content in ["base", "one"] {
        let (staging, id, record) = staged_layer(&store, content.as_bytes());
        assert!(!store.has_layer(&id).unwrap());
        store.add_layer(&staging, "image", id, record).unwrap();
    }
    drop(store);
    assert_eq!(
        codes(&fsck(&root, false)),
        [("layer-missing", false)],
        "only the user's own is gone"
    );
}

#[test]
fn records_that_contradict_each_other_are_found_and_left_alone() {
    let Fixture { store, directory } = Fixture::fast();
    let root = directory.path().join("root");
    add_image(&store, "example.org/one:1", &["base", "one"]);
    committed(&store, "gone", "");
    prepare(&store, "orphan", "gone").unwrap();
    prepare(&store, "damaged", "").unwrap();
    drop(store);
    tamper(&root, TABLE_SNAPSHOTS, b"gone", |_| None);
    let report = fsck(&root, true);
    assert_eq!(codes(&report), [("parent-missing", false), ("back-links", true)]);
    assert_eq!(report.findings[0].subject, "snapshot orphan");

    tamper(&root, TABLE_SNAPSHOTS, b"chain:base", |_| None);
    let report = fsck(&root, false);
    let found: Vec<&str> = report.findings.iter().map(|finding| &*finding.code).collect();
    assert!(found.contains(&"image-snapshot-missing"), "{report:?}");

    tamper(&root, TABLE_SNAPSHOTS, b"damaged", |_| Some(b"{".to_vec()));
    std::fs::create_dir(root.join("snapshots/99")).unwrap();
    let store = open(&root).unwrap();
    assert!(root.join("snapshots/99").exists(), "nothing is swept while a record cannot be read");
    assert_eq!(store.swept().kept.len(), 1);
    assert!(store.stat(b"orphan").is_ok());
    assert_eq!(store.stat(b"damaged").unwrap_err().kind(), store::ErrorKind::Corrupt);
    assert_eq!(
        store.gc(GcOptions::default(), &|_| false).unwrap_err().kind(),
        store::ErrorKind::Corrupt
    );
    let report = store.fsck(FsckOptions::default()).unwrap();
    assert!(codes(&report).contains(&("record-unreadable", false)), "{report:?}");
    assert!(!report.findings.iter().any(|finding| finding.code == "leftover"), "{report:?}");
}

#[test]
fn kinds_circles_and_numbers_are_checked() {
    let Fixture { store, directory } = Fixture::fast();
    let root = directory.path().join("root");
    committed(&store, "one", "");
    committed(&store, "two", "one");
    prepare(&store, "active", "two").unwrap();
    drop(store);
    tamper(
        &root,
        TABLE_SNAPSHOTS,
        b"one",
        replaced("\"kind\":\"committed\"", "\"kind\":\"committed\",\"parent\":\"two\""),
    );
    tamper(&root, TABLE_SNAPSHOTS, b"active", replaced("\"id\":3", "\"id\":2"));
    let report = fsck(&root, false);
    let found: Vec<&str> = report.findings.iter().map(|finding| &*finding.code).collect();
    assert!(found.contains(&"parents-in-circle") && found.contains(&"number-twice"), "{report:?}");
    let store = open(&root).unwrap();
    assert_eq!(
        store.chain(b"active").unwrap_err().kind(),
        store::ErrorKind::Corrupt,
        "and does not run for ever"
    );
}

#[test]
fn damaged_blobs_are_found_and_written_anew() {
    let Fixture { store, directory } = Fixture::fast();
    let root = directory.path().join("root");
    let image = add_image(&store, "example.org/one:1", &["base"]);
    drop(store);
    tamper(&root, "blobs", image.manifest.to_string().as_bytes(), |_| Some(b"other".to_vec()));
    tamper(&root, "blobs", image.config.to_string().as_bytes(), |_| None);
    let report = fsck(&root, true);
    assert_eq!(codes(&report), [("blob-digest", false), ("blob-missing", false)]);
    assert_eq!(report.findings[0].advice.as_deref(), Some("import again: example.org/one:1"));
    let store = open(&root).unwrap();
    add_image(&store, "example.org/one:1", &["base"]);
    drop(store);
    assert_eq!(fsck(&root, false).findings, []);
}

#[test]
fn leftovers_and_lost_scratches_are_repaired() {
    let Fixture { store, directory } = Fixture::fast();
    let root = directory.path().join("root");
    let active = prepare(&store, "a", "").unwrap();
    std::fs::create_dir(root.join("snapshots/77")).unwrap();
    std::fs::remove_dir(root.join(format!("snapshots/{}/work", active.id))).unwrap();
    let found = store.fsck(FsckOptions::default()).unwrap();
    assert_eq!(codes(&found), [("scratch-missing", false), ("leftover", false)]);
    let repaired = store.fsck(FsckOptions { repair: true, ..FsckOptions::default() }).unwrap();
    assert_eq!(codes(&repaired), [("scratch-missing", true), ("leftover", true)]);
    assert_eq!(store.fsck(FsckOptions::default()).unwrap().findings, []);
}

#[test]
fn the_exported_metadata_is_stable() {
    let Fixture { store, directory: _directory } = Fixture::fast();
    add_image(&store, "example.org/one:1", &["base", "one"]);
    store
        .prepare(
            b"a",
            Some(b"chain:base"),
            labels(&[("team", "one")]),
            Scratch::Image { size: 8 << 20 },
        )
        .unwrap();
    prepare(&store, "b", "").unwrap();
    store.view(b"\xff\x01", None, Labels::new()).unwrap();
    store.commit(b"c", b"b", &fixture::commit_options(&[("k", "v")])).unwrap();
    let text = serde_json::to_string_pretty(&store.export_metadata().unwrap()).unwrap();
    insta::with_settings!({ filters => [
        (r#""(created|updated)": \d{19}"#, r#""$1": "[time]""#),
        (r"commit:[0-9a-f]{64}", "commit:[checksum]"),
        (r#"("diff_id": null,\s+)?"checksum": "blake3:[0-9a-f]{64}""#, r#""checksum": "[checksum]""#),
        (r#""uuid": "[0-9a-f-]{36}""#, r#""uuid": "[uuid]""#),
        (r#""(image_size|size)": \d+,\n(\s+)"(inodes|tar_size|uuid)"#, "\"$1\": \"[size]\",\n$2\"$3"),
        (r#""inodes": 1,\n(\s+)"size": \d+"#, "\"inodes\": 1,\n$1\"size\": \"[size]\""),
    ] }, { insta::assert_snapshot!("metadata", text) });
}

#[test]
fn a_check_goes_on_beside_other_threads() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("root")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..2000_u32 {
                let key = number.to_string();
                let labels = store::Labels::new();
                store.prepare(key.as_bytes(), None, labels, store::Scratch::Directory).unwrap();
                store.remove(key.as_bytes()).unwrap();
                if done.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
        });
        for repair in [false, true, false, true] {
            let options = FsckOptions { repair, ..FsckOptions::default() };
            assert_eq!(store.fsck(options).unwrap().findings, []);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
