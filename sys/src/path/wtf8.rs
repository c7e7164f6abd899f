//! UTF-16 with unpaired surrogates as bytes (<https://simonsapin.github.io/wtf-8/>).
#![cfg_attr(not(windows), allow(dead_code, reason = "tested on every system"))]

/// The bytes of these units. Surrogates that are a pair become one character of four bytes.
pub(super) fn encode(units: impl Iterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(character) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(unpaired) => {
                let unit = unpaired.unpaired_surrogate();
                let low = |bits: u16| 0x80 | (bits & 0x3f) as u8;
                bytes.extend_from_slice(&[0xed, low(unit >> 6), low(unit)]);
            }
        }
    }
    bytes
}

/// The units of bytes that [`encode`] made; `None` if it cannot have made them.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::new();
    loop {
        let (text, rest) = match std::str::from_utf8(bytes) {
            Ok(text) => (text, &[][..]),
            Err(error) => {
                let (text, rest) = bytes.split_at(error.valid_up_to());
                (std::str::from_utf8(text).ok()?, rest)
            }
        };
        units.extend(text.encode_utf16());
        let [first, second, third, after @ ..] = rest else {
            return rest.is_empty().then_some(units);
        };
        let continues = |byte: &u8| byte & 0xc0 == 0x80;
        // Of characters of three bytes only surrogates are no UTF-8.
        if *first != 0xed || *second < 0xa0 || !continues(second) || !continues(third) {
            return None;
        }
        let unit = 0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f);
        let pair = (0xdc00..0xe000).contains(&unit)
            && units.last().is_some_and(|last| (0xd800..0xdc00).contains(last));
        if pair {
            return None;
        }
        units.push(unit);
        bytes = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_back_and_nothing_else_is_taken() {
        for units in
            [&[][..], &[0x61], &[0xd800], &[0xdfff, 0xd800], &[0xd83e, 0xdd80, 0xdc00, 0xe9]]
        {
            assert_eq!(decode(&encode(units.iter().copied())).as_deref(), Some(units));
        }
        assert_eq!(encode([0xd83e, 0xdd80].into_iter()), "\u{1F980}".as_bytes());
        // Cut short, a lead without its end, a pair written as two.
        for bad in [
            &b"\xed"[..],
            b"\xed\xa0",
            b"a\xed\xa0b",
            b"\xff",
            b"\xed\xa0\xbe\xed\xb6\x80",
            b"\xc3",
        ] {
            assert_eq!(decode(bad), None, "{bad:x?}");
        }
    }
}
