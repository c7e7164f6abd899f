//! Images that this crate writes, mounted file-backed by the running kernel and compared entry by entry.
//!
//! The mounts stay detached: they are reached through their descriptor and vanish with it, so that
//! nothing is left behind, whatever fails.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use erofs::{
    BlockAddress, BlockSize, Content, DeviceInfo, DeviceNumber, FileData, ImageWriter, Inode,
    InodeId, SeekSink, Timestamp, Tree, WriterOptions, Xattr,
};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, makedev};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use support::{Sample, noise, recipes};

/// A detached mount and the files under it.
struct Mount {
    root: OwnedFd,
    _files: tempfile::TempDir,
}

impl Mount {
    fn of(image: &[u8], devices: &[Vec<u8>]) -> Self {
        let files = directory();
        let save = |name: String, bytes: &[u8]| {
            let path = files.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let image = save("image.erofs".into(), image);
        let devices: Vec<PathBuf> = devices
            .iter()
            .enumerate()
            .map(|(index, bytes)| save(format!("device-{index}"), bytes))
            .collect();
        Self::files(files, &image, &devices)
    }

    fn files(files: tempfile::TempDir, image: &Path, devices: &[PathBuf]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "tests named privileged_ must run as root");
        let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_set_string(&context, "source", image).unwrap();
        for device in devices {
            fsconfig_set_string(&context, "device", device).unwrap();
        }
        fsconfig_create(&context).unwrap_or_else(|error| {
            let mut log = String::new();
            let _ = File::from(context.try_clone().unwrap()).read_to_string(&mut log);
            panic!("the kernel refuses {}: {error}: {log}", image.display());
        });
        let flags = MountAttrFlags::MOUNT_ATTR_RDONLY;
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).unwrap();
        Self { root, _files: files }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()))
    }
}

/// A directory on a filesystem that can back an EROFS mount, which tmpfs cannot.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn compare(sample: &Sample) {
    let mount = Mount::of(&sample.image, &sample.devices);
    Comparison { sample, seen: HashMap::new(), links: links(&sample.tree) }
        .inode(Tree::ROOT, &mount.path().join("."));
}

fn links(tree: &Tree) -> HashMap<InodeId, u64> {
    let mut links = HashMap::from([(Tree::ROOT, 2)]);
    let mut pending = vec![Tree::ROOT];
    while let Some(dir) = pending.pop() {
        for &id in tree[dir].entries().unwrap().values() {
            if tree[id].entries().is_some() {
                pending.push(id);
                *links.get_mut(&dir).unwrap() += 1;
                links.insert(id, 2);
            } else {
                *links.entry(id).or_default() += 1;
            }
        }
    }
    links
}

struct Comparison<'s> {
    sample: &'s Sample,
    seen: HashMap<u64, InodeId>,
    links: HashMap<InodeId, u64>,
}

impl Comparison<'_> {
    fn inode(&mut self, id: InodeId, path: &Path) {
        let inode = &self.sample.tree[id];
        let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let shown = path.display();
        assert_eq!(*self.seen.entry(stat.st_ino).or_insert(id), id, "{shown}: inode number");
        assert_ne!(stat.st_ino, 0);
        assert_eq!(stat.st_mode & 0o7777, u32::from(inode.permissions), "{shown}: permissions");
        assert_eq!(FileType::from_raw_mode(stat.st_mode), file_type(inode), "{shown}: type");
        assert_eq!((stat.st_uid, stat.st_gid), (inode.uid, inode.gid), "{shown}: owner");
        let mtime = (inode.mtime.seconds, u64::from(inode.mtime.nanoseconds));
        assert_eq!((stat.st_mtime, stat.st_mtime_nsec), mtime, "{shown}: time");
        assert_eq!(stat.st_nlink, self.links[&id], "{shown}: links");
        assert_eq!(xattrs(path), expected_xattrs(inode), "{shown}: xattrs");
        match &inode.content {
            Content::Directory(names) => {
                let mut found: Vec<_> =
                    std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap()).collect();
                found.sort_by_key(|entry| entry.file_name());
                let found_names: Vec<_> = found.iter().map(|entry| entry.file_name()).collect();
                let names_in_order: Vec<_> = names.keys().map(|n| OsStr::from_bytes(n)).collect();
                assert_eq!(found_names, names_in_order, "{shown}: names");
                for (entry, (name, &child)) in found.iter().zip(names) {
                    let kind = directory_type(entry.file_type().unwrap());
                    assert_eq!(kind, file_type(&self.sample.tree[child]), "{shown}: entry type");
                    self.inode(child, &path.join(OsStr::from_bytes(name)));
                }
            }
            Content::Regular(data) => {
                assert_eq!(u64::try_from(stat.st_size).unwrap(), data.size(), "{shown}: size");
                assert!(std::fs::read(path).unwrap() == self.sample.contents[&id], "{shown}: data");
            }
            Content::Symlink(target) => {
                let found = std::fs::read_link(path).unwrap();
                assert_eq!(found.as_os_str().as_bytes(), &**target, "{shown}: target");
            }
            Content::CharDevice(number) | Content::BlockDevice(number) => {
                assert_eq!(stat.st_rdev, makedev(number.major, number.minor), "{shown}: number");
            }
            Content::Fifo | Content::Socket => {}
        }
    }
}

fn file_type(inode: &Inode) -> FileType {
    match inode.content {
        Content::Directory(_) => FileType::Directory,
        Content::Regular(_) => FileType::RegularFile,
        Content::Symlink(_) => FileType::Symlink,
        Content::CharDevice(_) => FileType::CharacterDevice,
        Content::BlockDevice(_) => FileType::BlockDevice,
        Content::Fifo => FileType::Fifo,
        Content::Socket => FileType::Socket,
    }
}

fn directory_type(kind: std::fs::FileType) -> FileType {
    match kind {
        _ if kind.is_dir() => FileType::Directory,
        _ if kind.is_file() => FileType::RegularFile,
        _ if kind.is_symlink() => FileType::Symlink,
        _ if kind.is_char_device() => FileType::CharacterDevice,
        _ if kind.is_block_device() => FileType::BlockDevice,
        _ if kind.is_fifo() => FileType::Fifo,
        _ if kind.is_socket() => FileType::Socket,
        other => panic!("{other:?}"),
    }
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

fn xattrs(path: &Path) -> Xattrs {
    let mut list = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut list).unwrap();
    let mut found: Xattrs = list[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect();
    found.sort();
    found
}

fn expected_xattrs(inode: &Inode) -> Xattrs {
    let mut expected: Xattrs =
        inode.xattrs.iter().map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec())).collect();
    expected.sort();
    expected
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn privileged_kernel_shows_what_was_written(recipe in recipes(false)) {
        compare(&recipe.build());
    }

    #[test]
    fn privileged_kernel_reads_extra_devices(recipe in recipes(true)) {
        compare(&recipe.build());
    }
}

/// Adds an inode to the root.
fn add(tree: &mut Tree, name: &str, content: Content) -> InodeId {
    let id = tree.add(Inode { content, ..Inode::directory() });
    tree[Tree::ROOT].entries_mut().unwrap().insert(name.as_bytes().into(), id);
    id
}

#[test]
fn privileged_kernel_reads_pieces_of_a_packed_file() {
    let device = noise(3, 6 * 4096);
    let mut tree = Tree::new();
    // Blocks 4, 5, 0 and 1 of the device.
    let chunks = [4, 0].map(|block| Some(BlockAddress { device: 1, block })).into();
    let size = 4 * 4096;
    let content = Content::Regular(FileData::Chunks { size, chunk_bits: 13, chunks });
    let packed = tree.add(Inode { content, ..Inode::directory() });
    tree.set_packed(packed);
    let whole = [&device[4 * 4096..], &device[..2 * 4096]].concat();
    let pieces = [(0, 1), (1, 4095), (8191, 2), (5, 16_379), (777, 5000), (16_383, 1)];
    for (offset, size) in pieces {
        let data = FileData::Packed { offset, size };
        add(&mut tree, &format!("{offset}"), Content::Regular(data));
    }
    let devices = vec![DeviceInfo { tag: Vec::new(), blocks: 6 }];
    let options = WriterOptions { devices, ..WriterOptions::default() };
    let writer = ImageWriter::new(Vec::new(), options).unwrap();
    let (image, _) = writer.finish(&tree, [7; 16]).unwrap();
    let mount = Mount::of(&image, &[device]);
    for (offset, size) in pieces {
        let found = std::fs::read(mount.path().join(format!("{offset}"))).unwrap();
        let [offset, size] = [offset, size].map(|value| usize::try_from(value).unwrap());
        assert!(found == whole[offset..][..size], "{size} bytes at {offset}");
    }
}

fn bytes(length: u64) -> Content {
    Content::Regular(FileData::Bytes(noise(length, length).into()))
}

fn both_block_sizes(tree: &Tree, make: impl Fn(&mut Sample)) {
    for block_size in [BlockSize::B512, BlockSize::B4096] {
        let options = WriterOptions { block_size, ..Default::default() };
        let writer = ImageWriter::new(Vec::new(), options.clone()).unwrap();
        let (image, summary) = writer.finish(tree, [7; 16]).unwrap();
        let contents = (0..u32::try_from(tree.len()).unwrap())
            .map(InodeId)
            .filter_map(|id| match &tree[id].content {
                Content::Regular(FileData::Bytes(bytes)) => Some((id, bytes.to_vec())),
                _ => None,
            })
            .collect();
        let tree = tree.clone();
        let mut sample = Sample { options, tree, contents, devices: Vec::new(), image, summary };
        make(&mut sample);
        compare(&sample);
    }
}

#[test]
fn privileged_tails_of_every_length_behind_odd_xattr_bodies() {
    let mut tree = Tree::new();
    for (name, length) in (3500..=4200u64).chain(400..=600).enumerate() {
        let id = add(&mut tree, &format!("file-{name}"), bytes(length));
        // Bodies of 16 to 44 bytes leave every remainder of 32 that a multiple of 4 can.
        tree[id].set_xattr(b"trusted.x", &noise(length, length % 8 * 4));
    }
    both_block_sizes(&tree, |_| {});
}

#[test]
fn privileged_symlinks_of_every_kind_of_length() {
    let mut tree = Tree::new();
    for length in
        (1..=4095usize).step_by(37).chain([447, 448, 449, 511, 512, 513, 4031, 4032, 4033, 4095])
    {
        let link =
            add(&mut tree, &format!("link-{length}"), Content::Symlink(vec![b'x'; length].into()));
        if length % 2 == 0 {
            tree[link].set_xattr(b"trusted.note", &noise(1, length as u64 / 3));
        }
    }
    both_block_sizes(&tree, |_| {});
}

#[test]
fn privileged_special_files_acl_and_large_xattrs() {
    let mut tree = Tree::new();
    for (major, minor) in [(0, 0), (1, 3), (259, 70_000), (4095, 1_048_575)] {
        let number = DeviceNumber { major, minor };
        add(&mut tree, &format!("c-{major}-{minor}"), Content::CharDevice(number));
        add(&mut tree, &format!("b-{major}-{minor}"), Content::BlockDevice(number));
    }
    add(&mut tree, "fifo", Content::Fifo);
    add(&mut tree, "socket", Content::Socket);
    let early = add(&mut tree, "early", bytes(10));
    tree[early].mtime = Timestamp { seconds: -5, nanoseconds: 999_999_999 };
    let many = add(&mut tree, "many", bytes(4000));
    for index in 0..3 {
        tree[many].set_xattr(format!("trusted.big{index}").as_bytes(), &noise(index, 65_535));
    }
    for index in 0..300 {
        tree[many].set_xattr(format!("user.{index}").as_bytes(), b"one of many");
    }
    // More than 255 attributes that three inodes share.
    for name in ["many-2", "many-3"] {
        let id = add(&mut tree, name, bytes(100));
        tree[id].xattrs = tree[many].xattrs.clone();
    }
    // Version 2; owner rwx, group r-x, mask r-x, other r-x: the group bits of 0755 are the mask.
    let entries = [(1u16, 7u16), (4, 5), (0x10, 5), (0x20, 5)];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions) in entries {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&u32::MAX.to_le_bytes());
    }
    let shielded = add(&mut tree, "shielded", Content::Directory(Default::default()));
    tree[shielded].xattrs = [&b"system.posix_acl_access"[..], b"system.posix_acl_default"]
        .map(|name| Xattr { name: name.into(), value: acl[..].into() })
        .into();
    both_block_sizes(&tree, |sample| assert!(sample.summary.shared_xattrs >= 300));
}

#[test]
fn privileged_directory_of_a_hundred_thousand_names() {
    let mut tree = Tree::new();
    let file = add(&mut tree, "0", Content::Fifo);
    let names = tree[Tree::ROOT].entries_mut().unwrap();
    for index in 1..100_000 {
        names.insert(format!("{index}-{}", "n".repeat(index % 40)).into_bytes().into(), file);
    }
    both_block_sizes(&tree, |_| {});
}

#[test]
fn privileged_directory_with_seventy_thousand_subdirectories() {
    let mut tree = Tree::new();
    for index in 0..70_000 {
        add(&mut tree, &format!("d{index}"), Content::Directory(Default::default()));
    }
    both_block_sizes(&tree, |sample| assert_eq!(sample.summary.inodes, 70_001));
}

#[test]
fn privileged_files_over_four_gigabytes() {
    const GIB: u64 = 1 << 30;
    let size = 9 * GIB + 1234;
    let segments = [(0, 5), (4 * GIB - 3, 6), (6 * GIB + 100_000, 3 << 20), (size - 7, 7)];
    for block_size in [BlockSize::B512, BlockSize::B4096] {
        let files = directory();
        let path = files.path().join("image.erofs");
        let options = WriterOptions { block_size, ..Default::default() };
        let sink = SeekSink::new(File::create_new(&path).unwrap());
        let mut writer = ImageWriter::new(sink, options).unwrap();
        writer.begin_sparse_file(size, &segments).unwrap();
        for (offset, length) in segments {
            writer.write_data(&noise(offset, length)).unwrap();
        }
        let sparse = writer.end_file().unwrap();
        writer.begin_sparse_file(5 * GIB, &[]).unwrap();
        let hole = writer.end_file().unwrap();
        let mut tree = Tree::new();
        add(&mut tree, "sparse", Content::Regular(sparse));
        add(&mut tree, "hole", Content::Regular(hole));
        let (_, summary) = writer.finish(&tree, [9; 16]).unwrap();
        assert!(summary.length < 8 << 20, "holes take no room: {}", summary.length);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), summary.length);

        let mount = Mount::files(files, &path, &[]);
        let file = File::open(mount.path().join("sparse")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size);
        for (offset, length) in segments {
            let mut found = vec![0; usize::try_from(length).unwrap()];
            file.read_exact_at(&mut found, offset).unwrap();
            assert!(found == noise(offset, length), "{block_size:?}: data at {offset}");
        }
        for offset in [5, 2 * GIB, 4 * GIB + 3, 6 * GIB, 8 * GIB, size - 200] {
            let mut found = [1; 100];
            file.read_exact_at(&mut found, offset).unwrap();
            assert_eq!(found, [0; 100], "{block_size:?}: hole at {offset}");
        }
        assert_eq!(std::fs::metadata(mount.path().join("hole")).unwrap().len(), 5 * GIB);
    }
}

#[test]
fn privileged_statfs_shows_the_image() {
    let tree = Tree::new();
    let writer = ImageWriter::new(Vec::new(), WriterOptions::default()).unwrap();
    let (image, summary) = writer.finish(&tree, [3; 16]).unwrap();
    let mount = Mount::of(&image, &[]);
    let found = rustix::fs::statfs(mount.path()).unwrap();
    assert_eq!(found.f_bsize, 4096);
    assert_eq!(found.f_blocks * 4096, summary.length);
}
