//! The bytes of exported tars.

use cimfs::{FileFlags, FileTime, Guid, ImageWriter, MemorySet, Metadata, Name, WriterOptions};
use layer::ErrorKind;
use layer::windows::{ReparsePoint, parse_time};

use crate::fixture::{differences, export, import, tree};

fn time(text: &str) -> FileTime {
    parse_time(text.as_bytes()).unwrap()
}

fn metadata() -> Metadata {
    let at = time("1705320000");
    Metadata {
        flags: FileFlags::ARCHIVE,
        creation_time: at,
        last_write_time: at,
        change_time: at,
        last_access_time: at,
        ..Metadata::default()
    }
}

fn units(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

fn link(point: &ReparsePoint) -> Metadata {
    Metadata { flags: FileFlags::empty(), reparse: point.write().unwrap(), ..metadata() }
}

fn write(set: &MemorySet, fill: impl FnOnce(&mut ImageWriter<MemorySet>) -> cimfs::Result<()>) {
    let guid = Guid::for_content(b"a");
    let mut writer =
        ImageWriter::create(set.clone(), "a.cim", guid, WriterOptions::default()).unwrap();
    fill(&mut writer).unwrap();
    writer.commit().unwrap();
}

/// Entries as one line each: type, mode, size, time, name, link, and the records' keys with short values.
fn listed(tar: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut records = String::new();
    let mut position = 0;
    let text = |field: &[u8]| {
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    while tar[position] != 0 {
        let block = &tar[position..position + 512];
        let size = usize::from_str_radix(&text(&block[124..136]), 8).unwrap();
        let body = &tar[position + 512..][..size];
        position += 512 + size.next_multiple_of(512);
        if block[156] == b'x' {
            for record in String::from_utf8_lossy(body).lines() {
                let (_, record) = record.split_once(' ').unwrap();
                let (key, value) = record.split_once('=').unwrap();
                let key = key.trim_start_matches("MSWINDOWS.").trim_start_matches("LIBARCHIVE.");
                let value = if value.len() > 25 { "…" } else { value };
                records += &format!(" {key}={value}");
            }
            continue;
        }
        let [mode, mtime] = [100..107, 136..147].map(|field| text(&block[field]));
        let mtime = u64::from_str_radix(&mtime, 8).unwrap();
        let (name, link) = (text(&block[..100]), text(&block[157..257]));
        lines.push(format!(
            "{} {mode} {size} {mtime} {name} {link}{records}",
            char::from(block[156])
        ));
        records.clear();
    }
    assert_eq!(&tar[position..], [0; 1024]);
    lines
}

#[test]
fn headers_are_those_of_microsofts_exporter() {
    let set = MemorySet::new();
    write(&set, |writer| {
        let plain = metadata();
        let directory = Metadata { flags: FileFlags::empty(), ..plain.clone() };
        writer.add_directory(&"Files".into(), &directory)?;
        writer.add_file(&"Files/b".into(), &plain, b"data")?;
        writer.add_link(&"Files/c".into(), &"Files/b".into())?;
        writer.add_file(&"Files/B2".into(), &plain, b"")?;
        let relative = link(&ReparsePoint::symlink(&units(r"dir\x")));
        writer.add_file(&"Files/l1".into(), &relative, b"")?;
        writer.add_directory(&"Files/l2".into(), &relative)?;
        let junction = link(&ReparsePoint::mount_point(&units(r"C:\Windows")));
        writer.add_directory(&"Files/l3".into(), &junction)?;
        writer.begin_stream(&"Files/b".into(), &Name::from("s"), 3)?;
        writer.write_data(b"abc")?;
        writer.end()?;
        writer.begin_stream(&"Files".into(), &Name::from("d"), 0)?;
        writer.end()
    });
    let times = "atime=1705320000 ctime=1705320000";
    let basics = "creationtime=1705320000 fileattr=";
    let security = "rawsd=…";
    assert_eq!(
        listed(&export(&set, "a.cim", None)),
        [
            format!("5 0040000 0 1705320000 Files  {basics}16 {security} {times}"),
            format!("0 0100000 0 1705320000 Files:d  {times}"),
            format!("0 0000000 0 1705320000 Files/B2  {basics}32 {security} {times}"),
            format!("0 0100000 4 1705320000 Files/b  {basics}32 {security} {times}"),
            format!("0 0100000 3 1705320000 Files/b:s  {times}"),
            format!("1 0000644 0 1705320000 Files/c Files/b {basics}32 {times}"),
            format!(r"2 0120000 0 1705320000 Files/l1 dir\x {basics}1024 {security} {times}"),
            format!(r"2 0160000 0 1705320000 Files/l2 dir\x {basics}1040 {security} {times}"),
            format!(
                r"2 0160000 0 1705320000 Files/l3 C:\Windows {basics}1040 mountpoint=1 {security} {times}"
            ),
        ]
    );
}

#[test]
fn times_are_written_as_they_are() {
    let set = MemorySet::new();
    write(&set, |writer| {
        for (name, text) in [("a", "-0.0000001"), ("b", "1705320000.5"), ("c", "-11644473600")] {
            let metadata = Metadata { last_write_time: time(text), ..metadata() };
            writer.add_file(&name.into(), &metadata, b"")?;
        }
        Ok(())
    });
    let lines = listed(&export(&set, "a.cim", None));
    assert!(lines[0].starts_with("0 0000000 0 0 a ") && lines[0].ends_with(" mtime=-0.0000001"));
    assert!(lines[1].starts_with("0 0000000 0 1705320000 b "), "{}", lines[1]);
    assert!(lines[1].ends_with(" mtime=1705320000.5"));
    // Microsoft's exporter wraps around to the year 2185.
    assert!(lines[2].ends_with(" mtime=-11644473600"));
    import(&set, &export(&set, "a.cim", None), "b.cim", None, &tree()).unwrap();
    assert_eq!(differences(&set, "a.cim", "b.cim"), [""; 0]);
}

#[test]
fn what_microsofts_exporter_cannot_say_comes_back() {
    let set = MemorySet::new();
    write(&set, |writer| {
        let wof = [&0x8000_0017_u32.to_le_bytes()[..], &[4, 0, 0, 0, 1, 2, 3, 4]].concat();
        let socket = b"\x23\0\0\x80\0\0\0\0".to_vec();
        for (name, reparse, data) in [("wof", wof.clone(), &b"data"[..]), ("socket", socket, b"")] {
            writer.add_file(&name.into(), &Metadata { reparse, ..metadata() }, data)?;
        }
        writer.add_directory(&"d".into(), &Metadata { reparse: wof, ..metadata() })?;
        for (name, substitute, print) in
            [("empty", r"\??\C:\x", ""), ("slash", r"\??\C:\x", "C:/x"), ("other", "a", "b")]
        {
            let [substitute, print] = [substitute, print].map(units);
            let point = ReparsePoint::MountPoint { substitute, print };
            writer.add_directory(&name.into(), &link(&point))?;
        }
        let surrogate = ReparsePoint::symlink(&[0xD800, 0x61]);
        writer.add_file(&"surrogate".into(), &link(&surrogate), b"")?;
        let with_data = link(&ReparsePoint::symlink(&units("x")));
        writer.add_file(&"with data".into(), &with_data, b"data")?;
        writer.add_file(&"nul".into(), &link(&ReparsePoint::symlink(&[0x61, 0, 0x62])), b"")?;
        let linux = link(&ReparsePoint::LxSymlink(b"/bin/sh".to_vec()));
        writer.add_file(&"linux".into(), &linux, b"")?;
        for (name, eas) in [
            ("need", &b"\0\0\0\0\x80\x01\x01\0A\0v"[..]),
            ("equals", b"\0\0\0\0\0\x03\x01\0A=B\0v"),
            ("order", b"\x0c\0\0\0\0\x01\x01\0B\0v\0\0\0\0\0\0\x01\x01\0A\0v\0"),
        ] {
            writer.add_file(&name.into(), &Metadata { eas: eas.to_vec(), ..metadata() }, b"")?;
        }
        writer.add_sparse_file(&"sparse".into(), &metadata(), 1 << 40)?;
        writer.add_sparse_stream(&"sparse".into(), &"s".into(), 1 << 40)?;
        writer.begin_stream(&"socket".into(), &"of nothing".into(), 1)?;
        writer.write_data(b"x")?;
        writer.end()
    });
    let tar = export(&set, "a.cim", None);
    import(&set, &tar, "b.cim", None, &tree()).unwrap();
    assert_eq!(differences(&set, "a.cim", "b.cim"), [""; 0]);
    assert!(export(&set, "b.cim", None) == tar);
}

#[test]
fn names_that_mean_something_else_are_refused() {
    let set = MemorySet::new();
    write(&set, |writer| writer.add_file(&".wh.x".into(), &metadata(), b""));
    let cancel = layer::Cancel::new();
    let error =
        layer::write_windows_layer_tar(&set, "a.cim", None, std::io::sink(), &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
