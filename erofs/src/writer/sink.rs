//! Where an image goes.

use std::io::{self, Seek, SeekFrom, Write};

/// Takes an image: the header's room first, then everything else in order, the header last.
pub trait Sink {
    /// Sets aside the first `len` bytes. Called once, before anything else.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn reserve(&mut self, len: u64) -> io::Result<()>;

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Fills the reserved bytes; `header` has exactly their length. Called once, at the end.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn write_header(&mut self, header: &[u8]) -> io::Result<()>;
}

/// A sink over anything that can seek. The image starts at the position that the writer has when the
/// sink is first used, and the writer is left at the image's end.
#[derive(Debug)]
pub struct SeekSink<W> {
    writer: W,
    start: u64,
}

impl<W: Write + Seek> SeekSink<W> {
    /// A sink that writes at `writer`'s position.
    pub fn new(writer: W) -> Self {
        Self { writer, start: 0 }
    }

    /// The writer back.
    pub fn into_inner(self) -> W {
        self.writer
    }
}

impl<W: Write + Seek> Sink for SeekSink<W> {
    fn reserve(&mut self, len: u64) -> io::Result<()> {
        self.start = self.writer.stream_position()?;
        io::copy(&mut io::Read::take(io::repeat(0), len), &mut self.writer)?;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    fn write_header(&mut self, header: &[u8]) -> io::Result<()> {
        let end = self.writer.stream_position()?;
        self.writer.seek(SeekFrom::Start(self.start))?;
        self.writer.write_all(header)?;
        self.writer.seek(SeekFrom::Start(end))?;
        self.writer.flush()
    }
}

impl Sink for Vec<u8> {
    fn reserve(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.clear();
        self.resize(len, 0);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn write_header(&mut self, header: &[u8]) -> io::Result<()> {
        self[..header.len()].copy_from_slice(header);
        Ok(())
    }
}
