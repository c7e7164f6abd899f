//! Tars built header by header, and images taken apart again.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part")]

#[cfg(target_os = "linux")]
pub mod host;
pub mod trees;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use erofs::format::FileType;
use erofs::{Image, Nid};
use layer::{Cancel, Error, LayerImage, LayerOptions, write_layer_image};

/// One header block; the checksum is computed when it is added to a tar.
pub struct Header(pub [u8; 512]);

impl Header {
    /// A ustar header, 0644, 0:0, time 0.
    pub fn new(name: &[u8], flag: u8, size: u64) -> Self {
        let mut header = Self([0; 512]);
        header.bytes(0, name);
        header.octal(100, 8, 0o644);
        header.octal(108, 8, 0);
        header.octal(116, 8, 0);
        header.octal(124, 12, size);
        header.octal(136, 12, 0);
        header.0[156] = flag;
        header.bytes(257, b"ustar\x0000");
        header.octal(329, 8, 0);
        header.octal(337, 8, 0);
        header
    }

    pub fn bytes(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn octal(&mut self, at: usize, length: usize, value: u64) -> &mut Self {
        let digits = format!("{value:0width$o}", width = length - 1);
        assert_eq!(digits.len(), length - 1);
        self.bytes(at, digits.as_bytes())
    }

    pub fn link(mut self, target: &[u8]) -> Self {
        self.bytes(157, target);
        self
    }

    pub fn mode(mut self, mode: u64) -> Self {
        self.octal(100, 8, mode);
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.octal(108, 8, uid).octal(116, 8, gid);
        self
    }

    pub fn mtime(mut self, seconds: u64) -> Self {
        self.octal(136, 12, seconds);
        self
    }

    pub fn device(mut self, major: u64, minor: u64) -> Self {
        self.octal(329, 8, major).octal(337, 8, minor);
        self
    }

    fn sealed(mut self) -> [u8; 512] {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.bytes(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

/// A tar, entry by entry.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn add(mut self, header: Header, data: &[u8]) -> Self {
        self.0.extend_from_slice(&header.sealed());
        self.raw(data)
    }

    /// Bytes, padded to a block.
    pub fn raw(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &[u8], data: &[u8]) -> Self {
        self.add(Header::new(name, b'0', data.len() as u64), data)
    }

    pub fn dir(self, name: &[u8]) -> Self {
        self.add(Header::new(name, b'5', 0).mode(0o755), b"")
    }

    pub fn hard_link(self, name: &[u8], target: &[u8]) -> Self {
        self.add(Header::new(name, b'1', 0).link(target), b"")
    }

    pub fn symlink(self, name: &[u8], target: &[u8]) -> Self {
        self.add(Header::new(name, b'2', 0).mode(0o777).link(target), b"")
    }

    /// Extended records for the next entry.
    pub fn pax(self, records: &[(&[u8], &[u8])]) -> Self {
        let body = pax_body(records);
        self.add(Header::new(b"pax", b'x', body.len() as u64), &body)
    }

    /// Extended records for all following entries.
    pub fn global(self, records: &[(&[u8], &[u8])]) -> Self {
        let body = pax_body(records);
        self.add(Header::new(b"pax", b'g', body.len() as u64), &body)
    }

    /// With the end mark.
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub fn pax_body(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|length| rest + length.to_string().len() == *length);
        write!(PlainText(&mut body), "{} ", length.unwrap()).unwrap();
        body.extend_from_slice(&[key, b"=".as_slice(), value, b"\n"].concat());
    }
    body
}

struct PlainText<'v>(&'v mut Vec<u8>);

impl std::fmt::Write for PlainText<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// An image and what was said about it.
pub struct Made {
    pub report: LayerImage,
    pub bytes: Vec<u8>,
}

pub fn make_from(source: impl Read + Send, options: &LayerOptions) -> Result<Made, Error> {
    let file = tempfile::tempfile().unwrap();
    let report = write_layer_image(source, &file, options, None, &(), &Cancel::new())?;
    Ok(Made { report, bytes: contents(&file) })
}

pub fn make(tar: &[u8]) -> Result<Made, Error> {
    make_from(tar, &LayerOptions::default())
}

pub fn contents(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Every path of an image with everything about it, and the names of one inode as `= first name`.
pub type Listing = BTreeMap<String, String>;

pub fn list(bytes: &[u8]) -> Listing {
    let image = Image::open(bytes).unwrap();
    image.verify_checksum().unwrap();
    let report = erofs::check(&image);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    list_image(&image)
}

pub fn list_image<R: erofs::ReadAt>(image: &Image<R>) -> Listing {
    let mut listing = Listing::new();
    let mut names = BTreeMap::new();
    list_below(image, image.root(), "", &mut names, &mut listing);
    listing
}

fn list_below<R: erofs::ReadAt>(
    image: &Image<R>,
    nid: Nid,
    path: &str,
    names: &mut BTreeMap<Nid, String>,
    listing: &mut Listing,
) {
    let inode = image.inode(nid).unwrap();
    let kind = match inode.file_type {
        FileType::Regular => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::Unknown => '?',
    };
    let mut text = format!(
        "{kind} {:o} {}:{} {}",
        inode.permissions, inode.uid, inode.gid, inode.mtime.seconds
    );
    if inode.mtime.nanoseconds != 0 {
        write!(text, ".{:09}", inode.mtime.nanoseconds).unwrap();
    }
    match inode.file_type {
        FileType::Regular => {
            let mut data = Vec::new();
            image.reader(&inode).read_to_end(&mut data).unwrap();
            if data.len() <= 40 {
                write!(text, " \"{}\"", data.escape_ascii()).unwrap();
            } else {
                write!(text, " {} bytes {}", data.len(), layer::Digest::of(&data).hex()).unwrap();
            }
        }
        FileType::Symlink => {
            write!(text, " -> {}", image.read_link(&inode).unwrap().escape_ascii()).unwrap();
        }
        FileType::CharDevice | FileType::BlockDevice => {
            let number = inode.device_number;
            write!(text, " {},{}", number.major, number.minor).unwrap();
        }
        _ => {}
    }
    for xattr in image.xattrs(&inode).unwrap() {
        let (name, value) = (xattr.name.escape_ascii(), xattr.value.escape_ascii());
        write!(text, " {name}=\"{value}\"").unwrap();
    }
    if inode.is_dir() {
        for entry in image.read_dir(&inode).unwrap() {
            let path = format!("{path}/{}", entry.name.escape_ascii());
            list_below(image, entry.nid, &path, names, listing);
        }
    } else if let Some(first) = names.get(&nid) {
        text = format!("= {first}");
    } else {
        names.insert(nid, path.to_owned());
    }
    listing.insert(if path.is_empty() { "/".to_owned() } else { path.to_owned() }, text);
}

/// Compares a listing without the root with the expected lines `PATH: TEXT`.
#[track_caller]
pub fn expect(bytes: &[u8], lines: &[&str]) {
    let listing = list(bytes);
    let found: Vec<String> = listing
        .iter()
        .filter(|(path, _)| *path != "/")
        .map(|(path, text)| format!("{path}: {text}"))
        .collect();
    assert_eq!(found, lines);
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::new(1));
    let mut compressed = Vec::new();
    encoder.read_to_end(&mut compressed).unwrap();
    compressed
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

/// Bytes that do not repeat soon and do not compress well.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(length)
    .collect()
}
