//! Images that mkfs.erofs makes of a real directory, read back and compared with that directory.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use erofs::{
    BlockSize, Code, Content, Image, ImageWriter, ReadAt, Tree, WriterOptions, check, diff, merge,
    merge_with_block_size,
};

/// A directory with every size around block boundaries, deep and wide directories, links and odd names.
fn make(root: &Path) {
    for size in [0, 1, 63, 511, 512, 513, 4000, 4064, 4095, 4096, 4097, 8191, 8192, 10_000, 100_000]
    {
        let bytes: Vec<u8> = (0..size).map(|i: u32| (i % 251) as u8 ^ (size % 255) as u8).collect();
        fs::write(root.join(format!("file-{size}")), bytes).unwrap();
    }
    fs::hard_link(root.join("file-513"), root.join("link-to-513")).unwrap();
    symlink("file-1", root.join("short")).unwrap();
    symlink("x/".repeat(1000), root.join("long")).unwrap();
    let mut deep = root.to_path_buf();
    for depth in 0..40 {
        deep.push(format!("d{depth}"));
        fs::create_dir(&deep).unwrap();
    }
    let wide = root.join("wide");
    fs::create_dir(&wide).unwrap();
    for number in 0..1000 {
        fs::write(wide.join(format!("{number}-{}", "n".repeat(number % 200))), b"same").unwrap();
    }
    for name in [&b"!first"[..], b" space", b"-", b"\xff\xfe", b"back\\slash"] {
        let path = root.join(std::ffi::OsStr::from_bytes(name));
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
    }
    let fifo = root.join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for number in 0..20 {
        let path = root.join(format!("attr-{number}"));
        fs::write(&path, vec![b'x'; number * 400]).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&path, "user.shared", b"a value of many files", flags).unwrap();
        let own = format!("user.own{number}");
        rustix::fs::setxattr(&path, own.as_str(), &vec![7; number * 100], flags).unwrap();
    }
}

fn mkfs(arguments: &[&str], source: &Path, image: &Path) -> Image<File> {
    let mut command = Command::new("mkfs.erofs");
    let output = command.args(arguments).arg(image).arg(source).output().unwrap_or_else(|error| {
        panic!("mkfs.erofs does not run ({error}); install the package erofs-utils")
    });
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "mkfs.erofs {arguments:?}: {text}");
    Image::open(File::open(image).unwrap()).unwrap()
}

/// A directory that takes user xattrs, which tmpfs does only on new kernels.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn compare(image: &Image<File>, root: &Path) {
    let tree = image.load_tree().unwrap();
    let mut inodes = HashMap::new();
    let mut pending = vec![(root.to_path_buf(), Tree::ROOT, image.root())];
    let mut count = 0;
    while let Some((path, id, nid)) = pending.pop() {
        count += 1;
        let shown = path.display();
        let stat = fs::symlink_metadata(&path).unwrap();
        let view = image.inode(nid).unwrap();
        assert_eq!(view.mode(), stat.mode(), "{shown}");
        assert_eq!((view.uid, view.gid), (stat.uid(), stat.gid()), "{shown}");
        assert_eq!(view.mtime.seconds, stat.mtime(), "{shown}");
        assert_eq!(i64::from(view.mtime.nanoseconds), stat.mtime_nsec(), "{shown}");
        assert_eq!(u64::from(view.nlink), stat.nlink(), "{shown}");
        assert_eq!(*inodes.entry(stat.ino()).or_insert(nid), nid, "{shown}: hard links");
        for xattr in &tree[id].xattrs {
            let mut value = vec![0; 65_536];
            let name = &*xattr.name;
            let length = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
            assert_eq!(value[..length], *xattr.value, "{shown}");
        }
        let mut names = vec![0; 65_536];
        let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let listed = names[..length].iter().filter(|byte| **byte == 0).count();
        assert_eq!(tree[id].xattrs.len(), listed, "{shown}");
        match &tree[id].content {
            Content::Directory(names) => {
                assert_eq!(fs::read_dir(&path).unwrap().count(), names.len(), "{shown}");
                for (name, child) in names {
                    let entry = image.lookup(&view, name).unwrap().unwrap();
                    let path = path.join(std::ffi::OsStr::from_bytes(name));
                    pending.push((path, *child, entry.nid));
                }
            }
            Content::Regular(_) => {
                let mut bytes = Vec::new();
                image.reader(&view).read_to_end(&mut bytes).unwrap();
                assert!(bytes == fs::read(&path).unwrap(), "{shown}: data");
            }
            Content::Symlink(target) => {
                assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_bytes(), &**target);
            }
            _ => {}
        }
    }
    assert_eq!(count, inodes.len() + 1, "one hard link");
}

#[test]
fn plain_images_of_every_kind_are_read_and_sound() {
    let directory = directory();
    let source = directory.path().join("source");
    fs::create_dir(&source).unwrap();
    make(&source);
    let mut first: Option<Image<File>> = None;
    for (number, arguments) in [
        &[][..],
        &["-E", "force-inode-compact", "-T", "0"],
        &["-E", "force-inode-extended"],
        &["-E", "noinline_data"],
        &["-x", "1"],
        &["--chunksize", "4096"],
        &["--chunksize", "8192", "-E", "force-chunk-indexes"],
    ]
    .into_iter()
    .enumerate()
    {
        let image = mkfs(arguments, &source, &directory.path().join(format!("{number}.erofs")));
        let report = check(&image);
        let errors: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
        assert!(report.is_sound(), "{arguments:?}: {errors:?}");
        if !arguments.contains(&"-T") {
            compare(&image, &source);
            match &first {
                None => first = Some(image),
                Some(first) => assert_eq!(diff(first, &image).unwrap(), [], "{arguments:?}"),
            }
        }
    }
}

#[test]
fn chunk_files_on_an_extra_device_are_read() {
    let directory = directory();
    let source = directory.path().join("source");
    fs::create_dir(&source).unwrap();
    make(&source);
    let blob = directory.path().join("blob");
    let path = directory.path().join("image.erofs");
    let device = format!("--blobdev={}", blob.display());
    let arguments = ["--chunksize", "4096", device.as_str()];
    drop(mkfs(&arguments, &source, &path));
    let open = |path: &Path| File::open(path).unwrap();
    let image = Image::open_with_devices(open(&path), vec![open(&blob)]).unwrap();
    compare(&image, &source);
    let report = check(&image);
    // mkfs.erofs 1.5 leaves the device without a place in the unified space, and counts what it likes.
    let codes: Vec<_> = report.findings.iter().map(|finding| finding.code).collect();
    assert!(
        codes.iter().all(|code| matches!(code, Code::DeviceRange | Code::DeviceShort)),
        "{:?}",
        report.findings
    );
}

/// Inline tails behind whole blocks, which our own writer does not make, survive a merge.
#[test]
fn a_merged_image_over_mkfs_images_differs_in_nothing() {
    let directory = directory();
    let source = directory.path().join("source");
    fs::create_dir(&source).unwrap();
    make(&source);
    let path = directory.path().join("image.erofs");
    let image = mkfs(&[], &source, &path);
    for block_size in [BlockSize::B4096, BlockSize::B512] {
        let merged = merge_with_block_size(&[&image], block_size).unwrap();
        let devices = merged.device_infos();
        let options = WriterOptions { devices, block_size, ..WriterOptions::default() };
        let writer = ImageWriter::new(Vec::new(), options).unwrap();
        let (bytes, _) = writer.finish(&merged.tree, [1; 16]).unwrap();
        assert!(bytes.len() < 1 << 20, "{} bytes of metadata", bytes.len());
        let index: Box<dyn ReadAt> = Box::new(bytes);
        let device: Box<dyn ReadAt> = Box::new(File::open(&path).unwrap());
        let over = Image::open_with_devices(index, vec![device]).unwrap();
        assert_eq!(check(&over).findings, []);
        assert_eq!(diff(&image, &over).unwrap(), []);
    }
}

#[test]
fn compressed_images_are_refused_file_by_file() {
    let directory = directory();
    let source = directory.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("small"), b"not worth compressing").unwrap();
    fs::write(source.join("large"), vec![b'x'; 1 << 20]).unwrap();
    let image = mkfs(&["-zlz4"], &source, &directory.path().join("image.erofs"));
    let small = image.resolve(b"small", true).unwrap();
    let mut bytes = Vec::new();
    image.reader(&small).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"not worth compressing");
    let large = image.resolve(b"large", true).unwrap();
    let error = image.read_at(&large, &mut [0; 10], 0).unwrap_err();
    assert_eq!(error.kind(), erofs::ErrorKind::Unsupported);
    assert!(error.to_string().contains("compressed"), "{error}");
    let error = merge(&[&image]).unwrap_err();
    assert!(error.to_string().starts_with("/large: compressed"), "{error}");
    let report = check(&image);
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert_eq!(report.findings.len(), 1, "{findings:?}");
    assert_eq!(report.findings[0].code, Code::Compressed);
    assert!(findings[0].contains("/large: a compressed inode (LZ4)"), "{findings:?}");
    assert!(report.is_unsupported() && !report.is_sound());
}
