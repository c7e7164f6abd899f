//! Logs of what a guest can make grow: kept in a file up to a size, then moved aside once.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

/// Bytes of a log; as many again of the one before.
const MOST: u64 = 1 << 20;
/// Behind the name of the one before.
const BEFORE: &str = "old";

/// A log file that does not outgrow its bounds.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    most: u64,
}

impl Log {
    /// A new, empty one.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: File::create(path)?, length: 0, most: MOST })
    }

    /// Copies until the end, on the caller's thread. If the disk is full the log has a gap; the reading goes on, so
    /// that nobody waits for it.
    pub(super) fn take_from(mut self, mut from: impl Read) {
        let mut buffer = [0; 4096];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => drop(self.write(&buffer[..length])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.length + text.len() as u64 > self.most {
            let mut before = self.path.clone().into_os_string();
            before.push(format!(".{BEFORE}"));
            std::fs::rename(&self.path, before)?;
            self.file = File::create(&self.path)?;
            self.length = 0;
        }
        self.length += text.len() as u64;
        self.file.write_all(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_bounds_and_keeps_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = Log::create(&path).unwrap();
        log.most = 100;
        let text: Vec<u8> =
            (0..1000_u16).flat_map(|line| format!("{line:04}\n").into_bytes()).collect();
        for line in text.chunks(5) {
            log.write(line).unwrap();
        }
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let (now, before) = (read(&path), read(&directory.path().join("log.old")));
        assert!(now.len() <= 100 && before.len() <= 100);
        assert!(text.ends_with(format!("{before}{now}").as_bytes()));
    }
}
