//! The difference of two sides makes one of the other, whatever they are made of.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use erofs::{Image, ImageWriter, ReadAt, Timestamp, WriterOptions};
use layer::{
    Cancel, DiffOptions, Digest, ErrorKind, ImageSource, LayerTar, Side, diff,
    write_directory_image,
};
use proptest::prelude::*;
use support::host::{disk, mount, require_root};
use support::trees::{as_layer, grown, step, written};
use support::{Header, Listing, Tar, contents, list, list_image, make, noise};

type Layer = Arc<Image<ImageSource>>;

fn opened(bytes: &[u8]) -> Layer {
    Arc::new(Image::open(Box::new(bytes.to_vec()) as ImageSource).unwrap())
}

fn stack(layers: &[&Layer]) -> Side {
    Side { layers: layers.iter().map(|layer| Arc::clone(layer)).collect(), upper: None }
}

fn difference(left: &Side, right: &Side) -> (Vec<u8>, LayerTar) {
    let mut tar = Vec::new();
    let report = diff(left, right, &DiffOptions::default(), &mut tar, &Cancel::new()).unwrap();
    assert_eq!((report.diff_id, report.size), (Digest::of(&tar), tar.len() as u64));
    (tar, report)
}

/// The paths that a tar makes or removes.
fn names(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries.map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into()).collect()
}

/// What a container sees, the top layer first. The root's time is left out: differences do not tell it.
fn seen(layers: &[Layer]) -> Listing {
    let bottom_first: Vec<&Image<ImageSource>> = layers.iter().rev().map(|l| &**l).collect();
    if bottom_first.is_empty() {
        return Listing::new();
    }
    let merged = erofs::merge(&bottom_first).unwrap();
    let options = WriterOptions {
        block_size: merged.block_size,
        devices: merged.device_infos(),
        ..WriterOptions::default()
    };
    let writer = ImageWriter::new(Vec::new(), options).unwrap();
    let (bytes, _) = writer.finish(&merged.tree, [1; 16]).unwrap();
    let devices: Vec<&dyn ReadAt> = merged
        .devices
        .iter()
        .map(|device| bottom_first[device.layer].primary() as &dyn ReadAt)
        .collect();
    let image = Image::open_with_devices(&bytes as &dyn ReadAt, devices).unwrap();
    let mut listing = list_image(&image);
    listing.remove("/");
    listing
}

/// Applies the difference to the left side and compares with the right one.
#[track_caller]
fn check(left: &Side, right: &Side) -> Vec<String> {
    let (tar, _) = difference(left, right);
    let made = make(&tar).unwrap();
    assert!(!made.report.depends_on_parents);
    let mut applied = vec![opened(&made.bytes)];
    applied.extend(left.layers.iter().cloned());
    assert_eq!(seen(&applied), seen(&right.layers), "{:?}", names(&tar));
    names(&tar)
}

#[test]
fn two_trees_both_ways_and_nothing() {
    let data = noise(10_000, 1);
    let mut changed = data.clone();
    changed[9_999] ^= 1;
    let lower = Tar::new()
        .dir(b"same")
        .file(b"same/file", &data)
        .file(b"gone", b"")
        .dir(b"gone-dir")
        .file(b"gone-dir/f", b"")
        .file(b"content", &data)
        .file(b"mode", b"m")
        .file(b"becomes-dir", b"")
        .dir(b"becomes-file")
        .file(b"becomes-file/f", b"")
        .file(b"linked", b"l")
        .symlink(b"link", b"a")
        .file(b"deep/er/unchanged", b"u");
    let upper = Tar::new()
        .dir(b"same")
        .file(b"same/file", &data)
        .file(b"content", &changed)
        .add(Header::new(b"mode", b'0', 1).mode(0o600), b"m")
        .dir(b"becomes-dir")
        .file(b"becomes-dir/new", b"n")
        .file(b"becomes-file", b"f")
        .file(b"linked", b"l")
        .hard_link(b"new-name", b"linked")
        .symlink(b"link", b"b")
        .file(b"deep/er/unchanged", b"u")
        .file(b"deep/er/added", b"a");
    let lower = opened(&make(&lower.end()).unwrap().bytes);
    let upper = opened(&make(&upper.end()).unwrap().bytes);
    assert_eq!(
        check(&stack(&[&lower]), &stack(&[&upper])),
        [
            "becomes-dir/",
            "becomes-dir/new",
            "becomes-file",
            "content",
            "deep/",
            "deep/er/",
            "deep/er/added",
            ".wh.gone",
            ".wh.gone-dir",
            "link",
            "linked",
            "mode",
            "new-name",
        ]
    );
    check(&stack(&[&upper]), &stack(&[&lower]));
    let nothing = Side::default();
    let all = check(&nothing, &stack(&[&upper]));
    assert!(!all.contains(&"./".to_owned()) && all.contains(&"same/file".to_owned()));
    let rooted = Tar::new().add(Header::new(b"./", b'5', 0).mode(0o700), b"").file(b"a", b"a");
    let rooted = opened(&make(&rooted.end()).unwrap().bytes);
    assert_eq!(check(&nothing, &stack(&[&rooted])), ["./", "a"]);
    assert!(check(&stack(&[&upper]), &nothing).iter().all(|name| name.starts_with(".wh.")));
    let (empty, report) = difference(&stack(&[&upper]), &stack(&[&upper]));
    assert_eq!((empty.len(), report.entries), (1024, 0));
    assert_eq!(difference(&nothing, &nothing).0, empty);
}

#[test]
fn a_replaced_directory_is_opaque_and_whole() {
    let base = Tar::new().dir(b"d").file(b"d/old", b"o").file(b"d/kept", b"k").dir(b"e");
    let top = Tar::new().dir(b"d").file(b"d/.wh..wh..opq", b"").file(b"d/kept", b"k");
    let top = top.dir(b"e").file(b"e/.wh..wh..opq", b"").file(b"e/new", b"n");
    let base = opened(&make(&base.end()).unwrap().bytes);
    let top = opened(&make(&top.end()).unwrap().bytes);
    let found = check(&stack(&[&base]), &stack(&[&top, &base]));
    assert_eq!(found, ["d/", "d/.wh..wh..opq", "d/kept", "e/", "e/new"]);
    // The other way round, what the mark hid comes back.
    let found = check(&stack(&[&top, &base]), &stack(&[&base]));
    assert_eq!(found, ["d/", "d/old", "e/", "e/.wh.new"]);
    // Without common layers only what differs counts.
    let other = opened(&make(&Tar::new().dir(b"d").file(b"d/old", b"o").end()).unwrap().bytes);
    let found = check(&stack(&[&other]), &stack(&[&top, &base]));
    assert_eq!(found, ["d/", "d/kept", "d/.wh.old", "e/", "e/new"]);
}

/// A source that tells what was read of it.
struct Watched(Vec<u8>, std::sync::atomic::AtomicU64);

impl ReadAt for Watched {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let length = self.0.read_at(buf, offset)?;
        self.1.fetch_add(length as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(length)
    }

    fn size(&self) -> std::io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

#[test]
fn common_layers_are_not_walked() {
    let mut base = Tar::new();
    for index in 0..20_000 {
        base = base.file(format!("{}/{index}", index / 100).as_bytes(), &noise(100, index));
    }
    let bytes = make(&base.end()).unwrap().bytes;
    let size = bytes.len() as u64;
    let watched = Arc::new(Watched(bytes, 0.into()));
    let base = Arc::new(Image::open(Box::new(Arc::clone(&watched)) as ImageSource).unwrap());
    let top = Tar::new().file(b"7/701", b"changed").dir(b"new").file(b"new/f", b"f");
    let top = opened(&make(&top.file(b"9/.wh.901", b"").end()).unwrap().bytes);
    watched.1.store(0, std::sync::atomic::Ordering::Relaxed);
    let (tar, _) = difference(&stack(&[&base]), &stack(&[&top, &base]));
    assert_eq!(names(&tar), ["7/", "7/701", "9/", "9/.wh.901", "new/", "new/f"]);
    let read = watched.1.load(std::sync::atomic::Ordering::Relaxed);
    assert!(read < size / 10, "{read} of {size} bytes were read");
}

#[test]
fn an_epoch_bounds_times() {
    let file = Tar::new()
        .add(Header::new(b"late", b'0', 1).mtime(2000), b"l")
        .pax(&[(b"mtime", b"999.75")])
        .file(b"early", b"e");
    let right = opened(&make(&file.end()).unwrap().bytes);
    let left = opened(&make(&Tar::new().file(b"gone", b"").end()).unwrap().bytes);
    let epoch = Timestamp { seconds: 1000, nanoseconds: 500_000_000 };
    let mut times = Vec::new();
    for source_date_epoch in [None, Some(epoch)] {
        let options = DiffOptions { source_date_epoch };
        let mut tar = Vec::new();
        let (left, right) = (stack(&[&left]), stack(&[&right]));
        diff(&left, &right, &options, &mut tar, &Cancel::new()).unwrap();
        let listing = list(&make(&tar).unwrap().bytes);
        let time = |name| listing[name].split(' ').nth(3).unwrap().to_owned();
        times.push(["/early", "/late", "/gone"].map(time));
    }
    assert_eq!(times[0], ["999.750000000", "2000", "0"]);
    assert_eq!(times[1], ["999", "1000", "0"]);
}

#[test]
fn what_stays_linked_and_what_does_not() {
    let base = Tar::new().file(b"a", b"x").hard_link(b"z/b", b"a").file(b"c", b"y");
    let base = opened(&make(&base.hard_link(b"z/d", b"c").end()).unwrap().bytes);
    // One name replaced: the other one stays.
    let top = opened(&make(&Tar::new().file(b"a", b"new").end()).unwrap().bytes);
    assert_eq!(check(&stack(&[&base]), &stack(&[&top, &base])), ["a"]);
    assert_eq!(check(&stack(&[&top, &base]), &stack(&[&base])), ["a", "z/", "z/b"]);
    // The same bytes, but other pairs.
    let crossed = Tar::new().file(b"a", b"x").hard_link(b"z/d", b"a").file(b"c", b"x");
    let straight = Tar::new().file(b"a", b"x").hard_link(b"z/b", b"a").file(b"c", b"x");
    let crossed = opened(&make(&crossed.hard_link(b"z/b", b"c").end()).unwrap().bytes);
    let straight = opened(&make(&straight.hard_link(b"z/d", b"c").end()).unwrap().bytes);
    check(&stack(&[&straight]), &stack(&[&crossed]));
    // A name that both sides have from the same layer joins the one that only the right side has.
    let hiding = opened(&make(&Tar::new().file(b".wh.z", b"").end()).unwrap().bytes);
    let found = check(&stack(&[&hiding, &base]), &stack(&[&base]));
    assert_eq!(found, ["a", "c", "z/", "z/b", "z/d"]);
}

#[test]
fn marks_and_refusals() {
    let tree = |name: &[u8]| {
        let mut tree = erofs::Tree::new();
        let file =
            tree.add(erofs::Inode { content: erofs::Content::Fifo, ..erofs::Inode::directory() });
        tree[erofs::Tree::ROOT].entries_mut().unwrap().insert(name.into(), file);
        opened(&written(&tree))
    };
    let refused = |left: &Side, right: &Side, cancel: &Cancel| {
        diff(left, right, &DiffOptions::default(), std::io::sink(), cancel).unwrap_err()
    };
    let (forged, plain) = (tree(b".wh.x"), tree(b"x"));
    for (left, right) in [(&forged, &plain), (&plain, &forged)] {
        let error = refused(&stack(&[left]), &stack(&[right]), &Cancel::new());
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with(".wh.x: "), "{error}");
    }
    let cancel = Cancel::new();
    cancel.cancel();
    let error = refused(&Side::default(), &stack(&[&plain]), &cancel);
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let missing = Side { upper: Some("/nonexistent/upper".into()), layers: Vec::new() };
    assert_eq!(refused(&Side::default(), &missing, &Cancel::new()).kind(), ErrorKind::Io);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn any_two_stacks(
        base in proptest::collection::vec(proptest::collection::vec(step(), 0..25), 0..3),
        left in proptest::collection::vec(proptest::collection::vec(step(), 0..15), 0..3),
        right in proptest::collection::vec(proptest::collection::vec(step(), 0..15), 0..3),
    ) {
        let layers = |steps: &[Vec<_>]| -> Vec<Layer> {
            steps.iter().map(|steps| opened(&written(&as_layer(grown(steps))))).collect()
        };
        let base = layers(&base);
        let side = |own: &[Vec<_>]| {
            let layers = [layers(own), base.clone()].concat();
            Side { layers, upper: None }
        };
        let (left, right) = (side(&left), side(&right));
        check(&left, &right);
        check(&right, &left);
    }

    #[test]
    fn one_tree_grows_out_of_another(
        shared in proptest::collection::vec(step(), 0..25),
        left in proptest::collection::vec(step(), 0..25),
        right in proptest::collection::vec(step(), 0..25),
    ) {
        let left = opened(&written(&grown(&[shared.clone(), left].concat())));
        let right = opened(&written(&grown(&[shared, right].concat())));
        check(&stack(&[&left]), &stack(&[&right]));
    }
}

/// An upper directory that a real overlay wrote, over two real layer images.
#[test]
fn privileged_container_against_its_image() {
    require_root();
    let work = disk();
    let path = |name: &str| work.path().join(name);
    let base = Tar::new()
        .dir(b"d")
        .file(b"d/gone", b"g")
        .file(b"d/kept", b"k")
        .dir(b"replaced")
        .file(b"replaced/old", b"o")
        .file(b"touched", b"t")
        .file(b"linked", b"l")
        .hard_link(b"linked-2", b"linked")
        .file(b"big", &noise(500_000, 1))
        .dir(b"untouched")
        .file(b"untouched/f", b"f");
    let second = Tar::new().dir(b"d").file(b"d/second", b"s").file(b".wh.untouched", b"");
    let mut layers = Vec::new();
    let mut mounts = Vec::new();
    for (name, tar) in [("1.erofs", base), ("2.erofs", second)] {
        let bytes = make(&tar.end()).unwrap().bytes;
        std::fs::write(path(name), &bytes).unwrap();
        layers.insert(0, opened(&bytes));
        mounts.push(mount("erofs", &[("source", &path(name))]));
    }
    for name in ["upper", "work"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let overlay = mount(
        "overlay",
        &[
            ("lowerdir+", mounts[1].0.path()),
            ("lowerdir+", mounts[0].0.path()),
            ("upperdir", &path("upper")),
            ("workdir", &path("work")),
        ],
    );
    let left = Side { layers: layers.clone(), upper: None };
    let right = Side { layers, upper: Some(path("upper")) };
    assert_eq!(difference(&left, &right).1.entries, 0, "nothing was written");

    let inside = |name: &str| overlay.0.path().join(name);
    // Opened for writing, so copied up, but not written.
    drop(std::fs::File::options().write(true).open(inside("touched")).unwrap());
    assert_eq!(difference(&left, &right).1.entries, 0, "nothing was changed");
    std::fs::remove_file(inside("d/gone")).unwrap();
    std::fs::remove_dir_all(inside("replaced")).unwrap();
    std::fs::create_dir(inside("replaced")).unwrap();
    std::fs::write(inside("replaced/new"), b"n").unwrap();
    std::fs::create_dir(inside("untouched")).unwrap();
    std::fs::write(inside("linked"), b"changed").unwrap();
    symlink("d/kept", inside("symbolic")).unwrap();
    std::fs::hard_link(inside("big"), inside("d/bigger")).unwrap();
    std::fs::set_permissions(inside("d/kept"), PermissionsExt::from_mode(0o4711)).unwrap();
    let holes = std::fs::File::create(inside("holes")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"data", 5_000_000).unwrap();
    std::os::unix::net::UnixListener::bind(inside("socket")).unwrap();
    let name = inside("d").into_os_string().into_encoded_bytes();
    sys::xattr::set_xattr(&name, b"user.note", b"value").unwrap();
    let mut deep = inside("");
    for _ in 0..600 {
        deep.push("n");
        std::fs::create_dir(&deep).unwrap();
    }

    let (tar, report) = difference(&left, &right);
    assert_eq!(report.sockets, 1);
    let short: Vec<String> = names(&tar).into_iter().filter(|n| !n.starts_with("n/")).collect();
    assert_eq!(
        short,
        [
            "big",
            "d/",
            "d/bigger",
            "d/.wh.gone",
            "d/kept",
            "GNUSparseFile.0/data",
            "linked",
            "replaced/",
            "replaced/.wh..wh..opq",
            "replaced/new",
            "symbolic",
            "untouched/",
        ]
    );
    let made = opened(&make(&tar).unwrap().bytes);
    let applied = [vec![made], left.layers.clone()].concat();
    std::fs::remove_file(inside("socket")).unwrap();
    assert_eq!(seen(&applied), host_tree(overlay.0.path()));

    // And back: the image of the container.
    let (tar, _) = difference(&right, &left);
    let made = opened(&make(&tar).unwrap().bytes);
    let file = tempfile::tempfile().unwrap();
    write_directory_image(&path("upper"), &file, &Cancel::new()).unwrap();
    let back = [vec![made, opened(&contents(&file))], left.layers.clone()].concat();
    assert_eq!(seen(&back), seen(&left.layers));
}

/// A tree of the host as it would be in an image, without the root.
fn host_tree(path: &Path) -> Listing {
    let file = tempfile::tempfile().unwrap();
    write_directory_image(path, &file, &Cancel::new()).unwrap();
    let mut listing = list(&contents(&file));
    listing.remove("/");
    listing
}

/// What is written in an upper directory, and where links in it lead, decides nothing outside of it.
#[test]
fn an_upper_directory_leads_nowhere_else() {
    let top = tempfile::tempdir().unwrap();
    std::fs::create_dir(top.path().join("upper")).unwrap();
    std::fs::write(top.path().join("secret"), b"s").unwrap();
    symlink(top.path(), top.path().join("upper/out")).unwrap();
    let right = Side { layers: Vec::new(), upper: Some(top.path().join("upper")) };
    let (tar, _) = difference(&Side::default(), &right);
    assert_eq!(names(&tar).last().unwrap(), "out");
}
