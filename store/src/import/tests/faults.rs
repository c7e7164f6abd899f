//! Imports that do not come to their end: the store must be as before.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use super::*;

/// A store with one image in it, and what it holds.
fn populated() -> (Bench, State) {
    let bench = Bench::new();
    bench.import(&docker_archive("linux/amd64", &[layer_tar(&[("a", b"1")])], &["first"])).unwrap();
    let state = bench.state();
    (bench, state)
}

/// Three layers, the middle one changed by `edit` after its digest was taken; the top one may need it.
fn with_middle(
    tar: &[u8],
    top: &[u8],
    edit: impl Fn(&mut Vec<u8>, &mut serde_json::Value),
) -> Vec<u8> {
    let mut files = Files::layout();
    let bottom = files.layer(&layer_tar(&[("bottom", &[1; 100_000])]), "");
    let mut middle = files.layer(tar, "+gzip");
    let digest: Digest = middle.descriptor["digest"].as_str().unwrap().parse().unwrap();
    let blob = files.0.get_mut(&fixture::blob_path(digest)).unwrap();
    edit(blob, &mut middle.descriptor);
    let top = files.layer(top, "");
    let image = files.image("linux/amd64", &[bottom, middle, top]);
    files.index(&[named(image, "second")]);
    files.tar()
}

#[test]
fn a_layer_that_fails_leaves_nothing() {
    let (bench, before) = populated();
    let noise: Vec<u8> =
        (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let tar = layer_tar(&[("noise", &noise)]);
    let top = layer_tar(&[("top", b"t")]);
    let needy = with_links(top.clone(), &[("link", "noise")]);
    let flip = |blob: &mut Vec<u8>, _: &mut serde_json::Value| {
        let middle = blob.len() / 2;
        blob[middle] ^= 0x55;
    };
    let fine = |_: &mut Vec<u8>, _: &mut serde_json::Value| {};
    let false_digest = |_: &mut Vec<u8>, descriptor: &mut serde_json::Value| {
        // Another blob of the archive, with its own size: only the diffID tells.
        let other = layer_tar(&[("bottom", &[1; 100_000])]);
        descriptor["digest"] = json!(Digest::of(&other));
        descriptor["size"] = json!(other.len());
    };
    let trailing = |blob: &mut Vec<u8>, descriptor: &mut serde_json::Value| {
        blob.push(0);
        descriptor["size"] = json!(blob.len());
    };
    let lost = with_links(tar.clone(), &[("link", "nowhere")]);
    let cases = [
        ("damaged", with_middle(&tar, &top, flip), ErrorKind::Corrupt),
        ("damaged, and needed above", with_middle(&tar, &needy, flip), ErrorKind::Corrupt),
        ("another layer", with_middle(&tar, &top, false_digest), ErrorKind::Corrupt),
        ("a byte too many", with_middle(&tar, &top, trailing), ErrorKind::Corrupt),
        ("cut tar", with_middle(&tar[..200_000], &top, fine), ErrorKind::Corrupt),
        ("link to nothing", with_middle(&lost, &top, fine), ErrorKind::Invalid),
        ("no tar", with_middle(&noise, &top, fine), ErrorKind::Corrupt),
    ];
    for (what, archive, kind) in cases {
        for jobs in 1..=3 {
            let options = ImportOptions { jobs: NonZeroUsize::new(jobs), ..bench.options.clone() };
            let error = bench.import_with(&archive, &options, &(), &Cancel::new()).expect_err(what);
            assert_eq!(error.kind(), kind, "{what}: {error:?}");
            assert!(error.to_string().starts_with("importing layer sha256:"), "{what}: {error}");
            assert_eq!(bench.state(), before, "{what}, {jobs} jobs");
        }
    }
    let limited = ImportOptions { max_size: Some(50_000), ..bench.options.clone() };
    let good = with_middle(&tar, &needy, fine);
    let error = bench.import_with(&good, &limited, &(), &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(bench.state(), before);
    bench.import(&good).unwrap();
}

#[test]
fn cancelled_anywhere() {
    let (bench, before) = populated();
    let archive = rich();
    for stop in [1, 3, 7, 12] {
        let cancel = Cancel::new();
        let seen = AtomicUsize::new(0);
        let progress = |event: &Event<'_>| {
            assert!(!matches!(event, Event::Committed { .. }));
            if seen.fetch_add(1, Ordering::Relaxed) == stop {
                cancel.cancel();
            }
        };
        let error = bench.import_with(&archive, &bench.options, &progress, &cancel).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
        assert_eq!(bench.state(), before);
    }
}

#[test]
fn a_store_that_is_in_use() {
    let (bench, _) = populated();
    let store = bench.open();
    let options = ImportOptions { wait: Duration::ZERO, ..bench.options.clone() };
    let error = bench.import_with(&rich(), &options, &(), &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    drop(store);
}

#[test]
fn the_store_is_free_during_conversion() {
    let (bench, _) = populated();
    let opened = AtomicUsize::new(0);
    let progress = |event: &Event<'_>| {
        if let Event::LayerStarted { .. } = event {
            drop(bench.open());
            opened.fetch_add(1, Ordering::Relaxed);
        }
    };
    let options = ImportOptions { jobs: NonZeroUsize::new(1), ..bench.options.clone() };
    bench.import_with(&rich(), &options, &progress, &Cancel::new()).unwrap();
    assert!(opened.into_inner() >= 6);
}

/// Layers found at the start are needed at the end, whatever gc comes between.
#[test]
fn a_gc_in_between_spares_what_was_found() {
    let bench = Bench::new();
    let archive = rich();
    bench.import(&archive).unwrap();
    let fresh = with_middle(&layer_tar(&[("m", b"m")]), &layer_tar(&[("top", b"top")]), |_, _| {});
    let progress = |event: &Event<'_>| {
        if let Event::LayerStarted { layer: 0 } = event {
            let store = bench.open();
            store.remove_image("rich").unwrap();
            store.remove_image("sharing:2").unwrap();
            store.gc(crate::GcOptions::default(), &|_| false).unwrap();
        }
    };
    let images = bench.import_with(&fresh, &bench.options, &progress, &Cancel::new()).unwrap();
    assert!(images[0].layers[2].reused);
    let store = bench.open();
    assert_eq!(content(&store, &images[0].layers[2].id, "/top"), b"top");
}

const ROOT: &str = "PLYWOOD_TEST_ROOT";

#[test]
#[ignore = "the child of crashed_imports"]
fn import_that_crashes() {
    let directory = PathBuf::from(std::env::var_os(ROOT).expect("set by the parent"));
    let options = ImportOptions {
        platform: Some("linux/amd64".parse().unwrap()),
        jobs: NonZeroUsize::new(2),
        ..ImportOptions::default()
    };
    let sources = vec![Source::Path(directory.join("rich.tar"))];
    import(&directory.join("store"), sources, &options, &(), &Cancel::new()).unwrap();
}

/// Killed at every point: each image is there as a whole or not at all, and the next import completes.
#[test]
fn crashed_imports() {
    const ABORTED: i32 = 6;
    for (point, most) in [
        ("import-converted", 0),
        ("import-converted:4", 0),
        ("layer-synced", 0),
        ("layer-renamed", 0),
        ("layer-renamed:3", 0),
        ("layer-directory-synced:2", 0),
        ("import-done", 1),
        ("import-done:2", 2),
    ] {
        let (bench, before) = populated();
        std::fs::write(bench.directory.path().join("rich.tar"), rich()).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "import::tests::faults::import_that_crashes"])
            .env("PLYWOOD_FAILPOINT", point)
            .env(ROOT, bench.directory.path())
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(ABORTED), "{point}: {child:?}");
        drop(bench.open());
        let after = bench.state();
        assert_eq!(after.images.len() - before.images.len(), most, "{point}");
        if most == 0 {
            assert_eq!(after, before, "{point}");
        }
        bench.import(&rich()).unwrap();
        let complete = bench.state();
        assert_eq!(complete.images.len(), 3);
        assert_eq!(
            complete.layers.len(),
            8,
            "{point} {:#?} {:#?}",
            after.layers.keys(),
            complete.layers.keys()
        );
    }
}

/// A tmpfs that goes away with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        mount(&["-t", "tmpfs", "-o", options, "plywood-test", at.to_str().unwrap()]);
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

fn mount(arguments: &[&str]) {
    let status = Command::new("mount").args(arguments).status().unwrap();
    assert!(status.success(), "this test must be run as root: mount {arguments:?} failed");
}

#[test]
fn privileged_no_space_left() {
    let noise: Vec<u8> =
        (0..6_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let small = layer_tar(&[("small", b"s")]);
    let big = layer_tar(&[("noise", &noise)]);
    let archive = docker_archive("linux/amd64", &[small.clone(), big, small], &["big"]);
    let bench = Bench::new();
    // Room for the database and a part of the layer, and, compressed, for a part of the archive's copy.
    let _mounted = Mounted::tmpfs(&bench.root(), "size=5m");
    let first = docker_archive("linux/amd64", &[layer_tar(&[("a", b"1")])], &["first"]);
    bench.import(&first).unwrap();
    let before = bench.state();
    for bytes in [archive.clone(), gzip(&archive)] {
        let error = bench.import(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
        assert_eq!(bench.state(), before);
    }
}

#[test]
fn privileged_read_only_store() {
    let bench = Bench::new();
    let mounted = Mounted::tmpfs(&bench.root(), "size=20m");
    bench.import(&rich()).unwrap();
    let before = listing(&bench.root());
    mount(&["-o", "remount,ro", mounted.0.to_str().unwrap()]);
    let error = bench.import(&rich()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
    assert_eq!(listing(&bench.root()), before);
}
