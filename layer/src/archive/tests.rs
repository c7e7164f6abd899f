//! Archives of every kind, and every way in which they can be wrong.

mod fixture;

use std::cell::Cell;
use std::io::{Cursor, Read as _};
use std::path::PathBuf;

use serde_json::{Value, json};

use self::fixture::{
    CONFIG, Files, INDEX, LAYER, MANIFEST, blob_path, config, docker_archive, gzip, layer_tar,
    named, platform_json,
};
use super::*;
use crate::compression::Compression;
use crate::error::ErrorKind;

/// Opens archives and counts the copies that had to be made.
struct Bench {
    directory: tempfile::TempDir,
    spooled: Cell<usize>,
    cancel: Cancel,
    max_size: Option<u64>,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, spooled: Cell::new(0), cancel: Cancel::new(), max_size: None }
    }

    fn with<T>(&self, run: impl FnOnce(&OpenOptions<'_>) -> T) -> T {
        let spool = || {
            self.spooled.set(self.spooled.get() + 1);
            tempfile::tempfile()
        };
        run(&OpenOptions { spool: &spool, max_size: self.max_size, cancel: &self.cancel })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, bytes: &[u8]) -> Result<Archive> {
        let (_, path) = tempfile::NamedTempFile::new_in(&self.directory).unwrap().keep().unwrap();
        std::fs::write(&path, bytes).unwrap();
        self.with(|options| Archive::open(&path, options))
    }

    fn pipe(&self, bytes: &[u8]) -> Result<Archive> {
        let bytes = bytes.to_vec();
        self.with(|options| Archive::from_reader(Cursor::new(bytes), options))
    }
}

fn linux() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn two_layers() -> [Vec<u8>; 2] {
    [layer_tar(&[("etc/a", b"one")]), layer_tar(&[("etc/b", b"two"), ("big", &[7; 70_000])])]
}

fn contents(layer: &ArchiveLayer) -> Vec<u8> {
    let mut bytes = Vec::new();
    layer.open().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// An image of two layers, gzip and zstd, in a layout.
fn simple() -> (Files, Value) {
    let mut files = Files::layout();
    let [bottom, top] = two_layers();
    let layers = [files.layer(&bottom, "+gzip"), files.layer(&top, "+zstd")];
    let image = files.image("linux/amd64", &layers);
    files.index(&[named(image.clone(), "example:1")]);
    (files, image)
}

fn check_simple(archive: &Archive, names: &[&str]) {
    let images = archive.images(Some(&linux())).unwrap();
    assert_eq!(images.len(), 1);
    let image = &images[0];
    assert_eq!(image.names, names);
    assert_eq!(image.platform, linux());
    let expected = two_layers();
    assert_eq!(image.layers.len(), 2);
    for (layer, tar) in image.layers.iter().zip(&expected) {
        assert_eq!(layer.diff_id, Some(Digest::of(tar)));
        let bytes = contents(layer);
        assert_eq!(layer.size, Some(bytes.len() as u64));
        if let Some(digest) = layer.digest {
            assert_eq!(Digest::of(&bytes), digest);
        }
        let tar_again = match Compression::sniff(&bytes) {
            Compression::Gzip => {
                let mut tar = Vec::new();
                flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut tar).unwrap();
                tar
            }
            Compression::Zstd => zstd::decode_all(&bytes[..]).unwrap(),
            Compression::None => bytes,
        };
        assert!(&tar_again == tar);
    }
}

#[test]
fn layouts_in_every_wrapping() {
    let (files, _) = simple();
    let bench = Bench::new();
    files.write(&bench.path("layout"));
    let archive = bench.with(|options| Archive::open(&bench.path("layout"), options)).unwrap();
    assert_eq!(archive.format(), Format::OciLayout);
    check_simple(&archive, &["example:1"]);

    let tar = files.tar();
    check_simple(&bench.file(&tar).unwrap(), &["example:1"]);
    assert_eq!(bench.spooled.take(), 0);
    for wrapped in [gzip(&tar), zstd::encode_all(&tar[..], 1).unwrap()] {
        check_simple(&bench.file(&wrapped).unwrap(), &["example:1"]);
        assert_eq!(bench.spooled.take(), 1);
        check_simple(&bench.pipe(&wrapped).unwrap(), &["example:1"]);
        assert_eq!(bench.spooled.take(), 2);
    }
    check_simple(&bench.pipe(&tar).unwrap(), &["example:1"]);
    assert_eq!(bench.spooled.take(), 1);
}

#[test]
fn names_with_dots_and_pax_headers() {
    let (files, _) = simple();
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in &files.0 {
        tar.append_pax_extensions([("comment", &b"any"[..])]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // `append` keeps the name as it is in the header.
        let name = format!("./{path}");
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, &bytes[..]).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let bench = Bench::new();
    check_simple(&bench.file(&tar).unwrap(), &["example:1"]);
    check_simple(&bench.pipe(&tar).unwrap(), &["example:1"]);
}

#[test]
fn docker_archives() {
    let [bottom, top] = two_layers();
    let bench = Bench::new();
    let tar = docker_archive("linux/amd64", &[bottom.clone(), top.clone()], &["a:1", "b:2"]);
    for archive in [bench.file(&tar), bench.pipe(&tar), bench.file(&gzip(&tar))] {
        let archive = archive.unwrap();
        assert_eq!(archive.format(), Format::DockerArchive);
        check_simple(&archive, &["a:1", "b:2"]);
        assert_eq!(archive.images(Some(&linux())).unwrap()[0].manifest, None);
    }
    // The same layer twice: the second is a symlink to the first.
    let tar = docker_archive("linux/amd64", &[bottom.clone(), top, bottom.clone()], &[]);
    let images = bench.file(&tar).unwrap().images(Some(&linux())).unwrap();
    assert_eq!(images[0].layers.len(), 3);
    assert!(contents(&images[0].layers[2]) == bottom);
    // As a directory.
    tar::Archive::new(&tar[..]).unpack(bench.path("saved")).unwrap();
    let archive = bench.with(|options| Archive::open(&bench.path("saved"), options)).unwrap();
    assert!(contents(&archive.images(Some(&linux())).unwrap()[0].layers[2]) == bottom);
}

#[test]
fn docker_archive_errors() {
    let bench = Bench::new();
    let [bottom, _] = two_layers();
    let config_of = |diff_ids: &[Digest]| {
        let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
        let config = json!({ "os": "linux", "architecture": "amd64", "rootfs": rootfs });
        serde_json::to_vec(&config).unwrap()
    };
    let archive = |config: &str, bytes: Vec<u8>, layers: &[&str]| {
        let mut files = Files::default();
        files.put(config, bytes);
        files.put("l.tar", bottom.clone());
        let manifest = json!([{ "Config": config, "RepoTags": null, "Layers": layers }]);
        files.put("manifest.json", serde_json::to_vec(&manifest).unwrap());
        bench.file(&files.tar()).unwrap().images(Some(&linux()))
    };
    let diff_id = Digest::of(&bottom);
    assert!(archive("c.json", config_of(&[diff_id]), &["l.tar"]).is_ok());
    let kind = |result: Result<Vec<ArchiveImage>>| result.unwrap_err().kind();
    assert_eq!(kind(archive("c.json", config_of(&[]), &["l.tar"])), ErrorKind::Corrupt);
    let bare = br#"{ "os": "linux", "architecture": "amd64" }"#;
    assert_eq!(kind(archive("c.json", bare.to_vec(), &["l.tar"])), ErrorKind::Corrupt);
    assert_eq!(kind(archive("c.json", b"no json".to_vec(), &["l.tar"])), ErrorKind::Corrupt);
    let wrong = format!("{}.json", Digest::of(b"other").hex());
    assert_eq!(kind(archive(&wrong, config_of(&[diff_id]), &["l.tar"])), ErrorKind::DigestMismatch);
    let images = archive("c.json", config_of(&[diff_id]), &["gone.tar"]).unwrap();
    assert_eq!(images[0].layers[0].check().unwrap_err().kind(), ErrorKind::Corrupt);

    let mut files = Files::default();
    files.put("repositories", b"{}".to_vec());
    files.put(&format!("{}/layer.tar", diff_id.hex()), bottom.clone());
    let error = bench.file(&files.tar()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("older than 1.10"), "{error}");
}

#[test]
fn bare_layers() {
    let bench = Bench::new();
    let [_, tar] = two_layers();
    for bytes in [tar.clone(), gzip(&tar), zstd::encode_all(&tar[..], 1).unwrap()] {
        for archive in [bench.file(&bytes), bench.pipe(&bytes)] {
            let archive = archive.unwrap();
            assert_eq!(archive.format(), Format::Layer);
            assert!(archive.images(None).is_err());
            assert!(contents(&archive.layer().unwrap()) == bytes);
        }
    }
    assert_eq!(bench.spooled.take(), 0);
    // Names that an image archive could have, so that the pipe must be copied.
    let tar = layer_tar(&[("index.json", b"{}"), ("manifest.json", b"{}"), ("www/x", b"y")]);
    for bytes in [tar.clone(), gzip(&tar)] {
        let archive = bench.pipe(&bytes).unwrap();
        assert_eq!(archive.format(), Format::Layer);
        assert!(contents(&archive.layer().unwrap()) == bytes);
        assert!(bench.spooled.take() > 0);
    }
    // An empty layer is two blocks of zeros.
    let archive = bench.file(&[0; 1024]).unwrap();
    assert_eq!(contents(&archive.layer().unwrap()), [0; 1024]);
    // A pipe is read once.
    let archive = bench.pipe(&two_layers()[0]).unwrap();
    let layer = archive.layer().unwrap();
    contents(&layer);
    assert_eq!(layer.open().unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn platforms_of_an_index() {
    let mut files = Files::layout();
    let [bottom, top] = two_layers();
    let amd = files.layer(&bottom, "");
    let arm = files.layer(&top, "");
    let one = files.image("linux/amd64", std::slice::from_ref(&amd));
    let two = files.image("linux/arm64/v8", std::slice::from_ref(&arm));
    let windows = files.image("windows/amd64", std::slice::from_ref(&amd));
    let mut attestation = files.image("unknown/unknown", &[]);
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let entries = [one.clone(), two.clone(), windows, attestation];
    let inner = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    let inner = files.document(INDEX, &inner);
    files.index(&[named(inner, "multi")]);
    let bench = Bench::new();
    let archive = bench.file(&files.tar()).unwrap();
    let choose = |platform: &str| archive.images(Some(&platform.parse().unwrap()));
    assert_eq!(choose("linux/amd64").unwrap()[0].layers[0].diff_id, Some(amd.diff_id));
    assert_eq!(choose("linux/arm64").unwrap()[0].layers[0].diff_id, Some(arm.diff_id));
    let error = choose("linux/s390x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OtherPlatform);
    assert_eq!(
        error.to_string(),
        "image \"multi\" is not for linux/s390x, only for linux/amd64, linux/arm64, windows/amd64"
    );

    // The same without an inner index, and without a platform in the descriptors.
    let bare = |mut value: Value| {
        value.as_object_mut().unwrap().remove("platform");
        value
    };
    files.index(&[bare(one.clone()), bare(two.clone())]);
    let archive = bench.file(&files.tar()).unwrap();
    let images = archive.images(Some(&linux())).unwrap();
    assert_eq!(images.len(), 1);
    assert!(images[0].names.is_empty());
    assert_eq!(images[0].layers[0].diff_id, Some(amd.diff_id));

    // A descriptor that promises another platform than the config has.
    let mut lying = two;
    lying["platform"] = platform_json("linux/amd64");
    files.index(&[lying]);
    let error = bench.file(&files.tar()).unwrap().images(Some(&linux())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OtherPlatform);
}

#[test]
fn several_images() {
    let mut files = Files::layout();
    let [bottom, top] = two_layers();
    let bottom = files.layer(&bottom, "");
    let top = files.layer(&top, "");
    let one = files.image("linux/amd64", std::slice::from_ref(&bottom));
    let two = files.image("linux/amd64", &[bottom, top]);
    let mut full = two.clone();
    full["annotations"] = json!({
        "io.containerd.image.name": "docker.io/library/two:latest",
        "org.opencontainers.image.ref.name": "latest",
    });
    // A signature of one of them is no image.
    let signature = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": files.document("application/vnd.example.signature", &json!({})),
    });
    let signature = files.document(MANIFEST, &signature);
    files.index(&[
        named(one.clone(), "one"),
        full,
        named(one, "uno"),
        named(signature.clone(), "sha256-12.sig"),
    ]);
    let bench = Bench::new();
    let images = bench.file(&files.tar()).unwrap().images(Some(&linux())).unwrap();
    let names: Vec<_> = images.iter().map(|image| image.names.clone()).collect();
    assert_eq!(names, [vec!["one", "uno"], vec!["docker.io/library/two:latest"]]);

    files.index(&[named(signature, "sha256-12.sig")]);
    let error = bench.file(&files.tar()).unwrap().images(Some(&linux())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("an artifact of type"), "{error}");
}

#[test]
fn docker_names_beside_a_layout() {
    let (mut files, image) = simple();
    let manifest = &files.0[&blob_path(image["digest"].as_str().unwrap().parse().unwrap())];
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    let config: Digest = manifest["config"]["digest"].as_str().unwrap().parse().unwrap();
    let names = json!([{ "Config": blob_path(config), "RepoTags": ["tool:v1"], "Layers": [] }]);
    files.put("manifest.json", serde_json::to_vec(&names).unwrap());
    files.index(&[named(image, "v1")]);
    check_simple(&Bench::new().file(&files.tar()).unwrap(), &["tool:v1"]);
}

/// Every wrong layout with its kind and a word of its message.
#[test]
fn layout_errors() {
    let tar = layer_tar(&[("a", b"b")]);
    let (good, image) = simple();
    let digest = |value: &Value| value["digest"].as_str().unwrap().parse::<Digest>().unwrap();
    let manifest_path = blob_path(digest(&image));
    let manifest: Value = serde_json::from_slice(&good.0[&manifest_path]).unwrap();
    let with_manifest = |edit: &dyn Fn(&mut Value)| {
        let mut files = good.clone();
        let mut manifest = manifest.clone();
        edit(&mut manifest);
        let descriptor = files.document(MANIFEST, &manifest);
        files.index(&[descriptor]);
        files
    };
    let with_layer =
        |edit: &dyn Fn(&mut Value)| with_manifest(&|manifest| edit(&mut manifest["layers"][0]));
    let edited = |edit: &dyn Fn(&mut Files)| {
        let mut files = good.clone();
        edit(&mut files);
        files
    };
    let config_path = blob_path(digest(&manifest["config"]));
    let encrypted = format!("{LAYER}+gzip+encrypted");
    let absent = Digest::of(b"absent");
    use ErrorKind::{Corrupt, DigestMismatch, TooLarge, Unsupported};
    let cases: Vec<(&str, Files, ErrorKind, &str)> = vec![
        (
            "layout version",
            edited(&|files| files.put("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec())),
            Unsupported,
            "version",
        ),
        ("no json", edited(&|files| files.put("index.json", b"{".to_vec())), Corrupt, "index.json"),
        (
            "empty index",
            edited(&|files| {
                files.index(&[]);
            }),
            Corrupt,
            "names no image",
        ),
        (
            "index schema",
            edited(&|files| files.put("index.json", br#"{"schemaVersion":1}"#.to_vec())),
            Unsupported,
            "schema version 1",
        ),
        (
            "index too large",
            edited(&|files| files.put("index.json", vec![b' '; 9 << 20])),
            TooLarge,
            "9437184",
        ),
        (
            "manifest schema",
            with_manifest(&|manifest| manifest["schemaVersion"] = json!(1)),
            Unsupported,
            "schema version 1",
        ),
        (
            "manifest missing",
            edited(&|files| {
                files.0.remove(&manifest_path);
            }),
            Corrupt,
            "manifest sha256:",
        ),
        (
            "manifest changed",
            edited(&|files| files.0.get_mut(&manifest_path).unwrap()[0] = b' '),
            DigestMismatch,
            "has the digest",
        ),
        (
            "manifest longer",
            edited(&|files| files.0.get_mut(&manifest_path).unwrap().push(b' ')),
            DigestMismatch,
            "bytes, not",
        ),
        (
            "config missing",
            edited(&|files| {
                files.0.remove(&config_path);
            }),
            Corrupt,
            "config sha256:",
        ),
        (
            "config changed",
            edited(&|files| files.0.get_mut(&config_path).unwrap()[0] = b' '),
            DigestMismatch,
            "has the digest",
        ),
        (
            "other digest algorithm",
            with_layer(&|layer| layer["digest"] = json!("sha512:00")),
            Unsupported,
            "sha512",
        ),
        (
            "layer type",
            with_layer(&|layer| layer["mediaType"] = json!("application/vnd.example")),
            Unsupported,
            "application/vnd.example",
        ),
        (
            "encrypted layer",
            with_layer(&|layer| layer["mediaType"] = json!(encrypted)),
            Unsupported,
            "is encrypted",
        ),
        (
            "layer count",
            with_manifest(&|manifest| {
                manifest["layers"].as_array_mut().unwrap().pop();
            }),
            Corrupt,
            "1 layers but the config has 2 diffIDs",
        ),
        (
            "layer size",
            with_layer(&|layer| layer["size"] = json!(3)),
            DigestMismatch,
            "not 3 as promised",
        ),
        (
            "manifest type",
            edited(&|files| {
                let entry =
                    files.blob("application/vnd.docker.distribution.manifest.v1+json", tar.clone());
                files.index(&[entry]);
            }),
            Unsupported,
            "manifest.v1",
        ),
        (
            "indexes in indexes",
            edited(&|files| {
                let mut entry = image.clone();
                for _ in 0..9 {
                    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
                    entry = files.document(INDEX, &index);
                }
                files.index(&[entry]);
            }),
            TooLarge,
            "inside one another",
        ),
    ];
    let bench = Bench::new();
    for (what, files, kind, word) in cases {
        let error = bench.file(&files.tar()).unwrap().images(Some(&linux())).expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(error.to_string().contains(word), "{what}: {error}");
    }

    // A missing layer matters only to who needs it.
    let gone = json!(absent);
    let images = |files: Files| bench.file(&files.tar()).unwrap().images(Some(&linux())).unwrap();
    let image = &images(with_layer(&|layer| layer["digest"] = gone.clone()))[0];
    assert_eq!(image.layers[0].check().unwrap_err().kind(), Corrupt);
    image.layers[1].check().unwrap();
    let foreign = with_layer(&|layer| {
        layer["digest"] = gone.clone();
        layer["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        layer["urls"] = json!(["https://example.com/l"]);
    });
    let error = images(foreign)[0].layers[0].open().unwrap_err();
    assert_eq!(error.kind(), Unsupported);
    assert!(error.to_string().contains("https://example.com/l"), "{error}");
}

#[test]
fn damaged_containers() {
    let bench = Bench::new();
    let (files, _) = simple();
    let tar = files.tar();
    let kind = |result: Result<Archive>| result.unwrap_err().kind();
    assert_eq!(kind(bench.file(b"")), ErrorKind::Corrupt);
    assert_eq!(kind(bench.pipe(b"")), ErrorKind::Corrupt);
    assert_eq!(kind(bench.file(&[b'x'; 2000])), ErrorKind::Corrupt);
    assert_eq!(kind(bench.pipe(b"PK\x03\x04 not a tar")), ErrorKind::Corrupt);
    // Cut anywhere: an error, or (cut in the end mark) the whole. Never a panic, never less.
    for length in (1..tar.len()).step_by(509) {
        match bench.file(&tar[..length]) {
            Ok(archive) => {
                check_simple(&archive, &["example:1"]);
                // Only `oci-layout` and the end mark come after the last file that is needed.
                assert!(length > tar.len() - 2560);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}: {error}"),
        }
    }
    let packed = gzip(&tar);
    assert_eq!(kind(bench.file(&packed[..packed.len() / 2])), ErrorKind::Corrupt);
    assert_eq!(kind(bench.pipe(&packed[..packed.len() / 2])), ErrorKind::Corrupt);
    let missing = bench.path("none");
    assert_eq!(kind(bench.with(|options| Archive::open(&missing, options))), ErrorKind::NotFound);
    let empty = bench.path("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_eq!(kind(bench.with(|options| Archive::open(&empty, options))), ErrorKind::Invalid);
}

#[test]
fn copies_obey_limit_and_flag() {
    let (files, _) = simple();
    let packed = gzip(&files.tar());
    let limited = Bench { max_size: Some(1000), ..Bench::new() };
    assert_eq!(limited.file(&packed).unwrap_err().kind(), ErrorKind::TooLarge);
    let cancelled = Bench::new();
    cancelled.cancel.cancel();
    assert_eq!(cancelled.file(&packed).unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn config_without_a_platform_is_the_hosts() {
    let mut files = Files::layout();
    let layer = files.layer(&two_layers()[0], "");
    let mut config = config("linux/amd64", std::slice::from_ref(&layer));
    for key in ["os", "architecture"] {
        config.as_object_mut().unwrap().remove(key);
    }
    let config = files.document(CONFIG, &config);
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer.descriptor] });
    let mut entry = files.document("", &manifest);
    entry.as_object_mut().unwrap().remove("mediaType");
    files.index(&[entry]);
    let images = Bench::new().file(&files.tar()).unwrap().images(None).unwrap();
    assert_eq!(images[0].platform, Platform::host());
    assert_eq!(images[0].manifest.as_ref().unwrap().media_type, MANIFEST);
}

#[test]
fn composed_documents() {
    let [bottom, top] = two_layers().map(|tar| Digest::of(&tar));
    let bare = bare_config(&"linux/arm/v6".parse().unwrap(), bottom).unwrap();
    let stacked = stacked_config(&bare, top).unwrap();
    let value: Value = serde_json::from_slice(&stacked.bytes).unwrap();
    assert_eq!(value["rootfs"]["diff_ids"], json!([bottom, top]));
    assert_eq!(value["history"].as_array().unwrap().len(), 2);
    assert_eq!(value["variant"], "v6");
    assert_eq!(stacked.digest, stacked_config(&bare, top).unwrap().digest);
    // Without a history there is none for the layers below, so none is begun.
    let silent = br#"{"rootfs":{"type":"layers","diff_ids":null}}"#.to_vec();
    let stacked_on_silent = stacked_config(&Document::new(CONFIG, silent), top).unwrap();
    let value: Value = serde_json::from_slice(&stacked_on_silent.bytes).unwrap();
    assert_eq!(value["rootfs"]["diff_ids"], json!([top]));
    assert_eq!(value["history"], Value::Null);
    let rebuilt = rebuilt_config(&stacked, &[top]).unwrap();
    let value: Value = serde_json::from_slice(&rebuilt.bytes).unwrap();
    assert_eq!(value["rootfs"]["diff_ids"], json!([top]));
    let manifest = plain_manifest(&stacked, &[(bottom, 3), (top, 4)], Compression::Gzip).unwrap();
    let value: Value = serde_json::from_slice(&manifest.bytes).unwrap();
    assert_eq!(value["config"]["digest"], json!(stacked.digest));
    assert_eq!(value["layers"][1]["size"], 4);
    assert_eq!(value["layers"][0]["mediaType"], format!("{LAYER}+gzip"));
}

proptest::proptest! {
    /// Bytes changed anywhere: an error or an image, never a panic; and what is read of an image is what its digests
    /// promise.
    #[test]
    fn changed_bytes(changes in proptest::collection::vec((0.0..1.0, 0..=255_u8), 1..6), docker: bool) {
        let mut tar = if docker {
            docker_archive("linux/amd64", &two_layers().map(|_| layer_tar(&[("a", b"b")])), &["x"])
        } else {
            let (mut files, _) = simple();
            files.0.retain(|_, bytes| bytes.len() < 2000);
            files.tar()
        };
        for (place, byte) in changes {
            let place = (place * tar.len() as f64) as usize;
            tar[place] = byte;
        }
        for archive in [Bench::new().file(&tar), Bench::new().pipe(&tar)].into_iter().flatten() {
            let Ok(images) = archive.images(Some(&linux())) else { continue };
            for image in images {
                assert!(image.manifest.is_none_or(|found| Digest::of(&found.bytes) == found.digest));
                for layer in image.layers {
                    let mut bytes = Vec::new();
                    if layer.check().is_ok() {
                        layer.open().unwrap().read_to_end(&mut bytes).unwrap();
                    }
                }
            }
        }
    }
}
