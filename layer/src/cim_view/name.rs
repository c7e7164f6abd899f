//! Names: UTF-16 in a CIM, bytes on Linux.

/// The UTF-8 form of code units. A surrogate without its partner becomes the three bytes that UTF-8 would have for
/// it if it allowed that (WTF-8), so that no two names become one.
pub fn name_bytes(units: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    for char in char::decode_utf16(units) {
        match char {
            Ok(char) if char.is_ascii() => bytes.push(char as u8),
            Ok(char) => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(unpaired) => {
                let [high, low] = unpaired.unpaired_surrogate().to_be_bytes();
                let middle = 0x80 | (high & 0x0F) << 2 | low >> 6;
                bytes.extend_from_slice(&[0xED, middle, 0x80 | low & 0x3F]);
            }
        }
    }
    bytes
}

/// The code units that [`name_bytes`] makes such bytes of; `None` for bytes that it never makes.
pub fn name_units(bytes: &[u8]) -> Option<Vec<u16>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.encode_utf16().collect()),
        Err(_) => surrogates(bytes).filter(|units| name_bytes(units.iter().copied()) == bytes),
    }
}

/// Decodes bytes in which surrogates may stand alone.
fn surrogates(bytes: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        if let [0xED, middle @ 0xA0..=0xBF, low @ 0x80..=0xBF, tail @ ..] = rest {
            units.push(0xD000 | u16::from(middle & 0x3F) << 6 | u16::from(low & 0x3F));
            rest = tail;
            continue;
        }
        let length = match rest[0] {
            0..=0x7F => 1,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => return None,
        };
        let (char, tail) = rest.split_at_checked(length)?;
        units.extend(std::str::from_utf8(char).ok()?.encode_utf16());
        rest = tail;
    }
    Some(units)
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
            let bytes = name_bytes(units.iter().copied());
            assert_eq!(name_units(&bytes).as_deref(), Some(units), "{bytes:x?}");
        }
        assert_eq!(name_bytes([0xD83D]), b"\xED\xA0\xBD");
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
