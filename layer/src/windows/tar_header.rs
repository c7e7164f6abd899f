//! Headers of the entries of a Windows layer's tar, with the types and modes that Microsoft's exporter gives them
//! (go-winio's `backuptar`): neither says anything to an importer, which reads the attributes.

use super::description::Records;
use super::name::encode_wtf8;
use crate::tar::PaxEntry;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const HARD_LINK_MODE: u32 = 0o644;

/// What is at a path, as far as the header of its entry depends on it.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) directory: bool,
    /// Where it leads, for a link.
    pub(super) target: Option<Vec<u8>>,
    /// Length of a file's data; `None` if it has none, not even an empty stream.
    pub(super) size: Option<u64>,
    /// Whether the data is one hole, and not in the tar.
    pub(super) hole: bool,
}

impl Object {
    /// The header of the object itself.
    pub(super) fn header(&self, path: &[u8], mtime: u64, records: Records) -> PaxEntry {
        let directory = if self.directory { DIRECTORY } else { 0 };
        let (flag, mode) = match (&self.target, self.size) {
            (Some(_), _) => (b'2', directory | SYMLINK),
            (None, _) if self.directory => (b'5', directory),
            (None, Some(_)) => (b'0', REGULAR),
            // The exporter sees no stream, and has no type for it then.
            (None, None) => (b'0', 0),
        };
        let (size, hole) = match flag {
            b'0' => (self.size.unwrap_or(0), self.hole),
            _ => (0, false),
        };
        let link = self.target.clone().unwrap_or_default();
        PaxEntry { path: path.to_vec(), link, flag, mode, size, hole, mtime, records }
    }

    /// Whether data must follow the header.
    pub(super) fn has_data(&self) -> bool {
        let is_file = self.target.is_none() && !self.directory;
        is_file && !self.hole && self.size.is_some_and(|size| size > 0)
    }

    /// The header of an alternate stream, `size` bytes long.
    pub(super) fn stream_header(
        &self,
        path: &[u8],
        name: impl Iterator<Item = u16>,
        size: u64,
        mtime: u64,
        records: Records,
    ) -> PaxEntry {
        let typed = self.directory || self.target.is_some() || self.size.is_some();
        PaxEntry {
            path: [path, b":", &encode_wtf8(name)].concat(),
            flag: b'0',
            mode: if typed { REGULAR } else { 0 },
            size,
            mtime,
            records,
            ..PaxEntry::default()
        }
    }
}

/// The header of another name of the file that has the name `first`.
pub(super) fn hard_link(path: &[u8], first: &[u8], mtime: u64, records: Records) -> PaxEntry {
    PaxEntry {
        path: path.to_vec(),
        link: first.to_vec(),
        flag: b'1',
        mode: HARD_LINK_MODE,
        mtime,
        records,
        ..PaxEntry::default()
    }
}
