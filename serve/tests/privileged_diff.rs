//! The differ, over gRPC: layers out of a content store into snapshots, and what a container changed back into it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use layer::{Compression, Compressor, Digest};
use serve::api::diff::diff_client::DiffClient;
use serve::api::diff::{ApplyRequest, DiffRequest};
use serve::api::types::{Descriptor, Mount};
use support::{Bench, Contents, Fault, code, eventually, manifest};
use tonic::{Code, Request, Status};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const EROFS: &str = "application/vnd.erofs.layer.v1";
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// A daemon and the containerd that it reads from.
fn bench() -> (Bench, Contents) {
    bench_with("")
}

fn bench_with(more: &str) -> (Bench, Contents) {
    let mut bench = Bench::idle("");
    let socket = bench.path().join("containerd.sock");
    bench.configure(&format!("{more}\n[containerd]\naddress = {socket:?}\n"));
    let contents = Contents::start(&bench);
    bench.start();
    (bench, contents)
}

trait Differ {
    fn differ(&self) -> DiffClient<tonic::transport::Channel>;
    fn apply(&self, mounts: &[Mount], descriptor: &Descriptor) -> Result<Descriptor, Status>;
    fn compare(&self, request: DiffRequest) -> Result<Descriptor, Status>;
    fn staged(&self) -> usize;
    /// Makes a committed snapshot of a layer, as containerd unpacks it.
    fn unpack(&self, contents: &Contents, name: &str, parent: &str, tar: &[u8]);
}

fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "moby".parse().unwrap());
    request
}

impl Differ for Bench {
    fn differ(&self) -> DiffClient<tonic::transport::Channel> {
        DiffClient::new(self.channel())
    }

    fn apply(&self, mounts: &[Mount], descriptor: &Descriptor) -> Result<Descriptor, Status> {
        let request = ApplyRequest {
            diff: Some(descriptor.clone()),
            mounts: mounts.to_vec(),
            ..ApplyRequest::default()
        };
        let answer = self.runtime.block_on(self.differ().apply(in_namespace(request)))?;
        Ok(answer.into_inner().applied.unwrap())
    }

    fn compare(&self, request: DiffRequest) -> Result<Descriptor, Status> {
        let answer = self.runtime.block_on(self.differ().diff(in_namespace(request)))?;
        Ok(answer.into_inner().diff.unwrap())
    }

    fn staged(&self) -> usize {
        std::fs::read_dir(self.root().join("staging")).unwrap().count()
    }

    fn unpack(&self, contents: &Contents, name: &str, parent: &str, tar: &[u8]) {
        let key = format!("default/1/extract-1 {name}");
        let mounts = self.prepare(&key, parent).unwrap();
        let applied = self.apply(&mounts, &described(contents, tar, TAR)).unwrap();
        assert_eq!(applied.digest, Digest::of(tar).to_string());
        self.commit(name, &key).unwrap();
    }
}

/// Puts a tar or image into the store, compressed as the media type says.
fn described(contents: &Contents, bytes: &[u8], media_type: &str) -> Descriptor {
    let compression = match media_type.rsplit(['+', '.']).next() {
        Some("gzip") => Compression::Gzip,
        Some("zstd") => Compression::Zstd,
        _ => Compression::None,
    };
    let mut compressor = Compressor::new(Vec::new(), compression).unwrap();
    compressor.write_all(bytes).unwrap();
    let blob = compressor.finish().unwrap();
    Descriptor {
        media_type: media_type.to_owned(),
        digest: contents.add(&blob).to_string(),
        size: i64::try_from(blob.len()).unwrap(),
        annotations: BTreeMap::new(),
    }
}

/// A layer: files by path; `None` is a directory, `-> x` a hard link.
fn layer(entries: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_mode(if content.is_some() { 0o644 } else { 0o755 });
        match content {
            None => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                tar.append_data(&mut header, path, std::io::empty()).unwrap();
            }
            Some(text) if text.starts_with("-> ") => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                tar.append_link(&mut header, path, &text[3..]).unwrap();
            }
            Some(text) => {
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, path, text.as_bytes()).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

fn noise(length: usize) -> String {
    let mut state = 0x9E37_79B9_u64;
    let digit = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + (state % 26) as u8)
    };
    std::iter::repeat_with(digit).take(length).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

privileged! {
    fn privileged_every_kind_of_layer_is_applied() {
        let (bench, contents) = bench();
        let tar = layer(&[("d", None), ("d/f", Some("text")), ("big", Some(&noise(3_000_000)))]);
        let image = tempfile::tempfile().unwrap();
        let options = layer::LayerOptions::default();
        let cancel = layer::Cancel::new();
        layer::write_layer_image(tar.as_slice(), &image, &options, None, &(), &cancel).unwrap();
        let mut native = Vec::new();
        std::io::Seek::seek(&mut &image, std::io::SeekFrom::Start(0)).unwrap();
        std::io::Read::read_to_end(&mut &image, &mut native).unwrap();
        // Other bytes, the same tree: a UUID that says so.
        let erofs_zstd = format!("{EROFS}+zstd");
        let kinds = [TAR, GZIP, ZSTD, DOCKER, DOCKER_GZIP, EROFS, &erofs_zstd];
        let mut trees = Vec::new();
        for (index, kind) in kinds.into_iter().enumerate() {
            let bytes = if kind.starts_with(EROFS) { &native } else { &tar };
            let key = format!("ns/{index}/extract-7 sha256:x");
            let mounts = bench.prepare(&key, "").unwrap();
            let descriptor = described(&contents, bytes, kind);
            let applied = bench.apply(&mounts, &descriptor).unwrap();
            assert_eq!(applied.digest, Digest::of(bytes).to_string(), "{kind}");
            assert_eq!(applied.size, i64::try_from(bytes.len()).unwrap());
            assert_eq!(applied.media_type, if kind.starts_with(EROFS) { EROFS } else { TAR });
            // The mounts show it before the commit, and a second time changes nothing.
            let before = bench.mounts(&key).unwrap();
            assert_eq!(bench.apply(&mounts, &descriptor).unwrap(), applied);
            assert_eq!(bench.mounts(&key).unwrap(), before);
            let name = format!("ns/{index}/sha256:x");
            bench.commit(&name, &key).unwrap();
            let view = format!("view-{index}");
            let mounted = bench.mount(&bench.view(&view, &name).unwrap(), &view);
            trees.push(manifest(mounted.path()));
        }
        assert_eq!(trees[0].len(), 4);
        assert!(trees.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(bench.staged(), 0);
        let state = contents.state();
        assert!(state.namespaces.iter().all(|namespace| namespace == "moby"));
        // Each blob was read once: the plain tar is one blob under two media types.
        assert_eq!(state.reads, kinds.len() - 2, "{kinds:?}");
        drop(state);
        // One layer for all of the tar's forms, one for the image's.
        let files = std::fs::read_dir(bench.root().join("layers")).unwrap().count();
        assert_eq!(files, 2);
    }

    fn privileged_lies_and_losses_change_nothing() {
        let (bench, contents) = bench();
        let tar = layer(&[("a", Some(&noise(5_000_000)))]);
        let good = described(&contents, &tar, TAR);
        let key = "default/1/extract-1 x";
        let mounts = bench.prepare(key, "").unwrap();
        let with = |change: &dyn Fn(&mut Descriptor)| {
            let mut descriptor = good.clone();
            change(&mut descriptor);
            descriptor
        };
        let other = Digest::of(b"something else");
        contents.state().blobs.insert(other.to_string(), (tar.clone(), BTreeMap::new()));
        let truncated = described(&contents, &tar[..1_000_000], TAR);
        let not_gzip = with(&|d| d.media_type = GZIP.into());
        let cases: [(&str, Descriptor, Fault, Code); 14] = [
            ("digest", with(&|d| d.digest = other.to_string()), Fault::None, Code::DataLoss),
            ("size", with(&|d| d.size -= 1), Fault::None, Code::FailedPrecondition),
            ("negative", with(&|d| d.size = -1), Fault::None, Code::InvalidArgument),
            ("gzip", not_gzip, Fault::None, Code::DataLoss),
            ("cut", truncated, Fault::None, Code::DataLoss),
            ("missing", with(&|d| d.digest = Digest::of(b"0").to_string()), Fault::None, Code::NotFound),
            ("no digest", with(&|d| d.digest = String::new()), Fault::None, Code::InvalidArgument),
            ("sha512", with(&|d| d.digest = format!("sha512:{}", "0".repeat(128))), Fault::None, Code::Unimplemented),
            ("media type", with(&|d| d.media_type = "text/plain".into()), Fault::None, Code::Unimplemented),
            ("vanishes at once", good.clone(), Fault::Vanishes(0), Code::NotFound),
            ("vanishes", good.clone(), Fault::Vanishes(2_500_000), Code::NotFound),
            ("ends", good.clone(), Fault::Ends(2_500_000), Code::DataLoss),
            ("overflows", good.clone(), Fault::Overflows, Code::DataLoss),
            ("skips", good.clone(), Fault::Skips, Code::DataLoss),
        ];
        for (name, descriptor, fault, expected) in cases {
            contents.fail(fault);
            let status = bench.apply(&mounts, &descriptor).unwrap_err();
            assert_eq!(status.code(), expected, "{name}: {status}");
            assert_eq!(bench.staged(), 0, "{name}");
            assert_eq!(bench.mounts(key).unwrap(), mounts, "{name}");
        }
        contents.fail(Fault::None);
        let request = ApplyRequest {
            diff: Some(good.clone()),
            mounts: mounts.clone(),
            payloads: [("x".to_owned(), prost_types::Any::default())].into(),
            ..ApplyRequest::default()
        };
        let answer = bench.runtime.block_on(bench.differ().apply(request));
        assert_eq!(code(answer), Code::Unimplemented);
        let answer = bench.runtime.block_on(bench.differ().apply(ApplyRequest::default()));
        assert_eq!(code(answer), Code::InvalidArgument);
        assert_eq!(std::fs::read_dir(bench.root().join("layers")).unwrap().count(), 0);
        bench.apply(&mounts, &good).unwrap();
        assert_eq!(std::fs::read_dir(bench.root().join("layers")).unwrap().count(), 1);
    }

    fn privileged_what_is_not_ours_goes_to_the_next_differ() {
        let (bench, contents) = bench();
        let tar = layer(&[("a", Some("a"))]);
        let descriptor = described(&contents, &tar, TAR);
        bench.unpack(&contents, "base", "", &layer(&[("b", Some("b"))]));
        let active = bench.prepare("default/1/extract-1 a", "base").unwrap();
        let view = bench.view("view", "base").unwrap();
        let bind = |source: &Path| Mount {
            r#type: "bind".into(),
            source: source.display().to_string(),
            options: vec!["rbind".into(), "rw".into()],
            ..Mount::default()
        };
        let mut below = active.clone();
        below[0].target = "sub".into();
        let mut stolen = active.clone();
        for option in &mut stolen[0].options {
            if option.starts_with("upperdir=") {
                *option = format!("upperdir={}", bench.path().display());
            }
        }
        let root = bench.root();
        let cases = [
            ("a view", view.clone()),
            ("nothing", Vec::new()),
            ("elsewhere", vec![bind(Path::new("/tmp"))]),
            ("the store", vec![bind(&root)]),
            ("dots", vec![bind(&root.join("snapshots/1/../2/fs"))]),
            ("two", [active.clone(), active.clone()].concat()),
            ("a target", below),
            ("an upper directory", stolen),
            ("a type", vec![Mount { r#type: "tmpfs".into(), ..Mount::default() }]),
        ];
        for (name, mounts) in cases {
            let status = bench.apply(&mounts, &descriptor).unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{name}: {status}");
            if name != "a view" && name != "nothing" {
                let request =
                    DiffRequest { left: view.clone(), right: mounts, ..DiffRequest::default() };
                let status = bench.compare(request).unwrap_err();
                assert_eq!(status.code(), Code::Unimplemented, "{name}: {status}");
            }
        }
        let gone = vec![bind(&root.join("snapshots/4711/fs"))];
        assert_eq!(code(bench.apply(&gone, &descriptor)), Code::NotFound);
        // Somebody wrote already: a layer below that would not be what was asked for.
        let mounted = bench.mount(&active, "active");
        std::fs::write(mounted.path().join("new"), "n").unwrap();
        drop(mounted);
        let status = bench.apply(&active, &descriptor).unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert_eq!(contents.state().reads, 1, "nothing but the base was read");
        let request = DiffRequest { media_type: DOCKER.into(), ..DiffRequest::default() };
        assert_eq!(code(bench.compare(request)), Code::Unimplemented);
    }

    fn privileged_a_caller_that_goes_away_ends_the_work() {
        let (bench, contents) = bench_with("[differ]\nconcurrency = 1");
        let tar = layer(&[("a", Some(&noise(5_000_000)))]);
        let descriptor = described(&contents, &tar, TAR);
        let mounts = bench.prepare("default/1/extract-1 x", "").unwrap();
        contents.fail(Fault::Hangs(2_000_000));
        let request = ApplyRequest {
            diff: Some(descriptor.clone()),
            mounts: mounts.clone(),
            ..ApplyRequest::default()
        };
        let mut differ = bench.differ();
        let call = bench.runtime.spawn(async move { differ.apply(request).await });
        eventually("the conversion begins", || bench.staged() == 1);
        call.abort();
        eventually("nothing is left", || bench.staged() == 0);
        // The one place is free again.
        contents.fail(Fault::None);
        bench.apply(&mounts, &descriptor).unwrap();

        // A deadline is the same.
        contents.fail(Fault::Hangs(2_000_000));
        let other = layer(&[("b", Some(&noise(4_000_000)))]);
        let mounts = bench.prepare("default/2/extract-1 y", "").unwrap();
        let mut request = Request::new(ApplyRequest {
            diff: Some(described(&contents, &other, GZIP)),
            mounts: mounts.clone(),
            ..ApplyRequest::default()
        });
        request.set_timeout(Duration::from_millis(500));
        let status = bench.runtime.block_on(bench.differ().apply(request)).unwrap_err();
        assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status}");
        eventually("nothing is left", || bench.staged() == 0);
        assert_eq!(bench.mounts("default/2/extract-1 y").unwrap(), mounts);
    }

    fn privileged_layers_come_in_parallel_and_out_of_order() {
        let (bench, contents) = bench();
        let base = layer(&[
            ("d", None),
            ("d/file", Some("lower")),
            ("d/gone", Some("g")),
            ("opaque", None),
            ("opaque/old", Some("o")),
            ("plain", Some("p")),
        ]);
        let middle = layer(&[
            ("d", None),
            ("d/.wh.gone", Some("")),
            ("opaque", None),
            ("opaque/.wh..wh..opq", Some("")),
            ("opaque/new", Some("n")),
        ]);
        // A hard link to a file of the base, in a directory that this layer does not describe.
        let top = layer(&[("d/link", Some("-> d/file")), (".wh.plain", Some(""))]);
        let tars = [base, middle, top];
        let chain = |index: usize| format!("sha256:{index:064}");
        let key = |index: usize| format!("moby/{index}/extract-9-ab {}", chain(index));
        let mut prepared = Vec::new();
        for index in 0..3 {
            let parent = chain(index.max(1) - 1);
            let mut labels = vec![("containerd.io/snapshot.ref", chain(index))];
            if index > 0 {
                labels.push(("containerd.io/snapshot/parent-chain-id", parent));
            }
            let labels: Vec<(&str, &str)> =
                labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
            prepared.push(bench.prepare_with(key(index), "", &labels).unwrap());
        }
        // The top one first, on its own; the others at once.
        for index in [2, 1, 0] {
            let descriptor = described(&contents, &tars[index], GZIP);
            let applied = bench.apply(&prepared[index], &descriptor).unwrap();
            assert_eq!(applied.digest, Digest::of(&tars[index]).to_string());
            assert_eq!(applied.size, i64::try_from(tars[index].len()).unwrap());
        }
        let waiting = std::fs::read_dir(bench.root().join("snapshots")).unwrap();
        let waiting = waiting.filter(|entry| entry.as_ref().unwrap().path().join("deferred").exists());
        assert_eq!(waiting.count(), 1, "the link waits for its parent");
        for index in 0..3 {
            let name = format!("moby/{index}/{}", chain(index));
            let parent = match index {
                0 => String::new(),
                index => format!("moby/{}/{}", index - 1, chain(index - 1)),
            };
            bench.commit_on(&name, key(index), &parent).unwrap();
        }
        let mounts = bench.view("view", format!("moby/2/{}", chain(2))).unwrap();
        let mounted = bench.mount(&mounts, "view");
        let at = |name: &str| mounted.path().join(name);
        assert_eq!(read(&at("d/file")), "lower");
        assert_eq!(read(&at("d/link")), "lower");
        assert!(!at("d/gone").exists() && !at("plain").exists() && !at("opaque/old").exists());
        assert_eq!(read(&at("opaque/new")), "n");
        drop(mounted);
        // With known parents the same layer needs no detour, and gives the same image.
        let descriptor = described(&contents, &tars[2], GZIP);
        let known = "moby/9/extract-9-cd x";
        let mounts = bench.prepare(known, format!("moby/1/{}", chain(1))).unwrap();
        bench.apply(&mounts, &descriptor).unwrap();
        bench.commit("again", known).unwrap();
        let mounted = bench.mount(&bench.view("again-view", "again").unwrap(), "again");
        assert_eq!(read(&mounted.path().join("d/link")), "lower");
        assert_eq!(std::fs::read_dir(bench.root().join("layers")).unwrap().count(), 3);
        assert_eq!(bench.staged(), 0);
    }

    fn privileged_a_container_of_many_layers_is_compared() {
        let (bench, contents) = bench();
        let bottom = layer(&[
            ("d", None),
            ("d/gone", Some("g")),
            ("d/kept", Some("k")),
            ("replaced", None),
            ("replaced/old", Some("o")),
        ]);
        bench.unpack(&contents, "one", "", &bottom);
        bench.unpack(&contents, "two", "one", &layer(&[("d", None), ("d/two", Some("2"))]));
        bench.unpack(&contents, "three", "two", &layer(&[("three", Some(&noise(100_000)))]));
        let container = bench.prepare("default/9/container", "three").unwrap();
        let mounted = bench.mount(&container, "container");
        let inside = |name: &str| mounted.path().join(name);
        std::fs::remove_file(inside("d/gone")).unwrap();
        std::fs::write(inside("d/new"), "new").unwrap();
        std::fs::hard_link(inside("three"), inside("d/three")).unwrap();
        std::fs::remove_dir_all(inside("replaced")).unwrap();
        std::fs::create_dir(inside("replaced")).unwrap();
        std::fs::write(inside("replaced/new"), "n").unwrap();
        std::fs::set_permissions(inside("d/two"), std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink("d/new", inside("symbolic")).unwrap();
        let changed = manifest(mounted.path());
        drop(mounted);

        let left = bench.view("default/10/view", "three").unwrap();
        let labels = support::labels(&[("mine", "kept")]);
        for media_type in ["", TAR, ZSTD] {
            let request = DiffRequest {
                left: left.clone(),
                right: bench.mounts("default/9/container").unwrap(),
                media_type: media_type.into(),
                labels: labels.clone(),
                ..DiffRequest::default()
            };
            let diff = bench.compare(request.clone()).unwrap();
            assert_eq!(diff.media_type, if media_type.is_empty() { GZIP } else { media_type });
            let blob = contents.blob(&diff.digest);
            assert_eq!(diff.size, i64::try_from(blob.len()).unwrap());
            let kept = contents.labels(&diff.digest);
            assert_eq!(kept["mine"], "kept");
            // The same again is no error, and the same.
            assert_eq!(bench.compare(request).unwrap(), diff);

            // Applied to the image it gives the container.
            let key = format!("default/20/extract-1 {media_type}");
            let mounts = bench.prepare(&key, "three").unwrap();
            let applied = bench.apply(&mounts, &diff).unwrap();
            assert_eq!(kept.get(UNCOMPRESSED), (media_type != TAR).then_some(&applied.digest));
            let name = format!("committed-{}", applied.size + diff.size);
            bench.commit(&name, &key).unwrap();
            let view = format!("view-{name}");
            let mounted = bench.mount(&bench.view(&view, &name).unwrap(), &view);
            let mut found = manifest(mounted.path());
            // The root's own entry is not told.
            let mut expected = changed.clone();
            assert!(found.remove(Path::new("")).is_some() && expected.remove(Path::new("")).is_some());
            assert_eq!(found, expected);
        }

        // The other way round, applied to the container's image, gives the image back.
        let right = bench.view("default/11/view", "three").unwrap();
        let request = DiffRequest {
            left: bench.mounts("default/9/container").unwrap(),
            right: right.clone(),
            ..DiffRequest::default()
        };
        let back = bench.compare(request).unwrap();
        bench.commit("container-image", "default/9/container").unwrap();
        let mounts = bench.prepare("back", "container-image").unwrap();
        bench.apply(&mounts, &back).unwrap();
        bench.commit("back-image", "back").unwrap();
        let mounted = bench.mount(&bench.view("back-view", "back-image").unwrap(), "back");
        let original = bench.mount(&right, "original");
        assert_eq!(manifest(mounted.path()), manifest(original.path()));
        drop((mounted, original));

        // Against nothing: everything; nothing against it: nothing but whiteouts.
        let whole = bench
            .compare(DiffRequest { right: right.clone(), ..DiffRequest::default() })
            .unwrap();
        let mounts = bench.prepare("whole", "").unwrap();
        bench.apply(&mounts, &whole).unwrap();
        bench.commit("whole-image", "whole").unwrap();
        let mounted = bench.mount(&bench.view("whole-view", "whole-image").unwrap(), "whole");
        let original = bench.mount(&right, "original");
        assert_eq!(manifest(mounted.path()), manifest(original.path()));
        drop((mounted, original));
        let empty = bench.view("default/12/empty", "").unwrap();
        let request = DiffRequest { left: right, right: empty, media_type: TAR.into(), ..DiffRequest::default() };
        let nothing = bench.compare(request).unwrap();
        let blob = contents.blob(&nothing.digest);
        let mut archive = tar::Archive::new(blob.as_slice());
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            assert!(entry.path_bytes().starts_with(b".wh."));
        }
        // All that was written is under leases of an hour.
        let state = contents.state();
        assert!(state.leased.iter().all(|(lease, _)| state.leases.contains_key(lease)));
        assert!(state.leases.values().all(|labels| labels.contains_key("containerd.io/gc.expire")));
        assert!(state.uploads.is_empty());
    }

    fn privileged_every_form_of_mounts_is_known_again() {
        for config in ["mounts = \"erofs\"", "scratch_size = 67108864"] {
            let (bench, contents) = bench_with(&format!("[snapshotter]\n{config}"));
            bench.unpack(&contents, "one", "", &layer(&[("a", Some("a")), ("gone", Some("g"))]));
            bench.unpack(&contents, "two", "one", &layer(&[("b", Some("b"))]));
            for (index, parent) in ["", "one", "two"].into_iter().enumerate() {
                let key = format!("container-{index}");
                let mounts = bench.prepare(&key, parent).unwrap();
                let mounted = bench.mount(&mounts, &key);
                std::fs::write(mounted.path().join("new"), parent).unwrap();
                std::fs::remove_file(mounted.path().join("gone")).ok();
                drop(mounted);
                let left = bench.view(format!("left-{index}"), parent).unwrap();
                let right = bench.mounts(&key).unwrap();
                let request = DiffRequest { left, right, media_type: TAR.into(), ..DiffRequest::default() };
                let diff = bench.compare(request).unwrap();
                let blob = contents.blob(&diff.digest);
                let mut archive = tar::Archive::new(blob.as_slice());
                let names: Vec<String> = archive
                    .entries()
                    .unwrap()
                    .map(|entry| entry.unwrap().path().unwrap().display().to_string())
                    .filter(|name| !name.contains("lost+found"))
                    .collect();
                let expected: &[&str] = if index == 0 { &["new"] } else { &[".wh.gone", "new"] };
                assert_eq!(names, expected, "{config} on {parent:?}");
                assert_eq!(bench.mounts(&key).unwrap(), mounts);
            }
        }
    }

    fn privileged_an_upload_that_fails_leaves_nothing() {
        let (bench, contents) = bench();
        bench.unpack(&contents, "base", "", &layer(&[("a", Some(&noise(6_000_000)))]));
        let right = bench.view("view", "base").unwrap();
        let request = |reference: &str| DiffRequest {
            right: right.clone(),
            media_type: TAR.into(),
            r#ref: reference.as_bytes().to_vec(),
            ..DiffRequest::default()
        };
        let blobs = contents.state().blobs.len();
        for (fault, expected) in [
            (Fault::Full(1_000_000), Code::ResourceExhausted),
            (Fault::Full(5_999_000), Code::ResourceExhausted),
            (Fault::Garbles, Code::DataLoss),
        ] {
            contents.fail(fault);
            let status = bench.compare(request("")).unwrap_err();
            assert_eq!(status.code(), expected, "{status}");
            let state = contents.state();
            assert!(state.uploads.is_empty() && state.leases.is_empty(), "{fault:?}");
        }
        contents.state().blobs.retain(|digest, (blob, _)| *digest == Digest::of(blob).to_string());
        // A caller's own upload is the caller's to continue or to abort.
        contents.fail(Fault::Full(3_000_000));
        bench.compare(request("mine")).unwrap_err();
        assert_eq!(contents.state().uploads.len(), 1);
        contents.fail(Fault::None);
        let first = bench.compare(request("mine")).unwrap();
        assert!(contents.state().uploads.is_empty());
        assert!(contents.state().blobs.len() > blobs);

        // A caller's lease is used instead of a new one.
        let leases = contents.state().leases.len();
        let mut leased = in_namespace(request(""));
        leased.metadata_mut().insert("containerd-lease", "theirs".parse().unwrap());
        let second = bench.runtime.block_on(bench.differ().diff(leased)).unwrap().into_inner();
        assert_eq!(second.diff.unwrap(), first);
        let state = contents.state();
        assert_eq!(state.leased.last().unwrap().0, "theirs");
        assert_eq!(state.leases.len(), leases);
    }

    fn privileged_an_epoch_makes_the_same_layer_again() {
        let (bench, contents) = bench();
        bench.unpack(&contents, "base", "", &layer(&[("old", Some("o")), ("gone", Some("g"))]));
        let left = bench.view("view", "base").unwrap();
        let epoch = prost_types::Timestamp { seconds: 1_600_000_000, nanos: 5 };
        let mut digests = Vec::new();
        for index in 0..2 {
            let key = format!("container-{index}");
            let mounts = bench.prepare(&key, "base").unwrap();
            let mounted = bench.mount(&mounts, &key);
            std::fs::write(mounted.path().join("new"), "n").unwrap();
            std::fs::create_dir(mounted.path().join("d")).unwrap();
            std::fs::remove_file(mounted.path().join("gone")).unwrap();
            drop(mounted);
            for epoch in [Some(epoch), None] {
                let request = DiffRequest {
                    left: left.clone(),
                    right: mounts.clone(),
                    source_date_epoch: epoch,
                    ..DiffRequest::default()
                };
                digests.push(bench.compare(request).unwrap().digest);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(digests[0], digests[2]);
        assert_ne!(digests[1], digests[3]);
        let bad = prost_types::Timestamp { seconds: 0, nanos: -1 };
        let request = DiffRequest { source_date_epoch: Some(bad), ..DiffRequest::default() };
        assert_eq!(code(bench.compare(request)), Code::InvalidArgument);
        let request = DiffRequest { r#ref: vec![0xff], ..DiffRequest::default() };
        assert_eq!(code(bench.compare(request)), Code::InvalidArgument);
    }

    fn privileged_many_applies_at_once_take_turns() {
        let (bench, contents) = bench_with("[differ]\nconcurrency = 2");
        let text = noise(4_000_000);
        let mut calls = Vec::new();
        for index in 0..64 {
            let tar = layer(&[(&format!("f{index}"), Some(&text))]);
            let descriptor = described(&contents, &tar, TAR);
            let mounts = bench.prepare(format!("default/{index}/extract-1 x"), "").unwrap();
            let request =
                ApplyRequest { diff: Some(descriptor), mounts, ..ApplyRequest::default() };
            calls.push(request);
        }
        let start = Instant::now();
        let calls: Vec<_> = calls
            .into_iter()
            .map(|request| {
                let mut differ = bench.differ();
                bench.runtime.spawn(async move { differ.apply(request).await })
            })
            .collect();
        for call in calls {
            bench.runtime.block_on(call).unwrap().unwrap();
        }
        let status = read(Path::new(&format!("/proc/{}/status", bench.pid())));
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
        eprintln!("64 layers in {:?}, at most {peak} kB", start.elapsed());
        assert!(peak < 120_000, "{peak} kB");
    }

    fn privileged_containerd_may_come_later_and_again() {
        let mut bench = Bench::idle("");
        let socket = bench.path().join("containerd.sock");
        bench.configure(&format!("[containerd]\naddress = {socket:?}\n"));
        bench.start();
        let tar = layer(&[("a", Some("a"))]);
        let descriptor = Descriptor {
            media_type: TAR.into(),
            digest: Digest::of(&tar).to_string(),
            size: i64::try_from(tar.len()).unwrap(),
            annotations: BTreeMap::new(),
        };
        let mounts = bench.prepare("my-ns/1/extract-1 x", "").unwrap();
        let status = bench.apply(&mounts, &descriptor).unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("containerd"), "{status}");
        let contents = Contents::start(&bench);
        contents.add(&tar);
        // Without a header the key says the namespace, as with 1.6.
        let request =
            ApplyRequest { diff: Some(descriptor), mounts, ..ApplyRequest::default() };
        bench.runtime.block_on(bench.differ().apply(request)).unwrap();
        assert!(contents.state().namespaces.iter().all(|namespace| namespace == "my-ns"));
    }
}
