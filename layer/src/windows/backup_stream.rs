//! Backup streams: what `BackupRead` gives and `BackupWrite` takes (`WIN32_STREAM_ID`, MS-BKUP 2.1; windows-layer-tar.md 13).
//!
//! A record is a header of 20 bytes, a name in UTF-16, and data; nothing is aligned.

use std::io::{self, ErrorKind as IoKind, Read};

use crate::error::{Error, Result};

/// `BACKUP_DATA`
pub(super) const DATA: u32 = 1;
/// `BACKUP_EA_DATA`
pub(super) const EAS: u32 = 2;
/// `BACKUP_SECURITY_DATA`
pub(super) const SECURITY: u32 = 3;
/// `BACKUP_ALTERNATE_DATA`
pub(super) const ALTERNATE_DATA: u32 = 4;
/// `BACKUP_REPARSE_DATA`
pub(super) const REPARSE: u32 = 8;
/// `BACKUP_SPARSE_BLOCK`
pub(super) const SPARSE_BLOCK: u32 = 9;

const HEADER: usize = 20;
/// Longest name in bytes: NTFS has 255 units, beside which are colons and a type.
const NAME_MAX: u32 = 2 * 1024;

/// The header of a record with its name; `size` bytes of data follow.
pub(super) fn header(id: u32, size: u64, name: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 2 * name.len());
    bytes.extend_from_slice(&id.to_le_bytes());
    // Attributes: importers always write 0.
    bytes.extend_from_slice(&0_u32.to_le_bytes());
    bytes.extend_from_slice(&size.to_le_bytes());
    let length = u32::try_from(2 * name.len()).expect("names have at most 255 units");
    bytes.extend_from_slice(&length.to_le_bytes());
    name.iter().for_each(|unit| bytes.extend_from_slice(&unit.to_le_bytes()));
    bytes
}

/// A record's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: u32,
    /// Bytes of data, those of a sparse block's offset included.
    pub(super) size: u64,
    pub(super) name: Vec<u16>,
}

/// Reads a stream, record by record.
#[derive(Debug)]
pub(super) struct Records<R> {
    source: R,
    left: u64,
}

impl<R: Read> Records<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, left: 0 }
    }

    /// The next record; what was not read of the one before is passed over. `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        let passed = io::copy(&mut (&mut self.source).take(self.left), &mut io::sink());
        if passed.map_err(reading)? != self.left {
            return Err(cut());
        }
        self.left = 0;
        let mut header = [0; HEADER];
        let first = loop {
            match self.source.read(&mut header[..1]) {
                Err(error) if error.kind() == IoKind::Interrupted => {}
                other => break other.map_err(reading)?,
            }
        };
        if first == 0 {
            return Ok(None);
        }
        self.exact(&mut header[1..])?;
        let field = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four"));
        let (low, high) = (u64::from(field(8)), u64::from(field(12)));
        let (id, length) = (field(0), field(16));
        if length > NAME_MAX || length % 2 != 0 {
            return Err(Error::corrupt(format!(
                "a stream's name of {length} bytes in a backup stream"
            )));
        }
        let mut name = vec![0; length as usize];
        self.exact(&mut name)?;
        let units = name.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        let size = high << 32 | low;
        self.left = size;
        Ok(Some(Record { id, size, name: units.collect() }))
    }

    /// All data of the record, which may be at most `limit` bytes.
    pub(super) fn all(&mut self, limit: u64) -> Result<Vec<u8>> {
        if self.left > limit {
            let size = self.left;
            return Err(Error::corrupt(format!("{size} bytes of metadata in a backup stream")));
        }
        let mut bytes = vec![0; usize::try_from(self.left).unwrap_or_default()];
        self.exact(&mut bytes)?;
        self.left = 0;
        Ok(bytes)
    }

    /// More data of the record; 0 at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if length == 0 {
            return Ok(0);
        }
        let read = loop {
            match self.source.read(&mut buffer[..length]) {
                Err(error) if error.kind() == IoKind::Interrupted => {}
                other => break other.map_err(reading)?,
            }
        };
        if read == 0 {
            return Err(cut());
        }
        self.left -= read as u64;
        Ok(read)
    }

    /// The offset at the beginning of a sparse block.
    pub(super) fn offset(&mut self) -> Result<u64> {
        if self.left < 8 {
            return Err(Error::corrupt("a sparse block without an offset in a backup stream"));
        }
        let mut offset = [0; 8];
        self.exact(&mut offset)?;
        self.left -= 8;
        Ok(u64::from_le_bytes(offset))
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.source.read_exact(buffer).map_err(|error| match error.kind() {
            IoKind::UnexpectedEof => cut(),
            _ => reading(error),
        })
    }
}

fn cut() -> Error {
    Error::corrupt("a backup stream ends early")
}

fn reading(error: io::Error) -> Error {
    Error::io("cannot read a backup stream", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_20_bytes_a_name_and_data() {
        // WIN32_STREAM_ID: dwStreamId, dwStreamAttributes, Size, dwStreamNameSize.
        let stream = [
            &[3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            b"sd",
            &[4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0],
            b":\0s\0:\0",
            b"x",
        ]
        .concat();
        let name: Vec<u16> = ":s:".encode_utf16().collect();
        let built = [
            header(SECURITY, 2, &[]),
            b"sd".to_vec(),
            header(ALTERNATE_DATA, 1, &name),
            b"x".to_vec(),
        ];
        assert_eq!(built.concat(), stream);
        let mut records = Records::new(stream.as_slice());
        assert_eq!(records.next().unwrap().unwrap().id, SECURITY);
        assert_eq!(records.all(2).unwrap(), b"sd");
        let second = records.next().unwrap().unwrap();
        assert_eq!(second, Record { id: ALTERNATE_DATA, size: 1, name });
        assert!(records.next().unwrap().is_none(), "what is not read is passed over");
        for cut in 1..stream.len() {
            let mut records = Records::new(&stream[..cut]);
            let mut read = || {
                while records.next()?.is_some() {}
                Ok::<(), Error>(())
            };
            // Between two records it is just shorter.
            assert_eq!(read().is_ok(), cut == 22, "{cut}");
        }
    }

    #[test]
    fn sizes_are_not_believed() {
        let mut records = Records::new(io::Cursor::new(header(SECURITY, u64::MAX, &[])));
        records.next().unwrap().unwrap();
        assert!(records.all(1 << 20).is_err());
        let mut long = header(ALTERNATE_DATA, 0, &[]);
        long[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Records::new(long.as_slice()).next().is_err());
    }
}
