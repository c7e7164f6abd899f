//! Bytes from outside in messages and in the log.

use std::fmt::Write as _;

/// A key for people: text where it is text without control characters, else escaped.
pub(crate) fn key(bytes: &[u8]) -> String {
    const LONGEST: usize = 256;
    let (shown, rest) = bytes.split_at(bytes.len().min(LONGEST));
    let mut text = String::with_capacity(shown.len());
    for chunk in shown.utf8_chunks() {
        text.push_str(&one_line(chunk.valid()));
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    if !rest.is_empty() {
        let _ = write!(text, "… ({} bytes)", bytes.len());
    }
    text
}

/// A message without control characters, which could make one line of the log look like two.
pub(crate) fn one_line(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_for_people() {
        assert_eq!(key(b"default/1/extract-1 sha256:9e"), "default/1/extract-1 sha256:9e");
        assert_eq!(key(b"a\nb\xff\x00\xc3\xa9"), "a\\nb\\xff\\u{0}\u{e9}");
        let long = key(&[b'x'; 300]);
        assert!(long.ends_with("… (300 bytes)") && long.len() < 300, "{long}");
    }
}
