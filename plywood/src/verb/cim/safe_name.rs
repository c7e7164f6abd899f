//! Names of files from an image that are safe in any directory of this system, and of a Windows system too.

use std::collections::HashSet;

use cimfs::{Name, Upcase};
use layer::windows::is_reserved_name;

/// Longest name in bytes that file systems of this system take.
const LONGEST: usize = 255;

/// The names that were given out in one directory.
#[derive(Debug, Default)]
pub(super) struct SafeNames {
    /// In upper case.
    taken: HashSet<Box<[u16]>>,
}

/// A name for a file, and why it is not the image's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SafeName {
    pub(super) name: String,
    pub(super) why: Option<&'static str>,
}

impl SafeNames {
    /// A name that is one component, stays in its directory, and was not given out before, in any case of letters.
    pub(super) fn give(&mut self, upcase: &Upcase, name: &Name) -> SafeName {
        let (text, mut why) = harmless(name);
        let mut candidate = cut(&text, LONGEST);
        if candidate.len() < text.len() {
            why = why.or(Some("is longer than 255 bytes"));
        }
        let mut number = 1;
        while !self.taken.insert(upcase.fold_units(&units(&candidate))) {
            why = why.or(Some("is another's but for the case of letters"));
            number += 1;
            let suffix = format!("~{number}");
            candidate = cut(&text, LONGEST - suffix.len()) + &suffix;
        }
        SafeName { name: candidate, why }
    }
}

fn units(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

/// The longest beginning of at most so many bytes.
fn cut(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn harmless(name: &Name) -> (String, Option<&'static str>) {
    let mut why = None;
    let mut text = String::new();
    for part in char::decode_utf16(name.units().iter().copied()) {
        let reason = match part {
            Err(_) => "is not Unicode",
            Ok('/' | '\\' | ':') => "holds a separator",
            Ok(character) if character.is_control() => "holds a control character",
            Ok('<' | '>' | '"' | '|' | '?' | '*') => "holds a character that Windows reserves",
            Ok(character) => {
                text.push(character);
                continue;
            }
        };
        text.push('_');
        why = why.or(Some(reason));
    }
    match &*text {
        "" => return ("_".into(), Some("is empty")),
        "." => return ("_".into(), Some("means a directory")),
        ".." => return ("__".into(), Some("means a directory")),
        _ => {}
    }
    if text.ends_with(['.', ' ']) {
        text.push('_');
        why = why.or(Some("ends with a dot or a space"));
    }
    if is_reserved_name(&units(&text)) {
        text.insert(0, '_');
        why = why.or(Some("is that of a device"));
    }
    (text, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_components_that_no_system_misreads() {
        let mut names = SafeNames::default();
        let mut give = |name: &str| {
            let given = names.give(Upcase::standard(), &name.into());
            (given.name, given.why.is_some())
        };
        for (name, expected) in [
            ("kernel32.dll", "kernel32.dll"),
            ("KERNEL32.dll", "KERNEL32.dll~2"),
            ("Kernel32.dll", "Kernel32.dll~3"),
            ("", "_"),
            (".", "_~2"),
            ("..", "__"),
            ("../../etc/passwd", ".._.._etc_passwd"),
            ("a\\b", "a_b"),
            ("a:b", "a_b~2"),
            ("a\0b\n", "a_b_"),
            ("what?*", "what__"),
            ("dot.", "dot._"),
            ("space ", "space _"),
            ("nul", "_nul"),
            ("Con.txt", "_Con.txt"),
            ("COM1", "_COM1"),
            ("com10", "com10"),
            ("console", "console"),
            ("ünï", "ünï"),
        ] {
            assert_eq!(give(name), (expected.to_owned(), name != expected), "{name:?}");
        }
    }

    #[test]
    fn long_names_are_cut_and_kept_apart() {
        let mut names = SafeNames::default();
        let long = Name::from("語".repeat(200).as_str());
        let longer = Name::from(format!("{}x", "語".repeat(200)).as_str());
        for (name, length) in [(&long, 255), (&longer, 254)] {
            let given = names.give(Upcase::standard(), name);
            assert_eq!((given.name.len(), given.why.is_some()), (length, true), "{given:?}");
        }
        let unpaired = names.give(Upcase::standard(), &Name::from_units([0x61, 0xDC00]));
        assert_eq!(unpaired, SafeName { name: "a_".into(), why: Some("is not Unicode") });
    }
}
