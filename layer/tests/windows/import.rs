//! What entries become.

use cimfs::FileTime;
use layer::ErrorKind;
use layer::windows::{
    AbsentSecurity, AbsentTimes, ReparsePoint, SecurityDescriptor, WindowsOptions,
};

use crate::fixture::{content, file, image, import, paths, refused, streams, tree};
use crate::support::{Header, Tar};

const EPOCH: u64 = 116_444_736_000_000_000;

fn with(records: &[(&str, &str)], header: Header, data: &[u8]) -> Tar {
    let records: Vec<_> = records.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())).collect();
    Tar::new().pax(&records).add(header, data)
}

fn regular(size: u64) -> Header {
    Header::new(b"f", b'0', size)
}

#[test]
fn plain_tars_are_taken_and_times_that_are_absent_are_a_choice() {
    let at = |name: &str, flag, size| Header::new(name.as_bytes(), flag, size).mtime(1_705_320_000);
    let tar = || {
        let tar = Tar::new().add(at("Files", b'5', 0), b"").add(at("Files/a/", b'5', 0), b"");
        tar.add(at("Files/a/f", b'0', 2), b"hi")
    };
    let written = 133_497_936_000_000_000;
    for (absent_times, expected) in
        [(AbsentTimes::LastWrite, written), (AbsentTimes::AsMicrosoft, 48_491_090_211_286_549)]
    {
        let set = cimfs::MemorySet::new();
        let options = WindowsOptions { absent_times, ..tree() };
        import(&set, &tar().end(), "a.cim", None, &options).unwrap();
        let image = cimfs::Image::open(&set, "a.cim").unwrap();
        assert_eq!(content(&image, "Files/a/f"), b"hi");
        for (path, attributes) in [("Files", 0x10), ("Files/a", 0x10), ("Files/a/f", 0x80)] {
            let file = file(&image, path);
            assert_eq!(file.attributes(), attributes);
            assert_eq!(file.last_write_time(), FileTime(written));
            assert_eq!(file.creation_time(), FileTime(written));
            assert_eq!(file.last_access_time(), FileTime(expected));
            assert_eq!(file.change_time(), FileTime(expected));
        }
    }
}

#[test]
fn attributes_decide_what_an_entry_is() {
    let attribute = |value: &str, header: Header| {
        let (_, image) = image(with(&[("MSWINDOWS.fileattr", value)], header, b""));
        let file = file(&image, "f");
        (file.is_dir(), file.attributes())
    };
    let directory = || Header::new(b"f", b'5', 0);
    assert_eq!(attribute("32", regular(0)), (false, 0x20));
    assert_eq!(attribute("00032", regular(0)), (false, 0x20));
    assert_eq!(attribute("16", regular(0)), (true, 0x10));
    assert_eq!(attribute("0", directory()), (false, 0x80));
    assert_eq!(attribute("1040", directory()), (true, 0x10));
    assert_eq!(attribute("39", regular(0)), (false, 0x27));
    for bad in ["-1", "+32", "0x20", "", "4294967296"] {
        let error = refused(with(&[("MSWINDOWS.fileattr", bad)], regular(0), b""));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad:?}");
    }
    let twice = [("MSWINDOWS.fileattr", "32"), ("MSWINDOWS.fileattr", "1")];
    let (_, twice) = image(with(&twice, regular(0), b""));
    assert_eq!(file(&twice, "f").attributes(), 1);
    // Microsoft's importer makes the directory and then fails to write its data.
    let error = refused(with(&[("MSWINDOWS.fileattr", "16")], regular(1), b"x"));
    assert_eq!(error.kind(), ErrorKind::Corrupt);

    let set = cimfs::MemorySet::new();
    let tar = with(&[("MSWINDOWS.fileattr", "4294967295")], regular(0), b"").end();
    let layer = import(&set, &tar, "a.cim", None, &tree()).unwrap();
    assert_eq!((layer.lost_attributes, layer.without_security), (1, 1));
    // The format of 2016 is ignored.
    let (_, old) = image(with(&[("SCHILY.xattr.MSWINDOWS.fileattr", "32")], regular(0), b""));
    assert_eq!(file(&old, "f").attributes(), 0x80);
}

#[test]
fn security_descriptors() {
    let security = |records: &[(&str, &str)]| {
        let (_, image) = image(with(records, regular(0), b""));
        image.security_descriptor(&file(&image, "f")).unwrap().unwrap()
    };
    let users = "AQAAgBQAAAAkAAAAAAAAAAAAAAABAgAAAAAABSAAAAAhAgAAAQIAAAAAAAUgAAAAIQIAAA==";
    let bytes = |sddl: &str| SecurityDescriptor::from_sddl(sddl).unwrap().write().unwrap();
    assert_eq!(security(&[("MSWINDOWS.rawsd", users)]), bytes("O:BUG:BU"));
    let broken = format!("{}\r\n{}", &users[..8], &users[8..]);
    assert_eq!(security(&[("MSWINDOWS.rawsd", &broken)]), bytes("O:BUG:BU"));
    let text = "O:BAG:SYD:(A;;FA;;;BA)";
    assert_eq!(security(&[("MSWINDOWS.sd", text)]), bytes(text));
    assert_eq!(security(&[("MSWINDOWS.sd", text), ("MSWINDOWS.rawsd", users)]), bytes("O:BUG:BU"));
    let usual = bytes("O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)(A;;0x1200a9;;;BU)");
    assert_eq!(security(&[("MSWINDOWS.rawsd", "")]), usual);
    assert_eq!(security(&[]), usual);
    for (key, bad) in [
        ("MSWINDOWS.rawsd", "!!!"),
        ("MSWINDOWS.rawsd", users.trim_end_matches('=')),
        ("MSWINDOWS.rawsd", "-_-_"),
        // Microsoft's importer hands these on without a look.
        ("MSWINDOWS.rawsd", "YWJj"),
        ("MSWINDOWS.sd", "garbage"),
    ] {
        let error = refused(with(&[(key, bad)], regular(0), b""));
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid), "{bad}");
    }

    let set = cimfs::MemorySet::new();
    let options = WindowsOptions { absent_security: AbsentSecurity::Unrestricted, ..tree() };
    import(&set, &Tar::new().file(b"f", b"").end(), "a.cim", None, &options).unwrap();
    let image = cimfs::Image::open(&set, "a.cim").unwrap();
    let null = image.security_descriptor(&file(&image, "f")).unwrap().unwrap();
    assert_eq!(null, cimfs::format::NULL_DACL);
}

#[test]
fn links_and_junctions() {
    let reparse = |records: &[(&str, &str)], target: &str| {
        let header = Header::new(b"l", b'2', 0).link(target.as_bytes());
        let (_, image) = image(with(records, header, b""));
        let file = file(&image, "l");
        let buffer = image.reparse_buffer(&file).unwrap().unwrap();
        (file.is_dir(), file.attributes(), buffer)
    };
    let units = |text: &str| text.encode_utf16().collect::<Vec<_>>();
    let (directory, attributes, buffer) = reparse(&[], "a.txt");
    assert_eq!((directory, attributes, buffer.len()), (false, 0x400, 44));
    let (directory, attributes, buffer) = reparse(&[("MSWINDOWS.fileattr", "1040")], "dir/sub");
    assert_eq!((directory, attributes, buffer.len()), (true, 0x410, 52));
    assert_eq!(reparse(&[], "").2.len(), 24);
    for (target, print, length) in [
        ("C:/Windows/x", r"C:\Windows\x", 80),
        ("/usr/bin", r"\usr\bin", 56),
        (r"\\?\C:\x", r"\\?\C:\x", 56),
        ("//srv/share", r"\\srv\share", 80),
    ] {
        let buffer = reparse(&[], target).2;
        assert_eq!(ReparsePoint::read(&buffer).unwrap().target(), Some(units(print)));
        assert_eq!(buffer.len(), length);
    }
    for value in ["1", "0", ""] {
        let buffer = reparse(&[("MSWINDOWS.mountpoint", value)], r"C:\Windows").2;
        assert_eq!((buffer.len(), buffer[0]), (68, 3));
    }
    assert_eq!(reparse(&[("MSWINDOWS.mountpoint", "1")], "sub").2.len(), 32);
}

#[test]
fn own_records_may_not_contradict_the_standard_ones() {
    let header = || Header::new(b"l", b'2', 0).link(b"a");
    // A symbolic link to `b`, and none at all.
    let link = "DAAAoBQAAAAAAAIABAACAAEAAABiAAAAYgAAAA==";
    for own in [link, "AAAA", "!"] {
        refused(with(&[("PLYWOOD.reparse", own)], header(), b""));
        refused(with(&[("PLYWOOD.reparse", own)], regular(0), b""));
    }
    let ea = "AAAAAAADAQBCQVIAdgAAAA==";
    refused(with(&[("PLYWOOD.ea", ea)], regular(0), b""));
    refused(with(&[("PLYWOOD.ea", ea), ("MSWINDOWS.xattr.BAR", "dw==")], regular(0), b""));
    let (_, image) = image(with(
        &[("PLYWOOD.ea", "AAAAAIADAQBCQVIAdg=="), ("MSWINDOWS.xattr.BAR", "dg==")],
        regular(0),
        b"",
    ));
    let buffer = image.ea_buffer(&file(&image, "f")).unwrap();
    assert_eq!(buffer, b"\0\0\0\0\x80\x03\x01\0BAR\0v");
}

#[test]
fn alternate_streams_follow_their_file() {
    let tar = Tar::new().file(b"f", b"main").file(b"f:s1", b"one").file(b"f:s2:$DATA", b"two");
    let tar = tar.file(b"g", &[7; 5000]).file(b"g:a", &[8; 10]).file(b"g:b", &[9; 5000]);
    let tar = tar.dir(b"d").file(b"d:s", b"of a directory").dir(b"e/").file(b"e:s", b"too");
    let (_, image) = image(tar);
    assert_eq!(content(&image, "f"), b"main");
    let two = [("s1".into(), b"one".to_vec()), ("s2".into(), b"two".to_vec())];
    assert_eq!(streams(&image, "f"), two);
    assert_eq!(content(&image, "g"), [7; 5000]);
    assert_eq!(streams(&image, "g"), [("a".into(), vec![8; 10]), ("b".into(), vec![9; 5000])]);
    assert_eq!(streams(&image, "d"), [("s".into(), b"of a directory".to_vec())]);
    assert_eq!(streams(&image, "e"), [("s".into(), b"too".to_vec())]);

    let file = |name: &str| Tar::new().file(name.as_bytes(), b"");
    for bad in [
        file("f:s"),
        file("f").file(b"g", b"").file(b"f:s", b""),
        file("f").hard_link(b"h", b"f").file(b"h:s", b""),
        file("F").file(b"f:s", b""),
        file("f").file(b"f:s:$INDEX_ALLOCATION", b""),
        file("f").file(b"f::$DATA", b""),
        file("f").dir(b"f:s"),
        Tar::new().dir(b"a").file(b"a:b/c", b""),
    ] {
        assert_eq!(refused(bad).kind(), ErrorKind::Invalid);
    }
}

#[test]
fn hard_links_are_names_of_one_file() {
    for target in ["Files/f", "/Files/f", "./Files/f", r"Files\f", "FILES/F"] {
        let tar = Tar::new().dir(b"Files").file(b"Files/f", b"x").dir(b"UtilityVM");
        let (_, image) = image(tar.hard_link(b"UtilityVM/h", target.as_bytes()));
        assert_eq!(file(&image, "UtilityVM/h").id, file(&image, "Files/f").id, "{target}");
    }
    let tar = || Tar::new().dir(b"d").file(b"f", b"x");
    assert_eq!(refused(tar().hard_link(b"h", b"g")).kind(), ErrorKind::MissingParent);
    assert_eq!(refused(tar().hard_link(b"h", b"d")).kind(), ErrorKind::Invalid);
    assert_eq!(refused(tar().hard_link(b"h", b"../f")).kind(), ErrorKind::Invalid);
}

#[test]
fn extended_attributes() {
    let records = [("MSWINDOWS.xattr.FOO", "AQID"), ("MSWINDOWS.xattr.BAR", "dg==")];
    let (_, image) = image(with(&records, regular(1), b"x"));
    let buffer = image.ea_buffer(&file(&image, "f")).unwrap();
    let expected = b"\x10\0\0\0\0\x03\x01\0BAR\0v\0\0\0\0\0\0\0\0\x03\x03\0FOO\0\x01\x02\x03\0";
    assert_eq!(buffer, expected);
    let long = format!("MSWINDOWS.xattr.{}", "x".repeat(256));
    // Microsoft's importer takes an empty name, which NTFS has no place for.
    for (key, value) in [("MSWINDOWS.xattr.A", "!"), (&long, "AQID"), ("MSWINDOWS.xattr.", "AQID")]
    {
        refused(with(&[(key, value)], regular(0), b""));
    }
}

#[test]
fn times_are_exact() {
    let records = [
        ("LIBARCHIVE.creationtime", "1705320000.0000001"),
        ("atime", "1705320001.5"),
        ("ctime", "1705320002.123456799"),
        ("mtime", "-0.0000001"),
    ];
    let (_, image) = image(with(&records, regular(0).mtime(5), b""));
    let file = file(&image, "f");
    assert_eq!(file.creation_time(), FileTime(133_497_936_000_000_001));
    assert_eq!(file.last_access_time(), FileTime(133_497_936_015_000_000));
    assert_eq!(file.change_time(), FileTime(133_497_936_021_234_567));
    assert_eq!(file.last_write_time(), FileTime(EPOCH - 1));
    for bad in ["abc", "", "1e9", "1.2.3", " 1", "-11644473601"] {
        refused(with(&[("LIBARCHIVE.creationtime", bad)], regular(0), b""));
    }
    for bad in ["x", "1x"] {
        for key in ["atime", "ctime", "mtime"] {
            refused(with(&[(key, bad)], regular(0), b""));
        }
    }
}

#[test]
fn a_time_of_nothing_but_nuls_is_1970() {
    let mut header = regular(0);
    header.bytes(136, &[0; 12]);
    let (_, plain) = image(Tar::new().add(header, b""));
    assert_eq!(file(&plain, "f").last_write_time(), FileTime(EPOCH));
    let mut header = regular(0);
    header.bytes(136, &[0; 12]);
    let (_, image) = image(with(&[("mtime", "1")], header, b""));
    assert_eq!(file(&image, "f").last_write_time(), FileTime(EPOCH + 10_000_000));
}

#[test]
fn types_of_entries() {
    let tar = Tar::new().add(Header::new(b"nul", 0, 2), b"hi").add(Header::new(b"old/", 0, 0), b"");
    let tar = tar.add(Header::new(b"seven", b'7', 3), b"abc").file(b"slash/", b"x");
    let tar = tar.global(&[(b"comment", b"x")]).file(b"last", b"");
    let (set, image) = image(tar);
    assert_eq!(paths(&set, "a.cim"), ["\\last", "\\nul", "\\old", "\\seven", "\\slash"]);
    assert!(file(&image, "old").is_dir());
    // Microsoft's importer drops these bytes.
    assert_eq!(content(&image, "seven"), b"abc");
    assert_eq!(content(&image, "slash"), b"x");
    for flag in *b"346" {
        // Microsoft's importer makes empty files.
        assert_eq!(
            refused(Tar::new().add(Header::new(b"x", flag, 0), b"")).kind(),
            ErrorKind::Unsupported
        );
    }
    for flag in *b"25" {
        let link = Header::new(b"x", flag, 3).link(b"f");
        assert_eq!(refused(Tar::new().add(link, b"abc")).kind(), ErrorKind::Corrupt);
    }
    let link = Header::new(b"x", b'1', 3).link(b"f");
    assert_eq!(refused(Tar::new().file(b"f", b"").add(link, b"abc")).kind(), ErrorKind::Corrupt);
    assert!(
        refused(Tar::new().pax(&[(b"a\0b", b"x"), (b"path", b"a\0")]).file(b"f", b"")).kind()
            == ErrorKind::Invalid
    );
    let global = Tar::new().global(&[(b"MSWINDOWS.fileattr", b"32")]).file(b"f", b"");
    assert_eq!(refused(global).kind(), ErrorKind::Invalid);
}

#[test]
fn sparse_files() {
    let sparse = |size: &str| {
        [
            (&b"GNU.sparse.major"[..], &b"1"[..]),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"real"),
            (b"GNU.sparse.realsize", size.as_bytes()),
        ]
        .map(|(key, value)| (key, value.to_vec()))
    };
    let tar = |size: &str, map: &[u8], data: &[u8]| {
        let records = sparse(size);
        let records: Vec<_> = records.iter().map(|(k, v)| (*k, v.as_slice())).collect();
        let mut payload = map.to_vec();
        payload.resize(512, 0);
        payload.extend_from_slice(data);
        let header = Header::new(b"GNUSparseFile.0/x", b'0', payload.len() as u64);
        Tar::new().pax(&records).add(header, &payload)
    };
    let (_, some) = image(tar("1000", b"2\n10\n3\n997\n3\n", b"abcxyz"));
    let mut expected = vec![0; 1000];
    expected[10..13].copy_from_slice(b"abc");
    expected[997..].copy_from_slice(b"xyz");
    assert_eq!(content(&some, "real"), expected);
    let (_, none) = image(tar("1099511627776", b"0\n", b""));
    let data = file(&none, "real").data();
    assert!(data.is_sparse() && data.length() == 1 << 40);
    let error = refused(tar("1099511627776", b"1\n10\n3\n", b"abc"));
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[test]
fn names() {
    let long = "n".repeat(130);
    let tar = Tar::new().dir(b"Files").dir(b"Files/a").file(br"Files\a\b", b"1");
    let tar = tar.file(b"Files//c", b"2").file(b"./Files/d", b"3").dir(b"./");
    let tar = tar.pax(&[(b"path", "Files/語😀".as_bytes())]).file(b"x", b"4");
    let tar = tar.pax(&[(b"path", b"Files/\xed\xa0\x80")]).file(b"x", b"5");
    let tar = tar.pax(&[(b"path", long.as_bytes())]).file(b"x", b"6").file(b"Files/aux.c", b"7");
    let (set, image) = image(tar);
    for (path, bytes) in
        [("Files/a/b", b"1"), ("Files/c", b"2"), ("Files/d", b"3"), ("Files/語😀", b"4")]
    {
        assert_eq!(content(&image, path), bytes);
    }
    assert!(paths(&set, "a.cim").contains(&r"\Files\\u{d800}".to_owned()));
    assert_eq!(
        (content(&image, &long), content(&image, "Files/aux.c")),
        (b"6".to_vec(), b"7".to_vec())
    );

    for bad in ["/Files/b", "../evil", "Files/x/../d", "a?", "C:/x", "a\u{1}", "\\x"] {
        assert_eq!(
            refused(Tar::new().file(bad.as_bytes(), b"")).kind(),
            ErrorKind::Invalid,
            "{bad}"
        );
    }
    // Windows would store U+FFFD.
    assert_eq!(refused(Tar::new().file(b"caf\xe9", b"")).kind(), ErrorKind::Invalid);
    // Windows fails at the second, too.
    for second in ["Files/A", "Files/a", "FILES/a"] {
        let tar = Tar::new().dir(b"Files").file(b"Files/a", b"").file(second.as_bytes(), b"");
        let error = refused(tar);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with(second), "{error}");
    }
    // crane writes some directories twice.
    let tar = Tar::new().dir(b"Files").dir(b"Files/a").file(b"Files/a/b", b"");
    let (set, _) = crate::fixture::image(tar.dir(b"Files").dir(b"files/A"));
    assert_eq!(paths(&set, "a.cim"), [r"\Files", r"\Files\a", r"\Files\a\b"]);
    let error = refused(Tar::new().dir(b"d").file(b"d/f", b"").file(b"d", b""));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = refused(Tar::new().file(b"no/parent", b""));
    assert!(error.to_string().contains(r"directory \no"), "{error}");
}

#[test]
fn cut_and_padded_tars() {
    let set = cimfs::MemorySet::new();
    let tar = Tar::new().file(b"f", &[1; 600]);
    let whole = tar.clone().end();
    let plain = import(&set, &whole, "a.cim", None, &tree()).unwrap();
    let trailed =
        import(&set, &[whole.as_slice(), b"trailing"].concat(), "b.cim", None, &tree()).unwrap();
    assert_ne!(plain.blob.diff_id, trailed.blob.diff_id);
    assert_eq!(trailed.blob.tar_size, plain.blob.tar_size + 8);
    // Go takes a tar without its end; so do we where a digest is promised.
    let error = import(&set, &tar.0, "c.cim", None, &tree()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let mut promised = tree();
    promised.blob.diff_id = Some(layer::Digest::of(&tar.0));
    import(&set, &tar.0, "c.cim", None, &promised).unwrap();
    for cut in [100, 512, 700] {
        assert!(import(&set, &whole[..cut], "d.cim", None, &promised).is_err(), "{cut}");
    }
}
