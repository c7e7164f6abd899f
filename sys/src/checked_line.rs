//! Lines that show when they are torn: the CRC-32C of what follows as eight hexadecimal digits, a space, what follows,
//! LF. The form of every journal and ledger of Plywood.

/// Appends `payload` as a line. It must have no LF in it, as no JSON that `serde_json` writes without indentation has.
pub fn append(text: &mut Vec<u8>, payload: &[u8]) {
    debug_assert!(!payload.contains(&b'\n'), "a line is one line");
    text.extend_from_slice(format!("{:08x} ", crc32c::crc32c(payload)).as_bytes());
    text.extend_from_slice(payload);
    text.push(b'\n');
}

/// What a line says, without its LF; none if its checksum says otherwise.
#[must_use]
pub fn payload(line: &[u8]) -> Option<&[u8]> {
    let (sum, payload) = line.split_at_checked(9)?;
    let sum = sum.strip_suffix(b" ")?;
    // `from_str_radix` takes a sign.
    let digits = sum.iter().all(u8::is_ascii_hexdigit);
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (digits && crc32c::crc32c(payload) == sum).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc_32c() {
        let mut text = b"before\n".to_vec();
        append(&mut text, b"123456789");
        // The check value of CRC-32C (iSCSI, RFC 3720).
        assert_eq!(text, b"before\ne3069283 123456789\n");
    }

    #[test]
    fn no_bit_of_a_line_can_change() {
        let mut line = Vec::new();
        append(&mut line, br#"{"volume":"a b"}"#);
        line.pop();
        assert_eq!(payload(&line), Some(br#"{"volume":"a b"}"#.as_slice()));
        for at in 0..line.len() {
            assert_eq!(payload(&line[..at]), None, "cut at {at}");
            for bit in 0..8 {
                let mut bad = line.clone();
                bad[at] ^= 1 << bit;
                // Digits are read in either case.
                let same = at < 8 && bit == 5 && line[at].is_ascii_alphabetic();
                assert_eq!(payload(&bad).is_some(), same, "bit {bit} of byte {at}");
            }
        }
        assert_eq!(payload(b"+0000000 "), None);
        assert_eq!(payload(b"00000000 "), Some(b"".as_slice()));
    }
}
