//! The stages between a blob and its tar, each on its own thread, and the bounded channels between them.
//!
//! ```text
//!            chunks                 chunks
//!  read ───────────▶ inflate ──┬───────────▶ hash the tar         (diffID)
//!  hash the blob               └───────────▶ parse, write, hash   (the caller's thread)
//! ```
//!
//! A plain tar skips the middle: blob and tar are the same bytes and are hashed once. Chunks are shared, not
//! copied, and go back to the stage that filled them when the last user lets go. A stage whose receiver is
//! gone stops without an error: whoever closed the channel has the reason.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};

use crate::compression::Compression;
use crate::digest::{Digest, Digester};
use crate::error::{Error, ErrorKind, Result};
use crate::layer_image::{LayerBlob, LayerOptions};
use crate::progress::{Cancel, Progress};

/// Runs the stages over a blob, which says by its first bytes how it is compressed: `take` gets the chunks of the tar in
/// this thread. The result is what is known of blob and tar, and what `take` made of it.
pub(crate) fn run<T>(
    mut source: impl Read + Send,
    options: &LayerOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
    take: impl FnOnce(Receiver<Chunk>) -> Result<T>,
) -> Result<(LayerBlob, T)> {
    let mut first = [0; 4];
    let length = read_full(&mut source, &mut first)
        .map_err(|error| Error::io("cannot read the layer", error))?;
    let first = &first[..length];
    let compression = choose_compression(options.compression, Compression::sniff(first))?;
    let source = first.chain(source);
    let plain_max = options.max_size.filter(|_| compression == Compression::None);
    thread::scope(|scope| {
        let (blob_sender, blob_receiver) = sync_channel(DEPTH);
        let read = scope
            .spawn(move || read_blob(source, &blob_sender, options, plain_max, progress, cancel));
        let mut inflated = None;
        let chunks = if compression == Compression::None {
            blob_receiver
        } else {
            let (to_hash, hashed) = sync_channel(DEPTH);
            let (to_parse, parsed) = sync_channel(DEPTH);
            let input = ChunkReader::new(blob_receiver);
            let outputs = [to_parse, to_hash];
            let inflate =
                scope.spawn(move || inflate(input, compression, outputs, options.max_size, cancel));
            inflated = Some((inflate, scope.spawn(move || measure(&hashed))));
            parsed
        };
        let taken = take(chunks);

        // The reason comes from the stage that is nearest to the source: what the others report is only that
        // their input ended too soon.
        let blob = joined(read)?;
        let tar = match inflated {
            Some((inflate, measure)) => {
                let end = joined(inflate)?;
                let tar = joined(measure);
                end.map(|()| tar)
            }
            None => blob,
        };
        let taken = taken?;
        let (Some(blob), Some(tar)) = (blob, tar) else {
            return Err(Error::new(ErrorKind::Io, "the layer was not read to its end"));
        };
        check_digests(options, &blob, &tar)?;
        let (digest, size) = (blob.digest, blob.size);
        let (diff_id, tar_size) = (tar.digest, tar.size);
        Ok((LayerBlob { digest, size, diff_id, tar_size, compression }, taken))
    })
}

/// The content has the last word where it has a known mark; a promised mark must be there.
fn choose_compression(promised: Option<Compression>, found: Compression) -> Result<Compression> {
    match promised {
        Some(promised) if promised != Compression::None && found == Compression::None => Err(
            Error::corrupt(format!("the layer should be compressed with {promised} but is not")),
        ),
        _ => Ok(found),
    }
}

/// The result of a stage; a panic goes on in this thread.
fn joined<T>(stage: ScopedJoinHandle<'_, T>) -> T {
    stage.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn check_digests(options: &LayerOptions, blob: &Measured, tar: &Measured) -> Result<()> {
    let check = |what: &str, promised: Option<Digest>, found: Digest| match promised {
        Some(promised) if promised != found => Err(Error::new(
            ErrorKind::DigestMismatch,
            format!("the layer's {what} is {found}, not the promised {promised}"),
        )),
        _ => Ok(()),
    };
    check("digest", options.digest, blob.digest)?;
    check("diffID", options.diff_id, tar.digest)
}

/// Length of a chunk: small enough that all chunks on the way stay in the processor's cache.
pub(crate) const CHUNK: usize = 256 << 10;
/// Chunks that may wait in one channel.
const DEPTH: usize = 6;

pub(crate) type Chunk = Arc<Vec<u8>>;

/// Buffers that are filled again once nobody else holds them. There are never more than fit in the channels
/// and the stages' hands.
#[derive(Debug, Default)]
struct Pool(Vec<Chunk>);

impl Pool {
    /// An empty buffer with room for [`CHUNK`] bytes.
    fn take(&mut self) -> Vec<u8> {
        let free = self.0.iter_mut().position(|chunk| Arc::get_mut(chunk).is_some());
        match free.and_then(|free| Arc::into_inner(self.0.swap_remove(free))) {
            Some(mut buffer) => {
                buffer.resize(CHUNK, 0);
                buffer
            }
            None => vec![0; CHUNK],
        }
    }

    /// Makes a chunk of a buffer that came from here.
    fn share(&mut self, buffer: Vec<u8>) -> Chunk {
        let chunk = Arc::new(buffer);
        self.0.push(Arc::clone(&chunk));
        chunk
    }
}

/// What is known of a blob when its last byte has been read.
#[derive(Debug, Clone, Copy)]
struct Measured {
    digest: Digest,
    size: u64,
}

/// A stage's end: its result, or `None` if the stage behind it closed the channel.
pub(crate) type Ended<T> = Result<Option<T>>;

/// Reads a blob to its end, hashes it, and sends it on.
fn read_blob(
    mut source: impl Read,
    chunks: &SyncSender<Chunk>,
    options: &LayerOptions,
    max_size: Option<u64>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Ended<Measured> {
    let mut pool = Pool::default();
    let mut digester = Digester::default();
    let mut size = 0;
    loop {
        cancel.check()?;
        let mut buffer = pool.take();
        let length = read_full(&mut source, &mut buffer)
            .map_err(|error| Error::io("cannot read the layer", error))?;
        buffer.truncate(length);
        size += length as u64;
        if let Some(promised) = options.size
            && (size > promised || length == 0 && size != promised)
        {
            let comparison = if size > promised { "longer" } else { "shorter" };
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                format!("the layer is {comparison} than the promised {promised} bytes"),
            ));
        }
        check_size(size, max_size)?;
        if length == 0 {
            return Ok(Some(Measured { digest: digester.finish(), size }));
        }
        progress.advance(length as u64);
        // Sent before it is hashed: the next stage need not wait.
        let chunk = pool.share(buffer);
        if chunks.send(Arc::clone(&chunk)).is_err() {
            return Ok(None);
        }
        digester.update(&chunk);
    }
}

/// Inflates a blob and sends the tar on to both receivers.
fn inflate(
    input: ChunkReader,
    compression: Compression,
    outputs: [SyncSender<Chunk>; 2],
    max_size: Option<u64>,
    cancel: &Cancel,
) -> Ended<()> {
    let mut inflater = Inflater::new(input, compression)?;
    let mut pool = Pool::default();
    let mut size = 0;
    loop {
        cancel.check()?;
        let mut buffer = pool.take();
        let length =
            read_full(&mut inflater, &mut buffer).map_err(|error| damaged(compression, error))?;
        if length == 0 {
            return Ok(Some(()));
        }
        size += length as u64;
        check_size(size, max_size)?;
        buffer.truncate(length);
        let chunk = pool.share(buffer);
        for output in &outputs {
            if output.send(Arc::clone(&chunk)).is_err() {
                return Ok(None);
            }
        }
    }
}

/// Hashes all chunks until the channel closes.
fn measure(chunks: &Receiver<Chunk>) -> Measured {
    let mut digester = Digester::default();
    let mut size = 0;
    for chunk in chunks {
        digester.update(&chunk);
        size += chunk.len() as u64;
    }
    Measured { digest: digester.finish(), size }
}

/// Refuses a tar longer than the caller allows.
pub(crate) fn check_size(size: u64, max_size: Option<u64>) -> Result<()> {
    match max_size {
        Some(max) if size > max => Err(Error::new(
            ErrorKind::TooLarge,
            format!("the layer holds more than the allowed {max} bytes when uncompressed"),
        )),
        _ => Ok(()),
    }
}

fn damaged(compression: Compression, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::corrupt(format!("the {compression} stream is cut off")).because(error)
        }
        io::ErrorKind::OutOfMemory => Error::io("cannot inflate the layer", error),
        // Whatever the inflaters report is about the stream; the channel before them has no errors.
        _ => Error::corrupt(format!("the {compression} stream is damaged")).because(error),
    }
}

/// Fills the buffer unless the input ends before.
fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The bytes of the chunks that come through a channel. Ends when the channel closes.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    chunks: Receiver<Chunk>,
    current: Chunk,
    position: usize,
}

impl ChunkReader {
    pub(crate) fn new(chunks: Receiver<Chunk>) -> Self {
        Self { chunks, current: Chunk::default(), position: 0 }
    }

    /// Reads the rest, so that the stages before see it.
    pub(crate) fn drain(self) {
        drop(self.current);
        self.chunks.iter().for_each(drop);
    }
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position == self.current.len() {
            // Let go before waiting, so that the buffer can be filled again.
            self.current = Chunk::default();
            self.position = 0;
            match self.chunks.recv() {
                Ok(chunk) => self.current = chunk,
                Err(_) => break,
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, length: usize) {
        self.position += length;
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

/// The tar inside a compressed stream.
pub(crate) enum Inflater<R: BufRead> {
    /// Nothing to do.
    Plain(R),
    /// The current member; `None` behind the last.
    Gzip(Option<Box<flate2::bufread::GzDecoder<R>>>),
    /// All frames.
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

impl<R: BufRead> Inflater<R> {
    pub(crate) fn new(input: R, compression: Compression) -> Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(input),
            Compression::Gzip => Self::Gzip(Some(Box::new(flate2::bufread::GzDecoder::new(input)))),
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(input)
                    .map_err(|error| Error::io("cannot set up zstd", error))?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }
}

impl<R: BufRead> Read for Inflater<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Gzip(member) => loop {
                let Some(decoder) = member else { return Ok(0) };
                let length = decoder.read(buffer)?;
                if length > 0 || buffer.is_empty() {
                    return Ok(length);
                }
                // A member's end: the checksum was right. Another one, zeros or nothing may follow (RFC 1952
                // knows only members; gzip(1) accepts zero padding, which tapes and block devices leave).
                let Some(decoder) = member.take() else { return Ok(0) };
                let mut input = decoder.into_inner();
                if skip_zeros_if_first(&mut input)? {
                    return Ok(0);
                }
                *member = Some(Box::new(flate2::bufread::GzDecoder::new(input)));
            },
        }
    }
}

/// At the end or at a zero: checks that nothing but zeros is left and returns true.
fn skip_zeros_if_first(input: &mut impl BufRead) -> io::Result<bool> {
    let mut zeros = false;
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(true);
        }
        if !zeros && bytes[0] != 0 {
            return Ok(false);
        }
        zeros = true;
        if bytes.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "data after the zero padding"));
        }
        let length = bytes.len();
        input.consume(length);
    }
}
