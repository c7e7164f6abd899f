//! Symbolic links of Windows and of this system.

use layer::windows::ReparsePoint;

/// The target of a symbolic link or mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// As Windows shows it.
    pub(super) text: String,
    /// Whether it starts at the link's directory, or at the root of the same volume.
    pub(super) relative: bool,
}

impl Target {
    /// Of a whole reparse buffer; `None` if it is something else or malformed.
    pub(super) fn of(buffer: &[u8]) -> Option<Self> {
        let point = ReparsePoint::read(buffer).ok()?;
        let text = String::from_utf16_lossy(&point.target()?);
        let relative = match point {
            ReparsePoint::Symlink { relative, .. } => relative,
            ReparsePoint::LxSymlink(_) => !text.starts_with('/'),
            _ => false,
        };
        (!text.is_empty() && !text.contains('\0')).then_some(Self { text, relative })
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

    /// The buffer of a symbolic link to a path of this system; `None` if it is too long.
    pub(super) fn symlink(path: &str) -> Option<Vec<u8>> {
        let units: Vec<u16> = path.encode_utf16().collect();
        ReparsePoint::symlink(&units).write().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_go_there_and_back() {
        for path in ["a/b", "../x", "/Users/All Users", "ä"] {
            let target = Target::of(&Target::symlink(path).unwrap()).unwrap();
            assert_eq!(target.path(), path);
        }
        assert_eq!(Target::symlink(&"long".repeat(5000)), None);
    }

    #[test]
    fn drives_and_prefixes_go() {
        let units: Vec<u16> = "C:\\Users".encode_utf16().collect();
        let buffer = ReparsePoint::mount_point(&units).write().unwrap();
        let target = Target::of(&buffer).unwrap();
        assert_eq!((&*target.text, &*target.path()), ("C:\\Users", "/Users"));
        assert_eq!(Target::of(&buffer[..20]), None);
        assert_eq!(Target::of(&[]), None);
    }
}
