//! What a reparse buffer leads to.

use cimfs::format::{TAG_MOUNT_POINT, TAG_SYMLINK};

/// The target of a symbolic link or mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// As Windows shows it.
    pub(super) text: String,
    /// Whether it starts at the link's directory.
    pub(super) relative: bool,
}

impl Target {
    /// Of a whole reparse buffer; `None` if it is something else or malformed.
    pub(super) fn of(buffer: &[u8]) -> Option<Self> {
        let (header, data) = buffer.split_first_chunk::<8>()?;
        let tag = u32::from_le_bytes(*header.first_chunk()?);
        let (names, rest) = data.split_first_chunk::<8>()?;
        let field = |at: usize| usize::from(u16::from_le_bytes([names[at], names[at + 1]]));
        let (flags, text) = match tag {
            TAG_SYMLINK => {
                let (flags, text) = rest.split_first_chunk::<4>()?;
                (u32::from_le_bytes(*flags), text)
            }
            TAG_MOUNT_POINT => (0, rest),
            _ => return None,
        };
        let name = |offset: usize, length: usize| {
            let bytes = text.get(offset..offset.checked_add(length)?)?;
            let units: Vec<u16> =
                bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
            Some(String::from_utf16_lossy(&units))
        };
        let substitute = name(field(0), field(2))?;
        let print = name(field(4), field(6))?;
        let text = match print.is_empty() {
            true => substitute.strip_prefix("\\??\\").unwrap_or(&substitute).to_owned(),
            false => print,
        };
        (!text.is_empty()).then_some(Self { text, relative: flags & 1 != 0 })
    }

    /// The target of a symbolic link of this system: without a drive, with `/`.
    pub(super) fn path(&self) -> String {
        let text = self.text.strip_prefix("\\??\\").unwrap_or(&self.text);
        let bytes = text.as_bytes();
        let drive =
            bytes.first().is_some_and(u8::is_ascii_alphabetic) && bytes.get(1) == Some(&b':');
        let path = text.get(2..).filter(|_| drive).unwrap_or(text).replace('\\', "/");
        match (self.relative, path.starts_with('/')) {
            (false, false) => format!("/{path}"),
            _ => path,
        }
    }

    /// The buffer of a symbolic link to a path of this system.
    pub(super) fn symlink(path: &str) -> Option<Vec<u8>> {
        let relative = !path.starts_with('/');
        let text = path.replace('/', "\\");
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let length = u16::try_from(units.len()).ok()?;
        let data = 12 + u16::try_from(2 * units.len()).ok()?;
        let mut buffer = TAG_SYMLINK.to_le_bytes().to_vec();
        for field in [data, 0, 0, length, length, length] {
            buffer.extend_from_slice(&field.to_le_bytes());
        }
        buffer.extend_from_slice(&u32::from(relative).to_le_bytes());
        buffer.extend_from_slice(&units);
        buffer.extend_from_slice(&units);
        Some(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_go_there_and_back() {
        for path in ["a/b", "../x", "/Users/All Users", "ä"] {
            let target = Target::of(&Target::symlink(path).unwrap()).unwrap();
            assert_eq!((target.path(), target.relative), (path.into(), !path.starts_with('/')));
        }
    }

    #[test]
    fn drives_and_prefixes_go() {
        let mut buffer = TAG_MOUNT_POINT.to_le_bytes().to_vec();
        let text: Vec<u8> = "\\??\\C:\\Users".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let length = u16::try_from(text.len()).unwrap();
        for field in [12, 0, 0, length, length, 0] {
            buffer.extend_from_slice(&field.to_le_bytes());
        }
        buffer.extend_from_slice(&text);
        let target = Target::of(&buffer).unwrap();
        assert_eq!((&*target.text, &*target.path()), ("C:\\Users", "/Users"));
        for cut in 0..buffer.len() {
            assert_eq!(Target::of(&buffer[..cut]), None, "{cut}");
        }
    }
}
