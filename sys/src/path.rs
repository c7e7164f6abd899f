//! Paths as bytes, for records that any system can read.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;
mod wtf8;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::PathBuf;

#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(windows)]
use windows as imp;

/// A path's bytes: on Linux the path itself, on Windows UTF-8 in which an unpaired surrogate has three bytes too (WTF-8).
pub fn bytes<P: AsRef<OsStr> + ?Sized>(path: &P) -> Cow<'_, [u8]> {
    imp::bytes(path.as_ref())
}

/// The path of which [`bytes`] made these; `None` if it cannot have made them, which only Windows knows.
pub fn from_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    imp::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_path_comes_back_from_its_bytes() {
        for text in ["", "a", "/a/b", r"C:\Users\é", r"\\?\Volume{0}\", "日本\u{1F980}"] {
            let there = bytes(Path::new(text)).into_owned();
            assert_eq!(there, text.as_bytes());
            assert_eq!(from_bytes(there), Some(PathBuf::from(text)));
        }
    }
}
