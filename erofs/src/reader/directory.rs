//! Directories and paths.

use std::collections::VecDeque;

use zerocopy::FromBytes;

use crate::format::{Dirent, FileType, SYMLINK_MAX};
use crate::{Error, ErrorKind, Image, InodeView, Nid, ReadAt, Result};

/// Symbolic links that [`Image::resolve`] follows, as many as Linux does.
const MAX_LINKS: u32 = 40;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
    pub name: Box<[u8]>,
    /// The inode.
    pub nid: Nid,
    /// Type as the entry says, which nothing ties to the inode's own.
    pub file_type: FileType,
}

/// An entry as it lies in a block, with its name bounds-checked but not judged.
pub(crate) struct RawEntry<'b> {
    pub(crate) nid: Nid,
    pub(crate) file_type: u8,
    pub(crate) reserved: u8,
    pub(crate) name: &'b [u8],
}

/// Takes a directory block apart. `used` is the part of the block before the directory's end. The message
/// of an error comes without a position.
pub(crate) fn parse_block(used: &[u8]) -> Result<Vec<RawEntry<'_>>, String> {
    let entry_at = |index: usize| {
        let bytes = used.get(index * size_of::<Dirent>()..)?;
        Dirent::read_from_prefix(bytes).ok().map(|(entry, _)| entry)
    };
    let first = entry_at(0).ok_or("a directory block too short for an entry")?;
    let names = usize::from(first.name_offset.get());
    if names < size_of::<Dirent>() || names % size_of::<Dirent>() != 0 || names > used.len() {
        return Err(format!("first name at {names} of a directory block of {} bytes", used.len()));
    }
    let count = names / size_of::<Dirent>();
    let mut entries = Vec::with_capacity(count);
    for index in 0..count {
        let entry = entry_at(index).ok_or("directory entries reach past the block")?;
        let start = usize::from(entry.name_offset.get());
        let last = index + 1 == count;
        let end = match entry_at(index + 1) {
            Some(next) if !last => usize::from(next.name_offset.get()),
            _ => used.len(),
        };
        let name = used.get(start..end).filter(|_| start >= names).ok_or_else(|| {
            format!("name at {start}..{end} of a directory block of {} bytes", used.len())
        })?;
        let name = if last { super::until_nul(name) } else { name };
        if !(1..=crate::format::NAME_MAX).contains(&name.len()) {
            return Err(format!("a name of {} bytes", name.len()));
        }
        entries.push(RawEntry {
            nid: Nid(entry.nid.get()),
            file_type: entry.file_type,
            reserved: entry.reserved,
            name,
        });
    }
    Ok(entries)
}

pub(crate) fn entry_type(byte: u8) -> FileType {
    match byte {
        1 => FileType::Regular,
        2 => FileType::Directory,
        3 => FileType::CharDevice,
        4 => FileType::BlockDevice,
        5 => FileType::Fifo,
        6 => FileType::Socket,
        7 => FileType::Symlink,
        _ => FileType::Unknown,
    }
}

impl<R: ReadAt> Image<R> {
    /// Number of directory blocks. A directory larger than the image cannot be honest.
    pub(crate) fn directory_blocks(&self, dir: &InodeView) -> Result<u64> {
        if !dir.is_dir() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("inode {} is no directory", dir.nid),
            ));
        }
        if dir.size > self.total_length() {
            return Err(Error::corrupt(
                dir.position,
                format!("directory {} has {} bytes, more than the image", dir.nid, dir.size),
            ));
        }
        Ok(dir.size.div_ceil(self.block_size()))
    }

    /// Reads a directory block into `buf`; on return `buf` is as long as the part in use.
    pub(crate) fn directory_block(
        &self,
        dir: &InodeView,
        index: u64,
        buf: &mut Vec<u8>,
    ) -> Result<()> {
        let offset = index * self.block_size();
        let used = (dir.size - offset).min(self.block_size());
        buf.resize(usize::try_from(used).unwrap_or(0), 0);
        self.read_data(dir, buf, offset, true)?;
        Ok(())
    }

    /// All names of a directory in stored order, without `.` and `..`.
    pub fn read_dir(&self, dir: &InodeView) -> Result<Vec<DirEntry>> {
        let mut found = Vec::new();
        let mut block = Vec::new();
        for index in 0..self.directory_blocks(dir)? {
            self.directory_block(dir, index, &mut block)?;
            for entry in parse_block(&block).map_err(|e| self.bad_block(dir, index, e))? {
                if entry.name == b"." || entry.name == b".." {
                    continue;
                }
                if entry.name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                    let name = entry.name.escape_ascii();
                    return Err(self.bad_block(dir, index, format!("the name \"{name}\"")));
                }
                found.push(DirEntry {
                    name: entry.name.into(),
                    nid: entry.nid,
                    file_type: entry_type(entry.file_type),
                });
            }
        }
        Ok(found)
    }

    pub(crate) fn bad_block(&self, dir: &InodeView, index: u64, what: String) -> Error {
        Error::corrupt(dir.position, format!("directory {}, block {index}: {what}", dir.nid))
    }

    /// Finds a name in a directory by binary search, as the kernel does; `.` and `..` are names, too.
    pub fn lookup(&self, dir: &InodeView, name: &[u8]) -> Result<Option<DirEntry>> {
        let mut block = Vec::new();
        let (mut low, mut high) = (0, self.directory_blocks(dir)?);
        while low < high {
            let middle = low + (high - low) / 2;
            self.directory_block(dir, middle, &mut block)?;
            let entries = parse_block(&block).map_err(|e| self.bad_block(dir, middle, e))?;
            let (Some(first), Some(last)) = (entries.first(), entries.last()) else { break };
            if name < first.name {
                high = middle;
            } else if name > last.name {
                low = middle + 1;
            } else {
                let found = entries.iter().find(|entry| entry.name == name);
                return Ok(found.map(|entry| DirEntry {
                    name: entry.name.into(),
                    nid: entry.nid,
                    file_type: entry_type(entry.file_type),
                }));
            }
        }
        Ok(None)
    }

    /// Walks a path from the root. Absolute or not makes no difference, and `..` of the root is the root, so
    /// nothing outside the image is ever meant. Links on the way are followed; the last one if `follow`.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<InodeView> {
        let missing = || {
            let path = path.escape_ascii();
            Error::new(ErrorKind::NotFound, format!("\"{path}\" does not exist in the image"))
        };
        let parts = |path: &[u8]| {
            path.split(|byte| *byte == b'/')
                .filter(|part| !part.is_empty() && *part != b".")
                .map(Box::from)
                .collect::<VecDeque<Box<[u8]>>>()
        };
        let mut links = 0;
        let mut above = Vec::new();
        let mut here = self.inode(self.root)?;
        let mut rest = parts(path);
        while let Some(name) = rest.pop_front() {
            if !here.is_dir() {
                return Err(missing());
            }
            if &*name == b".." {
                here = above.pop().unwrap_or(here);
                continue;
            }
            let entry = self.lookup(&here, &name)?.ok_or_else(missing)?;
            let next = self.inode(entry.nid)?;
            if next.file_type == FileType::Symlink && (follow || !rest.is_empty()) {
                links += 1;
                if links > MAX_LINKS {
                    let path = path.escape_ascii();
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!("\"{path}\" leads through more than {MAX_LINKS} symbolic links"),
                    ));
                }
                let target = self.read_link(&next)?;
                if target.first() == Some(&b'/') {
                    if let Some(root) = above.into_iter().next() {
                        here = root;
                    }
                    above = Vec::new();
                }
                for part in parts(&target).into_iter().rev() {
                    rest.push_front(part);
                }
                continue;
            }
            above.push(std::mem::replace(&mut here, next));
        }
        Ok(here)
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, inode: &InodeView) -> Result<Vec<u8>> {
        if inode.file_type != FileType::Symlink {
            let what = format!("inode {} is no symbolic link", inode.nid);
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        if inode.size > SYMLINK_MAX as u64 {
            let what = format!("symbolic link {} has a target of {} bytes", inode.nid, inode.size);
            return Err(Error::corrupt(inode.position, what));
        }
        let mut target = vec![0; usize::try_from(inode.size).unwrap_or(0)];
        self.read_data(inode, &mut target, 0, true)?;
        Ok(target)
    }
}
