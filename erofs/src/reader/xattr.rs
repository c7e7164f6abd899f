//! Extended attributes: inline entries, the shared table, long prefixes.

use std::collections::HashSet;

use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32};

use crate::format::{Compat, Incompat, XATTR_LONG_PREFIX, XATTR_PREFIXES, XattrEntry, XattrHeader};
use crate::{Error, ErrorKind, Image, InodeView, Nid, ReadAt, Result, Xattr};

/// A record of the long prefix table.
#[derive(Debug, Clone)]
pub(crate) struct LongPrefix {
    base: u8,
    infix: Vec<u8>,
}

/// An inode's xattr body taken apart, nothing judged that a reader need not judge.
pub(crate) struct XattrBody {
    pub(crate) name_filter: u32,
    /// Shared ids in stored order.
    pub(crate) shared: Vec<u32>,
    /// Every entry that is not padding: name index, name without prefix, value.
    pub(crate) inline: Vec<(u8, Vec<u8>, Vec<u8>)>,
}

impl<R: ReadAt> Image<R> {
    /// Extended attributes in the order in which a kernel looks them up: inline ones, then shared ones.
    /// Of two with one name the first counts. Entries with a name index that stands for nothing are left
    /// out, as the kernel does.
    pub fn xattrs(&self, inode: &InodeView) -> Result<Vec<Xattr>> {
        let Some(body) = self.xattr_body(inode)? else { return Ok(Vec::new()) };
        let mut found: Vec<Xattr> = Vec::with_capacity(body.inline.len() + body.shared.len());
        for (index, rest, value) in body.inline {
            if let Some(name) = self.xattr_name(index, &rest)? {
                found.push(Xattr { name: name.into(), value: value.into() });
            }
        }
        for id in body.shared {
            let (index, rest, value) = self.shared_xattr(id)?;
            if let Some(name) = self.xattr_name(index, &rest)? {
                found.push(Xattr { name: name.into(), value: value.into() });
            }
        }
        let mut names = HashSet::new();
        let firsts: Vec<bool> = found.iter().map(|xattr| names.insert(&xattr.name)).collect();
        let mut firsts = firsts.into_iter();
        found.retain(|_| firsts.next().unwrap_or(true));
        Ok(found)
    }

    pub(crate) fn xattr_body(&self, inode: &InodeView) -> Result<Option<XattrBody>> {
        const HEADER: usize = size_of::<XattrHeader>();
        let position = inode.position + inode.core_size();
        match inode.xattr_size {
            0 => return Ok(None),
            12 => {
                return Err(Error::corrupt(position, "an xattr body without entries is reserved"));
            }
            _ => {}
        }
        let bytes = self.primary.read_bytes(position, inode.xattr_size)?;
        let (header, rest) = XattrHeader::read_from_prefix(&bytes)
            .map_err(|_| Error::corrupt(position, "xattr body too short"))?;
        let ids = usize::from(header.shared_count) * 4;
        let shared = rest.get(..ids).ok_or_else(|| {
            let count = header.shared_count;
            Error::corrupt(position, format!("{count} shared xattr ids do not fit into the body"))
        })?;
        let shared =
            shared.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]));
        let mut inline = Vec::new();
        let mut at = HEADER + ids;
        while let Some(bytes) = bytes.get(at..).filter(|bytes| !bytes.is_empty()) {
            let entry_position = position + at as u64;
            let past = || Error::corrupt(entry_position, "xattr entry reaches past its body");
            let (entry, rest) = XattrEntry::read_from_prefix(bytes).map_err(|_| past())?;
            let name_len = usize::from(entry.name_len);
            let value_len = usize::from(entry.value_len.get());
            let name = rest.get(..name_len).ok_or_else(past)?;
            let value = rest.get(name_len..name_len + value_len).ok_or_else(past)?;
            if (entry.name_index, name_len, value_len) != (0, 0, 0) {
                inline.push((entry.name_index, name.to_vec(), value.to_vec()));
            }
            at += (size_of::<XattrEntry>() + name_len + value_len).next_multiple_of(4);
        }
        let name_filter = header.name_filter.get();
        Ok(Some(XattrBody { name_filter, shared: shared.collect(), inline }))
    }

    /// Entry `id` of the shared table: name index, name without prefix, value.
    pub(crate) fn shared_xattr(&self, id: u32) -> Result<(u8, Vec<u8>, Vec<u8>)> {
        let base = u64::from(self.superblock.xattr_blkaddr.get()) * self.block_size();
        let position = base + u64::from(id) * 4;
        let entry: XattrEntry = self.primary.read_struct(position)?;
        let name_position = position + size_of::<XattrEntry>() as u64;
        let name = self.primary.read_bytes(name_position, entry.name_len.into())?;
        let value_position = name_position + u64::from(entry.name_len);
        let value = self.primary.read_bytes(value_position, entry.value_len.get().into())?;
        Ok((entry.name_index, name, value))
    }

    /// The full name for an index and the stored rest; `None` for an index that stands for nothing.
    pub(crate) fn xattr_name(&self, index: u8, rest: &[u8]) -> Result<Option<Box<[u8]>>> {
        let builtin = |index: u8| {
            XATTR_PREFIXES.iter().find(|(known, _)| *known == index).map(|(_, prefix)| *prefix)
        };
        if index & XATTR_LONG_PREFIX == 0 {
            return Ok(builtin(index).map(|prefix| [prefix, rest].concat().into()));
        }
        let prefix = self.long_prefixes()?.get(usize::from(index & !XATTR_LONG_PREFIX));
        Ok(prefix.and_then(|long| {
            builtin(long.base).map(|prefix| [prefix, &long.infix, rest].concat().into())
        }))
    }

    /// Base index and infix of a long prefix, for the name filter.
    pub(crate) fn long_prefix(&self, number: u8) -> Result<Option<(u8, &[u8])>> {
        let found = self.long_prefixes()?.get(usize::from(number));
        Ok(found.map(|long| (long.base, long.infix.as_slice())))
    }

    fn long_prefixes(&self) -> Result<&[LongPrefix]> {
        let read = || self.read_long_prefixes().map_err(|e| (e.kind(), e.to_string()));
        match self.long_prefixes.get_or_init(read) {
            Ok(prefixes) => Ok(prefixes),
            Err((kind, message)) => {
                Err(Error::new(*kind, format!("reading the xattr prefix table: {message}")))
            }
        }
    }

    fn read_long_prefixes(&self) -> Result<Vec<LongPrefix>> {
        let count = self.superblock.xattr_prefix_count;
        let mut position = u64::from(self.superblock.xattr_prefix_start.get()) * 4;
        // With a packed inode the table lies in that inode, unless a flag says otherwise.
        let packed_nid = self.superblock.packed_nid.get();
        let packed = self.incompat().contains(Incompat::FRAGMENTS)
            && packed_nid != 0
            && !self.compat().contains(Compat::PLAIN_XATTR_PFX);
        let packed = match packed && count > 0 {
            true => Some(self.inode(Nid(packed_nid))?),
            false => None,
        };
        let read = |buf: &mut [u8], position: u64| match &packed {
            None => self.primary.read_metadata(buf, position),
            Some(inode) => match self.read_data(inode, buf, position, true)? {
                n if n == buf.len() => Ok(()),
                _ => {
                    Err(Error::new(ErrorKind::Corrupt, "the table ends in the middle of a record"))
                }
            },
        };
        let mut prefixes = Vec::with_capacity(count.into());
        for _ in 0..count {
            let mut length = [0; 2];
            read(&mut length, position)?;
            let length = u64::from(u16::from_le_bytes(length));
            if !(1..=256).contains(&length) {
                return Err(Error::corrupt(position, format!("a prefix record of {length} bytes")));
            }
            let mut record = vec![0; usize::try_from(length).unwrap_or(0)];
            read(&mut record, position + size_of::<U16>() as u64)?;
            prefixes.push(LongPrefix { base: record[0], infix: record[1..].to_vec() });
            position = (position + 2 + length).next_multiple_of(size_of::<U32>() as u64);
        }
        Ok(prefixes)
    }
}
