//! Base64 as Go's `StdEncoding` has it: the standard alphabet, padding required, CR and LF skipped.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for piece in bytes.chunks(3) {
        let bits = piece.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - piece.len()));
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit) & 0x3F) as usize;
            text.push(if digit > piece.len() { '=' } else { char::from(ALPHABET[value]) });
        }
    }
    text
}

/// `None` for anything else.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut digits = text.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n'));
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    loop {
        let Some(first) = digits.next() else { return Some(bytes) };
        let quad = [first, digits.next()?, digits.next()?, digits.next()?];
        let length = match quad {
            [_, _, b'=', b'='] => 1,
            [_, _, _, b'='] => 2,
            _ => 3,
        };
        let mut bits = 0;
        for digit in &quad[..=length] {
            bits = bits << 6 | value(*digit)?;
        }
        bits <<= 6 * (3 - length);
        bytes.extend_from_slice(&bits.to_be_bytes()[1..=length]);
        if length < 3 {
            return digits.next().is_none().then_some(bytes);
        }
    }
}

fn value(digit: u8) -> Option<u32> {
    Some(u32::from(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let bytes: Vec<u8> = (0..=255).collect();
        for length in 0..=bytes.len() {
            let text = encode(&bytes[..length]);
            assert_eq!(decode(text.as_bytes()).unwrap(), bytes[..length]);
        }
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(encode(plain.as_bytes()), text);
        }
        assert_eq!(decode(b"Zm\r8\n=").unwrap(), b"fo");
        for bad in ["!!!", "Zm8", "Zg=", "Z===", "=", "Zg==Zg==", "Zm-_", "Zm9v=", " Zm9v", "Z=g="]
        {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
