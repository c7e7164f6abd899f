//! What a disk image holds, looked at before it is attached to anything.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::rootfs::LcowLayer;

/// What is read of an image's beginning: a partition table of 4096-byte blocks is the farthest of what is looked for.
const HEAD: usize = 8192;
/// The footer of a fixed VHD, big-endian, in the last 512 bytes (Virtual Hard Disk Image Format Specification 1.0).
const FOOTER: usize = 512;
const FIXED: u32 = 2;

/// mkfs.ext4 makes no file system in less.
const LEAST_EXT4: u64 = 1 << 20;
/// mkfs.xfs asks for this much, and dm-crypt's header and tags come on top.
const LEAST_XFS: u64 = 320 << 20;

/// What a disk image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// An EROFS file system.
    Erofs,
    /// An ext4 (or ext2, ext3) file system, with or without a VHD's footer.
    Ext4,
    /// An XFS file system.
    Xfs,
    /// A partition table.
    Partitions,
    /// A VHDX: what is in it can be seen only when it is attached.
    Vhdx,
    /// Zeros.
    Blank,
    /// Something else.
    Unknown,
}

/// A disk image's content and size, as far as its first and last bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageFile {
    /// What it holds.
    pub content: Content,
    /// Whether the last 512 bytes are a fixed VHD's footer.
    pub vhd: bool,
    /// Bytes, without the footer.
    pub size: u64,
    /// Bytes that the file system in it takes, where its superblock says so.
    pub needed: u64,
}

impl ImageFile {
    /// Looks at a file or a block device.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound), [`Invalid`](ErrorKind::Invalid) if it is neither file nor device,
    /// [`Io`](ErrorKind::Io).
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(&mut open(path, false)?, path)
    }

    fn read(file: &mut File, path: &Path) -> Result<Self> {
        let doing = || format!("cannot read the disk image {}", path.display());
        let io = |error| Error::io(doing(), error);
        let size = file.seek(SeekFrom::End(0)).map_err(io)?;
        let mut head = vec![0; HEAD];
        file.rewind().map_err(io)?;
        let read = read_full(file, &mut head).map_err(io)?;
        head.truncate(read);
        let mut footer = [0; FOOTER];
        let mut vhd = false;
        if size > FOOTER as u64 {
            file.seek(SeekFrom::Start(size - FOOTER as u64)).map_err(io)?;
            let read = read_full(file, &mut footer).map_err(io)?;
            vhd = read == FOOTER
                && footer.starts_with(b"conectix")
                && u32::from_be_bytes([footer[60], footer[61], footer[62], footer[63]]) == FIXED;
        }
        let (content, needed) = content(&head);
        Ok(Self { content, vhd, size: if vhd { size - FOOTER as u64 } else { size }, needed })
    }

    fn is_whole(&self) -> bool {
        self.needed <= self.size
    }
}

/// Refuses what cannot be a read-only layer.
pub(crate) fn check_layer(layer: &LcowLayer) -> Result<()> {
    let path = layer.path.display();
    let image = ImageFile::open(&layer.path)?;
    let corrupt = |what: &str| Err(Error::new(ErrorKind::Corrupt, format!("{path} {what}")));
    if let Some(tree) = &layer.verity {
        // Without its tree a layer is not mounted unproved.
        ImageFile::open(&tree.path)?;
        if layer.partition != 0 || image.content == Content::Vhdx {
            return Err(Error::invalid(format!("{path} has a hash tree, and is no plain image")));
        }
        if tree.data_size != image.size {
            let (proved, size) = (tree.data_size, image.size);
            return corrupt(&format!("has {size} bytes, and its hash tree proves {proved}"));
        }
    }
    match (image.content, layer.partition) {
        (Content::Vhdx, _) => Ok(()),
        (Content::Partitions, 1..) => Ok(()),
        (Content::Partitions, 0) => {
            corrupt("holds partitions, and no partition is named: it is no layer as a whole")
        }
        (_, 1..) => corrupt("holds no partitions, and one is named: it is no such layer"),
        (Content::Erofs | Content::Ext4, 0) if !image.is_whole() => corrupt(&format!(
            "is cut short: its file system takes {} bytes, and it has {}",
            image.needed, image.size
        )),
        (Content::Erofs | Content::Ext4, 0) => Ok(()),
        (Content::Xfs | Content::Blank | Content::Unknown, 0) => {
            corrupt("is no layer: it holds neither an EROFS nor an ext4 file system")
        }
    }
}

/// Resolves a scratch's symbolic links and refuses what cannot be written to or is too small.
pub(crate) fn check_scratch(scratch: &Path, encrypted: bool) -> Result<PathBuf> {
    let path = scratch.canonicalize().map_err(|error| {
        Error::io(format!("cannot find the scratch disk {}", scratch.display()), error)
    })?;
    let mut file = open(&path, true)?;
    let image = ImageFile::read(&mut file, &path)?;
    let least = if encrypted { LEAST_XFS } else { LEAST_EXT4 };
    if image.content != Content::Vhdx && image.size < least {
        return Err(Error::invalid(format!(
            "the scratch disk {} is too small: it has {} bytes, and {} takes {least}",
            path.display(),
            image.size,
            if encrypted { "an encrypted one" } else { "one" }
        )));
    }
    match image.content {
        // Encryption begins with a new key and a new file system, whatever was there.
        _ if encrypted => Ok(path),
        Content::Ext4 if image.is_whole() => Ok(path),
        Content::Blank | Content::Vhdx => Ok(path),
        Content::Ext4 => Err(Error::new(
            ErrorKind::Corrupt,
            format!("the scratch disk {} is cut short", path.display()),
        )),
        // The guest would make a file system over what somebody may still want.
        _ => Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} is no scratch disk: it is neither blank nor ext4", path.display()),
        )),
    }
}

fn open(path: &Path, write: bool) -> Result<File> {
    let doing = || match write {
        true => format!("cannot open the scratch disk {} for writing", path.display()),
        false => format!("cannot open the disk image {}", path.display()),
    };
    let file = sys::file::open_disk(path, write).map_err(|error| Error::io(doing(), error))?;
    file.ok_or_else(|| {
        let path = path.display();
        Error::invalid(format!("{path} is neither a file nor a block device, so it is no disk"))
    })
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn word(head: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?))
}

/// What an image holds by its first bytes, and how many the file system in it takes.
fn content(head: &[u8]) -> (Content, u64) {
    const SUPERBLOCK: usize = 1024;
    if head.starts_with(b"vhdxfile") {
        return (Content::Vhdx, 0);
    }
    // EROFS (Linux, fs/erofs/erofs_fs.h): magic, and at 12 the block size's logarithm, at 36 the blocks.
    if word(head, SUPERBLOCK) == Some(0xE0F5_E1E2) {
        let bits = head.get(SUPERBLOCK + 12).copied().unwrap_or_default();
        let blocks = u64::from(word(head, SUPERBLOCK + 36).unwrap_or_default());
        return (Content::Erofs, blocks.saturating_mul(1 << bits.min(16)));
    }
    // ext4 (Linux, Documentation/filesystems/ext4/super.rst): magic at 56, blocks at 4, block size at 24.
    if head.get(SUPERBLOCK + 56..SUPERBLOCK + 58) == Some(&[0x53, 0xEF]) {
        let blocks = u64::from(word(head, SUPERBLOCK + 4).unwrap_or_default());
        let bits = word(head, SUPERBLOCK + 24).unwrap_or_default().min(6);
        // At 96 the incompatible features, of which 0x80 says that the count has 64 bits; the rest is at 0x150.
        let wide = word(head, SUPERBLOCK + 96).unwrap_or_default() & 0x80 != 0;
        let high = if wide { word(head, SUPERBLOCK + 0x150).unwrap_or_default() } else { 0 };
        return (Content::Ext4, (blocks | u64::from(high) << 32).saturating_mul(1024 << bits));
    }
    if head.starts_with(b"XFSB") {
        return (Content::Xfs, 0);
    }
    let gpt = |at: usize| head.get(at..at + 8) == Some(&b"EFI PART"[..]);
    if gpt(512) || gpt(4096) || head.get(510..512) == Some(&[0x55, 0xAA]) {
        return (Content::Partitions, 0);
    }
    match head.iter().all(|&byte| byte == 0) {
        true => (Content::Blank, 0),
        false => (Content::Unknown, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn erofs(blocks: u32) -> Vec<u8> {
        let mut bytes = vec![0; blocks as usize * 4096];
        bytes[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
        bytes[1036] = 12;
        bytes[1060..1064].copy_from_slice(&blocks.to_le_bytes());
        bytes
    }

    fn ext4(blocks: u32) -> Vec<u8> {
        let mut bytes = vec![0; blocks as usize * 4096];
        bytes[1028..1032].copy_from_slice(&blocks.to_le_bytes());
        bytes[1048] = 2;
        bytes[1080..1082].copy_from_slice(&[0x53, 0xEF]);
        bytes
    }

    fn footer() -> Vec<u8> {
        let mut bytes = vec![0; FOOTER];
        bytes[..8].copy_from_slice(b"conectix");
        bytes[63] = 2;
        bytes
    }

    fn partitioned() -> Vec<u8> {
        let mut bytes = vec![0; MIB];
        bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
        bytes
    }

    fn layer(bytes: &[u8], partition: u64) -> Result<()> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        check_layer(&LcowLayer { partition, ..LcowLayer::whole(file.path()) })
    }

    fn scratch(bytes: &[u8], encrypted: bool) -> Result<PathBuf> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        check_scratch(file.path(), encrypted)
    }

    #[test]
    fn layers() {
        layer(&erofs(4), 0).unwrap();
        layer(&ext4(4), 0).unwrap();
        layer(&[ext4(4), footer()].concat(), 0).unwrap();
        layer(&partitioned(), 1).unwrap();
        layer(b"vhdxfile and more", 0).unwrap();
        for (what, bytes, partition) in [
            ("empty", vec![], 0),
            ("blank", vec![0; MIB], 0),
            ("text", b"#!/bin/sh\n".repeat(1000), 0),
            ("cut", erofs(4)[..8192].to_vec(), 0),
            ("cut in the superblock", erofs(1)[..1030].to_vec(), 1),
            ("cut ext4", ext4(4)[..8192].to_vec(), 0),
            ("partitions as a whole", partitioned(), 0),
            ("a partition of none", erofs(4), 1),
            ("a footer in the place of data", [&erofs(4)[..4 * 4096 - 512], &footer()].concat(), 0),
        ] {
            assert_eq!(layer(&bytes, partition).unwrap_err().kind(), ErrorKind::Corrupt, "{what}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        for (path, kind) in [
            (dir.path().to_owned(), ErrorKind::Invalid),
            (fifo, ErrorKind::Invalid),
            ("/dev/null".into(), ErrorKind::Invalid),
            (dir.path().join("-absent"), ErrorKind::NotFound),
        ] {
            let error = check_layer(&LcowLayer::whole(&path)).unwrap_err();
            assert_eq!(error.kind(), kind, "{path:?}");
        }
    }

    #[test]
    fn scratches() {
        scratch(&vec![0; MIB], false).unwrap();
        scratch(&ext4(256), false).unwrap();
        for (what, bytes, encrypted, kind) in [
            ("small", vec![0; 4096], false, ErrorKind::Invalid),
            ("small to encrypt", vec![0; 2 * MIB], true, ErrorKind::Invalid),
            ("a layer", erofs(256), false, ErrorKind::Corrupt),
            ("text", b"text".repeat(MIB), false, ErrorKind::Corrupt),
            ("cut", ext4(512)[..MIB].to_vec(), false, ErrorKind::Corrupt),
        ] {
            assert_eq!(scratch(&bytes, encrypted).unwrap_err().kind(), kind, "{what}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_shared_scratch_is_the_one_that_is_linked_to() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::write(&real, vec![0; MIB]).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("real", &link).unwrap();
        assert_eq!(check_scratch(&link, false).unwrap(), real.canonicalize().unwrap());
        std::fs::remove_file(&real).unwrap();
        assert_eq!(check_scratch(&link, false).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
