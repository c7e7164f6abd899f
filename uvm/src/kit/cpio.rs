//! The archive that a kernel unpacks as its first root: cpio in its "newc" form (initramfs buffer format of the
//! kernel's documentation; every number is eight hexadecimal digits).

use std::collections::BTreeSet;
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const SYMLINK: u32 = 0o120_777;
const REGULAR: u32 = 0o100_000;
const TRAILER: &str = "TRAILER!!!";

/// Writes one archive. Everything belongs to root and has no time, so that the same content is the same bytes.
pub(super) struct Cpio<W: Write> {
    to: W,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Cpio<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, inode: 0, directories: BTreeSet::new() }
    }

    /// A directory and those above it, each once.
    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, DIRECTORY, (0, 0), b"")
    }

    /// A file with its permission bits.
    pub(super) fn file(&mut self, path: &str, permissions: u32, data: &[u8]) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, REGULAR | permissions, (0, 0), data)
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, SYMLINK, (0, 0), target.as_bytes())
    }

    pub(super) fn character_device(&mut self, path: &str, number: (u32, u32)) -> io::Result<()> {
        self.parents(path)?;
        self.entry(path, CHARACTER_DEVICE, number, b"")
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry(TRAILER, 0, (0, 0), b"")?;
        Ok(self.to)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        let too_large =
            |_| io::Error::new(io::ErrorKind::FileTooLarge, "larger than an initramfs's file");
        let size = u32::try_from(data.len()).map_err(too_large)?;
        let name = u32::try_from(path.len() + 1).map_err(too_large)?;
        let links = 1;
        let (uid, gid, time, check) = (0, 0, 0, 0);
        let fields =
            [self.inode, mode, uid, gid, links, time, size, 0, 0, device.0, device.1, name, check];
        self.inode += 1;
        self.to.write_all(b"070701")?;
        for field in fields {
            write!(self.to, "{field:08x}")?;
        }
        self.to.write_all(path.as_bytes())?;
        self.to.write_all(b"\0")?;
        // The header has 110 bytes; name and data each end at a multiple of four.
        self.pad(110 + path.len() + 1)?;
        self.to.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.to.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn another_reader_finds_everything() {
        // An independent reader of the format.
        let mut cpio = Cpio::new(Vec::new());
        cpio.file("lib/a/x", 0o755, b"hello").unwrap();
        cpio.file("lib/a/y", 0o644, b"").unwrap();
        cpio.symlink("bin", "usr/bin").unwrap();
        let archive = cpio.finish().unwrap();
        assert_eq!(archive.len() % 4, 0);
        let reader = "import sys\nd=sys.stdin.buffer.read();o=0\nwhile True:\n n=int(d[o+94:o+102],16);s=int(d[o+54:o+62],16);m=int(d[o+14:o+22],16)\n name=d[o+110:o+109+n].decode();b=(o+110+n+3)//4*4\n if name=='TRAILER!!!':break\n print(oct(m),name,d[b:b+s].decode());o=(b+s+3)//4*4\n";
        let mut child = Command::new("python3")
            .args(["-c", reader])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&archive).unwrap();
        let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(
            text,
            "0o40755 lib \n0o40755 lib/a \n0o100755 lib/a/x hello\n0o100644 lib/a/y \n0o120777 bin usr/bin\n"
        );
    }
}
