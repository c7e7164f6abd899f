//! dm-verity's hash tree, in the layout of `veritysetup format`: superblock, then the levels, topmost first.
//!
//! Sources: the kernel's Documentation/admin-guide/device-mapper/verity.rst for the tree; cryptsetup's
//! docs/on-disk-format-verity (superblock version 1) for the superblock. Little-endian, hash type 1 (the salt comes
//! first, digests lie at powers of two), SHA-256, blocks of 4096 bytes.

use std::io::{self, Read, Seek, SeekFrom, Write};

use layer::{Digest, Digester};

/// Bytes of a block, of data and of digests.
pub(crate) const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = BLOCK as u64;
/// Bytes of a digest, which are a power of two and so need no padding between them.
const DIGEST: usize = 32;
const PER_BLOCK: u64 = (BLOCK / DIGEST) as u64;
/// Blocks before the tree.
const SUPERBLOCK: u64 = 1;

/// What is not the data's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed {
    /// Hashed before every block.
    pub(crate) salt: [u8; 32],
    /// In the superblock only.
    pub(crate) uuid: [u8; 16],
}

/// A tree that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// The digest of the topmost block.
    pub(crate) root: Digest,
    /// Bytes, the superblock included.
    pub(crate) size: u64,
}

/// Where a level of the tree lies, in blocks from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    start: u64,
    blocks: u64,
}

/// The levels over that many blocks of data, the one of their digests first. None over a single block: its digest is the
/// root.
fn levels(data_blocks: u64) -> Vec<Level> {
    let mut levels = Vec::new();
    let mut blocks = data_blocks;
    while blocks > 1 {
        blocks = blocks.div_ceil(PER_BLOCK);
        levels.push(Level { start: 0, blocks });
    }
    let mut start = SUPERBLOCK;
    for level in levels.iter_mut().rev() {
        level.start = start;
        start += level.blocks;
    }
    levels
}

/// Writes the tree over `size` bytes of `data` to `tree`, which is empty. Memory does not grow with the data: a level is
/// read back to make the one above.
///
/// # Errors
/// `InvalidInput` if the data is empty or no whole number of blocks; those of the streams.
pub(crate) fn write(
    data: &mut impl Read,
    size: u64,
    tree: &mut (impl Read + Write + Seek),
    seed: &Seed,
) -> io::Result<Written> {
    if size == 0 || !size.is_multiple_of(BLOCK_BYTES) {
        let text = format!("{size} bytes are not a number of whole blocks of {BLOCK}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let data_blocks = size / BLOCK_BYTES;
    let levels = levels(data_blocks);
    tree.rewind()?;
    tree.write_all(&superblock(data_blocks, seed))?;
    let Some(&leaves) = levels.first() else {
        let root = digest_of_next(data, &seed.salt)?;
        return Ok(Written { root, size: SUPERBLOCK * BLOCK_BYTES });
    };
    // Digests of a chunk of blocks go out as one or more whole blocks, so seeking costs little.
    tree.seek(SeekFrom::Start(leaves.start * BLOCK_BYTES))?;
    let mut left = data_blocks;
    while left > 0 {
        let count = left.min(PER_BLOCK);
        let block = digests(data, count, &seed.salt)?;
        tree.write_all(&block)?;
        left -= count;
    }
    for pair in levels.windows(2) {
        let [below, above] = pair else { break };
        let mut left = below.blocks;
        let (mut from, mut to) = (below.start * BLOCK_BYTES, above.start * BLOCK_BYTES);
        while left > 0 {
            let count = left.min(PER_BLOCK);
            tree.seek(SeekFrom::Start(from))?;
            let block = digests(tree, count, &seed.salt)?;
            tree.seek(SeekFrom::Start(to))?;
            tree.write_all(&block)?;
            from += count * BLOCK_BYTES;
            to += BLOCK_BYTES;
            left -= count;
        }
    }
    tree.seek(SeekFrom::Start(SUPERBLOCK * BLOCK_BYTES))?;
    let root = digest_of_next(tree, &seed.salt)?;
    let blocks: u64 = levels.iter().map(|level| level.blocks).sum();
    Ok(Written { root, size: (SUPERBLOCK + blocks) * BLOCK_BYTES })
}

/// A block with the digests of the next blocks of `from`, at most as many as fit.
fn digests(from: &mut impl Read, count: u64, salt: &[u8; 32]) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(BLOCK);
    for _ in 0..count {
        block.extend_from_slice(digest_of_next(from, salt)?.as_bytes());
    }
    block.resize(BLOCK, 0);
    Ok(block)
}

fn digest_of_next(from: &mut impl Read, salt: &[u8; 32]) -> io::Result<Digest> {
    let mut block = [0; BLOCK];
    from.read_exact(&mut block)?;
    let mut digester = Digester::default();
    digester.update(salt);
    digester.update(&block);
    Ok(digester.finish())
}

/// `struct verity_sb` of cryptsetup, 512 bytes, in a block of its own.
fn superblock(data_blocks: u64, seed: &Seed) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut at = 0;
    let mut put = |bytes: &[u8], length: usize| {
        block[at..at + bytes.len()].copy_from_slice(bytes);
        at += length;
    };
    put(b"verity", 8);
    put(&1u32.to_le_bytes(), 4);
    put(&1u32.to_le_bytes(), 4);
    put(&seed.uuid, 16);
    put(b"sha256", 32);
    put(&(BLOCK as u32).to_le_bytes(), 4);
    put(&(BLOCK as u32).to_le_bytes(), 4);
    put(&data_blocks.to_le_bytes(), 8);
    put(&32u16.to_le_bytes(), 8);
    put(&seed.salt, 256);
    block
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const SEED: Seed = Seed { salt: [0x5a; 32], uuid: [0x11; 16] };

    fn tree(blocks: usize) -> (Vec<u8>, Written) {
        let data: Vec<u8> = (0..blocks * BLOCK).map(|at| (at / 7) as u8).collect();
        let mut tree = Cursor::new(Vec::new());
        let written = write(&mut data.as_slice(), data.len() as u64, &mut tree, &SEED).unwrap();
        (tree.into_inner(), written)
    }

    #[test]
    fn levels_lie_topmost_first() {
        let level = |start, blocks| Level { start, blocks };
        assert_eq!(levels(1), []);
        assert_eq!(levels(2), [level(1, 1)]);
        assert_eq!(levels(128), [level(1, 1)]);
        assert_eq!(levels(129), [level(2, 2), level(1, 1)]);
        assert_eq!(levels(128 * 128 + 1), [level(4, 129), level(2, 2), level(1, 1)]);
    }

    #[test]
    fn what_is_written_is_as_long_as_said_and_depends_on_every_block() {
        for blocks in [1, 2, 128, 129, 300] {
            let (bytes, written) = tree(blocks);
            assert_eq!(bytes.len() as u64, written.size, "{blocks}");
            assert_eq!(tree(blocks), (bytes, written), "the same again");
        }
        let mut data = vec![0; 300 * BLOCK];
        let root = |data: &[u8]| {
            let mut tree = Cursor::new(Vec::new());
            write(&mut &*data, data.len() as u64, &mut tree, &SEED).unwrap().root
        };
        let whole = root(&data);
        for at in [0, 150 * BLOCK + 9, 300 * BLOCK - 1] {
            data[at] ^= 1;
            assert_ne!(root(&data), whole);
            data[at] ^= 1;
        }
        assert_eq!(root(&data), whole);
    }

    #[test]
    fn data_that_is_not_whole_blocks_is_refused() {
        for size in [0, 1, 4095, 4097] {
            let data = vec![0; size];
            let error =
                write(&mut data.as_slice(), size as u64, &mut Cursor::new(Vec::new()), &SEED);
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{size}");
        }
        // And so is data that ends before its size.
        let error = write(&mut [0; BLOCK].as_slice(), 8192, &mut Cursor::new(Vec::new()), &SEED);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
