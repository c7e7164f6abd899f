//! Where the bytes of files are: pointed at in a region, or copied into the view.

use cimfs::{Image, ReadAt, RegionOffset, Segment, Segments, Stream};
use erofs::{BlockAddress, BlockSize, FileData, ImageWriter, Sink};

use super::packed::PackedFile;
use super::tree::Failure;
use super::{Error, ErrorKind, cim_error};

/// What is copied in pieces of this many bytes.
const PIECE: usize = 1 << 20;
/// Neighbouring small files are read together.
const WINDOW: u64 = 256 << 10;
/// More bytes that a smaller block could point at than this are not copied.
const MISALIGNED_MAX: u64 = 1 << 20;
/// The largest view: how much is copied, whatever the image's length.
const COPIED_MAX: u64 = 8 << 30;
/// Smallest file that is pointed at.
const SMALLEST: u64 = 512;

type Result<T, E = Failure> = std::result::Result<T, E>;

/// Puts the data of files into a view.
pub(super) struct Placer<'a, R, S: Sink> {
    image: &'a Image<R>,
    pub(super) writer: ImageWriter<S>,
    block_size: BlockSize,
    pub(super) packed: Option<PackedFile>,
    window: Window,
    piece: Vec<u8>,
    pub(super) pointed: u64,
    pub(super) copied: u64,
    misaligned: u64,
    left: u64,
}

/// A stretch of a region that was read.
#[derive(Default)]
struct Window {
    region: u16,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a, R: ReadAt, S: Sink> Placer<'a, R, S> {
    pub(super) fn new(image: &'a Image<R>, writer: ImageWriter<S>, block_size: BlockSize) -> Self {
        let regions = 0..u16::try_from(image.region_count()).unwrap_or(u16::MAX);
        let total = regions.filter_map(|index| image.region_length(index)).sum::<u64>();
        Self {
            image,
            writer,
            block_size,
            // With smaller blocks only Linux 6.8 and newer would read it.
            packed: (block_size == BlockSize::B4096).then(|| PackedFile::new(image, block_size)),
            window: Window::default(),
            piece: Vec::new(),
            pointed: 0,
            copied: 0,
            misaligned: 0,
            // Equal files are one object of the image and several copies in the view.
            left: total.saturating_mul(4).clamp(64 << 20, COPIED_MAX),
        }
    }

    /// The data of a stream.
    pub(super) fn place(&mut self, stream: &Stream) -> Result<FileData> {
        let reading = |error| Failure::Error(cim_error("cannot read the image", error));
        let segments = self.image.segments(stream).map_err(reading)?;
        let size = stream.length();
        match &*segments {
            [] => Ok(FileData::Bytes(Box::default())),
            [Segment { source: None, .. }] => {
                self.writer.begin_sparse_file(size, &[]).map_err(writing)?;
                self.writer.end_file().map_err(writing)
            }
            [Segment { source: Some(source), .. }]
                if size < self.block_size.bytes() && self.packed.is_some() =>
            {
                match self.pack(*source, size) {
                    Some(data) => Ok(data),
                    None => self.copy(&segments, size),
                }
            }
            [Segment { source: Some(source), .. }] if size >= SMALLEST => {
                match self.run(*source, size)? {
                    Some(data) => Ok(data),
                    None => self.copy(&segments, size),
                }
            }
            [_] => self.copy(&segments, size),
            _ => match self.chunks(&segments, size)? {
                Some(data) => Ok(data),
                None => self.copy(&segments, size),
            },
        }
    }

    /// Blocks from `source` on, if it is the start of one.
    fn run(&mut self, source: RegionOffset, size: u64) -> Result<Option<FileData>> {
        let block = self.block_size.bytes();
        if size < block {
            return Ok(None);
        }
        let Some(start) = self.address(source) else { return Ok(None) };
        if self.is_complete(source, size) {
            self.pointed += size;
            return Ok(Some(FileData::Extent { start, size }));
        }
        // The region ends inside the last block, which no kernel reads then.
        let tail_length = size % block;
        let mut tail = vec![0; usize::try_from(tail_length).unwrap_or(0)];
        let whole = size - tail_length;
        if tail.is_empty() || !self.is_complete(source, whole) {
            return Ok(None);
        }
        let Some(tail_source) = source.checked_add(whole) else { return Ok(None) };
        self.charge(tail_length)?;
        self.read(&mut tail, tail_source)?;
        self.pointed += whole;
        Ok(Some(FileData::ExtentAndTail { start, size, tail: tail.into() }))
    }

    /// A piece of the packed file.
    fn pack(&mut self, source: RegionOffset, size: u64) -> Option<FileData> {
        let length = self.image.region_length(source.region())?;
        let data = self.packed.as_mut()?.place(source, size, length)?;
        self.pointed += size;
        Some(data)
    }

    /// A table for a stream in several pieces, if every piece begins with a block.
    fn chunks(&mut self, segments: &Segments, size: u64) -> Result<Option<FileData>> {
        let block = self.block_size.bytes();
        let mut bits = u32::from(self.block_size.bits()) + 31;
        for segment in &**segments {
            if segment.offset > 0 {
                bits = bits.min(segment.offset.trailing_zeros());
            }
            let Some(source) = segment.source else { return Ok(None) };
            if self.address(source).is_none() || !self.is_complete(source, segment.length) {
                return Ok(None);
            }
        }
        if bits < block.trailing_zeros() {
            return Ok(None);
        }
        let count = size.div_ceil(1 << bits);
        self.charge_memory(count * 8)?;
        let mut chunks = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        let mut pieces = segments.iter().peekable();
        let mut current = None;
        for index in 0..count {
            let offset = index << bits;
            while let Some(next) = pieces.next_if(|segment| segment.offset <= offset) {
                current = Some(next);
            }
            let address = current
                .and_then(|s: &Segment| s.source?.checked_add(offset - s.offset))
                .and_then(|source| self.address(source));
            chunks.push(Some(address.ok_or_else(|| {
                Failure::Error(Error::corrupt("an executable with pieces out of order"))
            })?));
        }
        self.pointed += size;
        let chunk_bits = u8::try_from(bits).unwrap_or(u8::MAX);
        Ok(Some(FileData::Chunks { size, chunk_bits, chunks: chunks.into() }))
    }

    fn copy(&mut self, segments: &Segments, size: u64) -> Result<FileData> {
        if self.block_size != BlockSize::B512 && size >= SMALLEST {
            let pointable = segments.iter().filter(|segment| {
                segment.length >= self.block_size.bytes()
                    && (segment.offset.is_multiple_of(512))
                    && segment.source.is_some_and(|source| source.byte().is_multiple_of(512))
            });
            self.misaligned += pointable.map(|segment| segment.length).sum::<u64>();
            if self.misaligned > MISALIGNED_MAX {
                return Err(Failure::SmallerBlocks);
            }
        }
        self.charge(size)?;
        self.writer.begin_file(size).map_err(writing)?;
        let mut piece = std::mem::take(&mut self.piece);
        for segment in &**segments {
            let mut done = 0;
            while done < segment.length {
                let length = (segment.length - done).min(PIECE as u64);
                piece.resize(usize::try_from(length).unwrap_or(PIECE), 0);
                match segment.source.map(|source| source.checked_add(done)) {
                    Some(Some(source)) => self.read(&mut piece, source)?,
                    _ => piece.fill(0),
                }
                self.writer.write_data(&piece).map_err(writing)?;
                done += length;
            }
        }
        self.piece = piece;
        self.writer.end_file().map_err(writing)
    }

    fn charge(&mut self, bytes: u64) -> Result<()> {
        self.copied += bytes;
        self.charge_memory(bytes)
    }

    /// Takes of what the view may be larger than its image.
    pub(super) fn charge_memory(&mut self, bytes: u64) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            let what = "more would have to be copied than the image has several times over";
            Failure::Error(Error::new(ErrorKind::TooLarge, what))
        })?;
        Ok(())
    }

    /// The block that begins at `source`, if one does.
    fn address(&self, source: RegionOffset) -> Option<BlockAddress> {
        if !source.byte().is_multiple_of(self.block_size.bytes()) {
            return None;
        }
        let block = u32::try_from(source.byte() >> self.block_size.bits()).ok()?;
        Some(BlockAddress { device: source.region().checked_add(1)?, block })
    }

    /// Whether the region has all blocks of these bytes completely.
    fn is_complete(&self, source: RegionOffset, length: u64) -> bool {
        let block = self.block_size.bytes();
        let end = source.byte() + length.next_multiple_of(block);
        self.image.region_length(source.region()).is_some_and(|length| end <= length)
    }

    /// Reads bytes that were found to lie inside their region.
    fn read(&mut self, buf: &mut [u8], source: RegionOffset) -> Result<()> {
        let failed = |what: std::io::Error| Failure::Error(Error::io("cannot read a region", what));
        let Some(file) = self.image.region(source.region()) else { return Err(ended()) };
        let length = buf.len() as u64;
        if length > WINDOW / 4 {
            return fill(file, buf, source.byte()).map_err(failed);
        }
        let window = &mut self.window;
        let end = window.start + window.bytes.len() as u64;
        let inside = window.region == source.region()
            && (window.start..end).contains(&source.byte())
            && source.byte() + length <= end;
        if !inside {
            let available = self.image.region_length(source.region()).unwrap_or(0);
            let wanted = available.saturating_sub(source.byte()).min(WINDOW).max(length);
            window.bytes.resize(usize::try_from(wanted).unwrap_or(0), 0);
            (window.region, window.start) = (source.region(), source.byte());
            if let Err(error) = fill(file, &mut window.bytes, source.byte()) {
                window.bytes.clear();
                return Err(failed(error));
            }
        }
        let at = usize::try_from(source.byte() - window.start).unwrap_or(0);
        buf.copy_from_slice(&window.bytes[at..at + buf.len()]);
        Ok(())
    }
}

fn fill<R: ReadAt>(file: &R, mut buf: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buf = &mut buf[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn ended() -> Failure {
    Failure::Error(Error::corrupt("data in a region that is not there"))
}

pub(super) fn writing(error: erofs::Error) -> Failure {
    Failure::Error(Error::erofs("cannot write the view", error))
}
