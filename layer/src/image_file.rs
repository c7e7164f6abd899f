//! A layer image as a file: how it is written, and the checksum over it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem::offset_of;

use erofs::format::SuperBlock;

use crate::digest::Checksum;
use crate::error::{Error, Result};
use crate::layer_image::image_uuid;

/// Pieces below this are gathered, so that many small files are one write.
const GATHER: usize = 64 << 10;
/// Every so many bytes the kernel is asked to begin writing them to the disk.
const WRITEBACK: u64 = 8 << 20;

/// Writes an image to a file front to back, the header last, and computes its [`Checksum`] on the way.
#[derive(Debug)]
pub(crate) struct ImageFile<'f> {
    file: &'f File,
    /// Made when there is something to begin with; nothing depends on it.
    writeback: Option<sys::Writeback>,
    hasher: blake3::Hasher,
    gathered: Vec<u8>,
    /// Length of the file so far.
    written: u64,
    /// Where the range begins that writeback was not started for.
    settled: u64,
    /// Set by [`with_own_uuid`](Self::with_own_uuid), then the UUID that came of it.
    own_uuid: Option<[u8; 16]>,
}

/// Where the header has the fields that a UUID changes.
const UUID: usize = erofs::format::SUPERBLOCK_OFFSET as usize + offset_of!(SuperBlock, uuid);
const SUPERBLOCK_CHECKSUM: usize =
    erofs::format::SUPERBLOCK_OFFSET as usize + offset_of!(SuperBlock, checksum);

impl<'f> ImageFile<'f> {
    /// Over an empty file.
    pub(crate) fn new(file: &'f File) -> Self {
        Self {
            file,
            writeback: None,
            hasher: blake3::Hasher::new(),
            gathered: Vec::with_capacity(2 * GATHER),
            written: 0,
            settled: 0,
            own_uuid: None,
        }
    }

    /// Gives the image a UUID made of its content, for images that no digest is known of before. The writer
    /// must be given the nil UUID, 4096-byte blocks and a superblock checksum (the defaults).
    #[cfg(target_os = "linux")]
    pub(crate) fn with_own_uuid(mut self) -> Self {
        self.own_uuid = Some([0; 16]);
        self
    }

    /// The UUID that the image got of its content.
    #[cfg(target_os = "linux")]
    pub(crate) fn own_uuid(&self) -> Option<[u8; 16]> {
        self.own_uuid
    }

    /// The checksum, once the header is written.
    pub(crate) fn checksum(&self) -> Checksum {
        Checksum::from_bytes(self.hasher.finalize().into())
    }

    fn flush(&mut self) -> io::Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        self.write(&gathered)?;
        self.gathered = gathered;
        self.gathered.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file;
        file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        if self.written - self.settled >= WRITEBACK {
            if self.writeback.is_none() {
                self.writeback = sys::Writeback::new(self.file).ok();
            }
            if let Some(writeback) = &self.writeback {
                writeback.start(self.settled, self.written - self.settled);
            }
            self.settled = self.written;
        }
        Ok(())
    }
}

impl erofs::Sink for ImageFile<'_> {
    fn reserve(&mut self, len: u64) -> io::Result<()> {
        let mut file = self.file;
        file.seek(SeekFrom::Start(len))?;
        self.written = len;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() >= GATHER {
            self.flush()?;
            return self.write(bytes);
        }
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= GATHER {
            self.flush()?;
        }
        Ok(())
    }

    fn write_header(&mut self, header: &[u8]) -> io::Result<()> {
        self.flush()?;
        let mut header = header.to_vec();
        if let Some(uuid) = &mut self.own_uuid {
            // Everything that tells two images apart is hashed here, the UUID itself being zeros still.
            let content = self.hasher.clone().update(&header).finalize();
            *uuid = image_uuid(&format!("blake3:{content}"));
            header[UUID..UUID + 16].copy_from_slice(uuid);
            header[SUPERBLOCK_CHECKSUM..][..4].fill(0);
            let covered = &header[erofs::format::SUPERBLOCK_OFFSET as usize..];
            let checksum = erofs::format::superblock_checksum(covered);
            header[SUPERBLOCK_CHECKSUM..][..4].copy_from_slice(&checksum.to_le_bytes());
        }
        let mut file = self.file;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header)?;
        self.hasher.update(&header);
        file.seek(SeekFrom::End(0))?;
        Ok(())
    }
}

/// Computes a layer image's checksum anew: BLAKE3 over everything behind the header's room, followed by that
/// room, the order in which an image is written. The room is that of an image without extra devices.
///
/// # Errors
/// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for a file that is too short for a header or has no
/// superblock, [`ErrorKind::Io`](crate::ErrorKind::Io) if it cannot be read.
pub fn image_checksum(mut file: &File) -> Result<Checksum> {
    let image = erofs::Image::open(file)
        .map_err(|error| Error::erofs("the layer image has no valid superblock", error))?;
    let table = erofs::format::DEVICE_SLOT_SIZE * image.devices().len() as u64;
    let room = (erofs::format::DEVICE_TABLE_OFFSET + table).next_multiple_of(image.block_size());
    let reading = |error| Error::io("cannot read the layer image", error);
    let mut header = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(reading)?;
    Read::take(file, room).read_to_end(&mut header).map_err(reading)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => _ = hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(reading(error)),
        }
    }
    hasher.update(&header);
    Ok(Checksum::from_bytes(hasher.finalize().into()))
}
