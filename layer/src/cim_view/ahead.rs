//! Reading an image from a cold disk: nearly all of what is read at all will be read, but in the order of the tree.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use cimfs::{DirectorySet, FileSet, ReadAt};

/// What is asked for at once: enough for a disk to be busy, little to have read in vain.
const PIECE: u64 = 4 << 20;

/// A directory whose files are read ahead.
pub(super) struct AheadSet<'a>(pub(super) &'a DirectorySet);

impl FileSet for AheadSet<'_> {
    type File = Ahead;

    fn open(&self, name: &str) -> io::Result<Ahead> {
        let file = self.0.open(name)?;
        let pieces = file.metadata()?.len().div_ceil(PIECE);
        let asked = (0..pieces.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Ahead { file, asked })
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.0.names()
    }
}

/// A file of which the kernel is asked for a whole piece with the first read in it.
pub(super) struct Ahead {
    file: File,
    /// A bit for each piece.
    asked: Vec<AtomicU64>,
}

impl Ahead {
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for Ahead {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let piece = offset / PIECE;
        let word = usize::try_from(piece / 64).ok().and_then(|index| self.asked.get(index));
        let bit = 1 << (piece % 64);
        if word.is_some_and(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0) {
            sys::file::read_ahead(&self.file, piece * PIECE, PIECE);
        }
        self.file.read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn identity(&self) -> Option<[u64; 2]> {
        self.file.identity()
    }
}
