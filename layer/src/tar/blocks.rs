//! What both writers are made of: blocks with data of the length that was announced, the fields of a header, records.

use std::io::{self, Write};

use super::header::{BLOCK, CHECKSUM, checksums};
use crate::error::{Error, Result};

/// The output, and what the last entry still lacks.
#[derive(Debug)]
pub(super) struct Blocks<W> {
    output: W,
    /// Payload bytes that the last entry still lacks.
    payload: u64,
    padding: usize,
}

impl<W: Write> Blocks<W> {
    pub(super) fn new(output: W) -> Self {
        Self { output, payload: 0, padding: 0 }
    }

    /// Ends what was begun before: its last block is filled up.
    ///
    /// # Panics
    /// If it lacks data.
    pub(super) fn finish_payload(&mut self) -> Result<()> {
        assert_eq!(self.payload, 0, "all announced data is written");
        let padding = std::mem::take(&mut self.padding);
        self.write(&[0; BLOCK][..padding])
    }

    /// An entry's header; `size` bytes of data follow through [`data`](Self::data).
    pub(super) fn begin(&mut self, header: &[u8; BLOCK], size: u64) -> Result<()> {
        self.write(header)?;
        self.payload = size;
        self.padding = padding(size);
        Ok(())
    }

    /// A header of records, and the records.
    pub(super) fn records(&mut self, header: &[u8; BLOCK], records: &[u8]) -> Result<()> {
        self.write(header)?;
        self.write(records)?;
        self.write(&[0; BLOCK][..padding(records.len() as u64)])
    }

    /// More of the last entry's data.
    ///
    /// # Panics
    /// If there is more than announced.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() as u64 <= self.payload, "no more data than announced");
        self.write(bytes)?;
        self.payload -= bytes.len() as u64;
        Ok(())
    }

    /// Writes the end mark and returns the output.
    pub(super) fn finish(mut self) -> Result<W> {
        self.finish_payload()?;
        self.write(&[0; 2 * BLOCK])?;
        self.output.flush().map_err(writing)?;
        Ok(self.output)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(writing)
    }
}

fn writing(error: io::Error) -> Error {
    Error::io("cannot write the tar", error)
}

/// Zeros that fill the last block.
fn padding(size: u64) -> usize {
    let unit = BLOCK as u64;
    usize::try_from(size.next_multiple_of(unit) - size).unwrap_or(0)
}

/// Octal digits filling a field but for the NUL at its end.
pub(super) fn octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field[digits] = 0;
}

/// Writes the checksum of a complete header.
pub(super) fn seal(block: &mut [u8; BLOCK]) {
    let (sum, _) = checksums(block);
    octal(&mut block[CHECKSUM.start..CHECKSUM.end - 1], u64::from(sum));
    block[CHECKSUM.end - 1] = b' ';
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
pub(super) fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The map of GNU's sparse version 1.0, in whole blocks.
pub(super) fn sparse_map(segments: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", segments.len()).into_bytes();
    for (offset, length) in segments {
        map.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}
