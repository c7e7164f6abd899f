//! The console's log: what the guest's kernel and agent say before there is anything else.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Bytes of it that an error shows.
const TAIL: u64 = 2048;

/// The last lines, with what would act on a terminal taken out; empty if there are none.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut text = Vec::new();
        file.take(TAIL).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    let plain = String::from_utf8_lossy(&text);
    let plain: String = plain.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    plain.trim().to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_tail_is_the_end_and_harmless() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{}\r\n\x1b[2Jend\x07\r\n", "x".repeat(5000))).unwrap();
        let tail = super::tail(file.path());
        assert!(tail.len() < 2048 && tail.ends_with("x\n[2Jend"), "{tail}");
        assert_eq!(super::tail(std::path::Path::new("/nowhere")), "");
    }
}
