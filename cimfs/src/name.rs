//! Names and paths: UTF-16 code units, not necessarily valid Unicode.

use std::fmt;

use crate::format::{NAME_MAX, PATH_MAX};
use crate::{Error, ErrorKind, Result};

/// A name in a directory, or of an alternate stream.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Name(Box<[u16]>);

impl Name {
    /// From code units.
    pub fn from_units(units: impl Into<Box<[u16]>>) -> Self {
        Self(units.into())
    }

    /// The code units.
    pub fn units(&self) -> &[u16] {
        &self.0
    }

    /// As a string, if every surrogate has its partner.
    pub fn to_text(&self) -> Option<String> {
        String::from_utf16(&self.0).ok()
    }

    /// Why no directory may hold the name, if so. The format itself knows the length only; the rest are the
    /// separators of paths and streams, and the names that mean something else.
    pub fn fault(&self) -> Option<&'static str> {
        const FORBIDDEN: [u16; 4] = [0, b'/' as u16, b'\\' as u16, b':' as u16];
        let is = |text: &str| self.0.iter().copied().eq(text.encode_utf16());
        match &*self.0 {
            [] => Some("is empty"),
            long if long.len() > NAME_MAX => Some("is longer than 255 code units"),
            _ if is(".") => Some("means the directory itself"),
            _ if is("..") => Some("means the directory above"),
            units if units.iter().any(|unit| FORBIDDEN.contains(unit)) => {
                Some("holds a separator or a NUL")
            }
            _ => None,
        }
    }

    /// Whether Win32 programs cannot use the name, though NTFS stores it: control characters, wildcards and
    /// quotes, a final dot or space.
    pub fn is_odd(&self) -> bool {
        let odd = |unit: &u16| *unit < 0x20 || b"<>\"|?*".iter().any(|b| u16::from(*b) == *unit);
        let last = self.0.last().copied().unwrap_or_default();
        self.0.iter().any(odd) || [u16::from(b'.'), u16::from(b' ')].contains(&last)
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(text.encode_utf16().collect())
    }
}

/// Unpaired surrogates and control characters are escaped as in `\u{d800}`.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for char in char::decode_utf16(self.0.iter().copied()) {
            match char {
                Ok(char) if char.is_control() => write!(f, "{}", char.escape_unicode())?,
                Ok(char) => f.write_char(char)?,
                Err(unpaired) => write!(f, "\\u{{{:x}}}", unpaired.unpaired_surrogate())?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A path from the root of an image: names, of which there are none for the root itself.
///
/// As text, names are separated by `\` or `/`; separators in front, behind and doubled mean nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ImagePath(Vec<Name>);

impl ImagePath {
    /// The root.
    pub const ROOT: Self = Self(Vec::new());

    /// From names.
    pub fn from_names(names: Vec<Name>) -> Self {
        Self(names)
    }

    /// The names from the root on.
    pub fn names(&self) -> &[Name] {
        &self.0
    }

    /// The path of something in this directory.
    #[must_use]
    pub fn join(&self, name: impl Into<Name>) -> Self {
        Self(self.0.iter().cloned().chain([name.into()]).collect())
    }

    /// Fails if the path or one of its names cannot be stored.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::new(ErrorKind::Invalid, what));
        if let Some((name, fault)) = self.0.iter().find_map(|name| Some((name, name.fault()?))) {
            return invalid(format!("{self}: the name {name:?} {fault}"));
        }
        let length: usize = self.0.iter().map(|name| name.units().len() + 1).sum();
        match length > PATH_MAX {
            true => invalid(format!("a path of {length} code units, at most {PATH_MAX} can be")),
            false => Ok(()),
        }
    }
}

impl From<&str> for ImagePath {
    fn from(text: &str) -> Self {
        Self(text.split(['/', '\\']).filter(|name| !name.is_empty()).map(Name::from).collect())
    }
}

/// `\`, or every name with a backslash in front.
impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("\\");
        }
        self.0.iter().try_for_each(|name| write!(f, "\\{name}"))
    }
}

impl fmt::Debug for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_names_are_found() {
        let long = "x".repeat(256);
        for bad in ["", ".", "..", "a/b", "a\\b", ":", "a:b", "\0", ".:", "a\0", &long] {
            assert!(Name::from(bad).fault().is_some(), "{bad:?}");
        }
        for good in ["a", "ab", "...", ".a", "a.", "..a", "x y", "ä", "?", &long[1..]] {
            assert_eq!(Name::from(good).fault(), None, "{good:?}");
        }
        for odd in ["a.", "a ", "a?", "\u{1}"] {
            assert!(Name::from(odd).is_odd(), "{odd:?}");
        }
        assert!(!Name::from("Program Files").is_odd());
    }

    #[test]
    fn names_that_are_not_unicode_are_escaped() {
        let name = Name::from_units([0xD800, 0x61, 0x0A, 0xD83D, 0xDE00]);
        assert_eq!(name.to_string(), "\\u{d800}a\\u{a}😀");
        assert_eq!(name.to_text(), None);
    }

    #[test]
    fn paths_take_both_separators() {
        let path = ImagePath::from("\\Files/Windows\\\\x/");
        assert_eq!(path.to_string(), "\\Files\\Windows\\x");
        assert_eq!(ImagePath::from("/"), ImagePath::ROOT);
        assert_eq!(ImagePath::ROOT.to_string(), "\\");
        assert!(path.check().is_ok() && ImagePath::from("a/../b").check().is_err());
        let deep = ImagePath::from_names(vec![Name::from("d"); 16_384]);
        assert!(deep.check().is_err());
    }
}
