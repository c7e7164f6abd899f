//! The headers of an outer tar: names, kinds and where the data is. Only what an image archive needs of tar
//! (POSIX.1-2024 pax interchange format, and GNU tar's `L` and `K` entries); layers have their own reader.

use std::io;

use crate::error::{Error, Result};

/// Block and header length of tar.
const BLOCK: u64 = 512;
/// Most bytes that the long names and PAX records of one entry may have.
const MAX_EXTENSION: u64 = 1 << 20;

/// One entry of an outer tar.
#[derive(Debug)]
pub(super) struct Entry {
    /// Name as written.
    pub(super) name: Vec<u8>,
    pub(super) kind: EntryKind,
    /// Where the data starts in the archive.
    pub(super) offset: u64,
    /// Length of the data in bytes.
    pub(super) size: u64,
}

#[derive(Debug)]
pub(super) enum EntryKind {
    File,
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Other,
}

/// Bytes at an offset: less than asked only at the end.
pub(super) type ReadAt<'a> = dyn Fn(&mut [u8], u64) -> io::Result<usize> + 'a;

/// Walks over the headers of a tar, skipping all data.
pub(super) struct Headers<'a> {
    read_at: &'a ReadAt<'a>,
    /// Length of the archive in bytes.
    length: u64,
    position: u64,
    marked: bool,
}

impl<'a> Headers<'a> {
    pub(super) fn new(read_at: &'a ReadAt<'a>, length: u64) -> Self {
        Self { read_at, length, position: 0, marked: false }
    }

    /// Whether the end mark was seen.
    pub(super) fn marked(&self) -> bool {
        self.marked
    }

    /// The next entry, or `None` at the end mark. An archive that just ends between two entries is at its end
    /// too, as `tar` sees it; one that ends inside an entry is corrupt.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut long_name = None;
        let mut long_link = None;
        let mut long_size = None;
        loop {
            let start = self.position;
            if start == self.length {
                return Ok(None);
            }
            let mut block = [0; BLOCK as usize];
            self.fill(&mut block, start)?;
            if block.iter().all(|byte| *byte == 0) {
                self.marked = true;
                return Ok(None);
            }
            let header = Header::new(&block, start)?;
            let size = match header.kind() {
                b'x' | b'g' | b'L' | b'K' => header.size(start)?,
                _ => long_size.unwrap_or(header.size(start)?),
            };
            let offset = start + BLOCK;
            let padded = size.checked_next_multiple_of(BLOCK);
            let end = padded.and_then(|size| offset.checked_add(size));
            // The padding of the last entry may be missing.
            let data_end = offset.checked_add(size).filter(|end| *end <= self.length);
            let (Some(end), Some(_)) = (end, data_end) else {
                return Err(Error::corrupt(format!(
                    "the archive is cut short: an entry of {size} bytes does not fit"
                ))
                .path(&header.name())
                .at(start));
            };
            self.position = end.min(self.length);
            match header.kind() {
                b'x' => {
                    for (key, value) in records(&self.extension(offset, size)?, start)? {
                        match key.as_slice() {
                            b"path" => long_name = Some(value),
                            b"linkpath" => long_link = Some(value),
                            b"size" => long_size = Some(decimal(&value, start)?),
                            _ => {}
                        }
                    }
                }
                b'L' => long_name = Some(until_nul(&self.extension(offset, size)?).to_vec()),
                b'K' => long_link = Some(until_nul(&self.extension(offset, size)?).to_vec()),
                b'g' => {}
                kind => {
                    let name = long_name.unwrap_or_else(|| header.name());
                    let link = || long_link.unwrap_or_else(|| header.link());
                    let kind = match kind {
                        // Before POSIX, a directory was a file whose name ends in a slash.
                        b'0' | 0 | b'7' if name.ends_with(b"/") => EntryKind::Directory,
                        b'0' | 0 | b'7' => EntryKind::File,
                        b'1' => EntryKind::HardLink(link()),
                        b'2' => EntryKind::Symlink(link()),
                        b'5' => EntryKind::Directory,
                        _ => EntryKind::Other,
                    };
                    return Ok(Some(Entry { name, kind, offset, size }));
                }
            }
        }
    }

    fn extension(&self, offset: u64, size: u64) -> Result<Vec<u8>> {
        let length = usize::try_from(size).ok().filter(|_| size <= MAX_EXTENSION);
        let Some(length) = length else {
            return Err(
                Error::corrupt(format!("long names of {size} bytes are too long")).at(offset)
            );
        };
        let mut bytes = vec![0; length];
        self.fill(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn fill(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let read = (self.read_at)(&mut bytes[done..], offset + done as u64);
            match read {
                Ok(0) => {
                    return Err(
                        Error::corrupt("the archive is cut short inside a header").at(offset)
                    );
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("reading the archive", error).at(offset)),
            }
        }
        Ok(())
    }
}

/// A header block whose checksum is right. Offsets: POSIX ustar.
struct Header<'a>(&'a [u8; BLOCK as usize]);

impl<'a> Header<'a> {
    fn new(block: &'a [u8; BLOCK as usize], offset: u64) -> Result<Self> {
        let header = Self(block);
        let promised = header.number(148..156, offset)?;
        // The checksum field counts as spaces. Old tars summed signed bytes.
        let spaced = |index: usize, byte: u8| if (148..156).contains(&index) { b' ' } else { byte };
        let bytes = || block.iter().enumerate().map(|(index, byte)| spaced(index, *byte));
        let unsigned: u64 = bytes().map(u64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        if promised != unsigned && i64::try_from(promised) != Ok(signed) {
            return Err(Error::corrupt("not a tar header: its checksum is wrong").at(offset));
        }
        Ok(header)
    }

    fn kind(&self) -> u8 {
        self.0[156]
    }

    fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = until_nul(&self.0[345..500]);
        // Only `ustar\0` has a prefix; GNU's `ustar ` keeps times there.
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            return [prefix, b"/", name].concat();
        }
        name.to_vec()
    }

    fn link(&self) -> Vec<u8> {
        until_nul(&self.0[157..257]).to_vec()
    }

    fn size(&self, offset: u64) -> Result<u64> {
        self.number(124..136, offset)
    }

    /// Octal text, or GNU's base 256 when the first bit is set.
    fn number(&self, field: std::ops::Range<usize>, offset: u64) -> Result<u64> {
        let bytes = &self.0[field];
        let wrong = || Error::corrupt("not a tar header: a number in it is not octal").at(offset);
        if bytes[0] & 0x80 != 0 {
            let first = u64::from(bytes[0] & 0x7f);
            return bytes[1..]
                .iter()
                .try_fold(first, |value, byte| value.checked_mul(256)?.checked_add((*byte).into()))
                .ok_or_else(wrong);
        }
        let text = std::str::from_utf8(until_nul(bytes)).map_err(|_| wrong())?.trim();
        if text.is_empty() {
            return Ok(0);
        }
        u64::from_str_radix(text, 8).map_err(|_| wrong())
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn decimal(text: &[u8], offset: u64) -> Result<u64> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::corrupt("a PAX size is not a number").at(offset))
}

/// The `length key=value\n` records of a PAX header.
fn records(mut bytes: &[u8], offset: u64) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let record =
            record(bytes).ok_or_else(|| Error::corrupt("a PAX record is malformed").at(offset))?;
        bytes = &bytes[record.length..];
        records.push((record.key.to_vec(), record.value.to_vec()));
    }
    Ok(records)
}

struct Record<'a> {
    length: usize,
    key: &'a [u8],
    value: &'a [u8],
}

fn record(bytes: &[u8]) -> Option<Record<'_>> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let body = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some(Record { length, key: &body[..equals], value: &body[equals + 1..] })
}
