//! Opening an image: superblock, device table, and the way to everything else.

mod data;
mod directory;
mod inode;
mod load;
mod source;
#[cfg(test)]
mod tests;
mod unified;
mod xattr;

use std::fmt;
use std::sync::OnceLock;

use zerocopy::IntoBytes as _;

use crate::format::{
    self, Compat, DEVICE_SLOT_SIZE, DeviceSlot, Incompat, MAGIC, SUPERBLOCK_OFFSET, SuperBlock,
};
use crate::{Error, ErrorKind, ReadAt, Result};

pub use data::{Extent, ExtentSource, Extents, FileReader};
pub use directory::DirEntry;

pub(crate) use directory::{entry_type, parse_block};
pub use inode::{InodeView, Nid};
pub(crate) use load::Budget;
pub(crate) use source::Source;
use unified::UnifiedSpace;
use xattr::LongPrefix;

/// An opened EROFS image and its extra devices.
///
/// Opening reads the superblock and the device table only. Everything else is read when it is asked for
/// and checked against the real length of the file that it lies in, so any bytes can be opened: what breaks
/// the format's rules is an error of kind [`ErrorKind::Corrupt`], never a panic.
///
/// The superblock's checksum is not looked at here, so that a damaged image can still be examined; see
/// [`Image::verify_checksum`].
pub struct Image<R> {
    primary: Source<R>,
    devices: Vec<Source<R>>,
    superblock: SuperBlock,
    slots: Vec<DeviceSlot>,
    unified: UnifiedSpace,
    root: Nid,
    long_prefixes: OnceLock<std::result::Result<Vec<LongPrefix>, (ErrorKind, String)>>,
}

impl<R> fmt::Debug for Image<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("superblock", &self.superblock)
            .field("slots", &self.slots.len())
            .field("devices", &self.devices.len())
            .finish_non_exhaustive()
    }
}

impl<R: ReadAt> Image<R> {
    /// Opens an image without extra devices. An image that has a device table is taken as *flattened*: its
    /// devices lie behind it in the same file, each at its place in the unified address space.
    pub fn open(primary: R) -> Result<Self> {
        Self::open_with_devices(primary, Vec::new())
    }

    /// Opens an image with its extra devices, in the order of the device table.
    pub fn open_with_devices(primary: R, devices: Vec<R>) -> Result<Self> {
        let primary = Source::new(primary)?;
        let superblock = read_superblock(&primary)?;
        let compat = Compat::from_bits_retain(superblock.feature_compat.get());
        let incompat = Incompat::from_bits_retain(superblock.feature_incompat.get());
        if incompat.contains(Incompat::METABOX) || compat.contains(Compat::SHARED_EA_IN_METABOX) {
            return Err(unsupported("metadata inside an inode (metabox)"));
        }
        let known = Incompat::LZ4_0PADDING
            | Incompat::COMPR_CFGS
            | Incompat::CHUNKED_FILE
            | Incompat::DEVICE_TABLE
            | Incompat::ZTAILPACKING
            | Incompat::FRAGMENTS
            | Incompat::XATTR_PREFIXES
            | Incompat::BIT48;
        let unknown = incompat.bits() & !known.bits();
        if unknown != 0 {
            return Err(unsupported(format!("unknown incompatible features {unknown:#x}")));
        }

        let slots = read_slots(&primary, &superblock, incompat)?;
        if !devices.is_empty() && devices.len() != slots.len() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{} devices given, the image has {}", devices.len(), slots.len()),
            ));
        }
        let devices = devices.into_iter().map(Source::new).collect::<Result<Vec<_>>>()?;
        let wide = incompat.contains(Incompat::BIT48);
        let unified = match devices.is_empty() {
            // Flattened: the unified space is the primary itself.
            true => UnifiedSpace::default(),
            false => UnifiedSpace::new(slots.iter().map(|slot| slot_range(slot, wide))),
        };
        let root = match superblock.rootnid_8b.get() {
            nid if wide && nid != 0 => Nid(nid),
            _ => Nid(superblock.rootnid_2b.get().into()),
        };
        let long_prefixes = OnceLock::new();
        Ok(Self { primary, devices, superblock, slots, unified, root, long_prefixes })
    }

    /// The superblock as it is on disk.
    pub fn superblock(&self) -> &SuperBlock {
        &self.superblock
    }

    /// Compatible features.
    pub fn compat(&self) -> Compat {
        Compat::from_bits_retain(self.superblock.feature_compat.get())
    }

    /// Incompatible features.
    pub fn incompat(&self) -> Incompat {
        Incompat::from_bits_retain(self.superblock.feature_incompat.get())
    }

    /// Block size in bytes, 512 to 65,536.
    pub fn block_size(&self) -> u64 {
        1 << self.superblock.blkszbits
    }

    /// Real length of the primary in bytes.
    pub fn length(&self) -> u64 {
        self.primary.length()
    }

    /// UUID of the image.
    pub fn uuid(&self) -> [u8; 16] {
        self.superblock.uuid
    }

    /// Volume label without its zero fill.
    pub fn label(&self) -> &[u8] {
        until_nul(&self.superblock.volume_name)
    }

    /// The device table.
    pub fn devices(&self) -> &[DeviceSlot] {
        &self.slots
    }

    /// Whether the image has a device table but was opened without its devices.
    pub fn is_flattened(&self) -> bool {
        !self.slots.is_empty() && self.devices.is_empty()
    }

    /// The root directory's nid.
    pub fn root(&self) -> Nid {
        self.root
    }

    /// What the primary is read from.
    pub fn primary(&self) -> &R {
        self.primary.inner()
    }

    /// Fails if the superblock claims a checksum and it is wrong, as a kernel would fail the mount.
    pub fn verify_checksum(&self) -> Result<()> {
        if !self.compat().contains(Compat::SB_CHKSUM) {
            return Ok(());
        }
        let range = format::superblock_checksum_range(self.block_size());
        let mut covered = self.primary.read_bytes(range.start, range.end - range.start)?;
        covered[4..8].fill(0);
        let computed = format::superblock_checksum(&covered);
        let stored = self.superblock.checksum.get();
        if computed != stored {
            return Err(Error::corrupt(
                SUPERBLOCK_OFFSET + 4,
                format!("superblock checksum is {stored:#010x}, its bytes give {computed:#010x}"),
            ));
        }
        Ok(())
    }

    pub(crate) fn primary_source(&self) -> &Source<R> {
        &self.primary
    }

    /// Length of a device in bytes; 0 is the primary.
    pub(crate) fn source(&self, device: u16) -> Option<&Source<R>> {
        match device {
            0 => Some(&self.primary),
            n => self.devices.get(usize::from(n) - 1),
        }
    }

    /// A device's range in the unified space: first block and number of blocks.
    pub(crate) fn slot_range(&self, slot: &DeviceSlot) -> (u64, u64) {
        slot_range(slot, self.incompat().contains(Incompat::BIT48))
    }

    /// Bytes of the primary and all devices: an upper bound for what honest metadata and data can fill.
    pub(crate) fn total_length(&self) -> u64 {
        self.devices
            .iter()
            .fold(self.primary.length(), |sum, device| sum.saturating_add(device.length()))
    }
}

pub(crate) fn unsupported(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}

pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn slot_range(slot: &DeviceSlot, wide: bool) -> (u64, u64) {
    let high = |index: usize| if wide { u64::from(slot.high[index].get()) << 32 } else { 0 };
    (u64::from(slot.uniaddr.get()) | high(1), u64::from(slot.blocks.get()) | high(0))
}

fn read_superblock<R: ReadAt>(primary: &Source<R>) -> Result<SuperBlock> {
    if primary.length() < SUPERBLOCK_OFFSET + size_of::<SuperBlock>() as u64 {
        return Err(Error::new(
            ErrorKind::NotErofs,
            format!("{} bytes are too few for an EROFS image", primary.length()),
        ));
    }
    let mut superblock: SuperBlock = zerocopy::FromZeros::new_zeroed();
    primary.read_exact(superblock.as_mut_bytes(), SUPERBLOCK_OFFSET)?;
    if superblock.magic.get() != MAGIC {
        return Err(Error::new(ErrorKind::NotErofs, "no EROFS superblock").at(SUPERBLOCK_OFFSET));
    }
    if !(9..=16).contains(&superblock.blkszbits) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("block size 2^{} is not between 512 and 65536", superblock.blkszbits),
        ));
    }
    if superblock.dirblkbits != 0 {
        return Err(unsupported(format!("directory blocks of 2^{} blocks", superblock.dirblkbits)));
    }
    Ok(superblock)
}

fn read_slots<R: ReadAt>(
    primary: &Source<R>,
    superblock: &SuperBlock,
    incompat: Incompat,
) -> Result<Vec<DeviceSlot>> {
    if !incompat.contains(Incompat::DEVICE_TABLE) {
        return Ok(Vec::new());
    }
    let count = u64::from(superblock.extra_devices.get());
    let start = u64::from(superblock.devt_slotoff.get()) * DEVICE_SLOT_SIZE;
    primary.check(start, count * DEVICE_SLOT_SIZE)?;
    (0..count).map(|i| primary.read_struct(start + i * DEVICE_SLOT_SIZE)).collect()
}
