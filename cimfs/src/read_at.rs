//! Reading bytes at a position without moving a cursor: all that the reader asks of its input.

use std::fs::File;
use std::io;
use std::sync::Arc;

#[cfg(unix)]
mod unix;
#[cfg(unix)]
use unix as imp;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as imp;

/// Something that can be read at any offset, from several threads if the type allows it.
pub trait ReadAt {
    /// Reads some bytes at `offset` and returns how many; 0 means the end (or an empty `buf`).
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// What tells it from everything else that is open now, if there is such: two values with the same identity are
    /// the same bytes. [`compare`](crate::compare) skips what two images share by it.
    fn identity(&self) -> Option<[u64; 2]> {
        None
    }
}

impl ReadAt for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        imp::read_at(self, buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        let metadata = self.metadata()?;
        if metadata.is_file() {
            return Ok(metadata.len());
        }
        // A block device has length 0 in its metadata; its end is where a seek arrives.
        io::Seek::seek(&mut &*self, io::SeekFrom::End(0))
    }

    fn identity(&self) -> Option<[u64; 2]> {
        imp::identity(self)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let rest = rest.unwrap_or_default();
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn identity(&self) -> Option<[u64; 2]> {
        Some([self.as_ptr().addr() as u64, self.len() as u64])
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn identity(&self) -> Option<[u64; 2]> {
        self.as_slice().identity()
    }
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<T: ReadAt + ?Sized> ReadAt for $pointer {
            fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
                (**self).read_at(buf, offset)
            }

            fn size(&self) -> io::Result<u64> {
                (**self).size()
            }

            fn identity(&self) -> Option<[u64; 2]> {
                (**self).identity()
            }
        }
    )*};
}
forward!(&T, Box<T>, Arc<T>);
