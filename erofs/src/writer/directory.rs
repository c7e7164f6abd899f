//! Directory data: blocks of sorted entries, packed greedily.

use std::collections::BTreeMap;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U64};

use crate::format::{Dirent, FileType};
use crate::tree::{Content, InodeId};

/// An entry before its inode has a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'t> {
    pub(super) name: &'t [u8],
    pub(super) id: InodeId,
}

impl Entry<'_> {
    fn length(self) -> usize {
        size_of::<Dirent>() + self.name.len()
    }
}

/// Length of a directory's data: whole blocks before the last one, and the bytes used in the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirectorySize {
    pub(super) blocks_before: u64,
    pub(super) last: u64,
}

/// All entries in byte order, with `.` and `..` where they belong: names that start with a space or one of
/// `!"#$%&'()*+,-` come before them.
pub(super) fn entries<'t>(
    names: &'t BTreeMap<Box<[u8]>, InodeId>,
    own: InodeId,
    parent: InodeId,
) -> impl Iterator<Item = Entry<'t>> {
    let mut dots =
        [Entry { name: b".", id: own }, Entry { name: b"..", id: parent }].into_iter().peekable();
    let mut names = names.iter().map(|(name, &id)| Entry { name, id }).peekable();
    std::iter::from_fn(move || {
        let dot_first = match (dots.peek(), names.peek()) {
            (Some(dot), Some(entry)) => dot.name < entry.name,
            (dot, _) => dot.is_some(),
        };
        if dot_first { dots.next() } else { names.next() }
    })
}

/// Splits entries into blocks: as many as fit, then the next block. `block` gets each block's entries.
pub(super) fn pack<'t>(
    entries: impl Iterator<Item = Entry<'t>>,
    block_size: u64,
    mut block: impl FnMut(&[Entry<'t>], u64),
) {
    let mut held = Vec::new();
    let mut used = 0;
    for entry in entries {
        let length = entry.length() as u64;
        if used + length > block_size {
            block(&held, used);
            held.clear();
            used = 0;
        }
        held.push(entry);
        used += length;
    }
    block(&held, used);
}

/// Length of a directory's data, without making it.
pub(super) fn size<'t>(entries: impl Iterator<Item = Entry<'t>>, block_size: u64) -> DirectorySize {
    let (mut blocks_before, mut last) = (0, 0);
    for entry in entries {
        let length = entry.length() as u64;
        if last + length > block_size {
            blocks_before += 1;
            last = 0;
        }
        last += length;
    }
    DirectorySize { blocks_before, last }
}

/// Appends one block's entries and names.
pub(super) fn encode(
    block: &[Entry<'_>],
    mut inode: impl FnMut(InodeId) -> (u64, FileType),
    out: &mut Vec<u8>,
) {
    let mut name_offset = block.len() * size_of::<Dirent>();
    for entry in block {
        let (nid, file_type) = inode(entry.id);
        let dirent = Dirent {
            nid: U64::new(nid),
            name_offset: U16::new(u16::try_from(name_offset).expect("inside a block")),
            file_type: file_type as u8,
            reserved: 0,
        };
        out.extend_from_slice(dirent.as_bytes());
        name_offset += entry.name.len();
    }
    block.iter().for_each(|entry| out.extend_from_slice(entry.name));
}

/// The type that a directory entry shows.
pub(super) fn file_type(content: &Content) -> FileType {
    match content {
        Content::Directory(_) => FileType::Directory,
        Content::Regular(_) => FileType::Regular,
        Content::Symlink(_) => FileType::Symlink,
        Content::CharDevice(_) => FileType::CharDevice,
        Content::BlockDevice(_) => FileType::BlockDevice,
        Content::Fifo => FileType::Fifo,
        Content::Socket => FileType::Socket,
    }
}
