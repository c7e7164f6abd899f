//! Directories into images, against GNU tar's view of them and the kernel's.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use layer::{Cancel, DirectoryImage, ErrorKind, LayerOptions, write_directory_image};
use support::host::{disk, mount, require_root, run};
use support::{Listing, contents, gzip, list, make, make_from, noise};

fn directory_image(path: &Path) -> (DirectoryImage, Vec<u8>) {
    let file = tempfile::tempfile().unwrap();
    let report = write_directory_image(path, &file, &Cancel::new()).unwrap();
    assert_eq!(layer::image_checksum(&file).unwrap(), report.checksum);
    (report, contents(&file))
}

/// A tree with everything that needs no privilege; times are whole seconds, which every format can say.
fn populate(root: &Path) {
    let path = |name: &str| root.join(name);
    std::fs::create_dir_all(path("d/empty")).unwrap();
    std::fs::write(path("d/small"), b"s").unwrap();
    std::fs::write(path("big"), noise(300_000, 1)).unwrap();
    std::fs::write(path("zero"), b"").unwrap();
    std::fs::hard_link(path("d/small"), path("a-link")).unwrap();
    symlink("d/small", path("symbolic")).unwrap();
    std::fs::hard_link(path("symbolic"), path("symbolic-2")).unwrap();
    std::fs::set_permissions(path("big"), PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(path("d"), PermissionsExt::from_mode(0o1770)).unwrap();
    run("mkfifo", &[&path("fifo")]);
    for (name, offsets) in
        [("sparse", &[0_u64, 200_000, 5_000_000][..]), ("hole", &[]), ("many", &[1; 0])]
    {
        let file = File::create(path(name)).unwrap();
        for offset in offsets {
            std::os::unix::fs::FileExt::write_all_at(&file, &noise(5000, *offset), *offset)
                .unwrap();
        }
        file.set_len(9_000_001).unwrap();
    }
    let file = File::create(path("many-segments")).unwrap();
    for index in 0..40 {
        std::os::unix::fs::FileExt::write_all_at(&file, b"piece", index * 65_536).unwrap();
    }
    run("find", &[&root, &"-exec", &"touch", &"-h", &"-d", &"@1735689600", &"{}", &"+"]);
}

fn without_root(mut listing: Listing) -> Listing {
    listing.remove("/");
    listing
}

#[test]
fn gnu_tar_and_the_directory_make_one_tree() {
    let top = tempfile::tempdir().unwrap();
    populate(top.path());
    let (report, image) = directory_image(top.path());
    let expected = list(&image);
    assert_eq!(report.entries, expected.len() as u64);
    assert!(image.len() < 1_500_000, "holes are holes: {}", image.len());

    let formats: [&[&str]; 8] = [
        &["--format=v7", "--exclude=./fifo"],
        &["--format=ustar"],
        &["--format=oldgnu", "--sparse"],
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0"],
    ];
    for options in formats {
        let mut command = Command::new("tar");
        command.args(options).args(["--numeric-owner", "-cf", "-", "-C"]).arg(top.path()).arg(".");
        let tar = command.output().unwrap();
        assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
        let made = make(&tar.stdout).unwrap_or_else(|error| panic!("{options:?}: {error:?}"));
        let mut expected = expected.clone();
        if options[0] == "--format=v7" {
            // v7 does not know fifos.
            expected.remove("/fifo");
        }
        assert_eq!(list(&made.bytes), expected, "{options:?}");
        if options.contains(&"--sparse") {
            assert!(made.bytes.len() < 1_500_000, "{options:?}: {}", made.bytes.len());
        }
    }
}

#[test]
fn long_names_of_gnu_tar() {
    let top = tempfile::tempdir().unwrap();
    let deep = top.path().join("a-directory-with-a-long-name/".repeat(9));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("f".repeat(255)), b"x").unwrap();
    symlink("t".repeat(300), top.path().join("l")).unwrap();
    std::fs::hard_link(deep.join("f".repeat(255)), top.path().join("h".repeat(120))).unwrap();
    let sparse = File::create(deep.join("s".repeat(200))).unwrap();
    sparse.set_len(1 << 20).unwrap();
    run("find", &[&top.path(), &"-exec", &"touch", &"-h", &"-d", &"@5", &"{}", &"+"]);
    let expected = list(&directory_image(top.path()).1);
    for format in ["gnu", "pax"] {
        let format = format!("--format={format}");
        let tar = run("tar", &[&format, &"-S", &"-cf", &"-", &"-C", &top.path(), &"."]);
        assert_eq!(list(&make(&tar).unwrap().bytes), expected, "{format}");
    }
}

#[test]
fn the_tar_crate_sees_the_same() {
    // The second opinion on a real tree: names, types, owners, modes, times and data of every entry.
    let source = Path::new("/usr/share/doc");
    let source = if source.is_dir() { source } else { Path::new("/etc") };
    let tar = run("tar", &[&"--format=pax", &"-cf", &"-", &"-C", &source, &"."]);
    let listing = list(&make_from(&gzip(&tar)[..], &LayerOptions::default()).unwrap().bytes);
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut count = 0;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path_bytes().into_owned();
        let path = path.strip_prefix(b".").unwrap();
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let shown = if path.is_empty() { "/".into() } else { path.escape_ascii().to_string() };
        let found = &listing[&shown];
        count += 1;
        if found.starts_with('=') || entry.header().entry_type().is_hard_link() {
            continue;
        }
        let kind = match entry.header().entry_type() {
            tar::EntryType::Directory => 'd',
            tar::EntryType::Symlink => 'l',
            _ => 'f',
        };
        let header = entry.header();
        let (mode, uid, gid) =
            (header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap());
        let seconds = header.mtime().unwrap();
        let start = format!("{kind} {mode:o} {uid}:{gid} {seconds}");
        assert!(found.starts_with(&start), "{shown}: {found}, not {start}");
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        if data.len() > 40 {
            assert!(found.contains(&layer::Digest::of(&data).hex()), "{shown}: {found}");
        }
    }
    assert_eq!(count, listing.len());
}

#[test]
fn the_order_on_the_disk_does_not_matter() {
    let [one, other] = [0, 1].map(|_| tempfile::tempdir().unwrap());
    let names: Vec<String> = (0..200).map(|index| format!("name-{}", index * 7919 % 200)).collect();
    for name in &names {
        std::fs::write(one.path().join(name), name).unwrap();
    }
    for name in names.iter().rev() {
        std::fs::write(other.path().join(name), name).unwrap();
    }
    for top in [&one, &other] {
        run("find", &[&top.path(), &"-exec", &"touch", &"-d", &"@5", &"{}", &"+"]);
    }
    let (first, bytes) = directory_image(one.path());
    assert_eq!(directory_image(other.path()), (first.clone(), bytes));
    std::fs::set_permissions(one.path().join("name-3"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_ne!(directory_image(one.path()).0.uuid, first.uuid, "another tree, another UUID");
}

#[test]
fn no_link_is_followed_and_depth_is_bounded() {
    let top = tempfile::tempdir().unwrap();
    symlink("/etc", top.path().join("out")).unwrap();
    let listing = without_root(list(&directory_image(top.path()).1));
    assert_eq!(listing.len(), 1);
    assert!(listing["/out"].ends_with("-> /etc"));
    let error = write_directory_image(
        &top.path().join("missing"),
        &tempfile::tempfile().unwrap(),
        &Cancel::new(),
    );
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Io);
    let cancel = Cancel::new();
    cancel.cancel();
    let error = write_directory_image(top.path(), &tempfile::tempfile().unwrap(), &cancel);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn privileged_kernel_shows_what_tar_unpacks() {
    require_root();
    let work = disk();
    let source = work.path().join("source");
    populate_as_root(&source);
    let tar = work.path().join("layer.tar");
    run(
        "tar",
        &[
            &"--format=pax",
            &"--xattrs",
            &"--xattrs-include=*",
            &"-S",
            &"-cf",
            &tar,
            &"-C",
            &source,
            &".",
        ],
    );
    let unpacked = work.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    run("tar", &[&"--xattrs", &"--xattrs-include=*", &"-xpf", &tar, &"-C", &unpacked]);

    let made = make(&std::fs::read(&tar).unwrap()).unwrap();
    let image = work.path().join("layer.erofs");
    std::fs::write(&image, &made.bytes).unwrap();
    let mounted = mount("erofs", &[("source", &image)]);

    let expected = list(&directory_image(&unpacked).1);
    assert!(expected.len() > 500, "{}", expected.len());
    assert_eq!(list(&directory_image(mounted.0.path()).1), expected);
    assert_eq!(list(&made.bytes), expected);
    let total: u64 = expected.len() as u64;
    assert_eq!(made.report.entries, total);
}

fn populate_as_root(root: &Path) {
    std::fs::create_dir(root).unwrap();
    populate(root);
    let path = |name: &str| root.join(name);
    run("mknod", &[&path("null"), &"c", &"1", &"3"]);
    run("mknod", &[&path("disk"), &"b", &"259", &"70000"]);
    sys::xattr::set_xattr(path("big").as_os_str().as_encoded_bytes(), b"user.x", b"\0y").unwrap();
    sys::xattr::set_xattr(path("big").as_os_str().as_encoded_bytes(), b"trusted.t", b"").unwrap();
    // cap_net_raw+ep, the form of the second version.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let big = path("big");
    sys::xattr::set_xattr(big.as_os_str().as_encoded_bytes(), b"security.capability", capability)
        .unwrap();
    std::os::unix::fs::lchown(path("symbolic"), Some(12), Some(70_000)).unwrap();
    std::os::unix::fs::chown(path("d/small"), Some(4_000_000_000), Some(1)).unwrap();
    run("cp", &[&"-a", &"/etc", &path("etc")]);
}

#[test]
fn privileged_upper_directory_becomes_a_layer() {
    require_root();
    let work = disk();
    let path = |name: &str| work.path().join(name);
    for name in ["lower/d", "lower/opaque", "upper", "work"] {
        std::fs::create_dir_all(path(name)).unwrap();
    }
    for name in ["gone", "changed", "d/gone", "d/kept", "opaque/old", "renamed-away"] {
        std::fs::write(path("lower").join(name), name).unwrap();
    }
    let overlay = mount(
        "overlay",
        &[("lowerdir", &path("lower")), ("upperdir", &path("upper")), ("workdir", &path("work"))],
    );
    let inside = |name: &str| overlay.0.path().join(name);
    std::fs::remove_file(inside("gone")).unwrap();
    std::fs::remove_file(inside("d/gone")).unwrap();
    std::fs::write(inside("changed"), b"new").unwrap();
    std::fs::remove_dir_all(inside("opaque")).unwrap();
    std::fs::create_dir(inside("opaque")).unwrap();
    std::fs::write(inside("opaque/new"), b"n").unwrap();
    std::fs::rename(inside("renamed-away"), inside("renamed")).unwrap();
    std::fs::hard_link(inside("renamed"), inside("twice")).unwrap();
    std::os::unix::net::UnixListener::bind(inside("socket")).unwrap();
    let seen = list(&directory_image(overlay.0.path()).1);

    let (_, bytes) = directory_image(&path("upper"));
    let listing = list(&bytes);
    let marks = |name: &str| listing[name].split_once("trusted.").map_or("", |(_, marks)| marks);
    assert_eq!(marks("/"), "overlay.origin=\"\"");
    assert_eq!(marks("/d"), "overlay.origin=\"\"");
    assert_eq!(marks("/opaque"), "overlay.opaque=\"y\"");
    assert_eq!(marks("/changed"), "", "{listing:?}");
    assert!(listing["/gone"].starts_with("c 0 0:0 0 0,0"));
    assert_eq!(listing["/twice"], "= /renamed");
    assert!(listing["/socket"].starts_with('s'));
    assert!(!listing.contains_key("/d/kept"));

    // The image over the same lower directory shows what the overlay showed.
    let image = path("upper.erofs");
    std::fs::write(&image, &bytes).unwrap();
    let layer = mount("erofs", &[("source", &image)]);
    let stack = format!("{}:{}", layer.0.path().display(), path("lower").display());
    let again = mount("overlay", &[("lowerdir", Path::new(&stack))]);
    assert_eq!(list(&directory_image(again.0.path()).1), seen);
}

#[test]
fn privileged_redirects_are_refused() {
    require_root();
    for name in ["redirect", "metacopy"] {
        let work = disk();
        let file = work.path().join("f");
        std::fs::write(&file, b"").unwrap();
        let name = format!("trusted.overlay.{name}");
        sys::xattr::set_xattr(file.as_os_str().as_encoded_bytes(), name.as_bytes(), b"/x").unwrap();
        let output = tempfile::tempfile().unwrap();
        let error = write_directory_image(work.path(), &output, &Cancel::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().starts_with("f: "), "{error}");
    }
}
