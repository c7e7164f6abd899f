//! Names from images and archives, made safe to show on a terminal.
//!
//! A name may hold any byte but `/` and NUL, so it can hold newlines that forge lines and escape sequences that
//! drive a terminal. Text output shows such bytes escaped; JSON output carries the exact bytes beside the text.

use std::fmt::Write as _;

/// Shows a name: printable characters as they are, everything else as `\n`, `\t`, `\xNN` or `\u{N}`, and a
/// backslash as `\\`, so that the text stands for exactly one name.
pub(crate) fn name(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => shown.push_str("\\\\"),
                character => push(&mut shown, character),
            }
        }
        for byte in chunk.invalid() {
            push_byte(&mut shown, *byte);
        }
    }
    shown
}

/// Shows a message that may quote names: as [`name`], but backslashes stay single.
pub(crate) fn message(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|character| push(&mut shown, character));
    shown
}

fn push(shown: &mut String, character: char) {
    match character {
        '\n' => shown.push_str("\\n"),
        '\t' => shown.push_str("\\t"),
        '\r' => shown.push_str("\\r"),
        // Below U+0080 characters are their bytes.
        character if character.is_ascii_control() => push_byte(shown, character as u8),
        character if character.is_control() || is_format(character) => {
            push_fmt(shown, format_args!("\\u{{{:x}}}", character as u32));
        }
        character => shown.push(character),
    }
}

fn push_byte(shown: &mut String, byte: u8) {
    push_fmt(shown, format_args!("\\x{byte:02x}"));
}

fn push_fmt(shown: &mut String, arguments: std::fmt::Arguments<'_>) {
    shown.write_fmt(arguments).expect("a String takes any text");
}

/// Characters that change how their neighbours look: zero-width and directional ones, separators, tags.
fn is_format(character: char) -> bool {
    matches!(u32::from(character),
        0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff
        | 0xfff9..=0xfffb | 0xe0000..=0xe007f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (bytes, shown) in [
            (&b"usr/bin/su"[..], "usr/bin/su"),
            ("größe 日本".as_bytes(), "größe 日本"),
            (b"a\nb\tc\rd", "a\\nb\\tc\\rd"),
            (b"\x1b[31mred\x7f", "\\x1b[31mred\\x7f"),
            (b"latin1 \xe4\xff", "latin1 \\xe4\\xff"),
            (b"back\\slash", "back\\\\slash"),
            ("abc\u{202e}txt.exe".as_bytes(), "abc\\u{202e}txt.exe"),
            ("\u{85}".as_bytes(), "\\u{85}"),
        ] {
            assert_eq!(name(bytes), shown);
        }
    }

    #[test]
    fn messages_keep_their_backslashes() {
        assert_eq!(
            message("a\\x1b: \u{1b}[0m\nplywood: error"),
            "a\\x1b: \\x1b[0m\\nplywood: error"
        );
    }
}
