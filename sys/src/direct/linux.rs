//! `O_DIRECT`, for whole blocks; everything else goes through the page cache, which the kernel keeps in step.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What is written at once: enough for the disk to be busy while the next is asked for, and little enough that all
/// blocks stay in the processor's cache.
const BLOCK: usize = 1 << 20;
/// Blocks that may be on their way, the one that is being filled included.
const BLOCKS: usize = 4;
/// What offsets, lengths and memory have to be multiples of, on all disks that there are.
const ALIGNMENT: usize = 4096;

/// A file's bytes on their way past the page cache.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    /// Given to the thread when it is needed.
    direct: Option<File>,
    /// What is not written yet, or not all of it.
    window: Block,
    /// Where the window begins in the file, a multiple of [`ALIGNMENT`].
    start: u64,
    queue: Option<Sender<(Block, u64)>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// Aligned memory, filled up to a length.
#[derive(Debug)]
struct Block {
    memory: Vec<u8>,
    first: usize,
    length: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Block>,
    under_way: usize,
    made: usize,
    /// The first error's number; from then on nothing is written.
    failed: Option<i32>,
}

impl Block {
    fn new() -> Self {
        let memory = vec![0; BLOCK + ALIGNMENT];
        let first = memory.as_ptr().addr().next_multiple_of(ALIGNMENT) - memory.as_ptr().addr();
        Self { memory, first, length: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.first..][..self.length]
    }

    /// Puts bytes at a place up to the end, as many as there is room for, and tells how many.
    fn put(&mut self, bytes: &[u8], at: usize) -> usize {
        let length = bytes.len().min(BLOCK - at);
        self.memory[self.first + at..][..length].copy_from_slice(&bytes[..length]);
        self.length = self.length.max(at + length);
        length
    }

    /// Forgets all but what is behind the last multiple of the alignment, and tells how much it forgot.
    fn keep_tail(&mut self) -> usize {
        let whole = self.length / ALIGNMENT * ALIGNMENT;
        self.memory.copy_within(self.first + whole..self.first + self.length, self.first);
        self.length -= whole;
        whole
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl FnMut(&mut State) -> bool) -> io::Result<()> {
        let waited = self.changed.wait_while(self.state(), condition);
        match waited.unwrap_or_else(PoisonError::into_inner).failed {
            Some(number) => Err(io::Error::from_raw_os_error(number)),
            None => Ok(()),
        }
    }

    fn settled(&self) -> io::Result<()> {
        self.wait_while(|state| state.under_way > 0)
    }

    fn ended(&self, mut block: Block, written: io::Result<()>) {
        let mut state = self.state();
        block.length = 0;
        state.free.push(block);
        state.under_way -= 1;
        if let Err(error) = written {
            state.failed.get_or_insert(error.raw_os_error().unwrap_or(libc::EIO));
        }
        self.changed.notify_all();
    }
}

impl DirectFile {
    /// The file that is open as `file` for reading and writing and lies at `path`; `None` where it cannot be written
    /// past the page cache.
    pub fn of(file: &File, path: &Path) -> Option<Self> {
        let file = file.try_clone().ok()?;
        let mut options = OpenOptions::new();
        let direct = options.write(true).custom_flags(libc::O_DIRECT | libc::O_NOFOLLOW);
        let direct = direct.open(path).ok()?;
        let identity = |file: &File| file.metadata().map(|found| (found.dev(), found.ino())).ok();
        if identity(&direct) != identity(&file) {
            return None;
        }
        Some(Self {
            file,
            direct: Some(direct),
            window: Block { memory: Vec::new(), first: 0, length: 0 },
            start: 0,
            queue: None,
            thread: None,
            shared: Arc::default(),
        })
    }

    /// Writes all bytes at an offset; what is skipped before it reads as zeros.
    ///
    /// # Errors
    /// Whatever the medium says, of these bytes or of earlier ones.
    pub fn write_all_at(&mut self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        self.take_memory()?;
        while !bytes.is_empty() {
            let inside = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
            let Some(at) = inside.filter(|at| *at <= self.window.length) else {
                self.seek(offset)?;
                continue;
            };
            let length = self.window.put(bytes, at);
            bytes = &bytes[length..];
            offset += length as u64;
            if self.window.length == BLOCK && at + length == BLOCK {
                self.send()?;
            }
        }
        Ok(())
    }

    /// Reads some bytes at an offset and returns how many; 0 means the end.
    ///
    /// # Errors
    /// Whatever the medium says, also of what was written.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.shared.settled()?;
        let inside = offset.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let gathered = inside.and_then(|at| self.window.bytes().get(at..));
        if let Some(gathered) = gathered.filter(|gathered| !gathered.is_empty()) {
            let length = gathered.len().min(buf.len());
            buf[..length].copy_from_slice(&gathered[..length]);
            return Ok(length);
        }
        // Up to the window, which is newer than the file.
        let most = self.start.checked_sub(offset).filter(|most| *most > 0);
        let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        let length = buf.len().min(most);
        self.file.read_at(&mut buf[..length], offset)
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// Whatever the medium says, also of what was written.
    pub fn size(&self) -> io::Result<u64> {
        self.shared.settled()?;
        Ok(self.file.metadata()?.len().max(self.start + self.window.length as u64))
    }

    /// Cuts the file or extends it with zeros.
    ///
    /// # Errors
    /// Whatever the medium says, also of what was written.
    pub fn set_length(&mut self, length: u64) -> io::Result<()> {
        self.flush()?;
        self.file.set_len(length)?;
        if length < self.start + self.window.length as u64 {
            self.place_window(length)?;
        }
        Ok(())
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// Whatever the medium says, also of what was written.
    pub fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        self.file.sync_all()
    }

    /// Moves the window to where bytes are to be written next.
    fn seek(&mut self, offset: u64) -> io::Result<()> {
        self.flush()?;
        self.place_window(offset)
    }

    /// Lets the window end at an offset, with what the file has before it: nothing may be under way.
    fn place_window(&mut self, end: u64) -> io::Result<()> {
        self.take_memory()?;
        self.start = end / ALIGNMENT as u64 * ALIGNMENT as u64;
        self.window.length = 0;
        let mut page = [0; ALIGNMENT];
        let length = usize::try_from(end - self.start).unwrap_or(0);
        let mut done = 0;
        while done < length {
            // What the file does not have is a hole.
            match self.file.read_at(&mut page[done..length], self.start + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.window.put(&page[..length], 0);
        Ok(())
    }

    /// Writes the window, however little it is, through the page cache. Its last part of a page stays in it.
    fn flush(&mut self) -> io::Result<()> {
        self.shared.settled()?;
        self.file.write_all_at(self.window.bytes(), self.start)?;
        self.start += self.window.keep_tail() as u64;
        Ok(())
    }

    fn take_memory(&mut self) -> io::Result<()> {
        if self.window.memory.is_empty() {
            self.window = self.free_block()?;
        }
        Ok(())
    }

    fn free_block(&self) -> io::Result<Block> {
        self.shared.wait_while(|state| state.free.is_empty() && state.made == BLOCKS)?;
        let mut state = self.shared.state();
        Ok(state.free.pop().unwrap_or_else(|| {
            state.made += 1;
            Block::new()
        }))
    }

    /// Hands the full window over and starts the next one.
    fn send(&mut self) -> io::Result<()> {
        if let Some(direct) = self.direct.take() {
            let (queue, asked) = channel::<(Block, u64)>();
            let (file, shared) = (self.file.try_clone()?, Arc::clone(&self.shared));
            self.thread = Some(std::thread::spawn(move || {
                for (block, start) in asked {
                    let failed = shared.state().failed.is_some();
                    let written =
                        if failed { Ok(()) } else { write(&direct, &file, &block, start) };
                    shared.ended(block, written);
                }
            }));
            self.queue = Some(queue);
        }
        let next = self.free_block()?;
        let full = std::mem::replace(&mut self.window, next);
        let start = self.start;
        self.start += BLOCK as u64;
        self.shared.state().under_way += 1;
        let gone = |_| io::Error::other("the thread that writes is gone");
        self.queue.as_ref().map_or(Ok(()), |queue| queue.send((full, start)).map_err(gone))
    }
}

fn write(direct: &File, file: &File, block: &Block, start: u64) -> io::Result<()> {
    match direct.write_all_at(block.bytes(), start) {
        // A file system that opens files so but does not write them so, or not in such pieces.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            file.write_all_at(block.bytes(), start)
        }
        written => written,
    }
}

impl Drop for DirectFile {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(directory: &Path) -> (File, DirectFile) {
        let path = directory.join("file");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        let direct = DirectFile::of(&file, &path).expect("the disk can be written directly");
        (file, direct)
    }

    /// Bytes that tell where they belong.
    fn sample(length: usize, seed: u8) -> Vec<u8> {
        let pattern: Vec<u8> = (0..4099_u32).map(|at| (at / 7) as u8 ^ seed).collect();
        let mut bytes = pattern.repeat(length.div_ceil(pattern.len()));
        bytes.truncate(length);
        bytes
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn the_file_has_what_a_plain_one_would() {
        // In the repository's own directory: where temporary files lie there may be no disk.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (file, mut direct) = file(directory.path());
        let mut model = Vec::new();
        let mut write = |direct: &mut DirectFile, bytes: &[u8], offset: usize| {
            direct.write_all_at(bytes, offset as u64).unwrap();
            model.resize(model.len().max(offset + bytes.len()), 0);
            model[offset..offset + bytes.len()].copy_from_slice(bytes);
            // What is on its way is read as what is there.
            let from = offset.saturating_sub(5000);
            let (mut buf, mut done) = (vec![1; 10_000.min(model.len() - from)], 0);
            while done < buf.len() {
                let read = direct.read_at(&mut buf[done..], (from + done) as u64).unwrap();
                assert!(read > 0, "the file ends at {}", from + done);
                done += read;
            }
            assert!(buf == model[from..][..buf.len()], "at {offset}");
            assert_eq!(direct.size().unwrap(), model.len() as u64);
        };
        // Pieces across blocks, back inside the window, back before it, ahead over a hole, the header at last.
        let mut end = 0;
        for (piece, seed) in [(100, 1), (BLOCK - 50, 2), (3 * BLOCK, 3), (70_001, 4)] {
            write(&mut direct, &sample(piece, seed), end);
            end += piece;
        }
        write(&mut direct, &sample(30_000, 5), end - 60_000);
        write(&mut direct, &sample(2 * BLOCK + 5, 6), BLOCK + 4096);
        write(&mut direct, &sample(9000, 7), BLOCK + 100);
        write(&mut direct, &sample(2 * BLOCK, 8), 9 * BLOCK + 77);
        write(&mut direct, &sample(40, 9), 0);
        direct.sync().unwrap();
        assert!(content(&file) == model);
        let cut = 10 * BLOCK + 1234;
        direct.set_length(cut as u64).unwrap();
        direct.write_all_at(b"more", cut as u64).unwrap();
        direct.sync().unwrap();
        model.truncate(cut);
        model.extend_from_slice(b"more");
        assert!(content(&file) == model);
    }

    #[test]
    fn what_the_disk_refuses_is_said_later() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (_, mut direct) = file(directory.path());
        // Not open for writing.
        direct.direct = Some(File::open(directory.path().join("file")).unwrap());
        direct.write_all_at(&sample(BLOCK, 1), 0).unwrap();
        assert_eq!(direct.sync().unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(direct.read_at(&mut [0], 0).is_err());
        assert!(direct.write_all_at(&sample(BLOCKS * BLOCK, 2), BLOCK as u64).is_err());
    }
}
