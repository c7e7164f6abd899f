//! Windows paths as texts: rules that hold on every host, so that they can be tested on every host.
//!
//! A [`WindowsPath`] is absolute, has one spelling and no trailing backslash (but that of a root), and says the same
//! file to every function that it is given to. What Win32 would silently read as another file (`C:foo`, `name.`,
//! `NUL`, `a:stream`) is refused with the reason. Source of the rules: "Naming Files, Paths, and Namespaces" of the
//! Windows documentation.

use std::ffi::OsStr;
use std::fmt;

use crate::{Error, ErrorKind, Result};

/// From this length in UTF-16 units on, a path is written with `\\?\`: `MAX_PATH` less the room for an 8.3 name that
/// making a directory wants.
const LONG: usize = 248;
/// What the kernel takes at most, in UTF-16 units.
const LONGEST: usize = 32_767;
/// What the file systems take for one name, in UTF-16 units.
const LONGEST_NAME: usize = 255;
const VERBATIM: &str = r"\\?\";
const DEVICE: &str = r"\\.\";

/// An absolute path of a Windows host in its one canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WindowsPath {
    root: Root,
    names: Vec<String>,
}

/// What a path starts at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Root {
    /// `C:\`; the letter is upper case.
    Drive(char),
    /// `\\server\share\`.
    Share { server: String, share: String },
    /// `\\?\Volume{…}\`, or another name of the object manager: only reachable with `\\?\`.
    Verbatim(String),
}

impl WindowsPath {
    /// Reads a path: `C:\…`, `\\server\share\…`, `\\?\…`, `\\?\UNC\…`, with either slash outside of `\\?\`. `.` and
    /// `..` are taken away as Win32 does it, without asking the file system.
    ///
    /// # Errors
    /// `Invalid`, with what is wrong: relative, relative to a drive's directory, a device or pipe, a character or
    /// name that Windows reserves, too long.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).map_err(|what| {
            let message = format!("`{}` is no path of a layer: {what}", text.escape_debug());
            Error::new(ErrorKind::Invalid, message)
        })
    }

    /// Reads a path in UTF-16.
    ///
    /// # Errors
    /// Those of [`Self::parse`]; `Invalid` for a surrogate without its other half: file names can have them, and the
    /// JSON that the host's compute service takes cannot.
    pub fn from_wide(units: &[u16]) -> Result<Self> {
        match String::from_utf16(units) {
            Ok(text) => Self::parse(&text),
            Err(_) => Err(unpaired(&String::from_utf16_lossy(units))),
        }
    }

    /// Reads a path as this host's functions give it.
    ///
    /// # Errors
    /// Those of [`Self::from_wide`].
    pub fn from_os(path: &OsStr) -> Result<Self> {
        path.to_str().map_or_else(|| Err(unpaired(&path.to_string_lossy())), Self::parse)
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        if text.contains('\0') {
            return Err("it contains a NUL".to_owned());
        }
        let path = match text.strip_prefix(VERBATIM) {
            Some(rest) => Self::read_verbatim(rest)?,
            None => Self::read_plain(&text.replace('/', r"\"))?,
        };
        if units(&path.verbatim()) > LONGEST {
            return Err(format!("it is longer than {LONGEST} characters"));
        }
        Ok(path)
    }

    fn read_verbatim(rest: &str) -> Result<Self, String> {
        if rest.contains('/') {
            return Err(
                r"after \\?\ a forward slash is part of a name, which it cannot be".to_owned()
            );
        }
        let rest = rest.strip_suffix('\\').unwrap_or(rest);
        let mut parts = rest.split('\\');
        let first = parts.next().unwrap_or_default();
        let root = if first.eq_ignore_ascii_case("UNC") {
            share(parts.next(), parts.next())?
        } else if let Some(letter) = drive(first) {
            Root::Drive(letter)
        } else if let Some(guid) = volume_guid(first) {
            Root::Verbatim(format!("Volume{{{guid}}}"))
        } else {
            return Err(r"after \\?\ there is neither a drive, nor UNC\, nor Volume{…}".to_owned());
        };
        let names: Vec<String> = parts.map(str::to_owned).collect();
        for name in &names {
            if matches!(name.as_str(), "" | "." | "..") {
                return Err(format!(r"after \\?\ `{name}` is not taken away"));
            }
            check_characters(name)?;
        }
        Ok(Self { root, names })
    }

    fn read_plain(text: &str) -> Result<Self, String> {
        if text.starts_with(DEVICE) {
            return Err("it is a device or a pipe".to_owned());
        }
        let mut parts = text.split('\\');
        let root = if let Some(unc) = text.strip_prefix(r"\\") {
            parts = unc.split('\\');
            share(parts.next(), parts.next())?
        } else {
            let first = parts.next().unwrap_or_default();
            match (drive(first), first.as_bytes()) {
                (Some(letter), _) if text.len() > first.len() => Root::Drive(letter),
                (Some(_), _) | (None, [b'A'..=b'Z' | b'a'..=b'z', b':', ..]) => {
                    return Err(
                        "it is relative to the directory that happens to be current on that drive"
                            .to_owned(),
                    );
                }
                (None, b"") => {
                    return Err("it is relative to the drive that happens to be current".to_owned());
                }
                _ => return Err("it is relative".to_owned()),
            }
        };
        let mut names: Vec<String> = Vec::new();
        for part in parts {
            match part {
                "" | "." => {}
                ".." => {
                    names.pop();
                }
                name => {
                    check_characters(name)?;
                    check_win32_name(name)?;
                    names.push(name.to_owned());
                }
            }
        }
        Ok(Self { root, names })
    }

    /// The path `name` in this directory.
    ///
    /// # Errors
    /// `Invalid` if it is not one name, or none that Windows can have.
    pub fn join(&self, name: &str) -> Result<Self> {
        let mut path = self.clone();
        path.push(name)?;
        Ok(path)
    }

    fn push(&mut self, name: &str) -> Result<()> {
        let wrong = |what: String| {
            let message = format!("`{}` is no name in {self}: {what}", name.escape_debug());
            Error::new(ErrorKind::Invalid, message)
        };
        if matches!(name, "" | "." | "..") || name.contains(['\\', '/', '\0']) {
            return Err(wrong("it is not one name".to_owned()));
        }
        check_characters(name).and_then(|()| check_win32_name(name)).map_err(wrong)?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// The directory it is in; `None` of a root.
    pub fn parent(&self) -> Option<Self> {
        let (_, names) = self.names.split_last()?;
        Some(Self { root: self.root.clone(), names: names.to_vec() })
    }

    /// Its last name; `None` of a root.
    pub fn file_name(&self) -> Option<&str> {
        self.names.last().map(String::as_str)
    }

    /// Whether it is the root of a drive, a share or a volume.
    pub fn is_root(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether it is `other` or lies in it, compared name by name and in any case.
    pub fn is_in(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.key(), other.key());
        ours == theirs
            || ours
                .strip_prefix(&theirs)
                .is_some_and(|rest| theirs.ends_with('\\') || rest.starts_with('\\'))
    }

    /// What two spellings of one path have in common: the canonical text in upper case, as far as one character is
    /// one (as in the file systems' own tables).
    pub fn key(&self) -> String {
        let upper = |c: char| {
            let mut upper = c.to_uppercase();
            upper.next().filter(|_| upper.len() == 0).unwrap_or(c)
        };
        self.verbatim().chars().map(upper).collect()
    }

    /// With `\\?\`, which no function of Windows reads any other way.
    pub fn verbatim(&self) -> String {
        let root = match &self.root {
            Root::Drive(letter) => format!(r"{VERBATIM}{letter}:\"),
            Root::Share { server, share } => format!(r"{VERBATIM}UNC\{server}\{share}\"),
            Root::Verbatim(name) => format!(r"{VERBATIM}{name}\"),
        };
        root + &self.names.join(r"\")
    }

    /// With exactly one backslash at its end, as functions want volumes.
    pub fn with_backslash(&self) -> String {
        let mut text = self.to_string();
        if !text.ends_with('\\') {
            text.push('\\');
        }
        text
    }

    fn plain(&self) -> Option<String> {
        let root = match &self.root {
            Root::Drive(letter) => format!(r"{letter}:\"),
            Root::Share { server, share } => format!(r"\\{server}\{share}\"),
            Root::Verbatim(_) => return None,
        };
        // A name that only `\\?\` can say.
        if self.names.iter().any(|name| check_win32_name(name).is_err()) {
            return None;
        }
        Some(root + &self.names.join(r"\"))
    }
}

/// As it is given to functions: short paths as people write them, all others with `\\?\`.
impl fmt::Display for WindowsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.plain() {
            Some(plain) if units(&plain) < LONG => f.write_str(&plain),
            _ => f.write_str(&self.verbatim()),
        }
    }
}

fn unpaired(shown: &str) -> Error {
    let message = format!(
        "`{}` is no path of a layer: it has half of a surrogate pair, which the compute service's JSON cannot say",
        shown.escape_debug()
    );
    Error::new(ErrorKind::Invalid, message)
}

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

/// The letter of `C:`.
fn drive(part: &str) -> Option<char> {
    match part.as_bytes() {
        [letter, b':'] if letter.is_ascii_alphabetic() => Some(letter.to_ascii_uppercase().into()),
        _ => None,
    }
}

/// The digits of `Volume{…}`, in lower case.
fn volume_guid(part: &str) -> Option<String> {
    let (word, rest) = part.split_at_checked(7)?;
    let guid = rest.strip_suffix('}').filter(|_| word.eq_ignore_ascii_case("Volume{"))?;
    let grouped = guid.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    let digits = guid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    (grouped && digits).then(|| guid.to_ascii_lowercase())
}

fn share(server: Option<&str>, share: Option<&str>) -> Result<Root, String> {
    match (server, share) {
        (Some(server), Some(share)) if !server.is_empty() && !share.is_empty() => {
            check_characters(server)?;
            check_characters(share)?;
            if matches!(server, "." | ".." | "?") || matches!(share, "." | "..") {
                return Err("it is a device or names no share".to_owned());
            }
            Ok(Root::Share { server: server.to_owned(), share: share.to_owned() })
        }
        _ => Err("it names a server, but no share on it".to_owned()),
    }
}

/// What no file system of Windows can have in a name.
fn check_characters(name: &str) -> Result<(), String> {
    if name.contains(':') {
        return Err(format!("`{name}` names a stream or a second drive"));
    }
    if let Some(bad) = name.chars().find(|c| *c < ' ' || r#"<>"|?*"#.contains(*c)) {
        return Err(format!("no name can have the character `{}`", bad.escape_debug()));
    }
    match units(name) > LONGEST_NAME {
        true => Err(format!("a name in it is longer than {LONGEST_NAME} characters")),
        false => Ok(()),
    }
}

/// What Win32 reads as another file unless the path starts with `\\?\`.
fn check_win32_name(name: &str) -> Result<(), String> {
    if name.ends_with(['.', ' ']) {
        return Err(format!(r"Windows drops the end of `{name}`; \\?\ keeps it"));
    }
    let stem =
        name.split('.').next().unwrap_or_default().trim_end_matches(' ').to_ascii_uppercase();
    let numbered = |word: &str| {
        let number = stem
            .strip_prefix(word)
            .and_then(|rest| rest.chars().next().filter(|c| c.len_utf8() == rest.len()));
        number.is_some_and(|number| "123456789\u{b9}\u{b2}\u{b3}".contains(number))
    };
    let device = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&stem.as_str());
    match device || numbered("COM") || numbered("LPT") {
        true => Err(format!("`{name}` is a device")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_has_one_spelling() {
        for (given, wanted) in [
            (r"C:\layers\1", r"C:\layers\1"),
            (r"c:\layers\1\", r"C:\layers\1"),
            ("c:/layers//1/", r"C:\layers\1"),
            (r"C:\a\.\b\..\c", r"C:\a\c"),
            (r"C:\..\..\c", r"C:\c"),
            (r"\\?\C:\layers\1", r"C:\layers\1"),
            (r"\\?\c:\layers\1\", r"C:\layers\1"),
            (r"C:\", r"C:\"),
            (r"\\?\C:\", r"C:\"),
            (r"\\?\C:", r"C:\"),
            (r"\\server\share\x", r"\\server\share\x"),
            ("//server/share/x/", r"\\server\share\x"),
            (r"\\?\UNC\server\share\x", r"\\server\share\x"),
            (r"\\server\share", r"\\server\share\"),
            (
                r"\\?\Volume{6827367B-c388-4e9b-961c-6d2c936c0000}\Files\",
                r"\\?\Volume{6827367b-c388-4e9b-961c-6d2c936c0000}\Files",
            ),
            (
                r"\\?\volume{6827367b-c388-4e9b-961c-6d2c936c0000}",
                r"\\?\Volume{6827367b-c388-4e9b-961c-6d2c936c0000}\",
            ),
            (r"\\?\C:\nul", r"\\?\C:\nul"),
            (r"\\?\C:\end.", r"\\?\C:\end."),
            (r"C:\Wörter 語\😀", r"C:\Wörter 語\😀"),
            (r"C:\com10", r"C:\com10"),
            (r"C:\console", r"C:\console"),
        ] {
            let path = WindowsPath::parse(given).unwrap();
            assert_eq!(path.to_string(), wanted, "{given}");
            assert_eq!(WindowsPath::parse(&path.to_string()).unwrap(), path, "{given}");
            assert_eq!(WindowsPath::parse(&path.verbatim()).unwrap(), path, "{given}");
        }
    }

    #[test]
    fn what_would_be_another_file_is_refused_with_the_reason() {
        for (given, reason) in [
            ("", "empty"),
            ("layers", "relative"),
            (r".\layers", "relative"),
            (r"\layers", "drive that happens"),
            ("/layers", "drive that happens"),
            ("C:", "current on that drive"),
            ("C:layers", "current on that drive"),
            ("C:layers\\x", "current on that drive"),
            (r"\\server", "no share"),
            (r"\\server\", "no share"),
            (r"\\", "no share"),
            (r"\\.\pipe\x", "pipe"),
            (r"\\.\PhysicalDrive0", "device"),
            ("//./pipe/x", "pipe"),
            (r"\\?\GLOBALROOT\Device\x", "neither"),
            (r"\\?\", "neither"),
            (r"\\?\Volume{123}\x", "neither"),
            (r"\\?\C:/x", "forward slash"),
            (r"\\?\C:\a\..\b", "not taken away"),
            (r"\\?\C:\a\\b", "not taken away"),
            (r"\\?\UNC\server", "no share"),
            (r"C:\a\b:stream", "stream"),
            (r"C:\a?", "character"),
            ("C:\\a\u{1}", "character"),
            ("C:\\a\0b", "NUL"),
            (r"C:\name.", "drops the end"),
            (r"C:\name ", "drops the end"),
            (r"C:\a\NUL", "device"),
            (r"C:\a\con.txt", "device"),
            (r"C:\a\Lpt1", "device"),
            ("C:\\a\\com\u{b9}", "device"),
        ] {
            let error = WindowsPath::parse(given).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{given}");
            assert!(error.to_string().contains(reason), "{given}: {error}");
        }
    }

    #[test]
    fn long_paths_get_the_prefix_and_too_long_ones_are_refused() {
        let name = "n".repeat(100);
        let short = WindowsPath::parse(&format!(r"C:\{name}\{name}")).unwrap();
        assert_eq!(short.to_string(), format!(r"C:\{name}\{name}"));
        let long = short.join(&name).unwrap();
        assert_eq!(long.to_string(), format!(r"\\?\C:\{name}\{name}\{name}"));
        let share = WindowsPath::parse(&format!(r"\\s\h\{name}\{name}\{name}")).unwrap();
        assert_eq!(share.to_string(), format!(r"\\?\UNC\s\h\{name}\{name}\{name}"));
        let endless = format!(r"C:\{}", format!(r"{name}\").repeat(400));
        assert!(WindowsPath::parse(&endless).unwrap_err().to_string().contains("32767"));
        assert!(short.join(&"n".repeat(256)).is_err());
        // Counted in UTF-16 units, not in bytes: 120 of three bytes are short.
        assert!(
            !WindowsPath::parse(&format!(r"C:\{}", "語".repeat(120)))
                .unwrap()
                .to_string()
                .starts_with(VERBATIM)
        );
    }

    #[test]
    fn half_a_surrogate_pair_is_refused() {
        let mut units: Vec<u16> = r"C:\x".encode_utf16().collect();
        assert_eq!(WindowsPath::from_wide(&units).unwrap().to_string(), r"C:\x");
        for half in [0xD800, 0xDC00] {
            units.push(half);
            let error = WindowsPath::from_wide(&units).unwrap_err();
            assert!(error.to_string().contains("surrogate"), "{error}");
            units.pop();
        }
        // The two halves together are one character.
        units.extend([0xD83D, 0xDE00]);
        assert_eq!(WindowsPath::from_wide(&units).unwrap().to_string(), r"C:\x😀");
    }

    #[test]
    fn names_parents_and_containment() {
        let path = WindowsPath::parse(r"C:\Layers\1").unwrap();
        assert_eq!(path.file_name(), Some("1"));
        assert_eq!(path.parent().unwrap().to_string(), r"C:\Layers");
        assert_eq!(WindowsPath::parse(r"C:\").unwrap().parent(), None);
        for (given, inside) in [
            (r"c:\layers\1", true),
            (r"C:\LAYERS\1\x", true),
            (r"C:\Layers\10", false),
            (r"C:\Layers", false),
            (r"D:\Layers\1", false),
        ] {
            assert_eq!(WindowsPath::parse(given).unwrap().is_in(&path), inside, "{given}");
        }
        let drive = WindowsPath::parse(r"C:\").unwrap();
        assert!(path.is_in(&drive) && drive.is_in(&drive) && drive.is_root());
        assert_eq!(drive.with_backslash(), r"C:\");
        assert_eq!(path.with_backslash(), r"C:\Layers\1\");
        for name in ["", ".", "..", "a\\b", "a/b", "a:b", "nul"] {
            assert!(path.join(name).is_err(), "{name}");
        }
    }

    /// Every text of up to four of these parts is refused, or has one spelling that says the same file.
    #[test]
    fn no_text_is_read_as_two_files() {
        const PARTS: [&str; 14] = [
            r"\",
            "/",
            "C:",
            "c:",
            "a",
            "A b",
            ".",
            "..",
            "?",
            "UNC",
            "Volume{6827367b-c388-4e9b-961c-6d2c936c0000}",
            "nul",
            "語.",
            ":",
        ];
        let (mut taken, mut refused) = (0, 0);
        for number in 0..PARTS.len().pow(4) {
            let mut text = String::new();
            let mut rest = number;
            for _ in 0..=number % 4 {
                text.push_str(PARTS[rest % PARTS.len()]);
                rest /= PARTS.len();
            }
            for text in [text.clone(), format!(r"\\?\{text}"), format!(r"\\{text}")] {
                let Ok(path) = WindowsPath::parse(&text) else {
                    refused += 1;
                    continue;
                };
                taken += 1;
                let shown = path.to_string();
                assert_eq!(WindowsPath::parse(&shown).unwrap(), path, "{text}");
                assert_eq!(WindowsPath::parse(&path.verbatim()).unwrap(), path, "{text}");
                assert!(
                    !shown.contains('/') && shown.split('\\').all(|name| name != ".."),
                    "{text}: {shown}"
                );
                assert!(path.is_root() || !shown.ends_with('\\'), "{text}: {shown}");
                assert!(path.parent().is_none_or(|parent| path.is_in(&parent)), "{text}");
            }
        }
        assert!(taken > 1000 && refused > 1000, "{taken} {refused}");
    }
}
