//! The image writer: file data streams through first, the metadata of a finished [`Tree`] follows, and
//! the header that points at it is written last.
//!
//! ```text
//! ┌────────┬───────────────┬──────────────┬───────────────┬───────────┬─────────────────────┬─────┐
//! │ header │ streamed data │ other blocks │ shared xattrs │ prefixes  │ inodes, tails,      │ pad │
//! │ (last) │ (in order)    │ (dirs, …)    │               │ (option)  │ chunk tables        │     │
//! └────────┴───────────────┴──────────────┴───────────────┴───────────┴─────────────────────┴─────┘
//! ```
//!
//! Everything that can be wrong with a tree is found before the first byte of metadata goes out; after
//! that only the [`Sink`] can fail. The same tree over the same data gives the same bytes.

mod census;
mod directory;
mod emit;
mod hasher;
mod layout;
mod options;
mod prefix;
mod sink;
mod stream;
mod xattr;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{DEVICE_SLOT_SIZE, DEVICE_TABLE_OFFSET};
use crate::tree::{FileData, Timestamp, Tree};

pub use options::{BlockSize, DeviceInfo, WriterOptions};
pub use sink::{SeekSink, Sink};

/// What [`ImageWriter::finish`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// Length of the image in bytes, a multiple of 4096.
    pub length: u64,
    /// Inodes written: those that a name reaches, and the packed file's.
    pub inodes: u64,
    /// How many of them have the short form.
    pub compact_inodes: u64,
    /// Distinct extended attributes that inodes share.
    pub shared_xattrs: u64,
    /// Bytes from the first metadata byte to the end of the image.
    pub metadata: u64,
    /// The time of the compact inodes.
    pub epoch: Timestamp,
}

/// Writes one image into a [`Sink`].
///
/// Order of calls: [`begin_file`](Self::begin_file) (or [`begin_sparse_file`](Self::begin_sparse_file)),
/// [`write_data`](Self::write_data) as often as needed, [`end_file`](Self::end_file), for every file with
/// data; then [`finish`](Self::finish) with the tree that holds the returned [`FileData`]. After an error
/// the writer is of no further use.
#[derive(Debug)]
pub struct ImageWriter<S: Sink> {
    output: stream::Output<S>,
    options: WriterOptions,
    inline_left: u64,
    open: stream::OpenFile,
}

impl<S: Sink> ImageWriter<S> {
    /// Checks the options and reserves the header.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for options that cannot be stored, [`ErrorKind::Io`] from the sink.
    pub fn new(sink: S, options: WriterOptions) -> Result<Self> {
        options.validate()?;
        let reserved = options.header_length();
        let output = stream::Output::new(sink, reserved, options.block_size)?;
        let inline_left = options.inline_budget;
        Ok(Self { output, options, inline_left, open: stream::OpenFile::None })
    }

    /// Starts a file of `size` bytes.
    ///
    /// A file smaller than a block is kept in memory, to become an inline tail, as long as
    /// [`WriterOptions::inline_budget`] lasts; everything else goes straight to the sink.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] while another file is open, [`ErrorKind::TooLarge`] when the image would
    /// outgrow 32-bit block addresses.
    pub fn begin_file(&mut self, size: u64) -> Result<()> {
        self.expect_closed()?;
        self.open = if self.take_inline(size) {
            stream::OpenFile::in_memory(size)
        } else {
            stream::OpenFile::streamed(&self.output, size)?
        };
        Ok(())
    }

    /// Starts a file of `size` bytes whose data lies in `segments` (offset, length), ascending and not
    /// overlapping; everything between them is zero. The segments' bytes then arrive in order.
    ///
    /// Holes that fill whole chunks take no space. A chunk is the smallest power of two, at least a
    /// block, that keeps the table at 65,536 entries or fewer.
    ///
    /// # Errors
    /// As [`begin_file`](Self::begin_file), and [`ErrorKind::Invalid`] for segments that are out of order
    /// or outside the file.
    pub fn begin_sparse_file(&mut self, size: u64, segments: &[(u64, u64)]) -> Result<()> {
        self.expect_closed()?;
        let segments = stream::checked_segments(size, segments)?;
        self.open = if self.take_inline(size) {
            stream::OpenFile::sparse_in_memory(size, segments)
        } else {
            stream::OpenFile::sparse(&self.output, size, segments)?
        };
        Ok(())
    }

    /// Takes the next bytes of the open file. Slices of 32 KiB and more go to the sink as they are;
    /// shorter ones are collected first.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if there are more bytes than announced or no file is open,
    /// [`ErrorKind::Io`] from the sink.
    pub fn write_data(&mut self, bytes: &[u8]) -> Result<()> {
        self.open.write(&mut self.output, bytes)
    }

    /// Ends the open file.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if bytes are missing, [`ErrorKind::Io`] from the sink.
    pub fn end_file(&mut self) -> Result<FileData> {
        std::mem::replace(&mut self.open, stream::OpenFile::None).end(&mut self.output)
    }

    /// Length of the image so far in bytes, the reserved header included.
    pub fn written(&self) -> u64 {
        self.output.position()
    }

    /// Checks the tree, then writes metadata and header.
    ///
    /// `uuid` should be derived from the content (version 5): overlayfs wants it to differ between images.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] or [`ErrorKind::TooLarge`], naming the path, for a tree that cannot be
    /// stored; nothing has been written then. [`ErrorKind::Io`] from the sink.
    pub fn finish(self, tree: &Tree, uuid: [u8; 16]) -> Result<(S, ImageSummary)> {
        self.expect_closed()?;
        let mut output = self.output;
        output.align()?;
        let census = census::Census::take(tree)?;
        census.check_inodes(tree, &self.options, output.data_blocks())?;
        let xattrs = xattr::XattrPlan::new(tree, &census, &self.options, output.position());
        let layout = layout::Layout::new(tree, &census, &xattrs, &self.options, output.position())?;
        let summary = ImageSummary {
            length: layout.length,
            inodes: census.order.len() as u64,
            compact_inodes: layout.compact_inodes(),
            shared_xattrs: xattrs.shared_count(),
            metadata: layout.length - output.position(),
            epoch: layout.epoch,
        };
        let metadata = emit::Metadata { tree, census: &census, xattrs: &xattrs, layout: &layout };
        metadata.write(&mut output)?;
        let packed = tree.packed();
        let header = emit::header(&self.options, &layout, &xattrs, packed, summary.inodes, uuid);
        Ok((output.finish(&header)?, summary))
    }

    fn expect_closed(&self) -> Result<()> {
        match self.open {
            stream::OpenFile::None => Ok(()),
            _ => Err(Error::new(ErrorKind::Invalid, "the previous file has not been ended")),
        }
    }

    fn take_inline(&mut self, size: u64) -> bool {
        let fits = size < self.options.block_size.bytes() && size <= self.inline_left;
        if fits {
            self.inline_left -= size;
        }
        fits
    }
}

/// `value` rounded up to a multiple of `unit`, a power of two.
const fn round_up(value: u64, unit: u64) -> u64 {
    (value + (unit - 1)) & !(unit - 1)
}

/// Bytes in front of the data: superblock and device table, whole blocks.
const fn header_length(devices: usize, block_size: u64) -> u64 {
    round_up(DEVICE_TABLE_OFFSET + DEVICE_SLOT_SIZE * devices as u64, block_size)
}

#[cfg(test)]
mod tests;
