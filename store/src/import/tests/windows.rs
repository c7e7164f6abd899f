//! Images for Windows: their layers become CIMs, each a fork of the one below.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use cimfs::{Case, DirectorySet, Image};

use super::*;

/// Two images that share their base: one of three layers, one of two.
fn windows() -> Vec<u8> {
    let hives = ["SYSTEM", "SOFTWARE", "SAM", "SECURITY", "DEFAULT"];
    let hives = hives.map(|name| format!("Files/Windows/System32/config/{name}"));
    let big: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
    let mut base: Vec<(&str, &[u8])> =
        hives.iter().map(|path| (path.as_str(), &b"hive"[..])).collect();
    base.extend([("Files/tool.exe", &big[..]), ("Files/old/text", b"old")]);
    let layer = |files: &[(&str, &[u8])]| {
        let mut all: Vec<(&str, &[u8])> = files.to_vec();
        all.push(("Hives/note", b""));
        layer_tar(&all)
    };
    let tars = [
        layer_tar(&base),
        layer(&[("Files/.wh.old", b""), ("Files/new", b"new")]),
        layer(&[("Files/new", b"newer")]),
        layer(&[("Files/other", b"other")]),
    ];
    let mut files = Files::layout();
    let suffixes = ["+gzip", "+zstd", "", "+gzip"];
    let layers: Vec<Layer> =
        tars.iter().zip(suffixes).map(|(tar, suffix)| files.layer(tar, suffix)).collect();
    let one = files.image("windows/amd64", &layers[..3]);
    let two = files.image("windows/amd64", &[layers[0].clone(), layers[3].clone()]);
    files.index(&[named(one, "one"), named(two, "two")]);
    files.tar()
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.options.platform = Some("windows/amd64".parse().unwrap());
    bench
}

fn text(store: &Store, id: &LayerId, path: &str) -> Option<String> {
    let set = DirectorySet::new(store.root().join("cim-layers"));
    let image = Image::open(&set, &id.file_name()).unwrap();
    let file = image.resolve(&path.into(), Case::Ignored).ok()?;
    let mut text = String::new();
    image.open_stream(&file.data()).unwrap().read_to_string(&mut text).unwrap();
    Some(text)
}

#[test]
fn every_layer_is_a_fork_of_the_one_below() {
    let bench = bench();
    let images = bench.import(&windows()).unwrap();
    let store = bench.open();
    let record = store.image("one").unwrap().unwrap();
    assert_eq!((record.platform.as_str(), record.layers.len()), ("windows/amd64", 3));
    for (id, chain) in record.layers.iter().zip(&record.chain) {
        assert_eq!(id.as_str(), format!("cim:{chain}"));
    }
    let [base, middle, top] = record.layers.clone().try_into().unwrap();
    assert_eq!(text(&store, &base, "files/OLD/text").as_deref(), Some("old"));
    assert_eq!(text(&store, &middle, "Files/old/text"), None);
    assert_eq!(text(&store, &middle, "Files/new").as_deref(), Some("new"));
    assert_eq!(text(&store, &top, "Files/new").as_deref(), Some("newer"));
    assert_eq!(text(&store, &top, "Hives/SYSTEM_BASE").as_deref(), Some("hive"));
    let other = store.image("two").unwrap().unwrap().layers[1].clone();
    assert_eq!(text(&store, &other, "Files/old/text").as_deref(), Some("old"));
    assert_eq!(text(&store, &other, "Files/new"), None);
    assert_eq!(store.layers().unwrap().len(), 4);
    let usage = store.stat(record.chain[2].as_bytes()).unwrap().usage;
    assert!(usage.size < 200_000, "the base's data is the base's: {usage:?}");
    let report = store.fsck(crate::FsckOptions { deep: true, ..Default::default() }).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(listing(&store.root().join("staging")).is_empty());
    drop(store);

    // Once more: nothing is read again.
    let again = bench.import(&windows()).unwrap();
    assert!(again.iter().flat_map(|image| &image.layers).all(|layer| layer.reused));
    assert_eq!(again[0].chain, images[0].chain);

    let store = bench.open();
    store.remove_image("one").unwrap();
    let gone = store.gc(crate::GcOptions::default(), &|_| false).unwrap();
    assert!(!gone.is_empty());
    assert_eq!(store.layers().unwrap().len(), 2);
    assert_eq!(text(&store, &other, "Files/old/text").as_deref(), Some("old"));
    store.remove_image("two").unwrap();
    store.gc(crate::GcOptions::default(), &|_| false).unwrap();
    assert!(listing(&store.root().join("cim-layers")).is_empty());
}

#[test]
fn a_layer_that_was_lost_is_made_again_as_it_was() {
    let bench = bench();
    bench.import(&windows()).unwrap();
    let before = bench.state();
    let store = bench.open();
    let middle = store.image("one").unwrap().unwrap().layers[1].clone();
    let lost = store.layer(&middle).unwrap().unwrap().record.cim.unwrap().files[0].name.clone();
    drop(store);
    std::fs::remove_file(bench.root().join("cim-layers").join(lost)).unwrap();
    bench.import(&windows()).unwrap();
    assert_eq!(bench.state(), before);
}

#[test]
fn layers_for_linux_are_none_for_windows() {
    let mut files = Files::layout();
    let layer = files.layer(&layer_tar(&[("etc/name", b"linux")]), "");
    let image = files.image("windows/amd64", &[layer]);
    files.index(&[named(image, "wrong")]);
    let bench = bench();
    let error = bench.import(&files.tar()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(listing(&bench.root().join("cim-layers")).is_empty());
    assert!(listing(&bench.root().join("staging")).is_empty());
    let export = || {
        bench.import(&windows()).unwrap();
        bench.open().plan_export("one").unwrap_err().kind()
    };
    assert_eq!(export(), ErrorKind::Unsupported);
}

const ROOT: &str = "PLYWOOD_TEST_WINDOWS_IMPORT";

#[test]
#[ignore = "the child of crashed_imports"]
fn import_that_crashes() {
    let directory = PathBuf::from(std::env::var_os(ROOT).expect("set by the parent"));
    let options = ImportOptions {
        platform: Some("windows/amd64".parse().unwrap()),
        jobs: NonZeroUsize::new(1),
        ..ImportOptions::default()
    };
    let sources = vec![Source::Path(directory.join("windows.tar"))];
    import(&directory.join("store"), sources, &options, &(), &Cancel::new()).unwrap();
}

/// Killed at every point: region files that no image knows are gone with the next opening, and an import completes.
#[test]
fn crashed_imports() {
    const ABORTED: i32 = 6;
    let reference = bench();
    reference.import(&windows()).unwrap();
    let complete = reference.state();
    for (point, images) in [
        ("import-converted", 0),
        ("import-converted:3", 0),
        ("layer-synced:2", 0),
        ("layer-renamed", 0),
        ("layer-renamed:4", 0),
        ("layer-renamed:9", 0),
        ("layer-directory-synced:2", 0),
        ("import-done", 1),
        ("import-done:2", 2),
    ] {
        let bench = bench();
        drop(bench.open());
        let empty = bench.state();
        std::fs::write(bench.directory.path().join("windows.tar"), windows()).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "import::tests::windows::import_that_crashes"])
            .env("PLYWOOD_FAILPOINT", point)
            .env(ROOT, bench.directory.path())
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(ABORTED), "{point}: {child:?}");
        // Sweeps.
        drop(bench.open());
        let after = bench.state();
        assert_eq!(after.images.len(), images, "{point}");
        if images == 0 {
            assert_eq!(after, empty, "{point}");
        }
        bench.import(&windows()).unwrap();
        assert_eq!(bench.state().files, complete.files, "{point}");
        assert_eq!(bench.state().layers, complete.layers, "{point}");
    }
}
