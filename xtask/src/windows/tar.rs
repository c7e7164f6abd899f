//! Layer tars as Microsoft's exporter writes them: PAX always, one `x` header an entry with sorted keys, no trailing
//! slash, file type bits in the mode, two zero blocks at the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// Directory, hidden and so on, as Windows numbers them.
pub(super) mod attribute {
    pub(crate) const READONLY: u32 = 0x1;
    pub(crate) const HIDDEN: u32 = 0x2;
    pub(crate) const SYSTEM: u32 = 0x4;
    pub(crate) const DIRECTORY: u32 = 0x10;
    pub(crate) const ARCHIVE: u32 = 0x20;
    pub(crate) const REPARSE_POINT: u32 = 0x400;
    pub(crate) const NOT_CONTENT_INDEXED: u32 = 0x2000;
}

/// What an entry carries beside its data.
#[derive(Debug, Clone, Default)]
pub(super) struct Meta {
    pub(super) attributes: u32,
    /// Self-relative security descriptor.
    pub(super) descriptor: Option<Vec<u8>>,
    /// Extended attributes by name.
    pub(super) eas: BTreeMap<String, Vec<u8>>,
}

/// A layer tar being written.
pub(super) struct WindowsTar {
    out: BufWriter<File>,
    /// Names written so far.
    pub(super) entries: u64,
}

const BLOCK: u64 = 512;

/// What the exporter writes into the mode field.
const DIRECTORY_MODE: u32 = 0o40_000;
const FILE_MODE: u32 = 0o100_000;
const LINK_MODE: u32 = 0o120_000;
const DIRECTORY_LINK_MODE: u32 = 0o160_000;
const HARD_LINK_MODE: u32 = 0o644;

impl WindowsTar {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { out: BufWriter::with_capacity(1 << 20, file), entries: 0 })
    }

    pub(super) fn directory(&mut self, name: &str, meta: &Meta) -> Result<()> {
        self.entry(name, b'5', DIRECTORY_MODE, "", 0, records(name, meta))
    }

    /// A file of `size` bytes, and its alternate streams right behind it.
    pub(super) fn file(
        &mut self,
        name: &str,
        meta: &Meta,
        size: u64,
        data: impl Read,
    ) -> Result<()> {
        self.entry(name, b'0', FILE_MODE, "", size, records(name, meta))?;
        self.body(size, data).with_context(|| format!("cannot add {name}"))
    }

    /// A stream of the file or directory that was added last.
    pub(super) fn stream(&mut self, owner: &str, stream: &str, data: &[u8]) -> Result<()> {
        let size = data.len() as u64;
        let times = Times::of(owner);
        let records = BTreeMap::from([
            ("atime".to_owned(), times.access),
            ("ctime".to_owned(), times.change),
            ("mtime".to_owned(), times.write),
        ]);
        self.entry(&format!("{owner}:{stream}"), b'0', FILE_MODE, "", size, records)?;
        self.body(size, data).with_context(|| format!("cannot add {owner}:{stream}"))
    }

    /// A symbolic link; `meta` says whether to a directory.
    pub(super) fn symlink(&mut self, name: &str, meta: &Meta, target: &str) -> Result<()> {
        let to_directory = meta.attributes & attribute::DIRECTORY != 0;
        let mode = if to_directory { DIRECTORY_LINK_MODE } else { LINK_MODE };
        self.entry(name, b'2', mode, target, 0, records(name, meta))
    }

    /// A mount point whose target is a directory.
    pub(super) fn junction(&mut self, name: &str, meta: &Meta, target: &str) -> Result<()> {
        let mut records = records(name, meta);
        records.insert("MSWINDOWS.mountpoint".to_owned(), "1".to_owned());
        self.entry(name, b'2', DIRECTORY_LINK_MODE, target, 0, records)
    }

    /// Another name of a file that an earlier entry, here or in a parent, has brought.
    pub(super) fn hard_link(&mut self, name: &str, meta: &Meta, target: &str) -> Result<()> {
        let bare = Meta { attributes: meta.attributes, ..Meta::default() };
        self.entry(name, b'1', HARD_LINK_MODE, target, 0, records(target, &bare))
    }

    /// The only entry without a PAX header.
    pub(super) fn whiteout(&mut self, directory: &str, name: &str) -> Result<()> {
        let name = format!("{directory}/.wh.{name}");
        self.entry(&name, b'0', 0, "", 0, BTreeMap::new())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.out.write_all(&[0; 2 * BLOCK as usize]).context("cannot end the tar")?;
        self.out.flush().context("cannot end the tar")
    }

    fn entry(
        &mut self,
        name: &str,
        kind: u8,
        mode: u32,
        link: &str,
        size: u64,
        mut records: BTreeMap<String, String>,
    ) -> Result<()> {
        self.entries += 1;
        for (key, value) in [("path", name), ("linkpath", link)] {
            if value.len() > 100 || !value.is_ascii() {
                records.insert(key.to_owned(), value.to_owned());
            }
        }
        let doing = || format!("cannot add {name}");
        if !records.is_empty() {
            let body: Vec<u8> =
                records.iter().flat_map(|(key, value)| record(key, value)).collect();
            let header = header(&pax_name(name), b'x', 0, "", body.len() as u64);
            self.out.write_all(&header).with_context(doing)?;
            self.body(body.len() as u64, &body[..]).with_context(doing)?;
        }
        self.out.write_all(&header(name, kind, mode, link, size)).with_context(doing)
    }

    fn body(&mut self, size: u64, data: impl Read) -> io::Result<()> {
        let written = io::copy(&mut data.take(size), &mut self.out)?;
        if written != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the data is too short"));
        }
        let padding = size.next_multiple_of(BLOCK) - size;
        io::copy(&mut io::repeat(0).take(padding), &mut self.out).map(drop)
    }
}

/// The keys of an entry that is described in full.
fn records(name: &str, meta: &Meta) -> BTreeMap<String, String> {
    let times = Times::of(name);
    let mut records = BTreeMap::from([
        ("LIBARCHIVE.creationtime".to_owned(), times.creation),
        ("MSWINDOWS.fileattr".to_owned(), meta.attributes.to_string()),
        ("atime".to_owned(), times.access),
        ("ctime".to_owned(), times.change),
        ("mtime".to_owned(), times.write),
    ]);
    if let Some(descriptor) = &meta.descriptor {
        records.insert("MSWINDOWS.rawsd".to_owned(), base64(descriptor));
    }
    for (name, value) in &meta.eas {
        records.insert(format!("MSWINDOWS.xattr.{name}"), base64(value));
    }
    records
}

/// Four times in PAX's form, made of a name so that they differ and yet are the same in every run.
struct Times {
    creation: String,
    access: String,
    write: String,
    change: String,
}

impl Times {
    fn of(name: &str) -> Self {
        let seed = fnv(name);
        // Within two years from 2023-01-01, in units of 100 ns.
        let at = |salt: u64| {
            let ticks = (seed ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) % 630_720_000_000_000;
            let text = format!("{}.{:07}", 1_672_531_200 + ticks / 10_000_000, ticks % 10_000_000);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        Self { creation: at(1), access: at(2), write: at(3), change: at(4) }
    }
}

/// FNV-1a.
pub(super) fn fnv(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// `LENGTH KEY=VALUE\n`, the length counting itself.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

/// As Go's tar names the headers that carry PAX records.
fn pax_name(name: &str) -> String {
    match name.rsplit_once('/') {
        Some((directory, base)) => format!("{directory}/PaxHeaders.0/{base}"),
        None => format!("PaxHeaders.0/{name}"),
    }
}

fn header(name: &str, kind: u8, mode: u32, link: &str, size: u64) -> [u8; BLOCK as usize] {
    let mut header = [0; BLOCK as usize];
    put(&mut header, 0, &ascii(name));
    put(&mut header, 100, format!("{mode:07o}\0").as_bytes());
    put(&mut header, 108, b"0000000\0");
    put(&mut header, 116, b"0000000\0");
    put(&mut header, 124, format!("{size:011o}\0").as_bytes());
    put(&mut header, 136, b"00000000000\0");
    header[156] = kind;
    put(&mut header, 157, &ascii(link));
    put(&mut header, 257, b"ustar\x0000");
    if kind != b'x' {
        put(&mut header, 329, b"0000000\0");
        put(&mut header, 337, b"0000000\0");
    }
    put(&mut header, 148, b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
    header
}

fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

/// What remains of a name where only ASCII and 100 bytes have room.
fn ascii(name: &str) -> Vec<u8> {
    name.bytes().filter(u8::is_ascii).take(100).collect()
}

/// RFC 4648, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_usize, |word, byte| word << 8 | usize::from(*byte));
        let word = word << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let shown = digit <= chunk.len();
            let index = word >> (18 - 6 * digit) & 63;
            text.push(if shown { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        let of = |text: &str| base64(text.as_bytes());
        assert_eq!([of(""), of("f"), of("fo"), of("foo")], ["", "Zg==", "Zm8=", "Zm9v"]);
        assert_eq!(of("foobar"), "Zm9vYmFy");
    }

    #[test]
    fn a_records_length_counts_itself() {
        assert_eq!(record("a", "b"), b"6 a=b\n");
        let lengths = [92, 93, 94].map(|length| record("k", &"v".repeat(length)).len());
        assert_eq!(lengths, [98, 99, 101]);
        assert!(record("k", &"v".repeat(94)).starts_with(b"101 k=v"));
    }
}
