//! Hash trees of layers: cryptsetup's reading of them, and what becomes of them. Needs `veritysetup` (cryptsetup-bin).

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fixture;

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use fixture::{add_layer, open};
use store::{FsckOptions, GcOptions, Layer, Store};

fn sealed(store: &Store, length: usize) -> Layer {
    let content: Vec<u8> = (0..length).map(|at| (at / 3) as u8).collect();
    let id = add_layer(store, &content);
    store.seal_layer(&id).unwrap();
    store.layer(&id).unwrap().unwrap()
}

/// veritysetup's own reading, in user space.
fn is_proved(layer: &Layer) -> bool {
    let (tree, verity) = layer.verity().unwrap();
    let output = Command::new("/usr/sbin/veritysetup")
        .arg("verify")
        .args([&layer.path, &tree])
        .arg(verity.root_hash.hex())
        .output()
        .expect("veritysetup of cryptsetup-bin is installed");
    output.status.success()
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn veritysetup_takes_the_trees_and_sees_every_change() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).unwrap();
    // Some bytes; a full block of digests and more; two levels above that.
    for length in [100, 600 << 10, 70 << 20] {
        let layer = sealed(&store, length);
        assert!(is_proved(&layer), "{length}");
        let (tree, verity) = layer.verity().unwrap();
        assert_eq!(std::fs::metadata(&tree).unwrap().len(), verity.tree_size);
        for (path, at) in [(&layer.path, layer.record.image_size - 1), (&tree, 4096)] {
            flip(path, at);
            assert!(!is_proved(&layer), "{length}: {}", path.display());
            flip(path, at);
        }
        assert!(is_proved(&layer));
    }
}

#[test]
fn a_tree_is_made_again_and_goes_with_its_layer() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path()).unwrap();
    let layer = sealed(&store, 100_000);
    let (tree, verity) = layer.verity().unwrap();
    let verity = verity.clone();
    assert_eq!(store.seal_layer(&layer.id).unwrap(), verity, "once more changes nothing");
    // What the import of the same layer does leaves it alone.
    let content: Vec<u8> = (0..100_000).map(|at| (at / 3) as u8).collect();
    add_layer(&store, &content);
    assert!(is_proved(&store.layer(&layer.id).unwrap().unwrap()));
    std::fs::remove_file(&tree).unwrap();
    let lost = store.fsck(FsckOptions::default()).unwrap();
    assert_eq!(lost.findings[0].code, "layer-verity", "{lost:?}");
    assert_eq!(store.seal_layer(&layer.id).unwrap(), verity, "the same tree");
    flip(&tree, 5000);
    let repair = FsckOptions { repair: true, ..FsckOptions::default() };
    let repaired = store.fsck(repair).unwrap();
    assert_eq!(repaired.findings[0].code, "layer-verity", "{repaired:?}");
    assert!(repaired.findings[0].repaired.is_some(), "{repaired:?}");
    assert!(store.fsck(FsckOptions::default()).unwrap().findings.is_empty());
    assert!(is_proved(&layer));
    // A tree that nobody recorded is a leftover.
    let stray = tree.with_file_name(format!("{}.verity", "7".repeat(64)));
    std::fs::write(&stray, "x").unwrap();
    drop(store);
    let store = open(root.path()).unwrap();
    assert!(!stray.exists() && tree.exists());
    store.gc(GcOptions::default(), &|_| false).unwrap();
    assert!(!tree.exists() && !layer.path.exists());
    let gone = store.seal_layer(&layer.id).unwrap_err();
    assert_eq!(gone.kind(), store::ErrorKind::NotFound);
}
