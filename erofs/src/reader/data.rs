//! File data: from an offset in a file to bytes on a device.

use std::io;

use crate::format::{
    CHUNK_48BIT, CHUNK_BITS_MASK, CHUNK_INDEXES, ChunkIndex, DataLayout, FileType, NULL_BLOCK,
};
use crate::reader::unsupported;
use crate::{Error, ErrorKind, Image, InodeView, ReadAt, Result};

/// Where the bytes of an [`Extent`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentSource {
    /// Nowhere: they read as zeros.
    Hole,
    /// In whole blocks.
    Blocks {
        /// 0: the image itself; n: its n-th extra device.
        device: u16,
        /// Byte position there.
        position: u64,
    },
    /// Behind the inode, in the image itself.
    Inline {
        /// Byte position in the image.
        position: u64,
    },
}

/// A run of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file.
    pub offset: u64,
    /// Length in bytes, not 0.
    pub length: u64,
    /// Where the bytes are.
    pub source: ExtentSource,
}

impl Extent {
    /// Offset in the file behind the last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// Appends `next`, if it continues this extent.
    fn join(&mut self, next: &Extent) -> bool {
        let continues = match (self.source, next.source) {
            (ExtentSource::Hole, ExtentSource::Hole) => true,
            (
                ExtentSource::Blocks { device: a, position },
                ExtentSource::Blocks { device: b, position: next },
            ) => a == b && position + self.length == next,
            _ => false,
        };
        if continues {
            self.length += next.length;
        }
        continues
    }
}

/// The chunk table of one inode.
pub(crate) struct ChunkTable {
    /// log2 of a chunk's bytes.
    pub(crate) chunk_bits: u8,
    /// Where the first entry is.
    pub(crate) position: u64,
    /// Bytes of an entry: 8 or 4.
    pub(crate) entry_size: u64,
    /// Number of entries, all of which lie inside the image.
    pub(crate) count: u64,
    wide: bool,
}

impl<R: ReadAt> Image<R> {
    /// The table of a chunk-based inode, found to lie inside the image as a whole.
    pub(crate) fn chunk_table(&self, inode: &InodeView) -> Result<ChunkTable> {
        let format = inode.u & 0xFFFF;
        if format & !(CHUNK_BITS_MASK | CHUNK_INDEXES | CHUNK_48BIT) != 0 {
            return Err(unsupported(format!("chunk format {format:#x}")).at(inode.position));
        }
        let chunk_bits = self.superblock.blkszbits + (format & CHUNK_BITS_MASK) as u8;
        let entry_size = if format & CHUNK_INDEXES != 0 { 8 } else { 4 };
        // Inodes are 32-aligned and inside the image, so rounding up cannot overflow.
        let position = inode.head_end().next_multiple_of(entry_size);
        let count = inode.size.div_ceil(1 << chunk_bits);
        match count.checked_mul(entry_size) {
            Some(length) => self.primary.check(position, length)?,
            None => return Err(Error::corrupt(position, "the chunk table is too long")),
        }
        let wide = format & CHUNK_48BIT != 0 && entry_size == 8;
        Ok(ChunkTable { chunk_bits, position, entry_size, count, wide })
    }

    /// Entry `index` of a chunk table: device and block as they are stored, or `None` for a hole.
    pub(crate) fn chunk(&self, table: &ChunkTable, index: u64) -> Result<Option<(u16, u64)>> {
        let position = table.position + index * table.entry_size;
        if table.entry_size == 4 {
            let block: zerocopy::little_endian::U32 = self.primary.read_struct(position)?;
            let block = block.get();
            return Ok((block != NULL_BLOCK).then_some((0, block.into())));
        }
        let entry: ChunkIndex = self.primary.read_struct(position)?;
        let high = if table.wide { entry.start_high.get() } else { 0 };
        let hole = entry.start.get() == NULL_BLOCK && (!table.wide || high == 0xFFFF);
        let block = u64::from(entry.start.get()) | (u64::from(high) << 32);
        Ok((!hole).then_some((entry.device.get(), block)))
    }

    /// Device (0: the image itself) and byte position of `length` bytes from a block address, inside it.
    pub(crate) fn locate(&self, device: u16, block: u64, length: u64) -> Result<(u16, u64)> {
        let out_of_range =
            || Error::corrupt(0, format!("block {block} of device {device} lies past every image"));
        let (device, block) = match device {
            0 => self.unified.resolve(block).unwrap_or((0, block)),
            n => {
                let slot = self.slots.get(usize::from(n) - 1).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Corrupt,
                        format!("data on extra device {n}, the image has {}", self.slots.len()),
                    )
                })?;
                if !self.devices.is_empty() {
                    (n, block)
                } else {
                    match self.slot_range(slot).0 {
                        0 => {
                            return Err(Error::new(
                                ErrorKind::NotFound,
                                format!("data on extra device {n}, which was not given"),
                            ));
                        }
                        first => (0, first.checked_add(block).ok_or_else(out_of_range)?),
                    }
                }
            }
        };
        let position = block.checked_mul(self.block_size()).ok_or_else(out_of_range)?;
        let source = self.source(device).ok_or_else(out_of_range)?;
        if device == 0 && self.is_flattened() && position >= source.length() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("block {block} is on an extra device, and none was given"),
            ));
        }
        source.check(position, length)?;
        Ok((device, position))
    }

    /// The extent that holds `offset`, or `None` at and behind the end of the file. It begins at `offset`,
    /// and chunks that continue each other are joined until at least `want` bytes are covered.
    pub(crate) fn extent_at(
        &self,
        inode: &InodeView,
        offset: u64,
        want: u64,
    ) -> Result<Option<Extent>> {
        if matches!(
            inode.file_type,
            FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket
        ) || offset >= inode.size
        {
            return Ok(None);
        }
        match inode.layout {
            DataLayout::FlatPlain => self.flat_extent(inode, offset, inode.size).map(Some),
            DataLayout::FlatInline => {
                let tail = inode.size % self.block_size();
                let whole = inode.size - tail;
                if offset < whole {
                    // Checked first, so that a file with an illegal tail does not look half readable.
                    self.tail_position(inode)?;
                    return self.flat_extent(inode, offset, whole).map(Some);
                }
                let position = self.tail_position(inode)? + (offset - whole);
                let source = ExtentSource::Inline { position };
                Ok(Some(Extent { offset, length: inode.size - offset, source }))
            }
            DataLayout::ChunkBased => self.chunk_extent(inode, offset, want).map(Some),
            DataLayout::CompressedFull | DataLayout::CompressedCompact => match inode.packed {
                Some(start) => self.packed_extent(inode, start, offset, want).map(Some),
                None => {
                    let layout = inode.layout as u16;
                    let what = format!("compressed data (inode {} has layout {layout})", inode.nid);
                    Err(unsupported(what).at(inode.position))
                }
            },
        }
    }

    /// A piece of a file that is in the packed inode from `start` on.
    fn packed_extent(
        &self,
        inode: &InodeView,
        start: u64,
        offset: u64,
        want: u64,
    ) -> Result<Extent> {
        let packed = self.packed_inode()?;
        let outside = || {
            let what = format!("inode {} is past the end of the packed inode", inode.nid);
            Error::corrupt(inode.map_header(), what)
        };
        if start.checked_add(inode.size).is_none_or(|end| end > packed.size) {
            return Err(outside());
        }
        let left = inode.size - offset;
        let found = self.extent_at(&packed, start + offset, want.min(left))?;
        let found = found.ok_or_else(outside)?;
        Ok(Extent { offset, length: found.length.min(left), source: found.source })
    }

    /// Where the inline tail begins. It must fit into the block in which it begins.
    pub(crate) fn tail_position(&self, inode: &InodeView) -> Result<u64> {
        let head_end = inode.head_end();
        let tail = inode.size % self.block_size();
        if tail == 0 {
            return Err(Error::corrupt(
                inode.position,
                format!(
                    "inode {} is inline, but its size {} leaves no tail",
                    inode.nid, inode.size
                ),
            ));
        }
        if head_end % self.block_size() + tail > self.block_size() {
            return Err(Error::corrupt(
                head_end,
                format!("the inline tail of inode {} crosses a block boundary", inode.nid),
            ));
        }
        self.primary.check(head_end, tail)?;
        Ok(head_end)
    }

    fn flat_extent(&self, inode: &InodeView, offset: u64, whole: u64) -> Result<Extent> {
        let length = whole - offset;
        let Some(start) = inode.start else {
            return Ok(Extent { offset, length, source: ExtentSource::Hole });
        };
        let (device, position) =
            self.locate(0, start, whole).map_err(|e| e.or_at(inode.position))?;
        let position = position + offset;
        Ok(Extent { offset, length, source: ExtentSource::Blocks { device, position } })
    }

    fn chunk_extent(&self, inode: &InodeView, offset: u64, want: u64) -> Result<Extent> {
        let table = self.chunk_table(inode)?;
        let mut found: Option<Extent> = None;
        let mut at = offset;
        while at < inode.size && at - offset < want {
            let index = at >> table.chunk_bits;
            let start = index << table.chunk_bits;
            let length = (inode.size - start).min(1 << table.chunk_bits);
            let source = match self.chunk(&table, index)? {
                None => ExtentSource::Hole,
                Some((device, block)) => {
                    let located = self.locate(device, block, length);
                    let (device, position) = match (located, &found) {
                        (Ok(located), _) => located,
                        // What is before the bad chunk can still be read.
                        (Err(_), Some(_)) => break,
                        (Err(e), None) => {
                            return Err(e.or_at(table.position + index * table.entry_size));
                        }
                    };
                    ExtentSource::Blocks { device, position: position + (at - start) }
                }
            };
            let next = Extent { offset: at, length: length - (at - start), source };
            at = next.end();
            match &mut found {
                None => found = Some(next),
                Some(extent) => {
                    if !extent.join(&next) {
                        break;
                    }
                }
            }
        }
        found.ok_or_else(|| Error::corrupt(inode.position, "no chunk at this offset"))
    }

    /// Reads file data (of a regular file, a symbolic link or a directory) at `offset`; returns how many
    /// bytes were read, which is less than `buf` holds only at the end of the file. Holes read as zeros.
    pub fn read_at(&self, inode: &InodeView, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read_data(inode, buf, offset, false)
    }

    pub(crate) fn read_data(
        &self,
        inode: &InodeView,
        buf: &mut [u8],
        offset: u64,
        metadata: bool,
    ) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset.saturating_add(done as u64);
            let Some(extent) = self.extent_at(inode, at, (buf.len() - done) as u64)? else { break };
            let length = usize::try_from(extent.length).unwrap_or(usize::MAX).min(buf.len() - done);
            let piece = &mut buf[done..done + length];
            match extent.source {
                ExtentSource::Hole => piece.fill(0),
                ExtentSource::Inline { position } => self.primary.read_metadata(piece, position)?,
                ExtentSource::Blocks { device, position } => {
                    let source = self
                        .source(device)
                        .ok_or_else(|| Error::corrupt(position, "data on a missing device"))?;
                    match metadata {
                        true => source.read_metadata(piece, position)?,
                        false => source.read_exact(piece, position)?,
                    }
                }
            }
            done += length;
        }
        Ok(done)
    }

    /// A file's data as a stream. A hole can make it longer than any disk: limit what you read.
    pub fn reader<'a>(&'a self, inode: &InodeView) -> FileReader<'a, R> {
        FileReader { image: self, inode: inode.clone(), offset: 0 }
    }

    /// The runs of data and holes of a file, in order; chunks that continue each other are one run.
    /// Ends after the first error.
    pub fn extents<'a>(&'a self, inode: &InodeView) -> Extents<'a, R> {
        Extents { image: self, inode: inode.clone(), offset: 0, failed: false }
    }
}

/// A file's data as a stream; see [`Image::reader`].
#[derive(Debug)]
pub struct FileReader<'a, R> {
    image: &'a Image<R>,
    inode: InodeView,
    offset: u64,
}

impl<R: ReadAt> io::Read for FileReader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.image.read_at(&self.inode, buf, self.offset).map_err(|error| {
            let kind = match error.kind() {
                ErrorKind::Unsupported => io::ErrorKind::Unsupported,
                ErrorKind::Io => io::ErrorKind::Other,
                _ => io::ErrorKind::InvalidData,
            };
            io::Error::new(kind, error)
        })?;
        self.offset += n as u64;
        Ok(n)
    }
}

/// Iterator over a file's extents; see [`Image::extents`].
#[derive(Debug)]
pub struct Extents<'a, R> {
    image: &'a Image<R>,
    inode: InodeView,
    offset: u64,
    failed: bool,
}

impl<R: ReadAt> Iterator for Extents<'_, R> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let found = self.image.extent_at(&self.inode, self.offset, u64::MAX).transpose()?;
        match &found {
            Ok(extent) => self.offset = extent.end(),
            Err(_) => self.failed = true,
        }
        Some(found)
    }
}
