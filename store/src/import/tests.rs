//! Imports into real stores: every kind of archive, every order of completion, every way to fail.

#[allow(dead_code, reason = "shared with the layer crate, which uses the rest")]
#[path = "../../../layer/src/archive/tests/fixture.rs"]
mod fixture;

#[cfg(target_os = "linux")]
mod faults;
#[cfg(target_os = "linux")]
mod windows;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Mutex;

use serde_json::json;

use self::fixture::{Files, Layer, docker_archive, gzip, layer_tar, named};
use super::*;
use crate::layers::LayerRecord;
use crate::snapshot::{Kind, Timestamp};

/// A directory for a store and for archives.
struct Bench {
    directory: tempfile::TempDir,
    options: ImportOptions,
}

impl Bench {
    fn new() -> Self {
        let platform = Some("linux/amd64".parse().unwrap());
        let options = ImportOptions { platform, ..ImportOptions::default() };
        Self { directory: tempfile::tempdir().unwrap(), options }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn open(&self) -> Store {
        Store::open(&self.root(), OpenOptions::default()).unwrap()
    }

    fn import(&self, archive: &[u8]) -> Result<Vec<ImportedImage>> {
        self.import_with(archive, &self.options, &(), &Cancel::new())
    }

    fn import_with(
        &self,
        archive: &[u8],
        options: &ImportOptions,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Vec<ImportedImage>> {
        let path = self.directory.path().join("archive.tar");
        std::fs::write(&path, archive).unwrap();
        import(&self.root(), vec![Source::Path(path)], options, progress, cancel)
    }

    /// Everything in the store that does not depend on the clock.
    fn state(&self) -> State {
        let store = self.open();
        assert!(store.swept().is_empty(), "{:?}", store.swept());
        let still = |record: LayerRecord| LayerRecord { created: Timestamp::default(), ..record };
        let layers = store.layers().unwrap().into_iter().map(|layer| {
            let bytes = std::fs::read(&layer.path).unwrap();
            (layer.id.to_string(), (still(layer.record), Digest::of(&bytes)))
        });
        let snapshots = store.list(&[]).unwrap().into_iter().map(|snapshot| {
            let parent = snapshot.parent.map(|parent| String::from_utf8(parent).unwrap());
            let layer = snapshot.layers[0].to_string();
            (String::from_utf8(snapshot.key).unwrap(), (parent, layer))
        });
        let images = store.images().unwrap().into_iter();
        State {
            layers: layers.collect(),
            snapshots: snapshots.collect(),
            images: images.map(|image| format!("{:?}", image.still())).collect(),
            files: listing(&self.root()),
        }
    }
}

impl crate::ImageRecord {
    fn still(self) -> Self {
        Self { created: Timestamp::default(), ..self }
    }
}

#[derive(Debug, PartialEq)]
struct State {
    layers: BTreeMap<String, (LayerRecord, Digest)>,
    snapshots: BTreeMap<String, (Option<String>, String)>,
    images: Vec<String>,
    files: Vec<String>,
}

/// All names below a directory.
fn listing(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        names.push(entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            let inner = listing(&entry.path());
            let parent = entry.file_name().into_string().unwrap();
            names.extend(inner.iter().map(|name| format!("{parent}/{name}")));
        }
    }
    names.sort();
    names
}

fn content(store: &Store, id: &LayerId, path: &str) -> Vec<u8> {
    let layer = store.layer(id).unwrap().unwrap();
    let image = erofs::Image::open(std::fs::File::open(layer.path).unwrap()).unwrap();
    let inode = image.resolve(path.as_bytes(), false).unwrap();
    let mut bytes = Vec::new();
    image.reader(&inode).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Adds hard links to a layer; their targets may be in a lower one.
fn with_links(tar: Vec<u8>, links: &[(&str, &str)]) -> Vec<u8> {
    let end = tar.len() - 1024;
    let mut tar = tar;
    tar.truncate(end);
    let mut builder = tar::Builder::new(tar);
    for (name, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        header.set_mode(0o644);
        builder.append_link(&mut header, name, target).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A file whose directory no entry describes.
fn undescribed(path: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, &[][..]).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn a_layer_that_leaves_directories_to_those_below_belongs_to_its_chain() {
    let mut files = Files::layout();
    let bottom = files.layer(&layer_tar(&[("tmp/here", b"")]), "");
    let top = files.layer(&undescribed("tmp/x"), "+gzip");
    let alone = files.image("linux/amd64", std::slice::from_ref(&top));
    let stacked = files.image("linux/amd64", &[bottom.clone(), top.clone()]);
    files.index(&[named(alone, "alone"), named(stacked, "stacked")]);
    let bench = Bench::new();
    let images = bench.import(&files.tar()).unwrap();
    let store = bench.open();
    let layers = |reference: &str| store.image(reference).unwrap().unwrap().layers;
    assert_eq!(layers("stacked")[0], LayerId::of_diff(&bottom.diff_id));
    for image in &images {
        let chain: Digest = image.chain.last().unwrap().parse().unwrap();
        let reference = &image.references[0];
        assert_eq!(layers(reference).last(), Some(&LayerId::of_chain(&chain)), "{reference}");
    }
}

/// Seven layers, one of them twice, one that needs a file of the bottom one; and a second image that shares some.
fn rich() -> Vec<u8> {
    let mut files = Files::layout();
    let big: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let tars = [
        layer_tar(&[("bin/tool", &big), ("etc/name", b"bottom")]),
        layer_tar(&[("etc/name", b"second")]),
        layer_tar(&[("var/empty", b"")]),
        with_links(layer_tar(&[("etc/other", b"x")]), &[("bin/alias", "bin/tool")]),
        layer_tar(&[("var/empty", b"")]),
        layer_tar(&[("usr/.wh.gone", b""), ("usr/data", &big[..100_000])]),
        layer_tar(&[("top", b"top")]),
    ];
    let suffixes = ["+gzip", "", "+zstd", "+gzip", "+zstd", "", "+gzip"];
    let layers: Vec<Layer> =
        tars.iter().zip(suffixes).map(|(tar, suffix)| files.layer(tar, suffix)).collect();
    let one = files.image("linux/amd64", &layers);
    let two =
        files.image("linux/amd64", &[layers[0].clone(), layers[6].clone(), layers[3].clone()]);
    files.index(&[named(one, "rich"), named(two, "sharing:2")]);
    files.tar()
}

#[test]
fn an_image_and_all_that_belongs_to_it() {
    let bench = Bench::new();
    let images = bench.import(&rich()).unwrap();
    assert_eq!(images.len(), 2);
    let image = &images[0];
    assert_eq!(image.references, ["rich:latest"]);
    assert_eq!(image.layers.len(), 7);
    assert_eq!(image.chain.len(), 7);
    assert_eq!(image.chain[0], image.layers[0].diff_id.to_string());
    let second = format!("{} {}", image.chain[0], image.layers[1].diff_id);
    assert_eq!(image.chain[1], Digest::of(second.as_bytes()).to_string());
    let reused: Vec<bool> = image.layers.iter().map(|layer| layer.reused).collect();
    assert_eq!(reused, [false, false, false, false, true, false, false]);

    let store = bench.open();
    let record = store.image("rich").unwrap().unwrap();
    assert_eq!(store.image("rich:latest").unwrap().as_ref(), Some(&record));
    assert_eq!(store.image(&image.digest.to_string()).unwrap().as_ref(), Some(&record));
    assert_eq!(record.chain, image.chain);
    assert_eq!(record.platform, "linux/amd64");
    for digest in [record.manifest, record.config] {
        let blob = store.blob(&digest).unwrap().unwrap();
        assert_eq!(Digest::of(&blob), digest);
    }
    for (index, name) in record.chain.iter().enumerate() {
        let snapshot = store.stat(name.as_bytes()).unwrap();
        assert_eq!(snapshot.kind, Kind::Committed);
        assert_eq!(snapshot.layers, [record.layers[index].clone()]);
        let parent = index.checked_sub(1).map(|below| record.chain[below].as_bytes());
        assert_eq!(snapshot.parent.as_deref(), parent);
    }
    assert_eq!(content(&store, &record.layers[0], "/etc/name"), b"bottom");
    // The layer with the link to a lower file depends on its chain, and is another on another chain.
    assert_eq!(record.layers[3].as_str(), format!("chain:{}", record.chain[3]));
    let alias = content(&store, &record.layers[3], "/bin/alias");
    assert!(alias == content(&store, &record.layers[0], "/bin/tool"));
    let sharing = store.image("sharing:2").unwrap().unwrap();
    assert_eq!(sharing.layers[0], record.layers[0]);
    assert_eq!(sharing.layers[2].as_str(), format!("chain:{}", sharing.chain[2]));
    assert!(content(&store, &sharing.layers[2], "/bin/alias") == alias);
    assert_eq!(store.layers().unwrap().len(), 7);
    assert!(listing(&store.root().join("staging")).is_empty());
    assert!(store.gc(crate::GcOptions::default(), &|_| false).unwrap().is_empty());
}

/// The same archive with any number of threads, finishing in any order, gives the same store.
#[test]
fn order_and_threads_leave_no_trace() {
    let archive = rich();
    let mut first: Option<State> = None;
    let mut seed = 0x9e37_79b9_u64;
    for jobs in [1, 2, 3, 4, 4, 4] {
        let bench = Bench::new();
        let delays: Vec<u64> = (0..16)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) % 60
            })
            .collect();
        let finished = Mutex::new(Vec::new());
        let progress = |event: &Event<'_>| match event {
            Event::LayerStarted { layer } => {
                std::thread::sleep(Duration::from_millis(delays[*layer]));
            }
            Event::LayerConverted { layer, .. } => finished.lock().unwrap().push(*layer),
            _ => {}
        };
        let options = ImportOptions { jobs: NonZeroUsize::new(jobs), ..bench.options.clone() };
        bench.import_with(&archive, &options, &progress, &Cancel::new()).unwrap();
        let order = finished.into_inner().unwrap();
        if jobs == 1 {
            assert!(order.is_sorted());
        }
        let state = bench.state();
        match &first {
            Some(first) => assert_eq!(first, &state, "jobs {jobs}, order {order:?}"),
            None => first = Some(state),
        }
    }
}

#[test]
fn what_is_there_is_reused() {
    let bench = Bench::new();
    let archive = rich();
    bench.import(&archive).unwrap();
    let before = bench.state();
    let events = Mutex::new(Vec::new());
    let progress = |event: &Event<'_>| events.lock().unwrap().push(format!("{event:?}"));
    let images = bench.import_with(&archive, &bench.options, &progress, &Cancel::new()).unwrap();
    assert!(images.iter().flat_map(|image| &image.layers).all(|layer| layer.reused));
    assert_eq!(bench.state(), before);
    let events = events.into_inner().unwrap();
    assert!(!events.iter().any(|event| event.starts_with("LayerStarted")), "{events:?}");

    // A layer whose blob is not in the archive is no harm when the store has it.
    let tar = layer_tar(&[("etc/name", b"second")]);
    let mut files = Files::layout();
    let layer = files.layer(&tar, "");
    let image = files.image("linux/amd64", std::slice::from_ref(&layer));
    files.index(&[named(image, "thin")]);
    let digest: Digest = layer.descriptor["digest"].as_str().unwrap().parse().unwrap();
    files.0.remove(&fixture::blob_path(digest));
    assert!(bench.import(&files.tar()).unwrap()[0].layers[0].reused);
    let other = Bench::new();
    assert_eq!(other.import(&files.tar()).unwrap_err().kind(), ErrorKind::Corrupt);

    // A record whose file is gone: the layer is made again.
    let path = bench.open().layer(&LayerId::of_diff(&layer.diff_id)).unwrap().unwrap().path;
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let again = bench.import(&archive).unwrap();
    assert_eq!(again[0].layers.iter().filter(|layer| !layer.reused).count(), 1);
    assert!(std::fs::read(&path).unwrap() == bytes);
}

#[test]
fn docker_archives_plain_or_compressed_are_one_image() {
    let tars = [layer_tar(&[("a", b"1")]), layer_tar(&[("b", b"2")])];
    let bench = Bench::new();
    let plain = docker_archive("linux/amd64", &tars, &["tool", "other:2"]);
    let images = bench.import(&plain).unwrap();
    assert_eq!(images[0].references, ["other:2", "tool:latest"]);
    let packed = docker_archive("linux/amd64", &tars.clone().map(|tar| gzip(&tar)), &["third"]);
    // The fixture computes diffIDs of what it packs: gzip layers are refused by their diffID.
    assert_eq!(Bench::new().import(&packed).unwrap_err().kind(), ErrorKind::Corrupt);
    let again = Bench::new().import(&gzip(&plain)).unwrap();
    assert_eq!(again[0].digest, images[0].digest);
    let store = bench.open();
    assert_eq!(store.images().unwrap().len(), 2);
    let manifest = store.blob(&images[0].digest).unwrap().unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["layers"][1]["digest"], json!(Digest::of(&tars[1])));
    assert_eq!(manifest["layers"][1]["size"], json!(tars[1].len()));
    drop(store);
    store_removes_by_either_name(&bench);
}

fn store_removes_by_either_name(bench: &Bench) {
    let store = bench.open();
    store.remove_image("tool").unwrap();
    assert!(store.image("tool:latest").unwrap().is_none());
    assert_eq!(store.remove_image("tool").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn names() {
    let bench = Bench::new();
    let archive = rich();
    let with = |names: &[&str]| ImportOptions {
        references: names.iter().map(|&name| name.to_owned()).collect(),
        ..bench.options.clone()
    };
    let import = |names: &[&str]| bench.import_with(&archive, &with(names), &(), &Cancel::new());
    let error = import(&["only"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("rich:latest, sharing:2")
            || error.to_string().contains("rich, sharing:2"),
        "{error}"
    );
    assert_eq!(import(&["a", "a:latest"]).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(import(&["a", "b c"]).unwrap_err().kind(), ErrorKind::Invalid);
    let images = import(&["a", "b:1"]).unwrap();
    assert_eq!(images[0].references, ["a:latest"]);
    assert_eq!(images[1].references, ["b:1"]);
    // One name moves to another image.
    let tar = docker_archive("linux/amd64", &[layer_tar(&[("x", b"y")])], &[]);
    let images = bench.import_with(&tar, &with(&["a"]), &(), &Cancel::new()).unwrap();
    assert_eq!(bench.open().image("a").unwrap().unwrap().manifest, images[0].digest);
    // No name at all: the manifest's digest.
    let images = bench.import(&tar).unwrap();
    assert_eq!(images[0].references, [images[0].digest.to_string()]);
}

#[test]
fn bare_layers_alone_and_on_a_base() {
    let bench = Bench::new();
    let bottom = layer_tar(&[("etc/name", b"bottom")]);
    let named_as = |name: &str, base: Option<&str>| ImportOptions {
        references: vec![name.to_owned()],
        base: base.map(str::to_owned),
        ..bench.options.clone()
    };
    let cancel = Cancel::new();
    let base =
        bench.import_with(&gzip(&bottom), &named_as("base", None), &(), &cancel).unwrap().remove(0);
    assert_eq!(base.layers.len(), 1);
    assert_eq!(base.layers[0].diff_id, Digest::of(&bottom));
    assert_eq!(base.layers[0].digest, Some(Digest::of(&gzip(&bottom))));

    let top = with_links(layer_tar(&[("new", b"n")]), &[("link", "etc/name")]);
    let reader = Box::new(Cursor::new(top.clone()));
    let source = Source::Reader { name: "standard input".to_owned(), reader };
    let options = named_as("stacked", Some("base"));
    let stacked = import(&bench.root(), vec![source], &options, &(), &cancel).unwrap().remove(0);
    assert_eq!(stacked.layers.len(), 2);
    assert_eq!(stacked.layers[0].id, base.layers[0].id);
    let store = bench.open();
    let config = store.blob(&stacked.config).unwrap().unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let diff_ids = json!([Digest::of(&bottom), Digest::of(&top)]);
    assert_eq!(config["rootfs"]["diff_ids"], diff_ids);
    assert_eq!(config["architecture"], "amd64");
    assert_eq!(content(&store, &stacked.layers[1].id, "/link"), b"bottom");
    drop(store);

    // On nothing the link has no target; on a missing base there is nothing to do; images cannot be stacked.
    let error = bench.import_with(&top, &named_as("x", None), &(), &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NeedsBase);
    let none = named_as("x", Some("none"));
    let error = bench.import_with(&top, &none, &(), &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let wrong = ImportOptions { base: Some("base".to_owned()), ..bench.options.clone() };
    let error = bench.import_with(&rich(), &wrong, &(), &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(bench.open().images().unwrap().len(), 2);
}

#[test]
fn other_platforms() {
    let bench = Bench::new();
    let freebsd = docker_archive("freebsd/amd64", &[layer_tar(&[("bin/a", b"")])], &["free"]);
    let error = bench.import(&freebsd).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("freebsd/amd64"), "{cause}");
    let options = ImportOptions {
        platform: Some("freebsd/amd64".parse().unwrap()),
        ..ImportOptions::default()
    };
    let error = bench.import_with(&freebsd, &options, &(), &Cancel::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn sources_of_several_kinds_in_one_call() {
    let bench = Bench::new();
    let directory = bench.directory.path();
    let layer = layer_tar(&[("l", b"l")]);
    let mut files = Files::layout();
    let one = files.layer(&layer, "+zstd");
    let image = files.image("linux/amd64", &[one]);
    files.index(&[named(image, "layout")]);
    files.write(&directory.join("layout"));
    std::fs::write(directory.join("bare.tar"), &layer).unwrap();
    let docker = docker_archive("linux/amd64", std::slice::from_ref(&layer), &["docker"]);
    let sources = vec![
        Source::Path(directory.join("layout")),
        Source::Path(directory.join("bare.tar")),
        Source::Reader { name: "-".to_owned(), reader: Box::new(Cursor::new(docker)) },
    ];
    let images = import(&bench.root(), sources, &bench.options, &(), &Cancel::new()).unwrap();
    assert_eq!(images.len(), 3);
    assert_eq!(bench.open().layers().unwrap().len(), 1);
    assert_eq!(images[1].references, [images[1].digest.to_string()]);
}

/// An exported image comes back as the same tree, and exporting is repeatable.
#[test]
fn exports_come_back() {
    let bench = Bench::new();
    bench.import(&rich()).unwrap();
    let cancel = Cancel::new();
    let store = bench.open();
    let export = store.export("rich").unwrap();
    drop(store);
    for compression in
        [layer::Compression::None, layer::Compression::Gzip, layer::Compression::Zstd]
    {
        let mut archive = Vec::new();
        let written = export.write(&mut archive, compression, &cancel).unwrap();
        assert_eq!(written.size, archive.len() as u64);
        let mut again = Vec::new();
        export.write(&mut again, compression, &cancel).unwrap();
        assert!(archive == again);

        let other = Bench::new();
        let image = other.import(&archive).unwrap().remove(0);
        assert_eq!(image.references, ["rich:latest"]);
        assert_eq!(image.digest, written.manifest);
        let (ours, theirs) = (bench.open(), other.open());
        let record = ours.image("rich").unwrap().unwrap();
        for (one, two) in record.layers.iter().zip(&image.layers) {
            let open = |store: &Store, id: &LayerId| {
                let path = store.layer(id).unwrap().unwrap().path;
                erofs::Image::open(std::fs::File::open(path).unwrap()).unwrap()
            };
            let changes = erofs::diff(&open(&ours, one), &open(&theirs, &two.id)).unwrap();
            assert!(changes.is_empty(), "{changes:?}");
        }
        let config: serde_json::Value =
            serde_json::from_slice(&theirs.blob(&image.config).unwrap().unwrap()).unwrap();
        assert_eq!(config["config"]["Cmd"], json!(["sh"]));
        // Exporting what came back gives the same archive: from here on nothing changes any more.
        let mut third = Vec::new();
        theirs.export("rich").unwrap().write(&mut third, compression, &cancel).unwrap();
        assert!(third == archive);
    }
    assert_eq!(bench.open().export("none").unwrap_err().kind(), ErrorKind::NotFound);
}
