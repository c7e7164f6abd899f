//! Layers that must be refused, each with its kind of error, and never with a panic.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use layer::{Digest, ErrorKind, LayerOptions};
use support::{Header, Tar, gzip, make, make_from, noise, pax_body, zstd};

#[track_caller]
fn refused(case: &str, tar: &[u8], kind: ErrorKind) {
    match make(tar) {
        Ok(_) => panic!("{case}: accepted"),
        Err(error) => assert_eq!(error.kind(), kind, "{case}: {error:?}"),
    }
}

#[test]
fn names_that_lead_out_or_do_not_fit() {
    let long = [b'n'; 256];
    let deep = b"d/".repeat(2100);
    let cases: [(&str, &[u8], ErrorKind); 8] = [
        ("parent", b"../etc/passwd", ErrorKind::Invalid),
        ("parent in the middle", b"a/../../b", ErrorKind::Invalid),
        ("parent, absolute", b"/..", ErrorKind::Invalid),
        ("long component", &long, ErrorKind::TooLarge),
        ("long path", &deep, ErrorKind::TooLarge),
        ("below a whiteout", b".wh.a/b", ErrorKind::Invalid),
        ("whiteout of nothing", b"a/.wh.", ErrorKind::Invalid),
        ("whiteout of the parent", b"a/.wh...", ErrorKind::Invalid),
    ];
    for (case, path, kind) in cases {
        refused(case, &Tar::new().pax(&[(b"path", path)]).file(b"f", b"").end(), kind);
        let name = [path, b"\0"].concat();
        let long = Header::new(b"././@LongLink", b'L', name.len() as u64);
        refused(case, &Tar::new().add(long, &name).file(b"f", b"").end(), kind);
        if !path.starts_with(b".wh.") && !path.contains(&b'w') {
            let tar = Tar::new().pax(&[(b"linkpath", path)]).hard_link(b"l", b"x").end();
            refused(case, &tar, kind);
        }
    }
    let nul = Tar::new().pax(&[(b"path", b"a\0b")]).file(b"f", b"").end();
    refused("NUL in a path record", &nul, ErrorKind::Invalid);
    let nul = Tar::new().add(Header::new(b"L", b'L', 4), b"a\0b\0").file(b"f", b"").end();
    refused("NUL in a long name", &nul, ErrorKind::Invalid);
    let nul = Tar::new().pax(&[(b"linkpath", b"a\0b")]).symlink(b"f", b"x").end();
    refused("NUL in a link", &nul, ErrorKind::Invalid);
    refused("file as the root", &Tar::new().file(b"./", b"x").end(), ErrorKind::Invalid);
    refused("link as the root", &Tar::new().hard_link(b"/", b"x").end(), ErrorKind::Invalid);
}

#[test]
fn links_that_lead_nowhere() {
    let cases: [(&str, Tar, ErrorKind); 8] = [
        ("itself", Tar::new().hard_link(b"a", b"a"), ErrorKind::Invalid),
        (
            "loop",
            Tar::new().hard_link(b"a", b"b").hard_link(b"b", b"c").hard_link(b"c", b"a"),
            ErrorKind::Invalid,
        ),
        ("into a loop", Tar::new().hard_link(b"x", b"a").hard_link(b"a", b"a"), ErrorKind::Invalid),
        ("directory", Tar::new().dir(b"d").hard_link(b"l", b"d"), ErrorKind::Invalid),
        ("later directory", Tar::new().hard_link(b"l", b"d").dir(b"d"), ErrorKind::Invalid),
        ("root", Tar::new().hard_link(b"l", b"/"), ErrorKind::Invalid),
        ("missing", Tar::new().hard_link(b"l", b"m"), ErrorKind::MissingParent),
        ("empty symbolic link", Tar::new().symlink(b"l", b""), ErrorKind::Invalid),
    ];
    for (case, tar, kind) in cases {
        refused(case, &tar.end(), kind);
    }
    let target = vec![b't'; 4096];
    let tar = Tar::new().pax(&[(b"linkpath", &target)]).symlink(b"l", b"x").end();
    refused("long symbolic link", &tar, ErrorKind::TooLarge);
}

#[test]
fn numbers_out_of_range() {
    let file = |records: &[(&[u8], &[u8])]| Tar::new().pax(records).file(b"f", b"").end();
    refused("uid", &file(&[(b"uid", b"4294967296")]), ErrorKind::TooLarge);
    refused("gid", &file(&[(b"gid", b"99999999999")]), ErrorKind::TooLarge);
    refused("negative uid", &file(&[(b"uid", b"-1")]), ErrorKind::Corrupt);
    refused("no number", &file(&[(b"mtime", b"now")]), ErrorKind::Corrupt);
    refused("size", &file(&[(b"size", b"9223372036854775808")]), ErrorKind::TooLarge);
    refused("no size", &file(&[(b"size", b"18446744073709551616")]), ErrorKind::Corrupt);
    let device =
        |major, minor| Tar::new().add(Header::new(b"c", b'3', 0).device(major, minor), b"").end();
    refused("major", &device(4096, 0), ErrorKind::TooLarge);
    refused("minor", &device(0, 1 << 20), ErrorKind::TooLarge);
    let mut header = Header::new(b"f", b'0', 0);
    header.bytes(124, b"-0000000001\0");
    refused("negative size", &Tar::new().add(header, b"").end(), ErrorKind::Corrupt);
    let mut header = Header::new(b"f", b'0', 0);
    header.bytes(124, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    refused("size -1", &Tar::new().add(header, b"").end(), ErrorKind::Corrupt);
}

#[test]
fn xattrs_over_the_limit() {
    let big = vec![b'v'; 65_536];
    let tar = Tar::new().pax(&[(b"SCHILY.xattr.user.x", &big)]).file(b"f", b"").end();
    refused("value", &tar, ErrorKind::TooLarge);
    let name = [b"SCHILY.xattr.user.".as_slice(), &[b'n'; 251]].concat();
    refused("name", &Tar::new().pax(&[(&name, b"")]).file(b"f", b"").end(), ErrorKind::TooLarge);
    let records: Vec<(Vec<u8>, &[u8])> = (0..5)
        .map(|index| (format!("SCHILY.xattr.user.{index}").into_bytes(), &big[..65_000]))
        .collect();
    let records: Vec<(&[u8], &[u8])> =
        records.iter().map(|(key, value)| (key.as_slice(), *value)).collect();
    refused("all", &Tar::new().pax(&records).file(b"f", b"").end(), ErrorKind::TooLarge);
    let nul = Tar::new().pax(&[(b"SCHILY.xattr.user.a\0b", b"")]).file(b"f", b"").end();
    refused("NUL", &nul, ErrorKind::Invalid);
    let records = vec![b'x'; 5 << 20];
    let tar = Tar::new().pax(&[(b"comment", &records)]).file(b"f", b"").end();
    refused("records without end", &tar, ErrorKind::TooLarge);
}

#[test]
fn sizes_that_lie() {
    let data = [b'd'; 1000];
    let file = |size: &[u8]| {
        let header = Header::new(b"f", b'0', 0);
        Tar::new().pax(&[(b"size", size)]).add(header, &data).file(b"next", b"n").end()
    };
    make(&file(b"1000")).unwrap();
    refused("smaller: data where a header should be", &file(b"400"), ErrorKind::Corrupt);
    refused("larger: swallows the next header", &file(b"1100"), ErrorKind::Corrupt);
    refused("larger than the tar", &file(b"100000"), ErrorKind::Corrupt);
    let contradiction = Tar::new().pax(&[(b"size", b"512")]).file(b"f", &data).end();
    refused("contradicts the header", &contradiction, ErrorKind::Corrupt);
    // What hides an inner header from readers that take one size, and shows it to those that take the other.
    let inner = Tar::new().file(b"hidden", b"").0;
    let smuggled =
        Tar::new().pax(&[(b"size", b"512")]).add(Header::new(b"f", b'5', 0), &inner).end();
    refused("data behind a directory", &smuggled, ErrorKind::Corrupt);
    let link = Tar::new().add(Header::new(b"l", b'2', 512).link(b"t"), &inner).end();
    refused("data behind a symbolic link", &link, ErrorKind::Corrupt);
    let global = Tar::new().global(&[(b"size", b"512")]).file(b"f", b"").end();
    refused("a size for all", &global, ErrorKind::Invalid);
}

#[test]
fn sparse_maps_that_lie() {
    let sparse = |map: &[u8], size: &[u8], data: &[u8]| {
        let records: [(&[u8], &[u8]); 2] = [(b"GNU.sparse.map", map), (b"GNU.sparse.size", size)];
        Tar::new().pax(&records).file(b"f", data).end()
    };
    make(&sparse(b"0,1,5,2", b"7", b"abc")).unwrap();
    for (map, size, data) in [
        (&b"0,1,5,2"[..], &b"6"[..], &b"abc"[..]),
        (b"5,2,0,1", b"7", b"abc"),
        (b"0,3,2,1", b"7", b"abcd"),
        (b"0,1,5,2", b"7", b"abcd"),
        (b"0,1,5,2", b"7", b"ab"),
        (b"0,1,5", b"7", b"abc"),
        (b"18446744073709551615,3", b"7", b"abc"),
        (b"x", b"7", b"abc"),
    ] {
        refused("map", &sparse(map, size, data), ErrorKind::Corrupt);
    }
    let version_1 = |map: &[u8], data: &[u8]| {
        let mut body = map.to_vec();
        body.resize(body.len().next_multiple_of(512), 0);
        body.extend_from_slice(data);
        Tar::new()
            .pax(&[
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.realsize", b"9"),
            ])
            .file(b"f", &body)
            .end()
    };
    make(&version_1(b"1\n3\n2\n", b"ab")).unwrap();
    refused("short", &version_1(b"2\n3\n2\n", b"ab"), ErrorKind::Corrupt);
    refused("no number", &version_1(b"1\n\n2\n", b"ab"), ErrorKind::Corrupt);
    refused("long number", &version_1(&[b'1'; 30], b"ab"), ErrorKind::Corrupt);
    refused("endless", &version_1(b"99999999999\n", b"ab"), ErrorKind::TooLarge);
    refused("empty", &version_1(b"", b""), ErrorKind::Corrupt);
    let unknown = Tar::new()
        .pax(&[
            (b"GNU.sparse.major", b"2"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.realsize", b"9"),
        ])
        .file(b"f", b"")
        .end();
    refused("version", &unknown, ErrorKind::Unsupported);
}

#[test]
fn damaged_headers() {
    let good = Tar::new().file(b"f", b"data").end();
    for position in [0, 5, 100, 124, 148, 156, 257, 400] {
        let mut bad = good.clone();
        bad[position] ^= 0x55;
        refused("flipped byte", &bad, ErrorKind::Corrupt);
    }
    refused("no tar", &noise(4096, 1), ErrorKind::Corrupt);
    refused("text", &b"This is no tar at all. ".repeat(100), ErrorKind::Corrupt);
    let lone = [&[0; 512], &good[..]].concat();
    refused("data behind a lone zero block", &lone, ErrorKind::Corrupt);
    for flag in [b'M', b'N', b'Z', b'8', 200] {
        let tar = Tar::new().add(Header::new(b"f", flag, 0), b"").end();
        refused("type", &tar, ErrorKind::Unsupported);
    }
    let orphan = Tar::new().pax(&[(b"path", b"x")]).end();
    refused("records without an entry", &orphan, ErrorKind::Corrupt);
    let damaged = b"7 uid=1\n";
    let tar = Tar::new().add(Header::new(b"x", b'x', 8), damaged).file(b"f", b"").end();
    refused("record with a wrong length", &tar, ErrorKind::Corrupt);
    let body = pax_body(&[(b"path", b"x")]);
    let cut = Header::new(b"x", b'x', body.len() as u64 - 1);
    let tar = Tar::new().add(cut, &body[..body.len() - 1]).file(b"f", b"").end();
    refused("record without its end", &tar, ErrorKind::Corrupt);
}

fn mixed_tar() -> Vec<u8> {
    Tar::new()
        .dir(b"d")
        .pax(&[(b"path", b"d/long"), (b"SCHILY.xattr.user.x", b"y")])
        .file(b"f", &noise(3000, 1))
        .add(Header::new(b"././@LongLink", b'L', 3), b"gn\0")
        .file(b"n", &noise(20_000, 2))
        .hard_link(b"h", b"gn")
        .end()
}

#[test]
fn cut_at_every_point() {
    let tar = mixed_tar();
    let end = tar.len() - 1024;
    // A cut between the two zero blocks is still an end mark.
    let cuts = (0..=end).step_by(97).chain((0..=end).step_by(512)).chain(end + 1..end + 512);
    for cut in cuts {
        refused(&format!("tar cut at {cut}"), &tar[..cut], ErrorKind::Corrupt);
    }
    for (blob, name) in [(gzip(&tar), "gzip"), (zstd(&tar), "zstd")] {
        let step = blob.len() / 200;
        for cut in (0..blob.len()).step_by(step).chain(blob.len() - 20..blob.len()) {
            refused(&format!("{name} cut at {cut}"), &blob[..cut], ErrorKind::Corrupt);
        }
    }
}

#[test]
fn damaged_anywhere() {
    let tar = mixed_tar();
    let promised = Some(Digest::of(&tar));
    for blob in [tar.clone(), gzip(&tar), zstd(&tar)] {
        let options = LayerOptions {
            digest: Some(Digest::of(&blob)),
            diff_id: promised,
            ..LayerOptions::default()
        };
        for position in (0..blob.len()).step_by(blob.len() / 150) {
            let mut bad = blob.clone();
            bad[position] ^= 0x41;
            let error = make_from(&bad[..], &options).err().expect("a damaged layer is refused");
            assert!(
                !matches!(error.kind(), ErrorKind::Io | ErrorKind::Cancelled),
                "{position}: {error:?}"
            );
        }
    }
}

#[test]
fn garbage_between_and_behind_members() {
    let tar = mixed_tar();
    let (head, tail) = tar.split_at(1500);
    for garbage in [&b"x"[..], b"\x1f", b"\0\0x", b"\x1f\x8b\x08"] {
        let behind = [&gzip(&tar)[..], garbage].concat();
        refused("behind gzip", &behind, ErrorKind::Corrupt);
        let between = [&gzip(head)[..], garbage, &gzip(tail)].concat();
        refused("between gzip members", &between, ErrorKind::Corrupt);
        let behind = [&zstd(&tar)[..], garbage].concat();
        refused("behind zstd", &behind, ErrorKind::Corrupt);
    }
}

#[test]
fn other_than_promised() {
    let tar = mixed_tar();
    let blob = gzip(&tar);
    let other = Digest::of(b"other");
    let length = blob.len() as u64;
    let cases = [
        ("digest", LayerOptions { digest: Some(other), ..LayerOptions::default() }),
        ("diffID", LayerOptions { diff_id: Some(other), ..LayerOptions::default() }),
        ("shorter", LayerOptions { size: Some(length + 1), ..LayerOptions::default() }),
        ("longer", LayerOptions { size: Some(length - 1), ..LayerOptions::default() }),
        ("empty", LayerOptions { size: Some(0), ..LayerOptions::default() }),
    ];
    for (case, options) in cases {
        let error = make_from(&blob[..], &options).err().expect(case);
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{case}");
    }
    // A cut blob is above all shorter than promised.
    let options = LayerOptions { size: Some(length), ..LayerOptions::default() };
    let error = make_from(&blob[..blob.len() / 2], &options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[test]
fn bombs() {
    let zeros = Tar::new().file(b"zeros", &vec![0; 50 << 20]).end();
    for blob in [gzip(&zeros), zstd(&zeros), zeros.clone()] {
        let options = LayerOptions { max_size: Some(1 << 20), ..LayerOptions::default() };
        let error = make_from(&blob[..], &options).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }
    let hole = Tar::new()
        .pax(&[(b"GNU.sparse.map", b"0,1"), (b"GNU.sparse.size", b"1000000000000")])
        .file(b"hole", b"x")
        .end();
    let options = LayerOptions { max_size: Some(1 << 30), ..LayerOptions::default() };
    let error = make_from(&hole[..], &options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[test]
fn errors_say_where() {
    let tar = Tar::new().file(b"fine", b"").pax(&[(b"uid", b"4294967296")]).file(b"bad\n", b"");
    let error = make(&tar.end()).err().unwrap();
    assert_eq!(error.offset(), Some(512 + 1024));
    let text = error.to_string();
    assert!(text.contains("bad\\n") && text.contains("4294967296"), "{text}");
}
