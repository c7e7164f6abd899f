//! Writer in the manner of Go's `archive/tar` with PAX forced, which is what Microsoft's exporter writes: an `x` header
//! before every entry, keys in the order of their bytes, no ustar prefix.

use std::collections::BTreeMap;
use std::io::Write;

use super::blocks::{Blocks, octal, record, seal, sparse_map};
use super::header::{
    BLOCK, DEVICE_MAJOR, DEVICE_MINOR, GID, LINK_NAME, MAGIC, MODE, MTIME, NAME, OCTAL_SIZE_MAX,
    PREFIX, SIZE, TYPE_FLAG, UID,
};
use crate::error::Result;

/// What is said of an entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct PaxEntry {
    /// No slash at the end of directories.
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) flag: u8,
    /// With the type of the file.
    pub(crate) mode: u32,
    pub(crate) size: u64,
    /// All of the size are zeros that are not in the tar (GNU's sparse version 1.0).
    pub(crate) hole: bool,
    /// Seconds for the header's field, below 2^33.
    pub(crate) mtime: u64,
    /// Records beside those for what does not fit in the header.
    pub(crate) records: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Writes the entries of a tar.
#[derive(Debug)]
pub(crate) struct PaxWriter<W> {
    blocks: Blocks<W>,
}

impl<W: Write> PaxWriter<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { blocks: Blocks::new(output) }
    }

    /// Begins an entry. The data of a file that is no hole follows through [`data`](Self::data).
    pub(crate) fn entry(&mut self, mut entry: PaxEntry) -> Result<()> {
        let mut map = Vec::new();
        if entry.hole {
            map = sparse_map(&[]);
            let sparse: [(&[u8], Vec<u8>); 4] = [
                (b"GNU.sparse.major", b"1".to_vec()),
                (b"GNU.sparse.minor", b"0".to_vec()),
                (b"GNU.sparse.name", entry.path.clone()),
                (b"GNU.sparse.realsize", entry.size.to_string().into_bytes()),
            ];
            entry.records.extend(sparse.map(|(key, value)| (key.to_vec(), value)));
            entry.size = map.len() as u64;
        }
        for (key, text, field) in
            [(&b"path"[..], &entry.path, NAME), (b"linkpath", &entry.link, LINK_NAME)]
        {
            if text.len() > field.len() || !text.is_ascii() {
                entry.records.insert(key.to_vec(), text.clone());
            }
        }
        if entry.size > OCTAL_SIZE_MAX {
            entry.records.insert(b"size".to_vec(), entry.size.to_string().into_bytes());
        }
        self.blocks.finish_payload()?;
        self.records(&entry.path, &entry.records)?;
        let mut block = header(&ascii(&entry.path), entry.flag);
        text(&mut block[LINK_NAME], &ascii(&entry.link));
        octal(&mut block[MODE], entry.mode.into());
        let size = if entry.size > OCTAL_SIZE_MAX { 0 } else { entry.size };
        octal(&mut block[SIZE], size);
        octal(&mut block[MTIME], entry.mtime);
        octal(&mut block[DEVICE_MAJOR], 0);
        octal(&mut block[DEVICE_MINOR], 0);
        seal(&mut block);
        self.blocks.begin(&block, entry.size)?;
        if map.is_empty() { Ok(()) } else { self.data(&map) }
    }

    /// An empty file of mode and time 0, in plain ustar if that can say its name.
    pub(crate) fn mark(&mut self, path: &[u8]) -> Result<()> {
        self.blocks.finish_payload()?;
        let fits = path.is_ascii() && path.len() <= NAME.len();
        let split = if path.is_ascii() { split(path) } else { None };
        let mut block = match split.filter(|_| !fits) {
            Some((prefix, name)) => {
                let mut block = header(name, b'0');
                text(&mut block[PREFIX], prefix);
                block
            }
            None => {
                if !fits {
                    let records = BTreeMap::from([(b"path".to_vec(), path.to_vec())]);
                    self.records(path, &records)?;
                }
                header(&ascii(path), b'0')
            }
        };
        octal(&mut block[DEVICE_MAJOR], 0);
        octal(&mut block[DEVICE_MINOR], 0);
        seal(&mut block);
        self.blocks.begin(&block, 0)
    }

    /// More of the last entry's data.
    ///
    /// # Panics
    /// If there is more than announced.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.blocks.data(bytes)
    }

    /// Writes the end mark and returns the output.
    pub(crate) fn finish(self) -> Result<W> {
        self.blocks.finish()
    }

    fn records(&mut self, path: &[u8], records: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
        let mut bytes = Vec::new();
        for (key, value) in records {
            record(&mut bytes, key, value);
        }
        let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (directory, base) = path.split_at(start);
        let mut name = ascii(&[directory, b"PaxHeaders.0/", base].concat());
        name.truncate(NAME.len());
        while name.ends_with(b"/") {
            name.pop();
        }
        let mut block = header(&name, b'x');
        octal(&mut block[SIZE], bytes.len() as u64);
        seal(&mut block);
        self.blocks.records(&block, &bytes)
    }
}

/// A header with a name, and zero as all numbers but those of devices, which stay empty.
fn header(name: &[u8], flag: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    text(&mut block[NAME], name);
    for field in [MODE, UID, GID, SIZE, MTIME] {
        octal(&mut block[field], 0);
    }
    block[TYPE_FLAG] = flag;
    block[MAGIC].copy_from_slice(b"ustar\x0000");
    block
}

fn text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    // Some readers take a file for a directory whose name was cut behind a slash.
    if text.len() > length {
        let last = field.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        field[last..].fill(0);
    }
}

/// What other than ASCII is dropped.
fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(u8::is_ascii).collect()
}

/// Prefix and name of a path that is too long for the name alone.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = path[..path.len().min(PREFIX.len() + 1)].iter().rposition(|byte| *byte == b'/')?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    let fits = !prefix.is_empty() && !name.is_empty() && name.len() <= NAME.len();
    fits.then_some((prefix, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::{EntryKind, Reader};

    fn entry(path: &[u8], size: u64) -> PaxEntry {
        let records = BTreeMap::from([(b"atime".to_vec(), b"1".to_vec())]);
        PaxEntry { path: path.to_vec(), flag: b'0', size, mtime: 7, records, ..PaxEntry::default() }
    }

    #[test]
    fn headers_are_those_of_go() {
        let mut writer = PaxWriter::new(Vec::new());
        writer.entry(PaxEntry { mode: 0o100_000, ..entry(b"Files/a", 3) }).unwrap();
        writer.data(b"abc").unwrap();
        let tar = writer.finish().unwrap();
        assert_eq!(tar.len(), 6 * BLOCK);
        assert!(tar.starts_with(b"Files/PaxHeaders.0/a\0"));
        assert_eq!(
            &tar[100..157],
            b"0000000\x000000000\x000000000\x0000000000013\x0000000000000\x00011420\x00 x"
        );
        assert_eq!(&tar[329..345], [0; 16], "no devices in an x header");
        assert_eq!(&tar[BLOCK..BLOCK + 11], b"11 atime=1\n");
        let main = &tar[2 * BLOCK..];
        assert_eq!(
            &main[100..148],
            b"0100000\x000000000\x000000000\x0000000000003\x0000000000007\x00"
        );
        assert_eq!(&main[329..345], b"0000000\x000000000\x00");
    }

    #[test]
    fn our_reader_reads_it() {
        let long = [b"d/".repeat(60).as_slice(), "ä".repeat(50).as_bytes()].concat();
        let mut writer = PaxWriter::new(Vec::new());
        writer.entry(entry(&long, 2)).unwrap();
        writer.data(b"hi").unwrap();
        let link = PaxEntry { flag: b'2', link: long.clone(), ..entry(b"l", 0) };
        writer.entry(link).unwrap();
        writer.entry(PaxEntry { hole: true, ..entry(b"hole", 1 << 40) }).unwrap();
        let marks =
            [b"x/.wh.a".to_vec(), [b"d/".repeat(60).as_slice(), b".wh.x"].concat(), long.clone()];
        marks.iter().for_each(|mark| writer.mark(mark).unwrap());
        let tar = writer.finish().unwrap();
        let mut reader = Reader::new(tar.as_slice());
        let mut read = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            read.push((entry.path, entry.kind));
        }
        let plain = |size| EntryKind::Regular { size, segments: None };
        let mut expected = vec![
            (long.clone(), plain(2)),
            (b"l".to_vec(), EntryKind::Symlink(long)),
            (b"hole".to_vec(), EntryKind::Regular { size: 1 << 40, segments: Some(vec![]) }),
        ];
        expected.extend(marks.map(|mark| (mark, plain(0))));
        assert_eq!(read, expected);
    }
}
