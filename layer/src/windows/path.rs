//! What the name of a tar entry says: a path in the image, a stream of it, or that it is gone.

use cimfs::{ImagePath, Name};

use super::name::{decode_wtf8, name_fault};
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::WHITEOUT_PREFIX;

/// Longest path in bytes: 32,767 code units of up to three bytes.
const PATH_BYTES_MAX: usize = 3 * 32_767;

/// A name taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TarName {
    Path(ImagePath),
    /// An alternate stream of what has the path.
    Stream(ImagePath, Name),
    /// What has the path is gone.
    Whiteout(ImagePath),
}

impl TarName {
    /// Slashes and backslashes separate; empty names and `.` mean nothing.
    pub(super) fn read(text: &[u8]) -> Result<Self> {
        if text.starts_with(b"/") || text.starts_with(b"\\") {
            return Err(Error::invalid("the path is absolute"));
        }
        let mut components = components(text)?;
        let Some(last) = components.pop() else { return Ok(Self::Path(ImagePath::ROOT)) };
        let mut names = components.into_iter().map(name).collect::<Result<Vec<_>>>()?;
        if let Some(gone) = last.strip_prefix(WHITEOUT_PREFIX) {
            match gone {
                b"" => return Err(Error::invalid("a whiteout of nothing")),
                b".wh..opq" => {
                    let what = "opaque directories do not exist on Windows";
                    return Err(Error::new(ErrorKind::Unsupported, what));
                }
                gone => names.push(name(gone)?),
            }
            return Ok(Self::Whiteout(ImagePath::from_names(names)));
        }
        let Some(colon) = last.iter().position(|byte| *byte == b':') else {
            names.push(name(last)?);
            return Ok(Self::Path(ImagePath::from_names(names)));
        };
        names.push(name(&last[..colon])?);
        let stream = stream(&last[colon + 1..])?;
        Ok(Self::Stream(ImagePath::from_names(names), stream))
    }
}

/// The path of a hard link's target, which may be absolute: the layer's root is meant.
pub(super) fn link_target(text: &[u8]) -> Result<ImagePath> {
    let names = components(text)?.into_iter().map(name).collect::<Result<Vec<_>>>()?;
    match names.is_empty() {
        true => Err(Error::invalid("a hard link to the root")),
        false => Ok(ImagePath::from_names(names)),
    }
}

fn components(text: &[u8]) -> Result<Vec<&[u8]>> {
    if text.len() > PATH_BYTES_MAX {
        let what = format!("a path of {} bytes", text.len());
        return Err(Error::new(ErrorKind::TooLarge, what));
    }
    let all = text.split(|byte| matches!(byte, b'/' | b'\\'));
    let components: Vec<_> = all.filter(|name| !matches!(*name, b"" | b".")).collect();
    match components.contains(&b"..".as_slice()) {
        true => Err(Error::invalid("the path has a \"..\"")),
        false => Ok(components),
    }
}

fn units(bytes: &[u8]) -> Result<Vec<u16>> {
    let what = || format!("the name \"{}\" is not UTF-8", bytes.escape_ascii());
    decode_wtf8(bytes).ok_or_else(|| Error::invalid(what()))
}

fn name(bytes: &[u8]) -> Result<Name> {
    let units = units(bytes)?;
    match name_fault(&units) {
        Some(fault) => {
            let shown = bytes[..bytes.len().min(300)].escape_ascii();
            Err(Error::invalid(format!("Windows has no such names: \"{shown}\" {fault}")))
        }
        None => Ok(Name::from_units(units)),
    }
}

/// A stream's name, with or without its type; the only one is data.
fn stream(bytes: &[u8]) -> Result<Name> {
    const SUFFIX: &[u8] = b":$DATA";
    let (head, tail) = bytes.split_at(bytes.len().saturating_sub(SUFFIX.len()));
    let bare = if tail.eq_ignore_ascii_case(SUFFIX) { head } else { bytes };
    let name = Name::from_units(units(bare)?);
    match name.fault() {
        Some(fault) => Err(Error::invalid(format!("the name {name:?} of a stream {fault}"))),
        None => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ImagePath {
        text.into()
    }

    #[test]
    fn names_are_taken_apart() {
        for (text, expected) in [
            ("Files", TarName::Path(path("Files"))),
            ("./Files/", TarName::Path(path("Files"))),
            ("Files//c", TarName::Path(path("Files/c"))),
            (r"Files\a\b", TarName::Path(path("Files/a/b"))),
            ("./", TarName::Path(ImagePath::ROOT)),
            ("Files/.wh.foo", TarName::Whiteout(path("Files/foo"))),
            ("Files/.wh.d/", TarName::Whiteout(path("Files/d"))),
            ("Files/.wh.x/y", TarName::Path(path("Files/.wh.x/y"))),
            ("Files/.WH.up", TarName::Path(path("Files/.WH.up"))),
            ("f:s", TarName::Stream(path("f"), "s".into())),
            ("d/f:s:$DATA", TarName::Stream(path("d/f"), "s".into())),
            ("d/f:s:$data", TarName::Stream(path("d/f"), "s".into())),
        ] {
            assert_eq!(TarName::read(text.as_bytes()).unwrap(), expected, "{text}");
        }
        let surrogate = TarName::read(b"a\xed\xa0\x80").unwrap();
        let name = Name::from_units([0x61, 0xD800]);
        assert_eq!(surrogate, TarName::Path(ImagePath::from_names(vec![name])));
        assert_eq!(link_target(b"/Files/f").unwrap(), path("Files/f"));
        assert_eq!(link_target(br".\Files\f").unwrap(), path("Files/f"));
    }

    #[test]
    fn names_that_are_refused() {
        for bad in [
            &b"/Files"[..],
            br"\Files",
            b"../evil",
            b"Files/x/../d",
            b"C:/x",
            b"a:b/c",
            b"f:s:$INDEX_ALLOCATION",
            b"f:",
            b"f::$DATA",
            b":s",
            b"f:s:t:$DATA",
            b"Files/.wh.",
            b"Files/\xe9",
            b"Files/a?",
            b"Files/a\x01",
        ] {
            let error = TarName::read(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{}", bad.escape_ascii());
        }
        let opaque = TarName::read(b"Files/.wh..wh..opq").unwrap_err();
        assert_eq!(opaque.kind(), ErrorKind::Unsupported);
        let long = [b'x'; PATH_BYTES_MAX + 1];
        assert_eq!(TarName::read(&long).unwrap_err().kind(), ErrorKind::TooLarge);
        assert!(link_target(b"/").is_err() && link_target(b"a/../b").is_err());
    }
}
