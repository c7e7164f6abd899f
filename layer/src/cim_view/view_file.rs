//! The file of a view while it is written: one thread makes the bytes, another one writes them, and the disk has begun
//! with them before the end, when they must be there.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes that are written at once.
const PIECE: usize = 1 << 20;
/// Pieces on their way to the file.
const PIECES: usize = 4;
/// Every so many bytes the kernel is asked to begin writing them to the disk.
const WRITEBACK: u64 = 8 << 20;

/// A sink for an empty file. Dropping it waits for what is on its way.
#[derive(Debug)]
pub(super) struct ViewFile {
    file: File,
    gathered: Vec<u8>,
    pieces: Option<SyncSender<Vec<u8>>>,
    /// Pieces that were written come back.
    written: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl ViewFile {
    /// For a file that nobody else writes.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        let (pieces, asked) = sync_channel::<Vec<u8>>(PIECES);
        let (done, written) = sync_channel(PIECES + 1);
        let mut target = file.try_clone()?;
        let thread = std::thread::spawn(move || {
            let writeback = sys::Writeback::new(&target).ok();
            let (mut settled, mut end) = (0, target.stream_position()?);
            for mut piece in asked {
                target.write_all(&piece)?;
                end += piece.len() as u64;
                if end - settled >= WRITEBACK {
                    if let Some(writeback) = &writeback {
                        writeback.start(settled, end - settled);
                    }
                    settled = end;
                }
                piece.clear();
                // Nobody needs it at the end.
                let _ = done.try_send(piece);
            }
            Ok(())
        });
        let thread = Some(thread);
        Ok(Self {
            file: file.try_clone()?,
            gathered: Vec::new(),
            pieces: Some(pieces),
            written,
            thread,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        let next = self.written.try_recv().unwrap_or_default();
        let piece = mem::replace(&mut self.gathered, next);
        match &self.pieces {
            Some(pieces) if pieces.send(piece).is_ok() => Ok(()),
            _ => self.join(),
        }
    }

    /// Waits until everything is in the file.
    fn join(&mut self) -> io::Result<()> {
        self.pieces = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the thread that writes has died")),
            None => Err(io::Error::other("the file has been written already")),
        }
    }
}

impl erofs::Sink for ViewFile {
    fn reserve(&mut self, len: u64) -> io::Result<()> {
        self.gathered.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    fn write_header(&mut self, header: &[u8]) -> io::Result<()> {
        self.flush()?;
        self.join()?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(header)?;
        self.file.seek(SeekFrom::End(0)).map(drop)
    }
}

impl Drop for ViewFile {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // Whoever drops it early has another error to tell.
            let _ = self.join();
        }
    }
}
