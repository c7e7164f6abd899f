//! The 512-byte header block: field positions, numbers, checksum.
//!
//! Sources: POSIX.1-2017 `pax` ("ustar Interchange Format"), and GNU tar's manual ("Basic Tar Format") for the
//! old GNU fields and base-256 numbers.

use std::ops::Range;

use erofs::Timestamp;

use crate::error::{Error, Result};

/// Length of a header, and the unit that payloads are padded to.
pub(crate) const BLOCK: usize = 512;

pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const TYPE_FLAG: usize = 156;
pub(super) const LINK_NAME: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const DEVICE_MAJOR: Range<usize> = 329..337;
pub(super) const DEVICE_MINOR: Range<usize> = 337..345;
pub(super) const PREFIX: Range<usize> = 345..500;
/// star's prefix is shorter: two times follow it, and `tar\0` ends the block.
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;
/// Old GNU sparse fields: four pairs, "more blocks follow", the whole length.
const GNU_SPARSE: Range<usize> = 386..482;
const GNU_SPARSE_EXTENDED: usize = 482;
const GNU_REAL_SIZE: Range<usize> = 483..495;
/// An extension block: 21 pairs, then "more blocks follow".
const EXTENSION_SPARSE: Range<usize> = 0..504;
const EXTENSION_EXTENDED: usize = 504;

/// Largest length that 11 octal digits hold.
pub(super) const OCTAL_SIZE_MAX: u64 = 0o77_777_777_777;

/// A header whose checksum is right.
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// Checks the checksum, which some old writers summed as signed bytes.
    pub(super) fn parse(block: &'a [u8; BLOCK]) -> Result<Self> {
        let stored = number(&block[CHECKSUM]).map_err(|_| not_a_header())?;
        let (unsigned, signed) = checksums(block);
        if stored != i128::from(unsigned) && stored != i128::from(signed) {
            return Err(not_a_header());
        }
        Ok(Self(block))
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.0[TYPE_FLAG]
    }

    pub(super) fn is_gnu(&self) -> bool {
        &self.0[MAGIC] == b"ustar  \0"
    }

    /// The name with its prefix, as far as the header alone says.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.0[NAME]);
        if &self.0[MAGIC][..6] != b"ustar\0" {
            return name.to_vec();
        }
        let range = if &self.0[STAR_TRAILER] == b"tar\0" { STAR_PREFIX } else { PREFIX };
        match until_nul(&self.0[range]) {
            [] => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    pub(super) fn link_name(&self) -> Vec<u8> {
        until_nul(&self.0[LINK_NAME]).to_vec()
    }

    pub(super) fn permissions(&self) -> Result<u16> {
        let mode = number(&self.0[MODE]).map_err(|error| field("mode", error))?;
        // Some writers put the file type here as well; the type flag is what counts.
        u16::try_from(mode & 0o7777).map_err(|_| Error::corrupt("the mode field is out of range"))
    }

    pub(super) fn uid(&self) -> Result<u64> {
        unsigned("uid", &self.0[UID])
    }

    pub(super) fn gid(&self) -> Result<u64> {
        unsigned("gid", &self.0[GID])
    }

    pub(super) fn size(&self) -> Result<u64> {
        unsigned("size", &self.0[SIZE])
    }

    pub(super) fn mtime(&self) -> Result<Timestamp> {
        let seconds = number(&self.0[MTIME]).map_err(|error| field("mtime", error))?;
        let seconds = i64::try_from(seconds)
            .map_err(|_| Error::corrupt("the mtime field does not fit in 64 bits"))?;
        Ok(Timestamp { seconds, nanoseconds: 0 })
    }

    pub(super) fn device(&self) -> Result<(u64, u64)> {
        Ok((
            unsigned("devmajor", &self.0[DEVICE_MAJOR])?,
            unsigned("devminor", &self.0[DEVICE_MINOR])?,
        ))
    }

    /// Length of an old GNU sparse file with its holes.
    pub(super) fn gnu_real_size(&self) -> Result<u64> {
        unsigned("realsize", &self.0[GNU_REAL_SIZE])
    }

    /// Adds the header's own sparse pairs; true if an extension block follows.
    pub(super) fn gnu_sparse(&self, map: &mut Vec<(u64, u64)>) -> Result<bool> {
        sparse_pairs(&self.0[GNU_SPARSE], map)?;
        Ok(self.0[GNU_SPARSE_EXTENDED] != 0)
    }
}

/// Adds an extension block's sparse pairs; true if another one follows.
pub(super) fn gnu_sparse_extension(block: &[u8; BLOCK], map: &mut Vec<(u64, u64)>) -> Result<bool> {
    sparse_pairs(&block[EXTENSION_SPARSE], map)?;
    Ok(block[EXTENSION_EXTENDED] != 0)
}

fn sparse_pairs(pairs: &[u8], map: &mut Vec<(u64, u64)>) -> Result<()> {
    for pair in pairs.chunks_exact(24) {
        let (offset, length) = pair.split_at(12);
        if offset[0] == 0 {
            break;
        }
        map.push((unsigned("sparse offset", offset)?, unsigned("sparse length", length)?));
    }
    Ok(())
}

/// The sum of all bytes with the checksum field taken as spaces, of unsigned and of signed bytes.
pub(super) fn checksums(block: &[u8; BLOCK]) -> (u32, i32) {
    let mut unsigned = 0;
    let mut signed = 0;
    for (position, &byte) in block.iter().enumerate() {
        let byte = if CHECKSUM.contains(&position) { b' ' } else { byte };
        unsigned += u32::from(byte);
        signed += i32::from(byte.cast_signed());
    }
    (unsigned, signed)
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

fn unsigned(name: &str, bytes: &[u8]) -> Result<u64> {
    let value = number(bytes).map_err(|error| field(name, error))?;
    u64::try_from(value)
        .map_err(|_| Error::corrupt(format!("the {name} field holds {value}, out of range")))
}

fn field(name: &str, bytes: &[u8]) -> Error {
    Error::corrupt(format!("the {name} field is not a number: \"{}\"", bytes.escape_ascii()))
}

fn not_a_header() -> Error {
    Error::corrupt(
        "no tar header here: the checksum is wrong (a damaged tar, or an entry before it lied about its size)",
    )
}

/// A numeric field: octal digits between spaces and NULs, or base-256 (two's complement, most significant
/// byte first, its top bit set as the mark). An empty field is 0.
fn number(field: &[u8]) -> std::result::Result<i128, &[u8]> {
    if let [first, rest @ ..] = field
        && first & 0x80 != 0
    {
        // 0x80 marks a positive, 0xFF a negative number; bit 6 of the first byte is the sign.
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        value = value << 6 | i128::from(first & 0x3F);
        for &byte in rest {
            value = value << 8 | i128::from(byte);
        }
        return Ok(value);
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    let (digits, after) = digits.split_at(end);
    if !digits.iter().all(|digit| matches!(digit, b'0'..=b'7')) || !after.iter().all(is_blank) {
        return Err(field);
    }
    Ok(digits.iter().fold(0, |value, digit| value << 3 | i128::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let good: [(&[u8], i128); 9] = [
            (b"0000644\0", 0o644),
            (b"   644 \0", 0o644),
            (b"77777777777\0", i128::from(OCTAL_SIZE_MAX)),
            (b"777777777777", 0o777_777_777_777),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"\x80\0\0\0\0\0\0\0\0\0\0\x01", 1),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", 1 << 33),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        ];
        for (field, value) in good {
            assert_eq!(number(field), Ok(value), "{}", field.escape_ascii());
        }
        for bad in [&b"8"[..], b"-1", b"0x10", b"12 34", b"7\0junk"] {
            assert_eq!(number(bad), Err(bad), "{}", bad.escape_ascii());
        }
    }
}
