//! Layers into streams and back, against vectors of windows-layer-tar.md 9.4, 13 and 14.

use std::collections::BTreeMap;
use std::io::Cursor;

use cimfs::ImagePath;

use super::*;
use crate::error::{Error, ErrorKind};
use crate::layer_image::LayerOptions;
use crate::progress::Cancel;
use crate::tar::{PaxEntry, PaxWriter};

/// Keeps what comes.
#[derive(Debug, Default)]
struct Kept {
    files: Vec<(String, bool, FolderBasics, Vec<u8>)>,
    open: bool,
    links: Vec<(String, String)>,
    gone: Vec<String>,
    /// The call that fails.
    fails_at: Option<usize>,
    calls: usize,
}

impl Kept {
    fn step(&mut self) -> crate::Result<()> {
        self.calls += 1;
        match self.fails_at == Some(self.calls) {
            true => Err(Error::new(ErrorKind::NoSpace, "full")),
            false => Ok(()),
        }
    }

    fn stream(&self, path: &str) -> &[u8] {
        &self.files.iter().find(|file| file.0 == path).unwrap().3
    }
}

impl LayerFolder for Kept {
    fn begin(&mut self, entry: &FolderEntry<'_>) -> crate::Result<()> {
        self.step()?;
        assert!(!std::mem::replace(&mut self.open, true), "one after the other");
        let path = entry.path.to_string();
        self.files.push((path, entry.directory, entry.basics, Vec::new()));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> crate::Result<()> {
        assert!(self.open);
        self.files.last_mut().unwrap().3.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> crate::Result<()> {
        self.step()?;
        assert!(std::mem::replace(&mut self.open, false));
        Ok(())
    }

    fn link(&mut self, path: &ImagePath, target: &ImagePath) -> crate::Result<()> {
        assert!(!self.open);
        self.step()?;
        self.links.push((path.to_string(), target.to_string()));
        Ok(())
    }

    fn whiteout(&mut self, path: &ImagePath) -> crate::Result<()> {
        assert!(!self.open);
        self.step()?;
        self.gone.push(path.to_string());
        Ok(())
    }
}

/// `O:BUG:BU` (9.4).
const SD: &str = "AQAAgBQAAAAkAAAAAAAAAAAAAAABAgAAAAAABSAAAAAhAgAAAQIAAAAAAAUgAAAAIQIAAA==";

struct Tar(PaxWriter<Vec<u8>>);

impl Tar {
    fn new(roots: &[&str]) -> Self {
        let mut tar = Self(PaxWriter::new(Vec::new()));
        roots.iter().for_each(|root| tar.add(root, b'5', "", "", &[]));
        tar
    }

    fn add(&mut self, path: &str, flag: u8, link: &str, data: &str, records: &[(&str, &str)]) {
        let attributes = ("MSWINDOWS.fileattr", if flag == b'5' { "16" } else { "32" });
        let mut all = BTreeMap::new();
        for (key, value) in [attributes].iter().chain(records) {
            all.insert(key.as_bytes().to_vec(), value.as_bytes().to_vec());
        }
        let entry = PaxEntry {
            path: path.into(),
            link: link.into(),
            flag,
            size: data.len() as u64,
            mtime: 1_705_320_000,
            records: all,
            ..PaxEntry::default()
        };
        self.0.entry(entry).unwrap();
        self.0.data(data.as_bytes()).unwrap();
    }

    fn unpacked(self, is_base: bool) -> crate::Result<Kept> {
        let tar = self.0.finish().unwrap();
        let mut kept = Kept::default();
        let (options, cancel) = (LayerOptions::default(), Cancel::new());
        unpack_windows_layer(tar.as_slice(), &mut kept, is_base, &options, &(), &cancel)?;
        assert!(!kept.open);
        Ok(kept)
    }
}

fn header(id: u8, size: u8, name: &str) -> Vec<u8> {
    let length = 2 * u8::try_from(name.len()).unwrap();
    let fixed = [id, 0, 0, 0, 0, 0, 0, 0, size, 0, 0, 0, 0, 0, 0, 0, length, 0, 0, 0];
    let name = name.encode_utf16().flat_map(u16::to_le_bytes);
    fixed.into_iter().chain(name).collect()
}

#[test]
fn an_objects_stream_is_security_attributes_links_data_and_streams() {
    let mut tar = Tar::new(&["Files"]);
    let records = [("MSWINDOWS.rawsd", SD), ("MSWINDOWS.xattr.FOO", "AQID")];
    tar.add("Files/f", b'0', "", "hi", &records);
    tar.add("Files/f:s", b'0', "", "x", &[]);
    let link = [("MSWINDOWS.rawsd", SD), ("MSWINDOWS.fileattr", "1056")];
    tar.add("Files/l", b'2', "a.txt", "", &link);
    tar.add("Files/h", b'1', "Files/f", "", &[]);
    let kept = tar.unpacked(true).unwrap();
    let sd = crate::windows::base64::decode(SD.as_bytes()).unwrap();
    assert_eq!(sd.len(), 52);
    let ea = b"\0\0\0\0\0\x03\x03\0FOO\0\x01\x02\x03\0".to_vec();
    let expected = [
        header(3, 52, ""),
        sd.clone(),
        header(2, 16, ""),
        ea,
        header(1, 2, ""),
        b"hi".to_vec(),
        header(4, 1, ":s:$DATA"),
        b"x".to_vec(),
    ];
    assert_eq!(kept.stream(r"\Files\f"), expected.concat());
    // Vector of section 14: a symbolic link to a.txt has 44 bytes.
    let link = kept.stream(r"\Files\l");
    assert_eq!(link[..72], [header(3, 52, ""), sd].concat());
    assert_eq!(link[72..92], header(8, 44, ""));
    assert_eq!(link[92..104], [0x0C, 0, 0, 0xA0, 0x24, 0, 0, 0, 0, 0, 0x0A, 0]);
    assert_eq!(link.len(), 92 + 44);
    assert_eq!(kept.links, [(r"\Files\h".to_owned(), r"\Files\f".to_owned())]);
    let basics = kept.files[1].2;
    assert_eq!(basics.last_write_time.0, 133_497_936_000_000_000, "windows-layer-tar.md 19, 1");
    assert_eq!((basics.attributes, kept.files[2].2.attributes), (0x20, 0x420));
}

#[test]
fn what_has_no_security_gets_some_but_for_directories_that_are_below() {
    let layer = || {
        let mut tar = Tar::new(&["Files"]);
        tar.add("Files/f", b'0', "", "", &[]);
        tar
    };
    let lengths = |kept: &Kept| {
        let starts_with = |stream: &[u8]| stream.first() == Some(&3);
        (starts_with(kept.stream(r"\Files")), starts_with(kept.stream(r"\Files\f")))
    };
    assert_eq!(lengths(&layer().unpacked(true).unwrap()), (true, true));
    assert_eq!(lengths(&layer().unpacked(false).unwrap()), (false, true));
}

#[test]
fn what_is_no_layer_or_leads_out_of_it_is_refused() {
    type Change = fn(&mut Tar);
    let cases: [(bool, Change, &str); 14] = [
        (true, |tar| tar.add("Files/.wh.x", b'0', "", "", &[]), "cannot delete"),
        (true, |tar| tar.add("Hives", b'5', "", "", &[]), "no Hives"),
        (false, |tar| tar.add("etc", b'5', "", "", &[]), "nothing but Files"),
        (false, |tar| tar.add("Files/a/b", b'0', "", "", &[]), "no directory"),
        (false, |tar| tar.add("Files/../b", b'0', "", "", &[]), ".."),
        (false, |tar| tar.add("Files/d:s", b'0', "", "", &[]), "follow its file"),
        (false, |tar| tar.add("Hives/.wh.x", b'0', "", "", &[]), "outside of Files"),
        (false, |tar| tar.add(".wh.Files", b'0', "", "", &[]), "outside of Files"),
        (false, |tar| tar.add("Files/p", b'3', "", "", &[]), "devices"),
        (false, |tar| tar.add("Files/.wh..wh..opq", b'0', "", "", &[]), "opaque"),
        (
            false,
            |tar| {
                tar.add("Files/x", b'0', "", "", &[]);
                tar.add("Files/X", b'0', "", "", &[]);
            },
            "twice",
        ),
        (
            false,
            |tar| {
                tar.add("Files/x", b'0', "", "", &[]);
                tar.add("Files/.wh.x", b'0', "", "", &[]);
            },
            "added before",
        ),
        (
            false,
            |tar| {
                tar.add("Files/.wh.x", b'0', "", "", &[]);
                tar.add("Files/x", b'0', "", "", &[]);
            },
            "twice",
        ),
        (
            false,
            |tar| {
                let directory = [("MSWINDOWS.fileattr", "1040")];
                tar.add("Files/l", b'2', r"C:\Windows", "", &directory);
                tar.add("Files/l/evil", b'0', "", "", &[]);
            },
            "leads elsewhere",
        ),
    ];
    for (is_base, change, reason) in cases {
        let mut tar = Tar::new(if is_base { &["Files"] } else { &["Files", "Hives"] });
        change(&mut tar);
        let error = tar.unpacked(is_base).unwrap_err();
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
    let linux = Tar::new(&[]).unpacked(true).unwrap_err();
    assert!(linux.to_string().contains("no layer for Windows"), "{linux}");
}

#[test]
fn a_folder_that_fails_ends_it_at_every_step() {
    let layer = || {
        let mut tar = Tar::new(&["Files"]);
        tar.add("Files/f", b'0', "", "text", &[]);
        tar.add("Files/h", b'1', "Files/f", "", &[]);
        tar.add("Files/.wh.gone", b'0', "", "", &[]);
        tar.0.finish().unwrap()
    };
    for step in 1..=6 {
        let mut kept = Kept { fails_at: Some(step), ..Kept::default() };
        let (options, cancel) = (LayerOptions::default(), Cancel::new());
        let tar = layer();
        let failed = unpack_windows_layer(tar.as_slice(), &mut kept, false, &options, &(), &cancel);
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::NoSpace, "{step}");
        assert_eq!(kept.calls, step);
    }
}

#[test]
fn what_is_unpacked_is_packed_again() {
    let mut tar = Tar::new(&["Files"]);
    let records = [
        ("MSWINDOWS.rawsd", SD),
        ("MSWINDOWS.xattr.FOO", "AQID"),
        ("LIBARCHIVE.creationtime", "1.5"),
        ("atime", "2"),
        ("ctime", "3.0000001"),
        ("mtime", "1705320000.1234567"),
    ];
    tar.add("Files/f", b'0', "", "content", &records);
    tar.add("Files/f:s", b'0', "", "stream", &[]);
    tar.add("Files/f:t", b'0', "", "", &[]);
    tar.add("Files/e", b'0', "", "", &[("MSWINDOWS.rawsd", SD)]);
    let link = [("MSWINDOWS.rawsd", SD), ("MSWINDOWS.mountpoint", "1")];
    tar.add("Files/j", b'2', r"C:\Windows", "", &link);
    let first = tar.unpacked(true).unwrap();

    let mut output = Vec::new();
    let mut tar = FolderTar::new(&mut output);
    for (path, _, basics, stream) in &first.files {
        let path = path[1..].replace('\\', "/");
        tar.add(&path, basics, None, &mut || Ok(Cursor::new(stream.clone()))).unwrap();
    }
    let written = tar.finish().unwrap();
    assert_eq!((written.entries, written.size), (6, output.len() as u64));
    let mut second = Kept::default();
    let (options, cancel) = (LayerOptions::default(), Cancel::new());
    unpack_windows_layer(output.as_slice(), &mut second, true, &options, &(), &cancel).unwrap();
    assert_eq!(second.files, first.files);
}

#[test]
fn holes_links_and_whiteouts_are_written() {
    // A sparse file as BackupRead gives it (13): no data, blocks with offsets, a terminator.
    let mut block = header(9, 12, "");
    block.extend_from_slice(&4_u64.to_le_bytes());
    block.extend_from_slice(b"data");
    let mut end = header(9, 8, "");
    end.extend_from_slice(&10_u64.to_le_bytes());
    let stream = [header(1, 0, ""), block, end].concat();
    let mut output = Vec::new();
    let mut tar = FolderTar::new(&mut output);
    let basics = FolderBasics { attributes: 0x220, ..FolderBasics::default() };
    let mut open = || Ok(Cursor::new(stream.clone()));
    tar.add("Files/s", &basics, Some(7), &mut open).unwrap();
    tar.add("Files/t", &basics, Some(7), &mut open).unwrap();
    tar.whiteout("Files/gone").unwrap();
    assert!(tar.whiteout("Files/").is_err());
    let written = tar.finish().unwrap();
    assert_eq!((written.entries, written.whiteouts), (3, 1));
    let mut reader = crate::tar::Reader::of_windows(output.as_slice());
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let path = String::from_utf8(entry.path.clone()).unwrap();
        found.push((path, format!("{:?}", entry.kind)));
    }
    assert_eq!(found[0].0, "Files/s");
    assert!(found[0].1.contains("size: 10"), "{found:?}");
    assert!(found[1].1.starts_with("HardLink"), "{found:?}");
    assert_eq!(found[2].0, "Files/.wh.gone");
    let zeros = [&[0; 4][..], b"data", &[0; 2]].concat();
    assert!(output.windows(10).any(|window| window == zeros));
    // Lies about lengths are found.
    for stream in [
        header(9, 3, ""),
        [header(1, 4, ""), b"xy".to_vec()].concat(),
        [header(4, 1, "s"), b"x".to_vec()].concat(),
        [header(9, 8, ""), vec![0xFF; 8], header(9, 9, ""), vec![0xFF; 9]].concat(),
    ] {
        let mut tar = FolderTar::new(Vec::new());
        let added = tar.add("Files/f", &basics, None, &mut || Ok(Cursor::new(stream.clone())));
        assert_eq!(added.unwrap_err().kind(), ErrorKind::Corrupt, "{stream:?}");
    }
}
