//! Names: UTF-16 in a CIM, bytes on Linux.

use crate::windows::{decode_wtf8, encode_wtf8};

/// The code units that [`encode_wtf8`] makes such bytes of; `None` for bytes that it never makes, so that no file has two
/// names.
pub fn name_units(bytes: &[u8]) -> Option<Vec<u16>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.encode_utf16().collect()),
        Err(_) => decode_wtf8(bytes).filter(|units| encode_wtf8(units.iter().copied()) == bytes),
    }
}

/// Why no file of Linux can have such a name, if so. Windows allows none of these either.
pub(super) fn fault(units: impl IntoIterator<Item = u16>) -> Option<&'static str> {
    let mut length = 0;
    let mut dots = 0;
    for unit in units {
        length += 1;
        match u8::try_from(unit) {
            Ok(b'.') => dots += 1,
            Ok(0 | b'/' | b'\\' | b':') => return Some("holds a separator or a NUL"),
            _ => {}
        }
    }
    match (length, dots) {
        (0, _) => Some("is empty"),
        (1, 1) | (2, 2) => Some("means a directory already"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_bytes_of_its_own() {
        let names: [&[u16]; 7] = [
            &[b'a'.into(), b'b'.into()],
            &[0xE4, 0x8A9E],
            &[0xD83D, 0xDE00],
            &[0xD83D],
            &[0xDE00, 0xD83D, b'x'.into()],
            &[0xD7FF, 0xE000, 0xFFFF],
            &[0xD83D, 0xD83D, 0xDE00],
        ];
        for units in names {
            let bytes = encode_wtf8(units.iter().copied());
            assert_eq!(name_units(&bytes).as_deref(), Some(units), "{bytes:x?}");
        }
        assert_eq!(encode_wtf8([0xD83D]), b"\xED\xA0\xBD");
        // A pair in two pieces is not what such a name becomes.
        for bytes in [&b"\xED\xA0\xBD\xED\xB8\x80"[..], b"\xFF", b"a\xC3", b"\xED\xA0", b"\xC0\x80"]
        {
            assert_eq!(name_units(bytes), None, "{bytes:x?}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_faults() {
        let fault = |text: &str| fault(text.encode_utf16());
        for bad in ["", ".", "..", "a/b", "a\\b", "a:b", "\0"] {
            assert!(fault(bad).is_some(), "{bad:?}");
        }
        for good in ["...", ".a", "a.", "ab", " "] {
            assert_eq!(fault(good), None, "{good:?}");
        }
    }
}
