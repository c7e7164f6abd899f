//! Mounting one EROFS image file.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt as _};
use std::path::{Path, PathBuf};

use erofs::format::{Incompat, MAGIC, SUPERBLOCK_OFFSET, SuperBlock};
use sys::{DetachedMount, FsContext, LoopDevice, LoopOptions, MountAttributes};
use zerocopy::FromZeros as _;
use zerocopy::IntoBytes as _;

use crate::{Error, ErrorKind, Result, compat};

/// How an image gets to the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backing {
    /// The file itself; a loop device where the kernel answers ENOTBLK.
    #[default]
    Auto,
    /// Always a loop device.
    Loop,
}

/// A mounted image that is attached nowhere yet.
#[derive(Debug)]
pub(crate) struct ImageMount {
    pub(crate) mount: DetachedMount,
    /// Number of the primary's loop device, if there is one.
    pub(crate) loop_device: Option<u32>,
}

/// What the superblock says that a mounter must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    pub(crate) uuid: [u8; 16],
    pub(crate) block_size: u32,
    pub(crate) devices: u16,
}

/// Mounts the EROFS file `image`, with its extra devices in slot order, at `target`, with no journal and no
/// lock: what everything else here is made of. Returns the loop device if one was needed.
///
/// # Errors
/// `Corrupt` if the file is no EROFS image, `Invalid` if it wants another number of devices, and what the
/// kernel says.
pub fn mount_image(
    image: &Path,
    devices: &[PathBuf],
    target: &Path,
    backing: Backing,
) -> Result<Option<PathBuf>> {
    let mounted = prepare(image, devices, None, backing)?;
    attach(&mounted.mount, target)?;
    Ok(mounted.loop_device.map(loop_path))
}

pub(crate) fn loop_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

pub(crate) fn attach(mount: &DetachedMount, target: &Path) -> Result<()> {
    mount
        .attach(target)
        .map_err(|error| Error::sys(format!("cannot mount at {}", target.display()), error))
}

/// The mount of `image`; with `uuid`, only if the superblock has that one.
pub(crate) fn prepare(
    image: &Path,
    devices: &[PathBuf],
    uuid: Option<&[u8; 16]>,
    backing: Backing,
) -> Result<ImageMount> {
    let failed = |error| Error::sys(format!("cannot mount {}", image.display()), error);
    let facts = read_facts(image)?;
    if uuid.is_some_and(|expected| *expected != facts.uuid) {
        let [found, expected] = [Some(&facts.uuid), uuid].map(|uuid| hex(uuid.map_or(&[], |u| u)));
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} is not the layer it should be: its UUID is {found}, not {expected}",
                image.display()
            ),
        ));
    }
    if usize::from(facts.devices) != devices.len() {
        // The kernel would mount it and then fail every read of data.
        let (wanted, given) = (facts.devices, devices.len());
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{} needs {wanted} device files, but {given} were given", image.display()),
        ));
    }
    if backing == Backing::Auto {
        match by_file(image, devices, &facts) {
            Ok(mount) => return Ok(ImageMount { mount, loop_device: None }),
            Err(error) if compat::needs_loop_device(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    by_loop(image, devices, &facts).map_err(failed)
}

fn by_file(image: &Path, devices: &[PathBuf], facts: &ImageFacts) -> sys::Result<DetachedMount> {
    let context = FsContext::open("erofs")?;
    let mut open = vec![compat::set_file(&context, "source", image)?];
    for device in devices {
        open.push(compat::set_file(&context, "device", device)?);
    }
    // With smaller blocks every read fails on disks of 4096-byte sectors.
    if facts.block_size == 4096 {
        compat::set_if_known(&context, "directio")?;
    }
    finish(&context)
}

fn by_loop(image: &Path, devices: &[PathBuf], facts: &ImageFacts) -> sys::Result<ImageMount> {
    let options =
        LoopOptions { read_only: true, direct_io: true, block_size: facts.block_size.max(512) };
    let attach = |path: &Path| {
        let file = File::open(path)
            .map_err(|source| sys::Error::new(format!("open({})", path.display()), source))?;
        LoopDevice::attach(&file, path, &options)
    };
    let primary = attach(image)?;
    // Kept until the superblock holds them: they free themselves with their last user.
    let others: Vec<LoopDevice> =
        devices.iter().map(|path| attach(path)).collect::<Result<_, _>>()?;
    let context = FsContext::open("erofs")?;
    // A read-only block device is refused (EACCES) without it.
    context.set_flag("ro")?;
    context.set_string("source", primary.path())?;
    for device in &others {
        context.set_string("device", device.path())?;
    }
    Ok(ImageMount { mount: finish(&context)?, loop_device: Some(primary.number()) })
}

fn finish(context: &FsContext) -> sys::Result<DetachedMount> {
    context.create()?;
    context.mount(MountAttributes { read_only: true, ..MountAttributes::default() })
}

/// Reads the superblock of `image`.
pub(crate) fn read_facts(image: &Path) -> Result<ImageFacts> {
    let not_erofs = |why: &str| {
        Error::new(ErrorKind::Corrupt, format!("{} is not an EROFS image: {why}", image.display()))
    };
    let failed = |error| Error::io(format!("cannot open image {}", image.display()), error);
    // Looked at first: opening a pipe would wait for somebody who writes to it.
    let kind = std::fs::metadata(image).map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(not_erofs("it is neither a file nor a block device"));
    }
    let file = File::open(image).map_err(failed)?;
    let mut superblock = SuperBlock::new_zeroed();
    match file.read_exact_at(superblock.as_mut_bytes(), SUPERBLOCK_OFFSET) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(not_erofs("it is too short"));
        }
        Err(error) => {
            return Err(Error::io(format!("cannot read image {}", image.display()), error));
        }
    }
    if superblock.magic.get() != MAGIC {
        return Err(not_erofs("it has another magic number"));
    }
    if !(9..=16).contains(&superblock.blkszbits) {
        return Err(not_erofs("its block size is impossible"));
    }
    let incompat = Incompat::from_bits_retain(superblock.feature_incompat.get());
    let devices =
        if incompat.contains(Incompat::DEVICE_TABLE) { superblock.extra_devices.get() } else { 0 };
    Ok(ImageFacts { uuid: superblock.uuid, block_size: 1 << superblock.blkszbits, devices })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}
