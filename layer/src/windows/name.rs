//! Names: UTF-16 code units on Windows, WTF-8 in a tar, which is UTF-8 with room for lone surrogates.

/// The code units of text in WTF-8; `None` if it is not.
pub fn decode_wtf8(bytes: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let valid = match std::str::from_utf8(rest) {
            Ok(text) => text,
            Err(error) => {
                let (valid, _) = rest.split_at(error.valid_up_to());
                std::str::from_utf8(valid).ok()?
            }
        };
        units.extend(valid.encode_utf16());
        rest = &rest[valid.len()..];
        if let [0xED, second @ 0xA0..=0xBF, third @ 0x80..=0xBF, ..] = rest {
            let low = u16::from(second & 0x3F) << 6 | u16::from(third & 0x3F);
            units.push(0xD000 | low);
            rest = &rest[3..];
        } else if !rest.is_empty() {
            return None;
        }
    }
    Some(units)
}

/// The same backwards.
pub fn encode_wtf8(units: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    for char in char::decode_utf16(units) {
        match char {
            Ok(char) if char.is_ascii() => bytes.push(char as u8),
            Ok(char) => bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(error) => {
                let unit = error.unpaired_surrogate();
                let [high, low] = [unit >> 6 & 0x3F, unit & 0x3F].map(|part| part as u8 | 0x80);
                bytes.extend_from_slice(&[0xED, high, low]);
            }
        }
    }
    bytes
}

/// Why NTFS cannot store a name, if so ("Naming Files, Paths, and Namespaces").
pub fn name_fault(units: &[u16]) -> Option<&'static str> {
    let forbidden = |unit: &u16| b"\"*/:<>?\\|".iter().any(|byte| u16::from(*byte) == *unit);
    match units {
        [] => Some("is empty"),
        long if long.len() > 255 => Some("is longer than 255 UTF-16 code units"),
        dots if is_text(dots, ".") || is_text(dots, "..") => Some("means a directory"),
        units if units.iter().any(|unit| *unit < 0x20) => Some("holds a control character"),
        units if units.iter().any(forbidden) => Some("holds one of \" * / : < > ? \\ |"),
        _ => None,
    }
}

/// Whether Win32 programs take a name for a device (`CON`, `aux.c`, …) or cut it (a final dot or space), so that they
/// reach the file only through `\\?\`. Layers may have such names.
pub fn is_reserved_name(units: &[u16]) -> bool {
    if let Some(0x20 | 0x2E) = units.last() {
        return true;
    }
    let stem = units.split(|unit| *unit == 0x2E).next().unwrap_or_default();
    let stem = String::from_utf16_lossy(stem).to_ascii_uppercase();
    let stem = stem.trim_end_matches(' ');
    if ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&stem) {
        return true;
    }
    let number = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT")).unwrap_or_default();
    let mut digits = number.chars();
    let one = (digits.next(), digits.next());
    matches!(one, (Some('1'..='9' | '\u{b9}' | '\u{b2}' | '\u{b3}'), None))
}

fn is_text(units: &[u16], text: &str) -> bool {
    units.iter().copied().eq(text.encode_utf16())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(text: &str) -> Vec<u16> {
        text.encode_utf16().collect()
    }

    #[test]
    fn lone_surrogates_survive() {
        for all in [vec![0xD800], vec![0x61, 0xDFFF, 0x62], units("a😀語ä\0"), vec![0xDC00, 0xD800]]
        {
            assert_eq!(decode_wtf8(&encode_wtf8(all.iter().copied())), Some(all));
        }
        assert_eq!(encode_wtf8([0xD800]), b"\xed\xa0\x80");
        assert_eq!(decode_wtf8(b"\xed\xa0\xbd\xed\xb8\x80"), Some(units("😀")));
        for bad in [&b"\xe9"[..], b"a\xff", b"\xed\xa0", b"\xc0\x80", b"\xf5\x80\x80\x80"] {
            assert_eq!(decode_wtf8(bad), None);
        }
    }

    #[test]
    fn names_that_windows_refuses() {
        let long = "x".repeat(256);
        for bad in ["", ".", "..", "a:b", "a?", "\u{1}", "a\\b", "a|", &long] {
            assert!(name_fault(&units(bad)).is_some(), "{bad:?}");
        }
        for good in ["a", "aux.c", "a.", ".wh.x", "...", "ä", &long[1..]] {
            assert_eq!(name_fault(&units(good)), None, "{good:?}");
        }
    }

    #[test]
    fn names_that_win32_cannot_use() {
        for bad in ["CON", "nul.txt", "Com1", "LPT³.x", "a.", "a ", "aux .c", "conin$"] {
            assert!(is_reserved_name(&units(bad)), "{bad:?}");
        }
        for good in ["CONSOLE", "com", "com10", "com0", "a.con", "x"] {
            assert!(!is_reserved_name(&units(good)), "{good:?}");
        }
    }
}
