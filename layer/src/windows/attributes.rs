//! Win32 file attributes (MS-FSCC 2.6), and which of them a CIM has room for.

use cimfs::FileFlags;

/// `FILE_ATTRIBUTE_READONLY`.
pub const READ_ONLY: u32 = 0x1;
/// `FILE_ATTRIBUTE_HIDDEN`.
pub const HIDDEN: u32 = 0x2;
/// `FILE_ATTRIBUTE_SYSTEM`.
pub const SYSTEM: u32 = 0x4;
/// `FILE_ATTRIBUTE_DIRECTORY`.
pub const DIRECTORY: u32 = 0x10;
/// `FILE_ATTRIBUTE_ARCHIVE`.
pub const ARCHIVE: u32 = 0x20;
/// `FILE_ATTRIBUTE_NORMAL`: no other.
pub const NORMAL: u32 = 0x80;
/// `FILE_ATTRIBUTE_SPARSE_FILE`.
pub const SPARSE_FILE: u32 = 0x200;
/// `FILE_ATTRIBUTE_REPARSE_POINT`.
pub const REPARSE_POINT: u32 = 0x400;

const FLAGS: [(u32, FileFlags); 5] = [
    (READ_ONLY, FileFlags::READ_ONLY),
    (HIDDEN, FileFlags::HIDDEN),
    (SYSTEM, FileFlags::SYSTEM),
    (ARCHIVE, FileFlags::ARCHIVE),
    (SPARSE_FILE, FileFlags::SPARSE),
];

/// What a CIM's entry says of attributes, and those that it has no known form for. Directories and reparse points
/// are known by what they have, and `NORMAL` by the absence of others.
pub(crate) fn flags(attributes: u32) -> (FileFlags, u32) {
    let mut rest = attributes & !(DIRECTORY | REPARSE_POINT | NORMAL);
    let mut flags = FileFlags::empty();
    for (attribute, flag) in FLAGS {
        if rest & attribute != 0 {
            flags |= flag;
            rest &= !attribute;
        }
    }
    (flags, rest)
}

/// The value of a `MSWINDOWS.fileattr` record: a decimal number of 32 bits, as Go's `ParseUint` takes it.
pub(crate) fn parse(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_and_of_32_bits() {
        for (text, value) in [("32", 32), ("00032", 32), ("0", 0), ("4294967295", u32::MAX)] {
            assert_eq!(parse(text.as_bytes()), Some(value), "{text}");
        }
        for bad in ["", "-1", "+32", "0x20", " 1", "1 ", "4294967296"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn what_an_image_cannot_say_is_told() {
        let all = FileFlags::READ_ONLY
            | FileFlags::HIDDEN
            | FileFlags::SYSTEM
            | FileFlags::ARCHIVE
            | FileFlags::SPARSE;
        assert_eq!(flags(0x6B7), (all, 0));
        assert_eq!(flags(0x2020), (FileFlags::ARCHIVE, 0x2000));
        assert_eq!(flags(0x490), (FileFlags::empty(), 0));
    }
}
