//! Base64 as Go's `StdEncoding` has it: the standard alphabet, padding required, CR and LF skipped, unused bits ignored.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const GO: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

pub(super) fn encode(bytes: &[u8]) -> String {
    GO.encode(bytes)
}

/// `None` for anything else.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let is_digit = |byte: &u8| !matches!(byte, b'\r' | b'\n');
    let digits: Vec<u8> = text.iter().copied().filter(is_digit).collect();
    GO.decode(digits).ok()
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
