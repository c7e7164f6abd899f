//! A region file that grows.

use std::io;

use crate::WritableFile;
use crate::format::{
    LENGTH_LIMIT, OBJECT_ALIGNMENT, PAGE, REGION_DATA, REGION_METADATA, REGION_SMALL_DATA,
    RegionHeader,
};

/// What is gathered and written at once.
const CHUNK: usize = 1 << 20;
/// Pieces from this length on are written without being copied before.
const DIRECT: usize = 64 << 10;

/// Which region an object belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    Metadata,
    SmallData,
    Data,
}

impl Class {
    pub(super) const ALL: [Self; 3] = [Self::Metadata, Self::SmallData, Self::Data];

    pub(super) fn alignment(self) -> u64 {
        match self {
            Self::Data => PAGE,
            _ => OBJECT_ALIGNMENT,
        }
    }

    pub(super) fn kind(self) -> u8 {
        match self {
            Self::Metadata => REGION_METADATA,
            Self::SmallData => REGION_SMALL_DATA,
            Self::Data => REGION_DATA,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::SmallData => "small",
            Self::Data => "data",
        }
    }
}

/// A region file with what is not written yet. The header's room is zeros until the end.
#[derive(Debug)]
pub(super) struct RegionOutput<W> {
    file: W,
    buffer: Vec<u8>,
    /// Where the buffer belongs in the file.
    start: u64,
}

impl<W: WritableFile> RegionOutput<W> {
    pub(super) fn new(file: W) -> Self {
        Self { file, buffer: vec![0; size_of::<RegionHeader>()], start: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// Fills with zeros up to a multiple of `alignment` and returns the position.
    pub(super) fn align(&mut self, alignment: u64) -> u64 {
        let aligned = self.position().next_multiple_of(alignment);
        let gap = usize::try_from(aligned - self.position()).expect("smaller than a page");
        self.buffer.resize(self.buffer.len() + gap, 0);
        aligned
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.position() + bytes.len() as u64 >= LENGTH_LIMIT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if bytes.len() < DIRECT {
            if self.buffer.len() + bytes.len() > CHUNK {
                self.flush()?;
            }
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        self.file.write_all_at(bytes, self.start)?;
        self.start += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what was appended behind `position`.
    pub(super) fn rewind(&mut self, position: u64) {
        match position.checked_sub(self.start) {
            Some(kept) => self.buffer.truncate(usize::try_from(kept).unwrap_or(usize::MAX)),
            None => {
                // What the file has behind is written over, or cut off at the end.
                self.buffer.clear();
                self.start = position;
            }
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.start)?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The file, with everything written that was appended.
    pub(super) fn flushed(&mut self) -> io::Result<&W> {
        self.flush()?;
        Ok(&self.file)
    }

    /// Writes the header and makes the file durable.
    pub(super) fn finish(&mut self, header: &[u8]) -> io::Result<()> {
        self.flush()?;
        self.file.write_all_at(header, 0)?;
        self.file.set_length(self.start)?;
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemorySet, WritableSet};

    #[test]
    fn what_is_rewound_leaves_no_trace() {
        let set = MemorySet::new();
        let mut region = RegionOutput::new(set.create("r").unwrap());
        assert_eq!(region.align(PAGE), PAGE);
        region.append(&vec![1; 2 * CHUNK]).unwrap();
        region.append(&[2; 100]).unwrap();
        region.rewind(PAGE + 10);
        assert_eq!(region.align(8), PAGE + 16);
        region.append(&[3; 4]).unwrap();
        region.rewind(region.position() - 1);
        region.finish(&[9; 40]).unwrap();
        let mut expected = vec![0; 4096 + 19];
        expected[..40].fill(9);
        expected[4096..4106].fill(1);
        expected[4112..].fill(3);
        assert!(set.bytes("r").unwrap() == expected);
    }
}
