//! The data part: files stream into blocks, or into memory, or into the data chunks of a sparse file.

use super::{BlockSize, Sink, round_up};
use crate::error::{Error, ErrorKind, Result};
use crate::format::NULL_BLOCK;
use crate::tree::{BlockAddress, FileData};

/// Most entries in the chunk table of a sparse file.
const SPARSE_TABLE_MAX: u64 = 65_536;
/// log2 of the largest chunk over the block size: the field has 5 bits.
pub(super) const CHUNK_BITS_OVER_BLOCK_MAX: u8 = 31;

const ZEROS: [u8; 4096] = [0; 4096];
/// Slices of at least this length go straight to the sink.
const DIRECT: usize = 32 << 10;
/// Shorter ones are collected up to this, so that small files and padding cost no call each.
const COLLECTED: usize = 256 << 10;

/// The sink with a position and errors that say what was being done.
#[derive(Debug)]
pub(super) struct Output<S: Sink> {
    sink: S,
    collected: Vec<u8>,
    position: u64,
    reserved: u64,
    block_size: u64,
}

impl<S: Sink> Output<S> {
    pub(super) fn new(mut sink: S, reserved: u64, block_size: BlockSize) -> Result<Self> {
        sink.reserve(reserved).map_err(|e| Error::io("cannot reserve the image's header", e))?;
        Ok(Self {
            sink,
            collected: Vec::with_capacity(COLLECTED),
            position: reserved,
            reserved,
            block_size: block_size.bytes(),
        })
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.collected.len() + bytes.len() > COLLECTED || bytes.len() >= DIRECT {
            self.flush()?;
        }
        if bytes.len() < DIRECT {
            self.collected.extend_from_slice(bytes);
        } else {
            self.sink.append(bytes).map_err(writing)?;
        }
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.collected.is_empty() {
            self.sink.append(&self.collected).map_err(writing)?;
            self.collected.clear();
        }
        Ok(())
    }

    pub(super) fn zeros(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let piece = count.min(ZEROS.len() as u64);
            self.append(&ZEROS[..usize::try_from(piece).expect("at most 4096")])?;
            count -= piece;
        }
        Ok(())
    }

    /// Fills the current block.
    pub(super) fn align(&mut self) -> Result<()> {
        self.zeros(round_up(self.position, self.block_size) - self.position)
    }

    /// The blocks that hold streamed data so far.
    pub(super) fn data_blocks(&self) -> std::ops::Range<u64> {
        self.reserved / self.block_size..self.position / self.block_size
    }

    /// The next block's address, if `length` more bytes still have addresses.
    fn next_block(&self, length: u64) -> Result<BlockAddress> {
        let start = self.position / self.block_size;
        let end = start.saturating_add(length.div_ceil(self.block_size));
        match u32::try_from(start) {
            Ok(block) if end < u64::from(NULL_BLOCK) => Ok(BlockAddress { device: 0, block }),
            _ => Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "{length} more bytes of data exceed the 2^32 blocks of {} bytes that an image can address",
                    self.block_size
                ),
            )),
        }
    }

    pub(super) fn finish(mut self, header: &[u8]) -> Result<S> {
        assert_eq!(header.len() as u64, self.reserved, "the header fills its reserved room");
        self.flush()?;
        self.sink.write_header(header).map_err(|e| Error::io("cannot write the header", e))?;
        Ok(self.sink)
    }
}

fn writing(error: std::io::Error) -> Error {
    Error::io("cannot write the image", error)
}

/// The file between `begin` and `end`.
#[derive(Debug)]
pub(super) enum OpenFile {
    None,
    Memory { bytes: Vec<u8>, size: u64, segments: Option<Segments> },
    Blocks { start: BlockAddress, size: u64, left: u64 },
    Sparse(SparseFile),
}

/// Data segments still to come, the next one last.
type Segments = Vec<(u64, u64)>;

/// A sparse file on its way: `cursor` is the logical offset behind the last byte written.
#[derive(Debug)]
pub(super) struct SparseFile {
    size: u64,
    chunk_bits: u8,
    chunks: Box<[Option<BlockAddress>]>,
    segments: Segments,
    cursor: u64,
    end: u64,
}

/// Checks segments and drops empty ones; the result is reversed, so that the next one is last.
pub(super) fn checked_segments(size: u64, segments: &[(u64, u64)]) -> Result<Segments> {
    let mut end = 0;
    for &(offset, length) in segments {
        let segment_end = offset.checked_add(length);
        if offset < end || segment_end.is_none_or(|segment_end| segment_end > size) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the data segment of {length} bytes at {offset} is out of order or outside the file of {size} bytes"
                ),
            ));
        }
        end = offset + length;
    }
    Ok(segments.iter().rev().copied().filter(|&(_, length)| length > 0).collect())
}

impl OpenFile {
    pub(super) fn in_memory(size: u64) -> Self {
        Self::Memory { bytes: Vec::with_capacity(in_memory_len(size)), size, segments: None }
    }

    pub(super) fn sparse_in_memory(size: u64, segments: Segments) -> Self {
        let bytes = Vec::with_capacity(in_memory_len(size));
        Self::Memory { bytes, size, segments: Some(segments) }
    }

    pub(super) fn streamed<S: Sink>(output: &Output<S>, size: u64) -> Result<Self> {
        Ok(Self::Blocks { start: output.next_block(size)?, size, left: size })
    }

    pub(super) fn sparse<S: Sink>(
        output: &Output<S>,
        size: u64,
        segments: Segments,
    ) -> Result<Self> {
        if matches!(segments[..], [(0, length)] if length == size) {
            return Self::streamed(output, size);
        }
        let block_bits = u8::try_from(output.block_size.trailing_zeros()).expect("at most 12");
        // Nothing but a hole needs no more than one entry.
        let entries = if segments.is_empty() { 1 } else { SPARSE_TABLE_MAX };
        let chunk_bits = (block_bits..=block_bits + CHUNK_BITS_OVER_BLOCK_MAX)
            .find(|&bits| size.div_ceil(1 << bits) <= entries)
            .ok_or_else(|| {
                Error::new(ErrorKind::TooLarge, format!("a sparse file of {size} bytes"))
            })?;
        let count = usize::try_from(size.div_ceil(1 << chunk_bits)).expect("at most 65,536");
        let mut file = SparseFile {
            size,
            chunk_bits,
            chunks: vec![None; count].into(),
            segments,
            cursor: 0,
            end: round_up(size, output.block_size),
        };
        file.assign(output)?;
        Ok(Self::Sparse(file))
    }

    pub(super) fn write<S: Sink>(&mut self, output: &mut Output<S>, bytes: &[u8]) -> Result<()> {
        match self {
            Self::None => Err(Error::new(ErrorKind::Invalid, "data without a file")),
            Self::Memory { bytes: held, size, segments: None } => {
                if held.len() as u64 + bytes.len() as u64 > *size {
                    return Err(surplus(*size));
                }
                held.extend_from_slice(bytes);
                Ok(())
            }
            Self::Memory { bytes: held, size, segments: Some(segments) } => {
                segmented(*size, segments, bytes, |offset, piece| {
                    held.resize(in_memory_len(offset), 0);
                    held.extend_from_slice(piece);
                    Ok(())
                })
            }
            Self::Blocks { size, left, .. } => {
                *left = left.checked_sub(bytes.len() as u64).ok_or_else(|| surplus(*size))?;
                output.append(bytes)
            }
            Self::Sparse(file) => file.write(output, bytes),
        }
    }

    pub(super) fn end<S: Sink>(self, output: &mut Output<S>) -> Result<FileData> {
        match self {
            Self::None => Err(Error::new(ErrorKind::Invalid, "the end of a file that never began")),
            Self::Memory { mut bytes, size, segments } => {
                let missing = match segments {
                    None => size - bytes.len() as u64,
                    Some(segments) => segments.iter().map(|&(_, length)| length).sum(),
                };
                complete(size, missing)?;
                bytes.resize(in_memory_len(size), 0);
                Ok(FileData::Bytes(bytes.into()))
            }
            Self::Blocks { start, size, left } => {
                complete(size, left)?;
                output.align()?;
                Ok(FileData::Extent { start, size })
            }
            Self::Sparse(file) => file.end(output),
        }
    }
}

impl SparseFile {
    /// Gives every chunk that a segment touches its blocks.
    fn assign<S: Sink>(&mut self, output: &Output<S>) -> Result<()> {
        let chunk = 1u64 << self.chunk_bits;
        let mut allocated = 0;
        let mut next = 0;
        for &(offset, length) in self.segments.iter().rev() {
            let last = (offset + length - 1) >> self.chunk_bits;
            for index in next.max(offset >> self.chunk_bits)..=last {
                let address = output.next_block(allocated + chunk)?;
                let block = u64::from(address.block) + allocated / output.block_size;
                let block = u32::try_from(block).expect("next_block has checked the end");
                self.chunks[in_memory_len(index)] = Some(BlockAddress { block, ..address });
                allocated += chunk;
            }
            next = last + 1;
        }
        Ok(())
    }

    fn write<S: Sink>(&mut self, output: &mut Output<S>, bytes: &[u8]) -> Result<()> {
        let Self { size, chunk_bits, segments, cursor, .. } = self;
        segmented(*size, segments, bytes, |offset, piece| {
            skip_to(output, *chunk_bits, *cursor, offset)?;
            *cursor = offset + piece.len() as u64;
            output.append(piece)
        })
    }

    fn end<S: Sink>(self, output: &mut Output<S>) -> Result<FileData> {
        complete(self.size, self.segments.iter().map(|&(_, length)| length).sum())?;
        let chunk_end = round_up(self.cursor, 1 << self.chunk_bits).min(self.end);
        output.zeros(chunk_end - self.cursor)?;
        if let Some(start) = self.chunks.first().copied().flatten()
            && self.chunks.iter().all(Option::is_some)
        {
            return Ok(FileData::Extent { start, size: self.size });
        }
        Ok(FileData::Chunks { size: self.size, chunk_bits: self.chunk_bits, chunks: self.chunks })
    }
}

/// Zeros for what lies between two data bytes inside data chunks; whole chunks between them are holes.
fn skip_to<S: Sink>(output: &mut Output<S>, bits: u8, from: u64, to: u64) -> Result<()> {
    let chunk = 1 << bits;
    let from_end = round_up(from, chunk);
    if to <= from_end {
        return output.zeros(to - from);
    }
    output.zeros(from_end - from)?;
    output.zeros(to % chunk)
}

/// Splits arriving bytes along the segments that they belong to.
fn segmented(
    size: u64,
    segments: &mut Segments,
    mut bytes: &[u8],
    mut take: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    while !bytes.is_empty() {
        let (offset, length) = segments.last_mut().ok_or_else(|| surplus(size))?;
        let piece = usize::try_from(*length).map_or(bytes.len(), |length| length.min(bytes.len()));
        let (head, rest) = bytes.split_at(piece);
        take(*offset, head)?;
        *offset += piece as u64;
        *length -= piece as u64;
        if *length == 0 {
            segments.pop();
        }
        bytes = rest;
    }
    Ok(())
}

fn in_memory_len(size: u64) -> usize {
    usize::try_from(size).expect("files in memory are smaller than a block, tables than 2^16")
}

fn complete(size: u64, missing: u64) -> Result<()> {
    match missing {
        0 => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            format!("{missing} bytes are missing at the end of a file of {size} bytes"),
        )),
    }
}

fn surplus(size: u64) -> Error {
    Error::new(ErrorKind::Invalid, format!("more data than announced for a file of {size} bytes"))
}
