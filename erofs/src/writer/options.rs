//! What the caller chooses: block size, label, devices.

use super::header_length;
use crate::error::{Error, ErrorKind, Result};
use crate::format::LABEL_MAX;

/// Block size of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BlockSize {
    /// 512 bytes, for images over foreign files whose data is aligned to 512. Linux 6.4 and newer.
    B512,
    /// 4096 bytes: every kernel, every tool.
    #[default]
    B4096,
}

impl BlockSize {
    /// Length of a block in bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.bits()
    }

    /// log2 of the length.
    pub const fn bits(self) -> u8 {
        match self {
            Self::B512 => 9,
            Self::B4096 => 12,
        }
    }
}

/// An extra device: a file beside the image that holds data blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceInfo {
    /// Free text of at most 64 bytes; a digest, so that the right file can be recognised.
    pub tag: Vec<u8>,
    /// Length in blocks of the image's block size. The file must hold all of them completely.
    pub blocks: u32,
}

/// How an image is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterOptions {
    /// Block size.
    pub block_size: BlockSize,
    /// Volume label, at most 15 bytes, no NUL.
    pub label: String,
    /// Bytes of small files that may be kept in memory to be stored inline.
    pub inline_budget: u64,
    /// Extra devices in the order in which they are given to the mount; device n is `devices[n - 1]`.
    pub devices: Vec<DeviceInfo>,
    /// Store frequent beginnings of xattr names once. Needs Linux 6.4.
    pub long_xattr_prefixes: bool,
    /// Values of xattrs that several inodes have are one allocation: what is allocated for one inode alone is stored with it,
    /// without a look for its like. Spares the time of that for millions of values.
    pub distinct_xattrs: bool,
    /// Whether the superblock has a checksum. `None`: with 4096-byte blocks only, because libblkid 2.42
    /// and older erofs-utils compute it wrongly for 512 and then reject the image.
    pub checksum: Option<bool>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            block_size: BlockSize::default(),
            label: String::new(),
            inline_budget: 32 << 20,
            devices: Vec::new(),
            long_xattr_prefixes: false,
            distinct_xattrs: false,
            checksum: None,
        }
    }
}

impl WriterOptions {
    /// Length of the header that is reserved at the start of the image and written last.
    pub fn header_length(&self) -> u64 {
        header_length(self.devices.len(), self.block_size.bytes())
    }

    pub(super) fn has_checksum(&self) -> bool {
        self.checksum.unwrap_or(self.block_size == BlockSize::B4096)
    }

    pub(super) fn validate(&self) -> Result<()> {
        let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, message));
        if self.label.len() > LABEL_MAX {
            return invalid(format!("the label {:?} is over {LABEL_MAX} bytes", self.label));
        }
        if self.label.contains('\0') {
            return invalid(format!("the label {:?} holds a NUL", self.label));
        }
        if self.devices.len() > usize::from(u16::MAX) {
            return invalid(format!("{} extra devices, at most 65535 fit", self.devices.len()));
        }
        match self.devices.iter().position(|device| device.tag.len() > 64) {
            Some(index) => invalid(format!("the tag of device {} is over 64 bytes", index + 1)),
            None => Ok(()),
        }
    }
}
