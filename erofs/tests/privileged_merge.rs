//! Random stacks of layers: the kernel's overlay over the layers against one mount of the merged image.
//!
//! All mounts stay detached: they are reached through their descriptor and vanish with it, so nothing is
//! left behind, whatever fails.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use erofs::{
    BlockSize, Content, DeviceNumber, FileData, Image, ImageWriter, Inode, InodeId, Timestamp,
    Tree, WriterOptions, check, merge,
};
use rustix::fs::{AtFlags, CWD};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

const STACKS: u64 = 40;

/// A small generator of numbers, the same on every run.
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.roll(256)).unwrap()).collect()
    }
}

fn inode(dice: &mut Dice, content: Content) -> Inode {
    let seconds = i64::try_from(dice.roll(4)).unwrap() * 1_000_000_000 - 1000;
    let nanoseconds = u32::try_from(dice.roll(3)).unwrap() * 123_456;
    let mut inode = Inode {
        permissions: u16::try_from(dice.roll(0o10000)).unwrap(),
        uid: u32::try_from(dice.roll(3)).unwrap() * 40_000,
        gid: u32::try_from(dice.roll(3)).unwrap() * 40_000,
        mtime: Timestamp { seconds, nanoseconds },
        xattrs: Vec::new(),
        content,
    };
    if dice.roll(4) == 0 {
        inode.set_xattr(b"trusted.kept", &dice.bytes(5));
    }
    if dice.roll(6) == 0 {
        inode.set_xattr(b"security.kept", &dice.bytes(30));
    }
    if dice.roll(8) == 0 {
        inode.set_xattr(b"trusted.overlay.overlay.opaque", b"y");
        inode.set_xattr(b"trusted.overlay.dropped", b"1");
    }
    inode
}

/// One layer: random changes to names out of a small set, so that layers meet each other often.
fn layer(dice: &mut Dice, number: u8) -> Vec<u8> {
    let block_size = if dice.roll(3) == 0 { BlockSize::B512 } else { BlockSize::B4096 };
    let options = WriterOptions { block_size, ..WriterOptions::default() };
    let mut writer = ImageWriter::new(Vec::new(), options).unwrap();
    let mut tree = Tree::new();
    tree[Tree::ROOT] = inode(dice, Inode::directory().content);
    if dice.roll(4) == 0 {
        tree[Tree::ROOT].set_xattr(b"trusted.overlay.opaque", b"y");
    }
    let mut directories = vec![Tree::ROOT];
    let mut files: Vec<InodeId> = Vec::new();
    for _ in 0..20 + dice.roll(80) {
        let parent = directories[usize::try_from(dice.roll(directories.len() as u64)).unwrap()];
        let name = [b"abcdef"[usize::try_from(dice.roll(6)).unwrap()]];
        if tree[parent].entries().unwrap().contains_key(&name[..]) {
            continue;
        }
        let content = match dice.roll(14) {
            0..=4 => Inode::directory().content,
            5 | 6 => Content::Regular(FileData::Bytes(dice_bytes(dice, 600))),
            7 => {
                let size = dice.roll(20_000);
                writer.begin_file(size).unwrap();
                writer.write_data(&dice.bytes(size)).unwrap();
                Content::Regular(writer.end_file().unwrap())
            }
            8 => {
                let at = dice.roll(1 << 16);
                writer.begin_sparse_file(1 << 17, &[(at, 700)]).unwrap();
                writer.write_data(&dice.bytes(700)).unwrap();
                Content::Regular(writer.end_file().unwrap())
            }
            9 => Content::Symlink((*b"a/../b").into()),
            10 => Content::CharDevice(DeviceNumber { major: 1, minor: 3 }),
            11 if !files.is_empty() => {
                let target = files[usize::try_from(dice.roll(files.len() as u64)).unwrap()];
                tree[parent].entries_mut().unwrap().insert(name.into(), target);
                continue;
            }
            _ => {
                whiteout(dice, &mut tree, parent, &name);
                continue;
            }
        };
        let id = tree.add(inode(dice, content));
        match tree[id].content {
            Content::Directory(_) => {
                directories.push(id);
                if dice.roll(4) == 0 {
                    tree[id].set_xattr(b"trusted.overlay.opaque", b"y");
                }
            }
            _ => files.push(id),
        }
        tree[parent].entries_mut().unwrap().insert(name.into(), id);
    }
    writer.finish(&tree, [number; 16]).unwrap().0
}

fn dice_bytes(dice: &mut Dice, below: u64) -> Box<[u8]> {
    let length = dice.roll(below);
    dice.bytes(length).into()
}

/// A whiteout of one of both kinds, with the marks on its directory that make readdir hide it.
fn whiteout(dice: &mut Dice, tree: &mut Tree, parent: InodeId, name: &[u8]) {
    tree[parent].set_xattr(b"trusted.overlay.origin", b"");
    let opaque = tree[parent].xattr(b"trusted.overlay.opaque") == Some(b"y");
    let node = if dice.roll(3) == 0 && !opaque {
        tree[parent].set_xattr(b"trusted.overlay.opaque", b"x");
        let mut node = inode(dice, Content::Regular(FileData::Bytes(Box::default())));
        node.set_xattr(b"trusted.overlay.whiteout", b"");
        node
    } else {
        inode(dice, Content::CharDevice(DeviceNumber::WHITEOUT))
    };
    let id = tree.add(node);
    tree[parent].entries_mut().unwrap().insert(name.into(), id);
}

/// Mounts without attaching to any directory.
fn mount(kind: &str, settings: &[(&str, &Path)]) -> OwnedFd {
    assert!(rustix::process::geteuid().is_root(), "tests named privileged_ must run as root");
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    let log = || {
        let mut log = String::new();
        let _ = File::from(context.try_clone().unwrap()).read_to_string(&mut log);
        log
    };
    if kind == "overlay" {
        fsconfig_set_flag(&context, "ro").unwrap();
    }
    for (key, value) in settings {
        fsconfig_set_string(&context, *key, *value)
            .unwrap_or_else(|e| panic!("{kind}: {key}={}: {e}: {}", value.display(), log()));
    }
    fsconfig_create(&context).unwrap_or_else(|e| panic!("{kind} is refused: {e}: {}", log()));
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap()
}

fn path(mount: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/.", mount.as_raw_fd()))
}

/// Everything that a user can see of one object.
#[derive(Debug, PartialEq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u64),
    device: u64,
    data: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path with the same inode, and how many there are; for directories: 2 + subdirectories.
    first_link: PathBuf,
    links: u64,
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

/// Walks a mount. `stored_links`: whether `st_nlink` must say what the names say.
fn look(root: &Path, stored_links: bool) -> BTreeMap<PathBuf, Seen> {
    let mut found = BTreeMap::new();
    let mut inodes: HashMap<(u64, u64), Vec<PathBuf>> = HashMap::new();
    let mut numbers = BTreeMap::new();
    let mut stored = HashMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let path = root.join(&relative);
        let stat = match rustix::fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
            // Readdir of overlayfs shows xattr whiteouts of the bottom layer, which no lookup finds.
            Err(rustix::io::Errno::NOENT) if !stored_links => continue,
            stat => stat.unwrap_or_else(|e| panic!("{}: {e}", relative.display())),
        };
        let kind = stat.st_mode & 0o170_000;
        let mut links = 2;
        let mut data = Vec::new();
        match kind {
            0o040_000 => {
                for entry in std::fs::read_dir(&path).unwrap() {
                    let entry = entry.unwrap();
                    let child = relative.join(entry.file_name());
                    links += u64::from(entry.file_type().unwrap().is_dir());
                    pending.push(child);
                }
            }
            0o100_000 => data = std::fs::read(&path).unwrap(),
            0o120_000 => {
                data = std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec();
            }
            _ => {}
        }
        if kind != 0o040_000 {
            inodes.entry((stat.st_dev, stat.st_ino)).or_default().push(relative.clone());
            numbers.insert(relative.clone(), (stat.st_dev, stat.st_ino));
        }
        let is_link_or_file = matches!(kind, 0o100_000 | 0o120_000);
        assert!(!is_link_or_file || u64::try_from(stat.st_size) == Ok(data.len() as u64));
        match kind {
            0o040_000 if stored_links => assert_eq!(stat.st_nlink, links, "{}", path.display()),
            _ => drop(stored.insert(relative.clone(), stat.st_nlink)),
        }
        let seen = Seen {
            mode: stat.st_mode,
            owner: (stat.st_uid, stat.st_gid),
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            device: stat.st_rdev,
            data,
            xattrs: xattrs(&path),
            first_link: relative.clone(),
            links,
        };
        found.insert(relative, seen);
    }
    for (path, number) in numbers {
        let seen = found.get_mut(&path).unwrap();
        seen.links = inodes[&number].len() as u64;
        seen.first_link = inodes[&number].iter().min().unwrap().clone();
        if stored_links {
            assert_eq!(stored[&path], seen.links, "{}: link count", path.display());
        }
    }
    found
}

fn one_stack(seed: u64) -> usize {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let layers: Vec<Vec<u8>> =
        (1..=2 + u8::try_from(dice.roll(3)).unwrap()).map(|n| layer(&mut dice, n)).collect();
    let files: Vec<PathBuf> = (0..layers.len())
        .map(|number| directory.path().join(format!("layer-{number}.erofs")))
        .collect();
    for (file, bytes) in files.iter().zip(&layers) {
        std::fs::write(file, bytes).unwrap();
    }

    let mounts: Vec<_> = files.iter().map(|file| mount("erofs", &[("source", file)])).collect();
    let paths: Vec<_> = mounts.iter().rev().map(path).collect();
    let lowers: Vec<_> = paths.iter().map(|path| ("lowerdir+", path.as_path())).collect();
    let overlay = mount("overlay", &lowers);
    let expected = look(&path(&overlay), false);

    let images: Vec<_> =
        files.iter().map(|file| Image::open(File::open(file).unwrap()).unwrap()).collect();
    let merged = merge(&images.iter().collect::<Vec<_>>()).unwrap();
    let options = WriterOptions {
        devices: merged.device_infos(),
        block_size: merged.block_size,
        ..WriterOptions::default()
    };
    let index = directory.path().join("merged.erofs");
    let (bytes, _) =
        ImageWriter::new(Vec::new(), options).unwrap().finish(&merged.tree, [99; 16]).unwrap();
    std::fs::write(&index, &bytes).unwrap();
    let devices = files.iter().map(|file| File::open(file).unwrap()).collect();
    let image = Image::open_with_devices(File::open(&index).unwrap(), devices).unwrap();
    assert_eq!(check(&image).findings, [], "stack {seed}");

    let settings: Vec<_> = std::iter::once(("source", index.as_path()))
        .chain(files.iter().map(|file| ("device", file.as_path())))
        .collect();
    let mounted = mount("erofs", &settings);
    let found = look(&path(&mounted), true);
    for (path, seen) in &found {
        let shown = path.display();
        let expected = expected
            .get(path)
            .unwrap_or_else(|| panic!("stack {seed}: {shown} is not in the overlay"));
        assert!(seen == expected, "stack {seed}: {shown}: {seen:?} is not {expected:?}");
    }
    let missing: Vec<_> = expected.keys().filter(|path| !found.contains_key(*path)).collect();
    assert!(missing.is_empty(), "stack {seed}: only the overlay has {missing:?}");
    found.len()
}

#[test]
fn privileged_merged_images_show_what_overlayfs_shows() {
    let objects: usize = (1..=STACKS).map(one_stack).sum();
    assert!(objects > usize::try_from(STACKS).unwrap() * 10, "{objects} objects prove little");
    println!("{STACKS} stacks, {objects} objects");
}
