//! Writer: ustar headers, and PAX records only for what those cannot say. Deterministic.

use std::io::Write;

use erofs::Timestamp;

use super::blocks::{Blocks, octal, record, seal, sparse_map};
use super::header::{
    BLOCK, DEVICE_MAJOR, DEVICE_MINOR, GID, LINK_NAME, MAGIC, MODE, MTIME, NAME, OCTAL_SIZE_MAX,
    PREFIX, SIZE, TYPE_FLAG, UID,
};
use super::reader::{Entry, EntryKind};
use crate::error::Result;

/// Name of the headers that hold PAX records; readers that know PAX never show it.
const PAX_NAME: &[u8] = b"././@PaxHeader";
/// Name of a sparse file for readers that do not know sparse files; the real one is in the records.
const SPARSE_NAME: &[u8] = b"GNUSparseFile.0/data";
/// Largest number of seven octal digits.
const OCTAL_ID_MAX: u64 = 0o7_777_777;

/// Writes the entries of a tar.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    blocks: Blocks<W>,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { blocks: Blocks::new(output) }
    }

    /// Begins an entry. The data of a file follows through [`data`](Self::data): all of it, or that of its
    /// segments. Directories should have a slash at the end of their path.
    pub(crate) fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.blocks.finish_payload()?;
        let mut records = Vec::new();
        let mut block = [0; BLOCK];
        block[MAGIC].copy_from_slice(b"ustar\x0000");
        octal(&mut block[MODE], u64::from(entry.permissions));

        let (flag, link, device) = match &entry.kind {
            EntryKind::Regular { .. } => (b'0', None, None),
            EntryKind::HardLink(target) => (b'1', Some(target), None),
            EntryKind::Symlink(target) => (b'2', Some(target), None),
            EntryKind::CharDevice { major, minor } => (b'3', None, Some((*major, *minor))),
            EntryKind::BlockDevice { major, minor } => (b'4', None, Some((*major, *minor))),
            EntryKind::Directory => (b'5', None, None),
            EntryKind::Fifo => (b'6', None, None),
        };
        block[TYPE_FLAG] = flag;
        let (major, minor) = device.unwrap_or((0, 0));
        octal(&mut block[DEVICE_MAJOR], major);
        octal(&mut block[DEVICE_MINOR], minor);

        let mut map = Vec::new();
        let mut size = 0;
        if let EntryKind::Regular { size: whole, segments } = &entry.kind {
            size = *whole;
            if let Some(segments) = segments {
                record(&mut records, b"GNU.sparse.major", b"1");
                record(&mut records, b"GNU.sparse.minor", b"0");
                record(&mut records, b"GNU.sparse.name", &entry.path);
                record(&mut records, b"GNU.sparse.realsize", whole.to_string().as_bytes());
                map = sparse_map(segments);
                size = map.len() as u64 + segments.iter().map(|&(_, length)| length).sum::<u64>();
            }
        }
        if map.is_empty() {
            self.name(&mut block, &mut records, &entry.path);
        } else {
            block[..SPARSE_NAME.len()].copy_from_slice(SPARSE_NAME);
        }
        if let Some(link) = link {
            if link.len() <= LINK_NAME.len() {
                block[LINK_NAME][..link.len()].copy_from_slice(link);
            } else {
                record(&mut records, b"linkpath", link);
            }
        }
        let mut number = |field: &mut [u8], key: &[u8], value: u64, max| {
            if value > max {
                record(&mut records, key, value.to_string().as_bytes());
            }
            octal(field, if value > max { 0 } else { value });
        };
        number(&mut block[SIZE], b"size", size, OCTAL_SIZE_MAX);
        number(&mut block[UID], b"uid", entry.uid, OCTAL_ID_MAX);
        number(&mut block[GID], b"gid", entry.gid, OCTAL_ID_MAX);
        match u64::try_from(entry.mtime.seconds) {
            Ok(seconds) if seconds <= OCTAL_SIZE_MAX && entry.mtime.nanoseconds == 0 => {
                octal(&mut block[MTIME], seconds);
            }
            _ => {
                octal(&mut block[MTIME], 0);
                record(&mut records, b"mtime", time(entry.mtime).as_bytes());
            }
        }
        for xattr in &entry.xattrs {
            let key = [b"SCHILY.xattr.", escaped(&xattr.name).as_slice()].concat();
            record(&mut records, &key, &xattr.value);
        }

        if !records.is_empty() {
            self.records(&records)?;
        }
        seal(&mut block);
        self.blocks.begin(&block, size)?;
        if !map.is_empty() {
            self.data(&map)?;
        }
        Ok(())
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

    fn name(&self, block: &mut [u8; BLOCK], records: &mut Vec<u8>, path: &[u8]) {
        if path.len() <= NAME.len() {
            block[..path.len()].copy_from_slice(path);
            return;
        }
        // A slash between prefix and name is not stored; the last byte of a directory's path is no such slash.
        let earliest = path.len() - NAME.len() - 1;
        let latest = PREFIX.len().min(path.len() - 2);
        let slash = (earliest.max(1)..=latest).find(|&at| path[at] == b'/');
        match slash {
            Some(slash) => {
                block[PREFIX][..slash].copy_from_slice(&path[..slash]);
                block[..path.len() - slash - 1].copy_from_slice(&path[slash + 1..]);
            }
            None => record(records, b"path", path),
        }
    }

    fn records(&mut self, records: &[u8]) -> Result<()> {
        let mut block = [0; BLOCK];
        block[MAGIC].copy_from_slice(b"ustar\x0000");
        block[..PAX_NAME.len()].copy_from_slice(PAX_NAME);
        octal(&mut block[MODE], 0o644);
        for field in [UID, GID, MTIME, DEVICE_MAJOR, DEVICE_MINOR] {
            octal(&mut block[field], 0);
        }
        octal(&mut block[SIZE], records.len() as u64);
        block[TYPE_FLAG] = b'x';
        seal(&mut block);
        self.blocks.records(&block, records)
    }
}

fn time(time: Timestamp) -> String {
    let Timestamp { seconds, nanoseconds } = time;
    let (sign, whole, fraction) = match (seconds < 0, nanoseconds) {
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, _) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
        (false, _) => ("", seconds.unsigned_abs(), nanoseconds),
    };
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let fraction = format!("{fraction:09}");
    format!("{sign}{whole}.{}", fraction.trim_end_matches('0'))
}

/// As GNU tar does: a `=` would end the key.
fn escaped(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'=' => escaped.extend_from_slice(b"%3D"),
            b'%' => escaped.extend_from_slice(b"%25"),
            byte => escaped.push(byte),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::Reader;
    use erofs::Xattr;

    fn entry(path: &[u8], kind: EntryKind) -> Entry {
        Entry {
            path: path.to_vec(),
            kind,
            permissions: 0o4755,
            uid: 1,
            gid: 2,
            mtime: Timestamp { seconds: 1_735_689_600, nanoseconds: 0 },
            xattrs: Vec::new(),
            offset: 0,
        }
    }

    /// Writes entries (files are filled with their length's low byte) and reads them back.
    fn round(entries: &[Entry]) -> (Vec<Entry>, usize) {
        let mut writer = Writer::new(Vec::new());
        for entry in entries {
            writer.entry(entry).unwrap();
            if let EntryKind::Regular { size, segments } = &entry.kind {
                let length = segments.as_ref().map_or(*size, |map| map.iter().map(|s| s.1).sum());
                writer.data(&vec![7; usize::try_from(length).unwrap()]).unwrap();
            }
        }
        let tar = writer.finish().unwrap();
        let mut reader = Reader::new(tar.as_slice());
        let mut read = Vec::new();
        while let Some(mut entry) = reader.next_entry().unwrap() {
            entry.offset = 0;
            read.push(entry);
        }
        (read, tar.len())
    }

    #[test]
    fn what_is_written_is_read() {
        let long = |length: usize| b"0123456789/".repeat(length / 11 + 1)[..length].to_vec();
        let mut entries = vec![
            entry(b"plain", EntryKind::Regular { size: 1000, segments: None }),
            entry(b"d/", EntryKind::Directory),
            entry(b"s", EntryKind::Symlink(long(100))),
            entry(b"s2", EntryKind::Symlink(long(101))),
            entry(b"h", EntryKind::HardLink(long(3000))),
            entry(b"c", EntryKind::CharDevice { major: 4095, minor: 1_048_575 }),
            entry(b"b", EntryKind::BlockDevice { major: 8, minor: 1 }),
            entry(b"f\xff\xe4", EntryKind::Fifo),
            entry(
                b"sparse",
                EntryKind::Regular {
                    size: 1 << 40,
                    segments: Some(vec![(4096, 512), (1 << 30, 3)]),
                },
            ),
            entry(b"hole", EntryKind::Regular { size: 1 << 33, segments: Some(vec![]) }),
        ];
        for length in [99, 100, 101, 155, 156, 254, 255, 256, 257, 300, 4000] {
            entries.push(entry(&long(length), EntryKind::Fifo));
            entries.push(entry(&[long(length).as_slice(), b"x/"].concat(), EntryKind::Directory));
            entries.push(entry(&vec![b'n'; length], EntryKind::Fifo));
        }
        for (seconds, nanoseconds) in [(-1, 0), (-2, 750_000_000), (5, 1), (1 << 40, 0)] {
            let mut timed = entry(b"t", EntryKind::Fifo);
            timed.mtime = Timestamp { seconds, nanoseconds };
            timed.uid = u64::from(u32::MAX);
            timed.gid = 0o10_000_000;
            entries.push(timed);
        }
        for length in [0, 70, 80, 87, 90, 976, 65_535] {
            let mut marked = entry(b"x", EntryKind::Fifo);
            let name = b"user.a=b%25".as_slice().into();
            marked.xattrs = vec![Xattr { name, value: vec![b'\n'; length].into() }];
            entries.push(marked);
        }
        assert_eq!(round(&entries).0, entries);
    }

    #[test]
    fn ustar_suffices_for_ordinary_entries() {
        let path = [b"d/".repeat(77).as_slice(), &[b'n'; 100]].concat();
        let (_, length) = round(&[entry(&path, EntryKind::Fifo)]);
        assert_eq!(length, 3 * BLOCK, "one header and the end mark");
    }
}
