//! Whether CIMs can be mounted here, by which driver, and why.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use erofs::{
    BlockAddress, BlockSize, Content, DeviceInfo, FileData, ImageWriter, Inode, SeekSink, Tree,
    WriterOptions,
};
use mount::{Backing, mount_image};

use super::{Check, State};

/// What is looked for in `directory`, where views would be.
pub(super) fn checks(directory: &Path) -> Vec<Check> {
    let root = rustix::process::geteuid().is_root();
    let erofs = match root {
        true => by_kernel(directory)
            .map(|()| "read files of 512-byte blocks and packed files from device files"),
        false => Err(anyhow::anyhow!("mounting by the kernel takes root")),
    };
    let fuse = by_fuse(root);
    let used = match (&erofs, &fuse) {
        (Ok(_), _) => "erofs: the kernel reads CIMs itself",
        (Err(_), Ok(_)) => "fuse: a process reads CIMs",
        (Err(_), Err(_)) => "none: CIMs cannot be mounted",
    };
    let check = |name: &str, tried: Result<String>, without: &str| Check {
        name: name.to_owned(),
        state: if tried.is_ok() { State::Ok } else { State::Note },
        consequence: if tried.is_ok() { String::new() } else { without.to_owned() },
        evidence: tried.unwrap_or_else(|error| format!("{error:#}")),
    };
    vec![
        Check {
            name: "cim-driver".to_owned(),
            state: if erofs.is_ok() || fuse.is_ok() { State::Ok } else { State::Note },
            evidence: used.to_owned(),
            consequence: "`plywood mount --driver` chooses another".to_owned(),
        },
        check("cim-erofs", erofs.map(str::to_owned), "CIMs are mounted by FUSE"),
        check(
            "cim-fuse",
            fuse,
            "--driver fuse and --ignore-case do not work, nor mounting without root",
        ),
    ]
}

/// A directory of a probe, removed with it.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const TEXT: &[u8] = b"plywood";

/// Mounts images whose only file is on a device, as a view's are, and reads it.
fn by_kernel(directory: &Path) -> Result<()> {
    let size = TEXT.len() as u64;
    let start = BlockAddress { device: 1, block: 0 };
    let data = FileData::Extent { start, size };
    mount_and_read(directory, Tree::new(), data, BlockSize::B512)?;
    let mut tree = Tree::new();
    let content = Content::Regular(FileData::Extent { start, size: 4096 });
    let packed = tree.add(Inode { content, permissions: 0o400, ..Inode::directory() });
    tree.set_packed(packed);
    mount_and_read(directory, tree, FileData::Packed { offset: 0, size }, BlockSize::B4096)
}

fn mount_and_read(
    directory: &Path,
    mut tree: Tree,
    data: FileData,
    block_size: BlockSize,
) -> Result<()> {
    let place = Place(directory.join(format!(".probe-cim-{}", std::process::id())));
    // Left by a killed process of the same number.
    let _ = std::fs::remove_dir_all(&place.0);
    std::fs::create_dir(&place.0)?;
    let [image, device, target] = ["image", "device", "mnt"].map(|name| place.0.join(name));
    let mut block = TEXT.to_vec();
    block.resize(4096, 0);
    std::fs::write(&device, block)?;
    std::fs::create_dir(&target)?;
    let content = Content::Regular(data);
    let file = tree.add(Inode { content, permissions: 0o444, ..Inode::directory() });
    if let Some(entries) = tree[Tree::ROOT].entries_mut() {
        entries.insert((*b"file").into(), file);
    }
    let blocks = 4096 >> block_size.bits();
    let devices = vec![DeviceInfo { tag: Vec::new(), blocks }];
    let options = WriterOptions { block_size, devices, ..Default::default() };
    let sink = SeekSink::new(File::create(&image)?);
    ImageWriter::new(sink, options)?.finish(&tree, [1; 16])?;
    mount_image(&image, &[device], &target, Backing::Auto)?;
    let read = std::fs::read(target.join("file"));
    sys::unmount(&target)?;
    anyhow::ensure!(read.context("cannot read from a device")? == TEXT, "other bytes were read");
    Ok(())
}

fn by_fuse(root: bool) -> Result<String> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let helper = std::env::split_paths(&places).map(|place| place.join("fusermount3"));
    let helper = helper.into_iter().find(|path| path.is_file());
    sys::open_fuse_device()?;
    match (root, helper) {
        (true, None) => Ok("/dev/fuse is open to this user; no fusermount3 for others".to_owned()),
        (true, Some(helper)) => Ok(format!("/dev/fuse is open to this user; {}", helper.display())),
        (false, Some(helper)) => Ok(format!("/dev/fuse and {}", helper.display())),
        (false, None) => anyhow::bail!("there is no fusermount3: apt-get install fuse3"),
    }
}
