//! Layers that are CIMs: one a fork of the other, all in one directory.

#![allow(clippy::unwrap_used, reason = "in a test")]

mod fixture;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::PathBuf;

use cimfs::{Case, DirectorySet, Image};
use fixture::{Fixture, add_cim, kind, prepare, staged_cim, view};
#[cfg(target_os = "linux")]
use fixture::{add_layer, committed};
use layer::Digest;
use store::{ErrorKind, FsckOptions, GcOptions, Labels, LayerId, Staging, Store};

/// Three layers, each on the one before it, with a snapshot for each.
fn chain(store: &Store) -> [LayerId; 3] {
    let base = add_cim(store, "base", None);
    let middle = add_cim(store, "middle", Some(&base));
    let top = add_cim(store, "top", Some(&middle));
    store.commit_layer(b"one", None, &base, Labels::new()).unwrap();
    store.commit_layer(b"two", Some(b"one"), &middle, Labels::new()).unwrap();
    store.commit_layer(b"three", Some(b"two"), &top, Labels::new()).unwrap();
    [base, middle, top]
}

fn files(store: &Store) -> BTreeSet<String> {
    let names = std::fs::read_dir(store.root().join("cim-layers")).unwrap();
    names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect()
}

fn recorded(store: &Store) -> BTreeSet<String> {
    let layers = store.layers().unwrap();
    let parts = layers.into_iter().filter_map(|layer| layer.record.cim);
    parts.flat_map(|parts| parts.files).map(|file| file.name).collect()
}

fn read(store: &Store, layer: &LayerId, name: &str) -> Vec<u8> {
    let set = DirectorySet::new(store.root().join("cim-layers"));
    let image = Image::open(&set, &layer.file_name()).unwrap();
    let file = image.resolve(&name.into(), Case::Ignored).unwrap();
    let mut bytes = Vec::new();
    image.open_stream(&file.data()).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn codes(store: &Store, options: FsckOptions) -> Vec<(String, String)> {
    let report = store.fsck(options).unwrap();
    report.findings.into_iter().map(|finding| (finding.code.to_string(), finding.subject)).collect()
}

#[test]
fn a_chain_of_forks_lies_in_one_directory_and_reads_as_one_image() {
    let fixture = Fixture::fast().reopened();
    let store = &fixture.store;
    let [base, middle, top] = chain(store);
    assert_eq!(files(store), recorded(store));
    for (name, content) in [("BASE", "base"), ("middle", "middle"), ("Top", "top")] {
        assert_eq!(read(store, &top, name), content.repeat(3000).into_bytes());
    }
    view(store, "look", "three").unwrap();
    let seen = store.chain(b"look").unwrap();
    let ids: Vec<LayerId> = seen.layers.iter().map(|layer| layer.id.clone()).collect();
    assert_eq!(ids, [top.clone(), middle, base]);
    assert!(seen.layers[0].path.ends_with(format!("cim-layers/{}", top.file_name())));
    assert_eq!(store.layer_at(&seen.layers[0].path).unwrap().unwrap().id, top);
    // What a fork shares with those below it is theirs.
    let usage = store.stat(b"three").unwrap().usage;
    let own = seen.layers[0].record.cim.as_ref().unwrap().files.len() as u64;
    assert_eq!(usage.inodes, own);
    assert!(usage.size < 100_000, "{usage:?}");
    assert!(codes(store, FsckOptions { deep: true, ..FsckOptions::default() }).is_empty());
    // The same layer once more is no other.
    let before = files(store);
    let again = add_cim(store, "top", Some(&LayerId::of_cim(&chain_of(&["base", "middle"]))));
    assert_eq!((again, files(store)), (top, before));
}

/// The id's digest as the fixture makes it.
fn chain_of(contents: &[&str]) -> Digest {
    let step = |below: Option<Digest>, content: &&str| {
        let diff_id = Digest::of(content.as_bytes());
        Some(match below {
            None => diff_id,
            Some(below) => {
                let below = LayerId::of_cim(&below);
                Digest::of(format!("{below} {diff_id}").as_bytes())
            }
        })
    };
    contents.iter().fold(None, step).unwrap()
}

#[test]
fn what_a_kept_fork_needs_is_kept_and_all_goes_with_the_last() {
    let fixture = Fixture::fast();
    let store = &fixture.store;
    let [base, middle, top] = chain(store);
    let all = files(store);
    for name in ["three", "two", "one"] {
        store.remove(name.as_bytes()).unwrap();
    }
    // Mounted, by somebody who knows of the top one only.
    let mounted = |id: &LayerId| *id == middle;
    let collected = store.collect(&mounted).unwrap();
    assert_eq!(collected.layers, std::slice::from_ref(&top));
    let kept: BTreeSet<LayerId> = collected.kept.into_iter().collect();
    assert_eq!(kept, BTreeSet::from([base.clone(), middle.clone()]));
    assert_eq!(read(store, &middle, "base").len(), 12_000);
    // Pinned by an import that will refer to it.
    let staging = Staging::new(store.root()).unwrap();
    staging.pin(&middle).unwrap();
    assert!(store.collect(&|_| false).unwrap().layers.is_empty());
    let items = store.gc(GcOptions::default(), &|_| false).unwrap();
    assert!(items.iter().all(|item| item.kept) && items.len() == 2, "{items:?}");
    drop(staging);
    let collected = store.collect(&|_| false).unwrap();
    assert_eq!(collected.layers.len(), 2);
    assert!(collected.swept.is_empty(), "{:?}", collected.swept);
    assert!(all.len() > 6 && files(store).is_empty());
}

#[test]
fn files_that_belong_to_no_layer_are_swept_and_reported() {
    let fixture = Fixture::fast();
    chain(&fixture.store);
    let known = files(&fixture.store);
    let directory = fixture.root().join("cim-layers");
    let strays = [
        "region_00000000-0000-5000-8000-000000000001_0",
        "objectid_00000000-0000-5000-8000-000000000001_0",
        "region_00000000-0000-5000-8000-000000000001_1.tmp",
        "5555555555555555555555555555555555555555555555555555555555555555.cim",
    ];
    let strays: Vec<PathBuf> = strays.iter().map(|name| directory.join(name)).collect();
    strays.iter().for_each(|path| std::fs::write(path, "half").unwrap());
    let found = codes(&fixture.store, FsckOptions::default());
    let subjects: BTreeSet<&str> = found.iter().map(|(_, subject)| subject.as_str()).collect();
    assert!(found.iter().all(|(code, _)| code == "leftover") && found.len() == strays.len());
    assert!(strays.iter().all(|path| subjects.contains(path.to_str().unwrap())));
    let fixture = fixture.reopened();
    let removed: BTreeSet<&PathBuf> = fixture.store.swept().removed.iter().collect();
    assert_eq!(removed, strays.iter().collect());
    assert_eq!(files(&fixture.store), known);
}

#[test]
fn damage_is_found_and_a_new_import_repairs_it() {
    let fixture = Fixture::fast();
    let store = &fixture.store;
    let [base, middle, top] = chain(store);
    let parts = store.layer(&middle).unwrap().unwrap().record.cim.unwrap();
    let directory = store.root().join("cim-layers");
    let region = directory
        .join(&parts.files.iter().find(|file| file.name.starts_with("region")).unwrap().name);
    let whole = std::fs::read(&region).unwrap();
    let subject = format!("layer {middle}");
    let faulty = |code: &str| vec![(code.to_owned(), subject.clone())];

    let mut bytes = whole.clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&region, &bytes).unwrap();
    assert_eq!(codes(store, FsckOptions::default()), faulty("layer-checksum"));
    assert!(codes(store, FsckOptions { checksums: false, ..FsckOptions::default() }).is_empty());
    std::fs::write(&region, &whole[..whole.len() - 8]).unwrap();
    assert_eq!(codes(store, FsckOptions::default()), faulty("layer-length"));
    assert!(!store.has_layer(&middle).unwrap());
    std::fs::remove_file(&region).unwrap();
    assert_eq!(codes(store, FsckOptions::default()), faulty("layer-missing"));

    // Set aside, made again, and the fork of it is whole too.
    store.fsck(FsckOptions { repair: true, ..FsckOptions::default() }).unwrap();
    assert!(!directory.join(middle.file_name()).exists());
    add_cim(store, "middle", Some(&base));
    assert!(store.has_layer(&middle).unwrap());
    assert_eq!(read(store, &top, "middle").len(), 18_000);
    assert!(codes(store, FsckOptions { deep: true, ..FsckOptions::default() }).is_empty());
}

#[test]
#[cfg(target_os = "linux")]
fn the_two_kinds_of_layers_do_not_mix() {
    let fixture = Fixture::fast();
    let store = &fixture.store;
    let [base, ..] = chain(store);
    let linux = add_layer(store, b"linux");
    committed(store, "linux", "");
    let refused = |result: store::Result<_>| kind(result) == ErrorKind::FailedPrecondition;
    assert!(refused(store.commit_layer(b"a", Some(b"one"), &linux, Labels::new())));
    assert!(refused(store.commit_layer(b"b", Some(b"linux"), &base, Labels::new())));
    prepare(store, "on windows", "three").unwrap();
    assert!(refused(store.apply_known_layer(b"on windows", &linux)));
    prepare(store, "on linux", "linux").unwrap();
    assert!(refused(store.apply_known_layer(b"on linux", &base)));
    // A fork of another image than the one below.
    assert!(refused(store.apply_known_layer(b"on windows", &base)));
    let (staging, id, record) = staged_cim(store, "new", Some(&base));
    assert!(refused(store.apply_layer(b"on windows", &staging, "", &id, &record)));
    assert!(codes(store, FsckOptions::default()).is_empty());
}

#[test]
fn a_layer_is_applied_and_committed_but_nothing_written_is() {
    let fixture = Fixture::fast();
    let store = &fixture.store;
    let [.., top] = chain(store);
    prepare(store, "extract", "three").unwrap();
    let (staging, id, record) = staged_cim(store, "new", Some(&top));
    store.apply_layer(b"extract", &staging, "", &id, &record).unwrap();
    drop(staging);
    let snapshot = fixture::commit(store, "four", "extract").unwrap();
    assert_eq!(snapshot.layers, std::slice::from_ref(&id));
    assert_eq!(read(store, &id, "base").len(), 12_000);

    // Nothing was applied: there is no layer to commit, written or not.
    let active = prepare(store, "container", "four").unwrap();
    assert_eq!(kind(fixture::commit(store, "five", "container")), ErrorKind::FailedPrecondition);
    std::fs::write(fixture::upper(store, &active).join("new"), "new").unwrap();
    assert_eq!(kind(fixture::commit(store, "five", "container")), ErrorKind::FailedPrecondition);
    assert_eq!(store.list(&["name==five"]).unwrap().len(), 0);
    store.remove(b"container").unwrap();
    assert!(codes(store, FsckOptions::default()).is_empty());
}
