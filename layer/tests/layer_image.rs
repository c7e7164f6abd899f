//! Layer tars into images: what every kind of entry becomes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use layer::{
    Cancel, Compression, Digest, Error, ErrorKind, ImageSource, LayerOptions, Parents,
    image_checksum, write_layer_image,
};
use support::{Header, Tar, contents, expect, gzip, list, make, make_from, noise, zstd};

#[test]
fn every_type_with_its_metadata() {
    let tar = Tar::new()
        .add(Header::new(b"./", b'5', 0).mode(0o1777).owner(1, 2).mtime(7), b"")
        .add(Header::new(b"d", b'5', 0).mode(0o40_2755).owner(1000, 1001).mtime(1), b"")
        .add(Header::new(b"d/f", b'0', 3).mode(0o100_4755).mtime(2), b"abc")
        .add(Header::new(b"d/old", 0, 3), b"v7\n")
        .add(Header::new(b"v7dir/", 0, 0).mode(0o700), b"")
        .add(Header::new(b"contiguous", b'7', 1), b"c")
        .symlink(b"d/l", b"../f")
        .add(Header::new(b"c", b'3', 0).device(4095, 1_048_575), b"")
        .add(Header::new(b"b", b'4', 0).device(8, 1), b"")
        .add(Header::new(b"p", b'6', 0), b"")
        .add(Header::new(b"label", b'V', 0), b"")
        .file(b"\xff\xfe", b"")
        .end();
    let made = make(&tar).unwrap();
    assert_eq!(list(&made.bytes)["/"], "d 1777 1:2 7");
    assert_eq!(made.report.entries, 11);
    expect(
        &made.bytes,
        &[
            "/\\xff\\xfe: f 644 0:0 0 \"\"",
            "/b: b 644 0:0 0 8,1",
            "/c: c 644 0:0 0 4095,1048575",
            "/contiguous: f 644 0:0 0 \"c\"",
            "/d: d 2755 1000:1001 1",
            "/d/f: f 4755 0:0 2 \"abc\"",
            "/d/l: l 777 0:0 0 -> ../f",
            "/d/old: f 644 0:0 0 \"v7\\n\"",
            "/p: p 644 0:0 0",
            "/v7dir: d 700 0:0 0",
        ],
    );
}

#[test]
fn spellings_of_names_and_missing_parents() {
    let tar = Tar::new()
        .file(b"./a", b"1")
        .file(b"/b", b"2")
        .file(b"c//./d/", b"3")
        .add(Header::new(b"x/y/z", b'0', 1).mtime(9).owner(5, 5), b"4")
        .add(Header::new(b"x", b'5', 0).mode(0o700).mtime(3), b"")
        .end();
    expect(
        &make(&tar).unwrap().bytes,
        &[
            "/a: f 644 0:0 0 \"1\"",
            "/b: f 644 0:0 0 \"2\"",
            "/c: d 755 0:0 0",
            "/c/d: f 644 0:0 0 \"3\"",
            "/x: d 700 0:0 3",
            "/x/y: d 755 0:0 9",
            "/x/y/z: f 644 5:5 9 \"4\"",
        ],
    );
}

#[test]
fn later_entries_win() {
    let tar = Tar::new()
        .file(b"f", b"old")
        .file(b"f", b"new")
        .dir(b"d")
        .file(b"d/kept", b"k")
        .add(Header::new(b"d/", b'5', 0).mode(0o700), b"")
        .file(b"file-then-dir", b"1")
        .dir(b"file-then-dir")
        .dir(b"dir-then-file")
        .file(b"dir-then-file/gone", b"")
        .file(b"dir-then-file", b"2")
        .symlink(b"link-on-the-way", b"d")
        .file(b"link-on-the-way/inside", b"3")
        .symlink(b"escape", b"/etc")
        .file(b"escape/passwd", b"4")
        .end();
    expect(
        &make(&tar).unwrap().bytes,
        &[
            "/d: d 700 0:0 0",
            "/d/kept: f 644 0:0 0 \"k\"",
            "/dir-then-file: f 644 0:0 0 \"2\"",
            "/escape: d 755 0:0 0",
            "/escape/passwd: f 644 0:0 0 \"4\"",
            "/f: f 644 0:0 0 \"new\"",
            "/file-then-dir: d 755 0:0 0",
            "/link-on-the-way: d 755 0:0 0",
            "/link-on-the-way/inside: f 644 0:0 0 \"3\"",
        ],
    );
}

#[test]
fn hard_links() {
    let tar = Tar::new()
        .hard_link(b"before", b"./target")
        .hard_link(b"chain", b"before")
        .file(b"target", b"t")
        .hard_link(b"after", b"/target")
        .hard_link(b"target", b"target")
        .symlink(b"sym", b"nowhere")
        .hard_link(b"symlinked", b"sym")
        .file(b"first", b"old")
        .hard_link(b"keeps-old", b"first")
        .file(b"first", b"new")
        .hard_link(b"replaced", b"nothing-at-all")
        .file(b"replaced", b"r")
        // With a size, as some writers do, and no data.
        .add(Header::new(b"sized", b'1', 1).link(b"target"), b"")
        .end();
    expect(
        &make(&tar).unwrap().bytes,
        &[
            "/after: f 644 0:0 0 \"t\"",
            "/before: = /after",
            "/chain: = /after",
            "/first: f 644 0:0 0 \"new\"",
            "/keeps-old: f 644 0:0 0 \"old\"",
            "/replaced: f 644 0:0 0 \"r\"",
            "/sized: = /after",
            "/sym: l 777 0:0 0 -> nowhere",
            "/symlinked: = /sym",
            "/target: = /after",
        ],
    );
}

#[test]
fn whiteouts_and_opaque_directories() {
    let tar = Tar::new()
        .file(b"d/.wh.gone", b"")
        .file(b"e/.wh..wh..opq", b"")
        .file(b"e/new", b"n")
        .file(b"both", b"b")
        .file(b".wh.both", b"")
        .file(b".wh.dir", b"")
        .dir(b"dir")
        .file(b".wh..wh.plnk", b"aufs")
        .file(b".wh..wh.orph/x", b"aufs")
        .add(Header::new(b"device", b'3', 0).mode(0o600).mtime(4), b"")
        .file(b"of-file/.wh.x", b"")
        .file(b"of-file", b"no longer a directory")
        .end();
    expect(
        &make(&tar).unwrap().bytes,
        &[
            "/both: f 644 0:0 0 \"b\"",
            "/d: d 755 0:0 0 trusted.overlay.origin=\"\"",
            "/d/gone: c 0 0:0 0 0,0",
            "/device: c 0 0:0 0 0,0",
            "/dir: d 755 0:0 0 trusted.overlay.opaque=\"y\"",
            "/e: d 755 0:0 0 trusted.overlay.opaque=\"y\"",
            "/e/new: f 644 0:0 0 \"n\"",
            "/of-file: f 644 0:0 0 \"no longer a directory\"",
        ],
    );
}

#[test]
fn an_opaque_root_is_told() {
    let tar = Tar::new().file(b"a", b"a").file(b".wh..wh..opq", b"").end();
    assert!(make(&tar).unwrap().report.hides_lower);
    assert!(!make(&Tar::new().file(b"a", b"a").end()).unwrap().report.hides_lower);
}

#[test]
fn extended_headers() {
    let long = b"n".repeat(255);
    let deep = [b"some/directory/".repeat(20).as_slice(), b"leaf"].concat();
    let target = b"t/".repeat(200);
    let tar = Tar::new()
        .pax(&[
            (b"path", &deep),
            (b"mtime", b"-1.25"),
            (b"uid", b"4294967294"),
            (b"gid", b"3000000"),
            (b"comment", b"nothing"),
        ])
        .file(b"short", b"p")
        .pax(&[(b"linkpath", &target)])
        .symlink(b"l", b"short")
        .add(Header::new(b"././@LongLink", b'L', 256), &[&long[..], b"\0"].concat())
        .file(b"nnn", b"g")
        .add(Header::new(b"././@LongLink", b'K', 401), &[&target[..], b"\0"].concat())
        .symlink(b"gl", b"t")
        .global(&[(b"mtime", b"5.5"), (b"uid", b"6")])
        .file(b"global", b"")
        .pax(&[(b"mtime", b""), (b"uid", b"7")])
        .file(b"taken-back", b"")
        .end();
    let listing = list(&make(&tar).unwrap().bytes);
    let deep = format!("/{}", String::from_utf8(deep).unwrap());
    assert_eq!(listing[&deep], "f 644 4294967294:3000000 -2.750000000 \"p\"");
    assert!(listing["/l"].ends_with("t/t/"));
    assert_eq!(listing["/l"], listing["/gl"]);
    assert_eq!(listing[&format!("/{}", "n".repeat(255))], "f 644 0:0 0 \"g\"");
    assert_eq!(listing["/global"], "f 644 6:0 5.500000000 \"\"");
    assert_eq!(listing["/taken-back"], "f 644 7:0 0 \"\"");
}

#[test]
fn base_256_numbers() {
    let mut header = Header::new(b"f", b'0', 0);
    header.bytes(108, b"\x80\0\0\0\xff\xff\xff\xfe");
    header.bytes(136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe");
    header.bytes(124, b"\x80\0\0\0\0\0\0\0\0\0\0\x03");
    let tar = Tar::new().add(header, b"abc").end();
    expect(&make(&tar).unwrap().bytes, &["/f: f 644 4294967294:0 -2 \"abc\""]);
}

#[test]
fn xattrs() {
    let tar = Tar::new()
        .pax(&[
            (b"SCHILY.xattr.user.a=b", b"cut at the first equals sign"),
            (b"SCHILY.xattr.user.q%3Dr", b"escaped"),
            (b"SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\n"),
            (b"SCHILY.xattr.trusted.overlay.redirect", b"/etc/shadow"),
            (b"SCHILY.xattr.com.apple.provenance", b"no"),
            (b"LIBARCHIVE.xattr.user.both", b"b2xk"),
            (b"SCHILY.xattr.user.both", b"new"),
            (b"LIBARCHIVE.xattr.user.lib%20archive", b"AQID"),
            (b"SCHILY.xattr.user.empty", b""),
        ])
        .file(b"f", b"")
        .end();
    expect(
        &make(&tar).unwrap().bytes,
        &["/f: f 644 0:0 0 \"\" \
           security.capability=\"\\x01\\x00\\x00\\x02\\x00\\n\" \
           trusted.overlay.overlay.redirect=\"/etc/shadow\" \
           user.a=\"b=cut at the first equals sign\" \
           user.both=\"new\" user.empty=\"\" \
           user.lib archive=\"\\x01\\x02\\x03\" user.q=r=\"escaped\""],
    );
}

#[test]
fn sparse_files_by_hand() {
    let mut old = Header::new(b"old", b'S', 1024);
    old.bytes(257, b"ustar  \0");
    for (index, (offset, length)) in
        [(0, 256), (8192, 256), (16384, 256), (40_000, 0)].into_iter().enumerate()
    {
        old.octal(386 + 24 * index, 12, offset).octal(398 + 24 * index, 12, length);
    }
    old.0[482] = 1;
    old.octal(483, 12, 50_000);
    let mut extension = Header([0; 512]);
    extension.octal(0, 12, 49_000).octal(12, 12, 256);
    let data = noise(1024, 1);
    let tar = Tar::new()
        .add(old, &[])
        .raw(&extension.0)
        .raw(&data)
        .pax(&[
            (b"GNU.sparse.major", b"0"),
            (b"GNU.sparse.minor", b"1"),
            (b"GNU.sparse.name", b"zero.one"),
            (b"GNU.sparse.size", b"9000"),
            (b"GNU.sparse.numblocks", b"2"),
            (b"GNU.sparse.map", b"0,1,8998,2"),
        ])
        .file(b"x", b"abc")
        .pax(&[
            (b"GNU.sparse.size", b"10"),
            (b"GNU.sparse.numblocks", b"1"),
            (b"GNU.sparse.offset", b"2"),
            (b"GNU.sparse.numbytes", b"3"),
        ])
        .file(b"zero.zero", b"abc")
        .file(b"follows", b"")
        .end();
    let listing = list(&make(&tar).unwrap().bytes);
    let mut expected = vec![0; 50_000];
    for (offset, piece) in [0, 8192, 16384, 49_000].into_iter().zip(data.chunks(256)) {
        expected[offset..offset + 256].copy_from_slice(piece);
    }
    assert!(listing["/old"].ends_with(&Digest::of(&expected).hex()));
    let mut expected = vec![0; 9000];
    (expected[0], expected[8998], expected[8999]) = (b'a', b'b', b'c');
    assert!(listing["/zero.one"].ends_with(&Digest::of(&expected).hex()));
    assert!(listing["/zero.zero"].ends_with("\"\\x00\\x00abc\\x00\\x00\\x00\\x00\\x00\""));
    assert!(listing.contains_key("/follows"));
}

/// Gives its bytes in pieces of odd lengths, with pauses.
struct Trickle<'b> {
    bytes: &'b [u8],
    piece: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.piece.min(buffer.len()).min(self.bytes.len());
        if length % 7 == 3 {
            std::thread::yield_now();
        }
        buffer[..length].copy_from_slice(&self.bytes[..length]);
        self.bytes = &self.bytes[length..];
        Ok(length)
    }
}

#[test]
fn the_same_layer_is_the_same_image() {
    let mut tar = Tar::new();
    for index in 0..200_u32 {
        let length =
            usize::try_from(index * index % 9000).unwrap() + usize::from(index == 77) * 700_000;
        let name = format!("d{}/f{index}", index % 7);
        tar = tar.file(name.as_bytes(), &noise(length, u64::from(index)));
    }
    let tar = tar.end();
    let first = make(&tar).unwrap();
    assert_eq!(first.report.diff_id, Digest::of(&tar));
    assert_eq!(first.report.digest, first.report.diff_id);
    let blobs = [
        tar.clone(),
        gzip(&tar),
        zstd(&tar),
        tar.chunks(100_001).flat_map(gzip).collect(),
        tar.chunks(100_001).flat_map(zstd).collect(),
    ];
    for blob in &blobs {
        for piece in [1009, 65_536, usize::MAX] {
            let options = LayerOptions {
                digest: Some(Digest::of(blob)),
                size: Some(blob.len() as u64),
                diff_id: Some(first.report.diff_id),
                max_size: Some(tar.len() as u64),
                ..LayerOptions::default()
            };
            let made = make_from(Trickle { bytes: blob, piece }, &options).unwrap();
            assert!(made.bytes == first.bytes, "blob of {} bytes by {piece}", blob.len());
            assert_eq!(made.report.checksum, first.report.checksum);
            assert_eq!(made.report.size, blob.len() as u64);
            assert_eq!(made.report.tar_size, tar.len() as u64);
        }
    }
}

#[test]
fn checksum_can_be_computed_again() {
    let tar = Tar::new().file(b"f", &noise(100_000, 3)).end();
    let file = tempfile::tempfile().unwrap();
    let options = LayerOptions::default();
    let made = write_layer_image(&tar[..], &file, &options, None, &(), &Cancel::new()).unwrap();
    assert_eq!(image_checksum(&file).unwrap(), made.checksum);
    assert_eq!(file.metadata().unwrap().len(), made.image_size);
    let bytes = contents(&file);
    for position in [1200, 5000, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1;
        let file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut &file, &damaged).unwrap();
        assert_ne!(image_checksum(&file).ok(), Some(made.checksum), "byte {position}");
    }
}

#[test]
fn what_follows_the_end_counts_for_the_digests_only() {
    let tar = Tar::new().file(b"f", b"x").end();
    let longer = [&tar[..], &noise(300_000, 1)].concat();
    let made = make(&longer).unwrap();
    assert_eq!(made.report.diff_id, Digest::of(&longer));
    assert_eq!(made.report.tar_size, longer.len() as u64);
    assert_eq!(list(&made.bytes), list(&make(&tar).unwrap().bytes));
    // Zero padding behind a gzip member is no part of the tar.
    let padded = [gzip(&tar), vec![0; 1000]].concat();
    assert_eq!(make(&padded).unwrap().report.diff_id, Digest::of(&tar));
}

#[test]
fn an_end_mark_may_be_missing_where_a_digest_vouches() {
    let tar = Tar::new().file(b"f", b"x").0;
    assert_eq!(make(&tar).err().unwrap().kind(), ErrorKind::Corrupt);
    assert_eq!(make(b"").err().unwrap().kind(), ErrorKind::Corrupt);
    for bytes in [&tar[..], b""] {
        let options = LayerOptions { diff_id: Some(Digest::of(bytes)), ..LayerOptions::default() };
        make_from(bytes, &options).unwrap();
    }
    // One zero block at the very end is enough.
    make(&[&tar[..], &[0; 512]].concat()).unwrap();
}

#[test]
fn the_content_knows_its_compression() {
    let tar = Tar::new().file(b"f", b"x").end();
    let with =
        |compression| LayerOptions { compression: Some(compression), ..LayerOptions::default() };
    make_from(&gzip(&tar)[..], &with(Compression::Zstd)).unwrap();
    make_from(&zstd(&tar)[..], &with(Compression::None)).unwrap();
    let error = make_from(&tar[..], &with(Compression::Gzip)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn progress_counts_the_blob_and_cancel_stops() {
    let blob = gzip(&Tar::new().file(b"f", &noise(3_000_000, 1)).end());
    let read = AtomicU64::new(0);
    let progress = |bytes| _ = read.fetch_add(bytes, Ordering::Relaxed);
    let file = tempfile::tempfile().unwrap();
    let options = LayerOptions::default();
    write_layer_image(&blob[..], &file, &options, None, &progress, &Cancel::new()).unwrap();
    assert_eq!(read.into_inner(), blob.len() as u64);

    let cancel = Cancel::new();
    let stop = |_| cancel.cancel();
    let file = tempfile::tempfile().unwrap();
    let error = write_layer_image(&blob[..], &file, &options, None, &stop, &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn a_full_disk_is_no_space() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let tar = Tar::new().file(b"f", &noise(300_000, 1)).end();
    let options = LayerOptions::default();
    let error = write_layer_image(&tar[..], &full, &options, None, &(), &Cancel::new());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NoSpace);
}

struct Stack(Vec<Vec<u8>>);

impl Parents for Stack {
    fn layers(&self) -> Result<Vec<Arc<erofs::Image<ImageSource>>>, Error> {
        let open = |bytes: &Vec<u8>| {
            let source: ImageSource = Box::new(bytes.clone());
            Arc::new(erofs::Image::open(source).unwrap())
        };
        Ok(self.0.iter().map(open).collect())
    }
}

#[test]
fn directories_that_only_lower_layers_describe() {
    let bottom = Tar::new()
        .add(Header::new(b"tmp", b'5', 0).mode(0o1777).owner(3, 4).mtime(7), b"")
        .add(Header::new(b"tmp/deep", b'5', 0).mode(0o700).mtime(8), b"")
        .add(Header::new(b"covered", b'5', 0).mode(0o700), b"")
        .file(b"file", b"")
        .end();
    let parents = Stack(vec![make(&bottom).unwrap().bytes]);
    let tar = Tar::new()
        .file(b"tmp/deep/x", b"x")
        .file(b"covered/.wh..wh..opq", b"")
        .file(b"covered/sub/x", b"x")
        .file(b"file/x", b"x")
        .file(b"own/x", b"x")
        .end();
    let make_on = |parents: Option<&dyn Parents>| {
        let file = tempfile::tempfile().unwrap();
        let options = LayerOptions::default();
        let report =
            write_layer_image(&tar[..], &file, &options, parents, &(), &Cancel::new()).unwrap();
        (report, contents(&file))
    };
    let (report, bytes) = make_on(Some(&parents));
    assert!(report.depends_on_parents);
    expect(
        &bytes,
        &[
            "/covered: d 700 0:0 0 trusted.overlay.opaque=\"y\"",
            "/covered/sub: d 755 0:0 0",
            "/covered/sub/x: f 644 0:0 0 \"x\"",
            "/file: d 755 0:0 0",
            "/file/x: f 644 0:0 0 \"x\"",
            "/own: d 755 0:0 0",
            "/own/x: f 644 0:0 0 \"x\"",
            "/tmp: d 1777 3:4 7",
            "/tmp/deep: d 700 0:0 8",
            "/tmp/deep/x: f 644 0:0 0 \"x\"",
        ],
    );
    let (alone, _) = make_on(None);
    assert!(alone.depends_on_parents, "at the bottom it has other metadata than on other layers");
    assert_ne!(alone.uuid, report.uuid);
}

#[test]
fn directories_that_are_symbolic_links_below() {
    let bottom = Tar::new()
        .add(Header::new(b"usr/bin", b'5', 0).mode(0o711), b"")
        .add(Header::new(b"bin", b'2', 0).link(b"usr/bin"), b"")
        .add(Header::new(b"usr/up", b'2', 0).link(b"../../../lib/"), b"")
        .add(Header::new(b"lib", b'2', 0).link(b"/usr/lib"), b"")
        .add(Header::new(b"loop", b'2', 0).link(b"loop2"), b"")
        .add(Header::new(b"loop2", b'2', 0).link(b"loop"), b"")
        .add(Header::new(b"own", b'2', 0).link(b"usr/bin"), b"")
        .add(Header::new(b"taken", b'2', 0).link(b"file"), b"")
        .end();
    let parents = Stack(vec![make(&bottom).unwrap().bytes]);
    let tar = Tar::new()
        .file(b"bin/x", b"x")
        .file(b"bin/.wh.gone", b"")
        .file(b"usr/bin/y", b"y")
        .file(b"usr/up/z", b"z")
        .file(b"loop/l", b"")
        .add(Header::new(b"own", b'5', 0).mode(0o700), b"")
        .file(b"own/x", b"")
        .file(b"file", b"")
        .file(b"taken/x", b"")
        .end();
    let file = tempfile::tempfile().unwrap();
    let options = LayerOptions::default();
    write_layer_image(&tar[..], &file, &options, Some(&parents), &(), &Cancel::new()).unwrap();
    expect(
        &contents(&file),
        &[
            "/file: f 644 0:0 0 \"\"",
            "/loop: d 755 0:0 0",
            "/loop/l: f 644 0:0 0 \"\"",
            "/own: d 700 0:0 0",
            "/own/x: f 644 0:0 0 \"\"",
            "/taken: d 755 0:0 0",
            "/taken/x: f 644 0:0 0 \"\"",
            "/usr: d 755 0:0 0",
            "/usr/bin: d 711 0:0 0 trusted.overlay.origin=\"\"",
            "/usr/bin/gone: c 0 0:0 0 0,0",
            "/usr/bin/x: f 644 0:0 0 \"x\"",
            "/usr/bin/y: f 644 0:0 0 \"y\"",
            "/usr/lib: d 755 0:0 0",
            "/usr/lib/z: f 644 0:0 0 \"z\"",
        ],
    );
}

#[test]
fn hard_links_to_lower_layers() {
    let data = noise(10_000, 1);
    let bottom = Tar::new()
        .pax(&[(b"SCHILY.xattr.user.x", b"1")])
        .add(Header::new(b"d/f", b'0', 10_000).mode(0o4755).owner(3, 4).mtime(5), &data)
        .file(b"hidden", b"h")
        .file(b"opaque/f", b"o")
        .symlink(b"s", b"t")
        .end();
    let middle =
        Tar::new().file(b".wh.hidden", b"").file(b"opaque/.wh..wh..opq", b"").dir(b"d").end();
    let parents = Stack(vec![make(&middle).unwrap().bytes, make(&bottom).unwrap().bytes]);
    let with_parents = |tar: &[u8], parents: Option<&dyn Parents>| {
        let file = tempfile::tempfile().unwrap();
        let options = LayerOptions::default();
        write_layer_image(tar, &file, &options, parents, &(), &Cancel::new())
            .map(|report| (report, contents(&file)))
    };
    let tar = Tar::new()
        .hard_link(b"a", b"d/f")
        .hard_link(b"b", b"d/f")
        .hard_link(b"c", b"s")
        // The layer may delete what it has linked.
        .file(b"d/.wh.f", b"")
        .end();
    let (report, bytes) = with_parents(&tar, Some(&parents)).unwrap();
    assert!(report.depends_on_parents);
    let hex = Digest::of(&data).hex();
    expect(
        &bytes,
        &[
            &format!("/a: f 4755 3:4 5 10000 bytes {hex} user.x=\"1\""),
            "/b: = /a",
            "/c: l 777 0:0 0 -> t",
            "/d: d 755 0:0 0 trusted.overlay.origin=\"\"",
            "/d/f: c 0 0:0 0 0,0",
        ],
    );
    let other = Stack(vec![make(&bottom).unwrap().bytes]);
    let (other, _) = with_parents(&tar, Some(&other)).unwrap();
    assert_ne!(other.uuid, report.uuid, "other parents, another image");

    for target in [&b"hidden"[..], b"opaque/f", b"nothing", b"s/x"] {
        let tar = Tar::new().hard_link(b"a", target).end();
        for parents in [None, Some(&parents as &dyn Parents)] {
            let error = with_parents(&tar, parents).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MissingParent, "{}", target.escape_ascii());
        }
    }
    let error = with_parents(&Tar::new().hard_link(b"a", b"d").end(), Some(&parents));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
    // Parents that are not needed are not asked.
    let (report, _) = with_parents(&Tar::new().file(b"f", b"").end(), Some(&parents)).unwrap();
    assert!(!report.depends_on_parents);
}
