//! Small files where they are: the packed file of a view is the region files themselves, in chunks, and a small file is a
//! piece of it that may begin at any byte. So it costs the view 8 bytes.

use cimfs::{Image, ReadAt, RegionOffset};
use erofs::{BlockAddress, BlockSize, Content, FileData, Inode, Timestamp, Tree};

/// Most chunks of the packed file. What is in the last, incomplete chunk of a region is copied.
const CHUNKS_MAX: u64 = 16_384;

/// The packed file on its way: regions in the order in which they are needed first.
#[derive(Debug)]
pub(super) struct PackedFile {
    chunk_bits: u8,
    block_bits: u8,
    /// Where a region begins in the packed file, if it does, by its index.
    starts: Vec<Option<u64>>,
    chunks: Vec<Option<BlockAddress>>,
}

impl PackedFile {
    pub(super) fn new<R: ReadAt>(image: &Image<R>, block_size: BlockSize) -> Self {
        let regions = 0..u16::try_from(image.region_count()).unwrap_or(u16::MAX);
        let total: u64 = regions.clone().filter_map(|index| image.region_length(index)).sum();
        let block_bits = block_size.bits();
        let chunk_bits = (block_bits..block_bits + 31).find(|bits| total >> bits <= CHUNKS_MAX);
        Self {
            chunk_bits: chunk_bits.unwrap_or(block_bits + 31),
            block_bits,
            starts: vec![None; regions.len()],
            chunks: Vec::new(),
        }
    }

    /// `size` bytes at `source` as a piece of the packed file, if all of their chunks are complete. `length` is the
    /// region's.
    pub(super) fn place(
        &mut self,
        source: RegionOffset,
        size: u64,
        length: u64,
    ) -> Option<FileData> {
        let complete = length >> self.chunk_bits;
        if source.byte().checked_add(size)? > complete << self.chunk_bits {
            return None;
        }
        let device = source.region().checked_add(1)?;
        let known = self.starts.get_mut(usize::from(source.region()))?;
        let start = match *known {
            Some(start) => start,
            None => {
                let step = self.chunk_bits - self.block_bits;
                let last = (complete - 1) << step;
                u32::try_from(last).ok()?;
                let blocks = (0..complete).filter_map(|chunk| u32::try_from(chunk << step).ok());
                let start = (self.chunks.len() as u64) << self.chunk_bits;
                self.chunks.extend(blocks.map(|block| Some(BlockAddress { device, block })));
                *known.insert(start)
            }
        };
        Some(FileData::Packed { offset: start + source.byte(), size })
    }

    /// Puts the packed file into the tree, if anything is in it.
    pub(super) fn finish(self, tree: &mut Tree) {
        if self.chunks.is_empty() {
            return;
        }
        let size = (self.chunks.len() as u64) << self.chunk_bits;
        let chunk_bits = self.chunk_bits;
        let data = FileData::Chunks { size, chunk_bits, chunks: self.chunks.into() };
        let id = tree.add(Inode {
            permissions: 0o400,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
            content: Content::Regular(data),
        });
        tree.set_packed(id);
    }
}
