//! What the caller chooses.

use crate::format::{ENTRY_SIZE_V1, ENTRY_SIZE_V2, FileFlags, LENGTH_LIMIT, NULL_DACL, PAGE};
use crate::{Eas, Error, ErrorKind, FileTime, Result, StreamFraming};

/// How an image is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterOptions {
    /// Major version, 1 to 3. Today's hcsshim refuses 1; 2 is the oldest that it takes. A fork has at least its
    /// parent's.
    pub version: u32,
    /// Length of a file entry, from 88 bytes on; what lies behind the known 96 is zero. `None`: 88 in
    /// version 1, else 96.
    pub entry_size: Option<u16>,
    /// Data of this many bytes and more goes to the page-aligned region, shorter data to its own. Windows' own
    /// limit is not known.
    pub large_data_from: u64,
    /// How tables of alternate streams are framed; unverified on Windows.
    pub stream_framing: StreamFraming,
    /// Whether object-ID files list the objects. Without the list they have none and forks store again what
    /// they have in common with the image.
    pub object_ids: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            version: 2,
            entry_size: None,
            large_data_from: PAGE,
            stream_framing: StreamFraming::default(),
            object_ids: true,
        }
    }
}

impl WriterOptions {
    pub(super) fn validate(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        if !(1..=3).contains(&self.version) {
            return invalid(format!("version {}, only 1 to 3 are known", self.version));
        }
        match self.entry_size {
            Some(size) if size < ENTRY_SIZE_V1 => {
                invalid(format!("file entries of {size} bytes, at least 88 are needed"))
            }
            Some(size) if !size.is_multiple_of(8) => {
                invalid(format!("file entries of {size} bytes, no multiple of 8"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn entry_size(&self) -> u16 {
        let usual = if self.version == 1 { ENTRY_SIZE_V1 } else { ENTRY_SIZE_V2 };
        self.entry_size.unwrap_or(usual)
    }
}

/// What is stored of a file or directory beside its name and data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Read-only, hidden, and so on.
    pub flags: FileFlags,
    /// When it was made.
    pub creation_time: FileTime,
    /// When its data changed.
    pub last_write_time: FileTime,
    /// When anything of it changed.
    pub change_time: FileTime,
    /// When it was read.
    pub last_access_time: FileTime,
    /// Security descriptor in self-relative form. Empty: [`NULL_DACL`].
    pub security: Vec<u8>,
    /// Extended attributes as `FILE_FULL_EA_INFORMATION` structures. Empty: none.
    pub eas: Vec<u8>,
    /// Reparse buffer with its own header. Empty: none.
    pub reparse: Vec<u8>,
}

impl Metadata {
    pub(super) fn security(&self) -> &[u8] {
        if self.security.is_empty() { &NULL_DACL } else { &self.security }
    }

    /// Tag of the reparse buffer, 0 without one.
    pub(super) fn reparse_tag(&self) -> u32 {
        self.reparse.first_chunk().map_or(0, |tag| u32::from_le_bytes(*tag))
    }

    pub(super) fn validate(&self) -> Result<()> {
        let invalid = |what: &str| Err(Error::new(ErrorKind::Invalid, what));
        let lengths = [self.security.len(), self.eas.len(), self.reparse.len()];
        if lengths.iter().any(|length| u16::try_from(*length).is_err()) {
            return invalid("a security descriptor, EAs or a reparse buffer of 64 KiB or more");
        }
        // Revision 1, and the bit that says that offsets are relative.
        let security = self.security();
        if security.len() < NULL_DACL.len() || security[0] != 1 || security[3] & 0x80 == 0 {
            return invalid("the security descriptor is not one in self-relative form");
        }
        if Eas::new(&self.eas).any(|ea| ea.is_err()) {
            return invalid("the extended attributes are malformed");
        }
        match self.reparse.len() {
            1..8 => invalid("a reparse buffer has a header of 8 bytes"),
            _ if !self.reparse.is_empty() && self.reparse_tag() == 0 => {
                invalid("a reparse buffer with the tag 0")
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn check_size(size: u64) -> Result<()> {
    match size < LENGTH_LIMIT {
        true => Ok(()),
        false => {
            let what = format!("{size} bytes, a stream has room for fewer than 2^48");
            Err(Error::new(ErrorKind::TooLarge, what))
        }
    }
}
