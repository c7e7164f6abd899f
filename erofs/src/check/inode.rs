//! One inode: its fields, where its data lies, its xattrs.

use std::collections::HashSet;

use zerocopy::FromZeros as _;

use super::{Checker, Code, Place, Severity, acl, name_filter};
use crate::format::{
    CHUNK_48BIT, ChunkIndex, CompactInode, Compat, DataLayout, ExtendedInode, FileType, Incompat,
    XATTR_LONG_PREFIX,
};
use crate::{ErrorKind, ExtentSource, InodeView, ReadAt};

/// A shared xattr as every inode that uses it sees it.
#[derive(Clone)]
pub(super) struct SharedXattr {
    name: Box<[u8]>,
    value: Box<[u8]>,
    filter_bit: u32,
}

impl<R: ReadAt> Checker<'_, R> {
    /// Checks an inode when it is met for the first time.
    pub(super) fn inode(&mut self, inode: &InodeView, place: Place<'_>) {
        let counts = &mut self.report.counts;
        counts.inodes += 1;
        match inode.file_type {
            FileType::Directory => counts.directories += 1,
            FileType::Regular => counts.files += 1,
            FileType::Symlink => counts.symlinks += 1,
            _ => counts.specials += 1,
        }
        self.fields(inode, place);
        let head = inode.core_size() + inode.xattr_size;
        self.regions.metadata(inode.position, head, Some(inode.nid));
        self.xattrs(inode, place);
        match inode.file_type {
            FileType::Regular | FileType::Directory => self.data(inode, place),
            FileType::Symlink => {
                self.data(inode, place);
                self.symlink(inode, place);
            }
            _ if inode.size != 0 => {
                let message = format!("a special file of {} bytes", inode.size);
                self.find(Code::SpecialSize, place, message);
            }
            _ => {}
        }
    }

    fn fields(&mut self, inode: &InodeView, place: Place<'_>) {
        if inode.raw_nanoseconds >= 1_000_000_000 && inode.extended {
            let message = format!("modified at {} nanoseconds", inode.raw_nanoseconds);
            self.find(Code::Nanoseconds, place, message);
        }
        if inode.wide_fields && !self.image.incompat().contains(Incompat::BIT48) {
            let message = "fields of the 48-bit profile are set without the 48BIT flag";
            self.find(Code::WideField, place, message);
        }
        // Both were read before, so they can be read again.
        let source = self.image.primary_source();
        let clean = match inode.extended {
            true => source
                .read_struct::<ExtendedInode>(inode.position)
                .is_ok_and(|raw| raw.reserved == [0; 16]),
            false => source
                .read_struct::<CompactInode>(inode.position)
                .is_ok_and(|raw| raw.reserved.get() == 0),
        };
        let chunk_half = inode.layout == DataLayout::ChunkBased && inode.u >> 16 != 0;
        if !clean || chunk_half {
            self.find(Code::Reserved, place, "reserved bytes of the inode are not zero");
        }
    }

    fn data(&mut self, inode: &InodeView, place: Place<'_>) {
        if inode.is_compressed() {
            self.report.counts.compressed += 1;
            self.compressed.get_or_insert_with(|| (inode.nid, place.trail.cloned()));
            return;
        }
        match inode.layout {
            _ if inode.is_packed() => {
                self.regions.metadata(inode.map_header(), 8, Some(inode.nid));
                if !self.packed_piece(inode, place) {
                    return;
                }
            }
            DataLayout::FlatInline if inode.size > 0 => match self.image.tail_position(inode) {
                Ok(position) => {
                    let tail = inode.size % self.image.block_size();
                    self.regions.metadata(position, tail, Some(inode.nid));
                }
                Err(error) => return self.fail(Code::InlineTail, place, &error),
            },
            DataLayout::ChunkBased if !self.chunk_table(inode, place) => return,
            _ => {}
        }
        let block_size = self.image.block_size();
        let flat = matches!(inode.layout, DataLayout::FlatPlain | DataLayout::FlatInline);
        if flat
            && inode.start.is_none()
            && (inode.size >= block_size || inode.layout == DataLayout::FlatPlain && inode.size > 0)
        {
            let message =
                "flat data without blocks: a hole to Linux 6.15 and newer, an error before";
            self.find(Code::WideField, place, message);
        }
        let image = self.image;
        for extent in image.extents(inode) {
            match extent {
                Err(error) => return self.data_error(&error, place),
                Ok(extent) => match extent.source {
                    ExtentSource::Hole => {}
                    ExtentSource::Inline { .. } => self.report.counts.data_bytes += extent.length,
                    ExtentSource::Blocks { device, position } => {
                        let counts = &mut self.report.counts;
                        counts.data_bytes = counts.data_bytes.saturating_add(extent.length);
                        if device == 0 {
                            self.regions.data(position, extent.length, inode.nid);
                        }
                        let end = (position + extent.length).div_ceil(block_size) * block_size;
                        let length = image.source(device).map_or(0, |source| source.length());
                        if end > length {
                            let message = format!(
                                "the last block ends at {end}, device {device} has {length} bytes"
                            );
                            self.find(Code::PartialBlock, place, message);
                        }
                    }
                },
            }
        }
    }

    /// Whether the chunks of a piece of the packed inode can be looked at: many files may share them, but not so many that
    /// looking takes for ever.
    fn packed_piece(&mut self, inode: &InodeView, place: Place<'_>) -> bool {
        let chunks = self.image.packed_inode().ok().and_then(|packed| {
            let table = self.image.chunk_table(&packed).ok()?;
            (packed.layout == DataLayout::ChunkBased).then_some(inode.size >> table.chunk_bits)
        });
        self.take(chunks.unwrap_or(0).saturating_add(1).saturating_mul(8), place)
    }

    /// Whether the table can be used.
    fn chunk_table(&mut self, inode: &InodeView, place: Place<'_>) -> bool {
        let table = match self.image.chunk_table(inode) {
            Ok(table) => table,
            Err(error) => {
                self.fail(Code::ChunkTable, place, &error);
                return false;
            }
        };
        if !self.image.incompat().contains(Incompat::CHUNKED_FILE) && !self.chunk_flag_told {
            self.chunk_flag_told = true;
            let message = "chunk-based inodes without the CHUNKED_FILE flag";
            self.find(Code::FeatureFlag, place, message);
        }
        if inode.u & CHUNK_48BIT != 0 && !self.image.incompat().contains(Incompat::BIT48) {
            self.find(Code::WideField, place, "48-bit chunk addresses without the 48BIT flag");
        }
        let length = table.count * table.entry_size;
        if !self.take(length, place) {
            return false;
        }
        self.regions.metadata(table.position, length, Some(inode.nid));
        if table.entry_size == 8 && inode.u & CHUNK_48BIT == 0 {
            for index in 0..table.count {
                let mut entry = ChunkIndex::new_zeroed();
                let position = table.position + index * 8;
                if let Ok(found) = self.image.primary_source().read_struct(position) {
                    entry = found;
                }
                if entry.start_high.get() != 0 {
                    let message = format!("reserved bytes of chunk {index} are not zero");
                    self.find(Code::Reserved, Place { offset: Some(position), ..place }, message);
                    break;
                }
            }
        }
        true
    }

    fn data_error(&mut self, error: &crate::Error, place: Place<'_>) {
        let message = error.to_string();
        let code = match error.kind() {
            ErrorKind::NotFound if self.missing_device_told => return,
            ErrorKind::NotFound => {
                self.missing_device_told = true;
                Code::DeviceMissing
            }
            ErrorKind::Io => Code::Io,
            _ if message.starts_with("data on extra device") => Code::DeviceId,
            _ => Code::DataRange,
        };
        debug_assert!(code.severity() == Severity::Error || code == Code::DeviceMissing);
        self.find(code, Place { offset: error.offset().or(place.offset), ..place }, message);
    }

    fn symlink(&mut self, inode: &InodeView, place: Place<'_>) {
        if inode.is_compressed() {
            return;
        }
        if inode.size == 0 {
            return self.find(Code::SymlinkTarget, place, "an empty target");
        }
        match self.image.read_link(inode) {
            Ok(target) if target.contains(&0) => {
                self.find(Code::SymlinkTarget, place, "a target with a NUL");
            }
            Ok(_) => {
                let block_size = self.image.block_size();
                let core_block = (inode.position + inode.core_size() - 1) / block_size;
                let end = inode.head_end() + inode.size - 1;
                if inode.layout == DataLayout::FlatInline
                    && inode.size < block_size
                    && end / block_size != core_block
                {
                    let message = "the target is not in the block in which the inode ends";
                    self.find(Code::SymlinkPosition, place, message);
                }
            }
            // Where the data lies has been reported already.
            Err(_) if inode.size <= crate::format::SYMLINK_MAX as u64 => {}
            Err(error) => self.fail(Code::SymlinkTarget, place, &error),
        }
    }

    fn xattrs(&mut self, inode: &InodeView, place: Place<'_>) {
        let body = match self.image.xattr_body(inode) {
            Ok(Some(body)) => body,
            Ok(None) => return,
            Err(error) => return self.fail(Code::Xattr, place, &error),
        };
        let filtered = self.image.compat().contains(Compat::XATTR_FILTER)
            && self.image.superblock().xattr_filter_reserved == 0;
        let mut names = HashSet::new();
        let mut one = |checker: &mut Self, xattr: &SharedXattr| {
            checker.report.counts.xattrs += 1;
            let shown = xattr.name.escape_ascii();
            if filtered && body.name_filter & (1 << xattr.filter_bit) != 0 {
                let message = format!("the name filter hides {shown}");
                checker.find(Code::XattrFilter, place, message);
            }
            if !names.insert(xattr.name.clone()) {
                checker.find(Code::XattrDuplicate, place, format!("{shown} twice"));
            }
            checker.xattr_value(inode, xattr, place);
        };
        for (index, rest, value) in body.inline {
            if let Some(xattr) = self.named(index, &rest, value, place) {
                one(self, &xattr);
            }
        }
        for id in body.shared {
            if let Some(xattr) = self.shared_xattr(id, place) {
                one(self, &xattr);
            }
        }
    }

    /// An entry with its full name; `None` after a finding.
    fn named(
        &mut self,
        index: u8,
        rest: &[u8],
        value: Vec<u8>,
        place: Place<'_>,
    ) -> Option<SharedXattr> {
        let image = self.image;
        match image.xattr_name(index, rest) {
            Err(error) => self.fail(Code::Xattr, place, &error),
            Ok(None) => self.find(Code::XattrIndex, place, format!("name index {index:#x}")),
            Ok(Some(name)) => {
                let filter_bit = match image.long_prefix(index & !XATTR_LONG_PREFIX) {
                    Ok(Some((base, infix))) if index & XATTR_LONG_PREFIX != 0 => {
                        name_filter::bit(base, &[infix, rest].concat())
                    }
                    _ => name_filter::bit(index, rest),
                };
                if name.contains(&0) {
                    let message = format!("the name {} holds a NUL", name.escape_ascii());
                    self.find(Code::Xattr, place, message);
                }
                return Some(SharedXattr { name, value: value.into(), filter_bit });
            }
        }
        None
    }

    /// A shared entry, read once; findings about it are reported for its first user only.
    fn shared_xattr(&mut self, id: u32, place: Place<'_>) -> Option<SharedXattr> {
        if let Some(known) = self.shared.get(&id) {
            return known.clone();
        }
        let found = match self.image.shared_xattr(id) {
            Err(error) => {
                self.find(Code::Xattr, place, format!("shared xattr {id}: {error}"));
                None
            }
            Ok((index, rest, value)) => {
                let base = u64::from(self.image.superblock().xattr_blkaddr.get())
                    * self.image.block_size();
                let length = 4 + (rest.len() + value.len()) as u64;
                self.regions.metadata(base + u64::from(id) * 4, length, None);
                // Entries that overlap could otherwise make the checker hold more than the image has.
                match self.take(length, place) {
                    true => self.named(index, &rest, value, place),
                    false => None,
                }
            }
        };
        self.shared.insert(id, found.clone());
        found
    }

    fn xattr_value(&mut self, inode: &InodeView, xattr: &SharedXattr, place: Place<'_>) {
        let access = &*xattr.name == b"system.posix_acl_access";
        if access || &*xattr.name == b"system.posix_acl_default" {
            match acl::group_bits(&xattr.value) {
                Err(message) => self.find(Code::Acl, place, message),
                Ok(Some(bits)) if access && (inode.permissions >> 3) & 7 != bits => {
                    let mode = inode.permissions;
                    let message = format!("mode {mode:04o} beside an ACL whose mask is {bits:o}");
                    self.find(Code::AclMask, place, message);
                }
                Ok(_) => {}
            }
        }
        if &*xattr.name == b"trusted.overlay.opaque" && !matches!(&*xattr.value, b"y" | b"x") {
            let message = format!("trusted.overlay.opaque is \"{}\"", xattr.value.escape_ascii());
            self.find(Code::OverlayOpaque, place, message);
        }
    }
}
