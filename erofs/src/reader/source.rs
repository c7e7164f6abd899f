//! One file of an image (the primary or an extra device) with its real length: the only place that reads.

use std::io;
use std::sync::{Mutex, PoisonError};

use crate::{Error, ReadAt, Result};

/// Metadata is read in pieces of this many bytes, so that neighbouring inodes cost one system call.
const WINDOW: u64 = 16 * 1024;
/// How many pieces are kept (1 MiB in all). A piece's place is its number modulo this.
const WINDOWS: usize = 64;

struct Window {
    number: u64,
    bytes: Vec<u8>,
}

/// A reader, its length, and a small cache for metadata.
pub(crate) struct Source<R> {
    reader: R,
    length: u64,
    windows: Mutex<Vec<Option<Window>>>,
}

impl<R: ReadAt> Source<R> {
    pub(crate) fn new(reader: R) -> Result<Self> {
        let length = reader.size().map_err(|e| Error::io("asking for the image's length", e))?;
        Ok(Self { reader, length, windows: Mutex::new(Vec::new()) })
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn inner(&self) -> &R {
        &self.reader
    }

    /// Fails unless `length` bytes at `offset` lie inside the file.
    pub(crate) fn check(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.length => Ok(()),
            _ => Err(Error::corrupt(
                offset,
                format!("{length} bytes reach past the end of the image ({} bytes)", self.length),
            )),
        }
    }

    /// Fills `buf` from `offset`, past the cache: for file data.
    pub(crate) fn read_exact(&self, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        while !buf.is_empty() {
            match self.reader.read_at(buf, offset) {
                Ok(0) => return Err(Error::corrupt(offset, "the image ends while it is read")),
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("reading the image", e).at(offset)),
            }
        }
        Ok(())
    }

    /// Fills `buf` from `offset` through the cache: for metadata.
    pub(crate) fn read_metadata(&self, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        if buf.len() as u64 > WINDOW {
            return self.read_exact(buf, offset);
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.resize_with(WINDOWS, || None);
        while !buf.is_empty() {
            let number = offset / WINDOW;
            let place = &mut windows[usize::try_from(number % WINDOWS as u64).unwrap_or(0)];
            let window = match place {
                Some(window) if window.number == number => window,
                _ => {
                    let start = number * WINDOW;
                    let length = (self.length - start).min(WINDOW);
                    let mut bytes = place.take().map(|window| window.bytes).unwrap_or_default();
                    bytes.resize(usize::try_from(length).unwrap_or(0), 0);
                    self.read_exact(&mut bytes, start)?;
                    place.insert(Window { number, bytes })
                }
            };
            let inside = usize::try_from(offset % WINDOW).unwrap_or(0);
            let length = (window.bytes.len() - inside).min(buf.len());
            buf[..length].copy_from_slice(&window.bytes[inside..inside + length]);
            buf = &mut buf[length..];
            offset += length as u64;
        }
        Ok(())
    }

    /// Reads a structure through the cache.
    pub(crate) fn read_struct<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        &self,
        offset: u64,
    ) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read_metadata(value.as_mut_bytes(), offset)?;
        Ok(value)
    }

    /// Reads `length` bytes through the cache. The length is checked before memory is taken.
    pub(crate) fn read_bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.check(offset, length)?;
        let length = usize::try_from(length)
            .map_err(|_| Error::corrupt(offset, "more bytes than this machine can address"))?;
        let mut bytes = vec![0; length];
        self.read_metadata(&mut bytes, offset)?;
        Ok(bytes)
    }
}
