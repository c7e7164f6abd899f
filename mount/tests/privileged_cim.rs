//! CIMs mounted for real, by the kernel and by FUSE, against what their own reader says.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, reason = "test code")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cimfs::{DirectorySet, FileFlags, FileTime, Guid, Image, ImageWriter, Metadata, Name};
use layer::Cancel;
use layer::cim_view::{Attributes, FileKind, file_kind, permissions, view_of};
use layer::windows::encode_wtf8;
use mount::{Backing, CimFiles, CimOptions, Registry, TargetKind, this_process};
use support::{Bench, everybody_lives, mounted_below, user};
use sys::process::Process;

/// Data whose position can be told from a few bytes of it.
fn bytes(length: u32, seed: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..length.div_ceil(4)).flat_map(|i| (i ^ seed.rotate_left(20)).to_le_bytes()).collect();
    bytes.truncate(length as usize);
    bytes
}

/// A junction to `C:\x`.
fn junction() -> Vec<u8> {
    let mut buffer = vec![3, 0, 0, 0xA0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0];
    buffer.extend("C:\\x".encode_utf16().flat_map(u16::to_le_bytes));
    buffer
}

/// An image and a fork of it, on the disk that the tests are on. Returns the fork's filesystem file.
fn image(directory: &Path) -> PathBuf {
    let set = DirectorySet::new(directory);
    let guid = Guid::for_content(b"base");
    let mut writer =
        ImageWriter::create(set.clone(), "base.cim", guid, Default::default()).unwrap();
    let time = |seconds| FileTime::from_unix(seconds, 987_654_300).unwrap();
    let metadata = |flags| Metadata {
        flags,
        creation_time: time(5),
        last_write_time: time(1_700_000_000),
        ..Metadata::default()
    };
    let plain = metadata(FileFlags::ARCHIVE);
    for directory in ["Files", "Files/Windows", "Files/empty", "Files/Wörter 語"] {
        writer.add_directory(&directory.into(), &plain).unwrap();
    }
    for (seed, length) in (1..).zip([0, 1, 100, 4095, 4096, 4097, 8192, 70_000, 3_000_001]) {
        let path = format!("Files/Windows/{length}.bin");
        writer.add_file(&path.as_str().into(), &plain, &bytes(length, seed)).unwrap();
    }
    for number in 0..700 {
        let path = format!("Files/Wörter 語/a rather long name of a file, number {number}");
        writer.add_file(&path.as_str().into(), &plain, &bytes(number, number)).unwrap();
    }
    let read_only = metadata(FileFlags::READ_ONLY | FileFlags::HIDDEN);
    writer.add_file(&"Files/read only".into(), &read_only, b"x").unwrap();
    writer.add_sparse_file(&"Files/sparse".into(), &metadata(FileFlags::SPARSE), 1 << 20).unwrap();
    let junction = Metadata { reparse: junction(), ..plain.clone() };
    writer.add_directory(&"Files/junction".into(), &junction).unwrap();
    writer.add_link(&"Files/link".into(), &"Files/Windows/70000.bin".into()).unwrap();
    writer.begin_stream(&"Files/link".into(), &Name::from("Zone.Identifier"), 4).unwrap();
    writer.write_data(b"zone").unwrap();
    writer.end().unwrap();
    writer.commit().unwrap();

    let guid = Guid::for_content(b"fork");
    let mut writer =
        ImageWriter::fork(set, "base.cim", "fork.cim", guid, Default::default()).unwrap();
    writer.add_file(&"Files/Windows/new.dll".into(), &plain, &bytes(50_000, 77)).unwrap();
    writer.remove(&"Files/Windows/100.bin".into()).unwrap();
    writer.commit().unwrap();
    directory.join("fork.cim")
}

fn open(path: &Path) -> Image<fs::File> {
    let set = DirectorySet::new(path.parent().unwrap());
    Image::open(&set, path.file_name().unwrap().to_str().unwrap()).unwrap()
}

/// Everything of the image is below `root` as it should be, and nothing else. Returns how many names.
fn assert_shown(path: &Path, root: &Path) -> usize {
    let image = open(path);
    let mut shown = 0;
    let mut children: HashMap<PathBuf, usize> = HashMap::new();
    let mut inodes = HashMap::new();
    for entry in image.walk() {
        let entry = entry.unwrap();
        let file = entry.file;
        let mut here = root.to_owned();
        for name in entry.path().names() {
            here.push(std::ffi::OsStr::from_bytes(&encode_wtf8(name.units().iter().copied())));
        }
        if shown > 0 {
            *children.entry(here.parent().unwrap().to_owned()).or_default() += 1;
        }
        shown += 1;
        let kind = file_kind(&image, &file).unwrap();
        let metadata = fs::symlink_metadata(&here).unwrap();
        assert_eq!(metadata.mode() & 0o7777, u32::from(permissions(&file, &kind)), "{here:?}");
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0));
        assert_eq!(*inodes.entry(file.id).or_insert(metadata.ino()), metadata.ino(), "{here:?}");
        let time = file.last_write_time().to_unix();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (time.0, time.1.into()), "{here:?}");
        match &kind {
            FileKind::Directory => {
                assert!(metadata.is_dir(), "{here:?}");
                children.entry(here.clone()).or_default();
            }
            FileKind::Symlink(target) => {
                assert_eq!(fs::read_link(&here).unwrap().as_os_str().as_bytes(), target);
            }
            FileKind::Regular => {
                assert_eq!(metadata.len(), file.size(), "{here:?}");
                let mut data = Vec::new();
                let mut stream = image.open_stream(&file.data()).unwrap();
                std::io::Read::read_to_end(&mut stream, &mut data).unwrap();
                assert!(fs::read(&here).unwrap() == data, "{here:?}");
            }
        }
        let attributes = Attributes::default().of(&image, &file, &kind).unwrap();
        let mut names = vec![0; 4096];
        let length = rustix::fs::llistxattr(&here, names.as_mut_slice()).unwrap();
        let count = names[..length].iter().filter(|byte| **byte == 0).count();
        assert_eq!(count, attributes.len(), "{here:?}");
        for xattr in attributes {
            let value = get(&here, &xattr.name);
            assert_eq!(value.as_deref(), Some(&*xattr.value), "{here:?}");
        }
    }
    for (directory, count) in children {
        assert_eq!(fs::read_dir(&directory).unwrap().count(), count, "{directory:?}");
    }
    shown
}

fn get(path: &Path, name: &[u8]) -> Option<Vec<u8>> {
    let mut value = vec![0; 65_536];
    let name = std::ffi::OsStr::from_bytes(name);
    let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(value)
}

/// Serves an image in a thread of this process.
fn serve(registry: &Registry, image: &Path, target: &Path, options: CimOptions) {
    let mut device = None;
    let take = |given: OwnedFd| {
        device = Some(given);
        this_process()
    };
    registry.mount_fuse(image, target, &user("u"), take).unwrap();
    let files = CimFiles::new(open(image), options).with_mapped_regions();
    std::thread::spawn(move || sys::serve_fuse(device.unwrap(), files, 2));
}

privileged! {
    fn privileged_a_cim_is_mounted_by_the_kernel() {
        let bench = Bench::new();
        let image = image(&bench.directory("images"));
        let view = view_of(&image, &bench.path().join("views"), &Cancel::default()).unwrap();
        let target = bench.directory("mnt");
        for backing in [Backing::Auto, Backing::Loop] {
            let registry = bench.registry().with_backing(backing);
            registry.mount_view(&image, &view.path, &view.devices, &target, &user("u")).unwrap();
            assert!(assert_shown(&image, &target) > 700);
            let mounts = registry.mounts().unwrap();
            assert_eq!((mounts[0].kind, mounts[0].read_only), (TargetKind::Image, true));
            assert_eq!(mounts[0].what, image.display().to_string());
            // A view may be deleted while it is mounted.
            if backing == Backing::Loop {
                fs::remove_file(&view.path).unwrap();
                assert_eq!(fs::read(target.join("Files/read only")).unwrap(), b"x");
            }
            assert!(registry.unmount(&target).unwrap());
        }
        assert_eq!(mounted_below(bench.path()), Vec::<PathBuf>::new());
    }

    fn privileged_a_cim_is_served_by_fuse() {
        let bench = Bench::new();
        let image = image(&bench.directory("images"));
        let target = bench.directory("mnt");
        let registry = bench.registry();
        serve(&registry, &image, &target, CimOptions::default());
        assert!(assert_shown(&image, &target) > 700);
        // What the kernel has kept is the same.
        assert_shown(&image, &target);
        let read = |name: &str| fs::read(target.join(name));
        assert_eq!(read("Files/link:Zone.Identifier").unwrap(), b"zone");
        assert_eq!(read("Files/link:zone.identifier:$DATA").unwrap(), b"zone");
        for missing in ["Files/link:other", "files/link", "Files/link:Zone.Identifier:x"] {
            assert_eq!(read(missing).unwrap_err().kind(), std::io::ErrorKind::NotFound, "{missing}");
        }
        let link = target.join("Files/link");
        let theirs = get(&link, b"system.ntfs_attrib");
        assert_eq!(theirs, Some(0x20_u32.to_le_bytes().to_vec()));
        assert_eq!(get(&link, b"system.Zone.Identifier"), None);
        fs::write(target.join("Files/new"), b"x").unwrap_err();
        let mounts = registry.mounts().unwrap();
        assert_eq!((mounts[0].kind, mounts[0].read_only), (TargetKind::Fuse, true));
        assert!(registry.reconcile(&everybody_lives).unwrap().is_clean());
        assert!(registry.unmount(&target).unwrap());
        assert_eq!(mounted_below(bench.path()), Vec::<PathBuf>::new());
    }

    fn privileged_names_are_found_in_any_case() {
        let bench = Bench::new();
        let image = image(&bench.directory("images"));
        let target = bench.directory("mnt");
        let registry = bench.registry();
        serve(&registry, &image, &target, CimOptions { ignore_case: true });
        for name in ["Files/Windows/4096.bin", "FILES/windows/4096.BIN", "files/WINDOWS/4096.Bin"] {
            assert_eq!(fs::read(target.join(name)).unwrap(), bytes(4096, 5), "{name}");
        }
        assert_eq!(fs::read(target.join("files/LINK:ZONE.identifier")).unwrap(), b"zone");
        assert_eq!(fs::read_dir(target.join("files/wörter 語")).unwrap().count(), 700);
        assert!(!target.join("Files/Windows/100.bin").exists());
        assert!(registry.unmount(&target).unwrap());
    }

    fn privileged_what_a_dead_server_leaves_is_removed() {
        let bench = Bench::new();
        let image = image(&bench.directory("images"));
        let target = bench.directory("mnt");
        let registry = bench.registry();
        let mut server = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::of(server.id()).unwrap().unwrap();
        registry.mount_fuse(&image, &target, &user("u"), |device| {
            drop(device);
            Ok(process)
        }).unwrap();
        let error = fs::read_dir(&target).map(|_| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc_enotconn()));
        let alive = |holder: &mount::Holder| holder.is_alive().unwrap();
        assert!(registry.reconcile(&alive).unwrap().is_clean());
        server.kill().unwrap();
        server.wait().unwrap();
        let report = registry.reconcile(&alive).unwrap();
        assert_eq!(report.undone.len(), 1, "{report:?}");
        assert_eq!(mounted_below(bench.path()), Vec::<PathBuf>::new());
        assert_eq!(registry.mounts().unwrap().len(), 0);
    }
}

fn libc_enotconn() -> i32 {
    rustix::io::Errno::NOTCONN.raw_os_error()
}
