//! Layer tars by hand: every kind of entry that the demo shows, with nothing taken from a directory tree.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// 2025-01-01T00:00:00Z, the time of every entry.
pub(crate) const EPOCH: u64 = 1_735_689_600;

/// A layer tar being written. Owners are root unless said otherwise.
pub(crate) struct LayerTar {
    tar: Builder<BufWriter<File>>,
}

impl LayerTar {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { tar: Builder::new(BufWriter::new(file)) })
    }

    fn header(kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(EPOCH);
        header
    }

    pub(crate) fn directory(&mut self, name: &str, mode: u32) -> Result<()> {
        self.tar
            .append_data(&mut Self::header(EntryType::Directory, mode, 0), name, &[][..])
            .with_context(|| format!("cannot add {name}"))
    }

    pub(crate) fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.stream(name, mode, bytes.len() as u64, bytes)
    }

    /// A file of any size.
    pub(crate) fn stream(
        &mut self,
        name: &str,
        mode: u32,
        size: u64,
        data: impl Read,
    ) -> Result<()> {
        self.tar
            .append_data(&mut Self::header(EntryType::Regular, mode, size), name, data)
            .with_context(|| format!("cannot add {name}"))
    }

    /// Extended attributes for the entry that follows, as PAX records.
    pub(crate) fn xattrs(&mut self, xattrs: &[(&str, &[u8])]) -> Result<()> {
        let records: Vec<(String, &[u8])> =
            xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value)).collect();
        let records: Vec<(&str, &[u8])> =
            records.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        self.records(&records)
    }

    /// PAX records for the entry that follows.
    pub(crate) fn records(&mut self, records: &[(&str, &[u8])]) -> Result<()> {
        self.tar.append_pax_extensions(records.iter().copied()).context("cannot add PAX records")
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        self.tar
            .append_link(&mut Self::header(EntryType::Symlink, 0o777, 0), name, target)
            .with_context(|| format!("cannot add {name}"))
    }

    pub(crate) fn hard_link(&mut self, name: &str, target: &str) -> Result<()> {
        self.tar
            .append_link(&mut Self::header(EntryType::Link, 0o644, 0), name, target)
            .with_context(|| format!("cannot add {name}"))
    }

    pub(crate) fn fifo(&mut self, name: &str) -> Result<()> {
        self.tar
            .append_data(&mut Self::header(EntryType::Fifo, 0o600, 0), name, &[][..])
            .with_context(|| format!("cannot add {name}"))
    }

    pub(crate) fn device(
        &mut self,
        name: &str,
        kind: EntryType,
        numbers: (u32, u32),
    ) -> Result<()> {
        let mut header = Self::header(kind, 0o660, 0);
        header.set_device_major(numbers.0)?;
        header.set_device_minor(numbers.1)?;
        self.tar
            .append_data(&mut header, name, &[][..])
            .with_context(|| format!("cannot add {name}"))
    }

    /// Removes `name` of the layers below.
    pub(crate) fn whiteout(&mut self, directory: &str, name: &str) -> Result<()> {
        self.file(&format!("{directory}/.wh.{name}"), 0, &[])
    }

    /// Hides everything that the layers below have in `directory`.
    pub(crate) fn opaque(&mut self, directory: &str, mode: u32) -> Result<()> {
        self.directory(directory, mode)?;
        self.file(&format!("{directory}/.wh..wh..opq"), 0, &[])
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.tar
            .into_inner()
            .and_then(|mut out| out.flush())
            .context("cannot finish the layer's tar")
    }
}

/// Bytes that look random to a compressor and are the same every time (xorshift64*).
pub(crate) struct Noise {
    state: u64,
    left: u64,
}

impl Noise {
    pub(crate) fn new(seed: u64, length: u64) -> Self {
        Self { state: seed | 1, left: length }
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        for chunk in buffer[..length].chunks_mut(8) {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let word = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        self.left -= length as u64;
        Ok(length)
    }
}
