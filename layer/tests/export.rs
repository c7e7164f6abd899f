//! Images back to tars, and trees of every shape there and back.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use erofs::{Content, Image, Inode, Tree};
use layer::{Cancel, Digest, LayerTar, write_layer_tar};
use proptest::prelude::*;
use support::trees::{grown, step, written};
use support::{Header, Tar, list, make, noise};

fn exported(image: &[u8]) -> (Vec<u8>, LayerTar) {
    let mut tar = Vec::new();
    let report = write_layer_tar(&Image::open(image).unwrap(), &mut tar, &Cancel::new()).unwrap();
    assert_eq!((report.diff_id, report.size), (Digest::of(&tar), tar.len() as u64));
    (tar, report)
}

/// Behind the header, where the UUID is, which is that of the tar.
fn body(image: &[u8]) -> &[u8] {
    &image[4096..]
}

fn many_things() -> Tar {
    let big = noise(100_000, 5);
    Tar::new()
        .add(Header::new(b"./", b'5', 0).mode(0o1777).owner(1, 1).mtime(4), b"")
        .file(b"z", &noise(9000, 1))
        .pax(&[(b"mtime", b"1.000000001"), (b"SCHILY.xattr.user.a%3Db", b"v\n")])
        .file(b"a", &big)
        .hard_link(b"d/h", b"a")
        .file(b"d/.wh.gone", b"")
        .file(b"d/.wh..wh..opq", b"")
        .pax(&[(b"SCHILY.xattr.trusted.overlay.redirect", b"/x"), (b"uid", b"4000000000")])
        .file(b"d/small", b"s")
        .hard_link(b"d/small2", b"d/small")
        .symlink(b"l", b"d")
        .hard_link(b"l2", b"l")
        .add(Header::new(b"c", b'3', 0).device(1, 3), b"")
        .add(Header::new(b"p", b'6', 0).mode(0o4711), b"")
        .file(b"\xff", b"")
        .pax(&[(b"GNU.sparse.map", b"4096,5,900000,3"), (b"GNU.sparse.size", b"1000000")])
        .file(b"sparse", b"abcdefgh")
        .pax(&[(b"path", &b"long/name/".repeat(40))])
        .dir(b"x")
}

#[test]
fn tar_to_image_to_tar_to_image() {
    let first = make(&many_things().end()).unwrap();
    let (tar, report) = exported(&first.bytes);
    assert_eq!(report.sockets, 0);
    let second = make(&tar).unwrap();
    assert_eq!(list(&second.bytes), list(&first.bytes));
    assert!(body(&second.bytes) == body(&first.bytes), "the same image");
    assert!(exported(&second.bytes).0 == tar, "the same tar");

    // Data that nothing uses any more is gone after the first round.
    let wasteful = make(&many_things().file(b"z", b"again").end()).unwrap();
    let (tar, _) = exported(&wasteful.bytes);
    let second = make(&tar).unwrap();
    assert_eq!(list(&second.bytes), list(&wasteful.bytes));
    assert!(second.bytes.len() < wasteful.bytes.len());
    assert!(exported(&second.bytes).0 == tar, "the same tar");
}

#[test]
#[cfg(unix)]
fn gnu_tar_reads_what_is_written() {
    let (tar, report) = exported(&make(&many_things().end()).unwrap().bytes);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layer.tar");
    std::fs::write(&path, &tar).unwrap();
    let run = std::process::Command::new("tar").arg("-tvf").arg(&path).output().unwrap();
    let listing = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(listing.lines().count() as u64, report.entries, "{listing}");
    for line in ["d/h link to a", "l -> d", " 1000000 ", " sparse", "d/.wh.gone"] {
        assert!(listing.contains(line), "{line} in {listing}");
    }
}

#[test]
fn sockets_are_left_out() {
    let mut tree = Tree::new();
    let socket = tree.add(Inode { content: Content::Socket, ..Inode::directory() });
    tree[Tree::ROOT].entries_mut().unwrap().insert(b"s".as_slice().into(), socket);
    let (tar, report) = exported(&written(&tree));
    assert_eq!((report.entries, report.sockets), (1, 1));
    assert_eq!(list(&make(&tar).unwrap().bytes).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn tree_to_tar_to_image_to_tree(steps in proptest::collection::vec(step(), 0..40)) {
        let image = written(&grown(&steps));
        let (tar, _) = exported(&image);
        let again = make(&tar).unwrap();
        prop_assert_eq!(list(&again.bytes), list(&image));
        prop_assert!(exported(&again.bytes).0 == tar);
    }

    /// Whatever the bytes, there is an error or an image, and no panic.
    #[test]
    fn random_changes_of_a_tar(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut tar = many_things().end();
        for (index, byte) in changes {
            let at = index.index(tar.len());
            tar[at] = byte;
        }
        if let Ok(made) = make(&tar) {
            list(&made.bytes);
        }
    }
}

#[test]
fn a_damaged_image_is_no_endless_tar() {
    // A directory that names itself below itself.
    let mut tree = Tree::new();
    let inner = tree.add(Inode::directory());
    tree[Tree::ROOT].entries_mut().unwrap().insert(b"inner".as_slice().into(), inner);
    let file = tree.add(Inode { content: Content::Fifo, ..Inode::directory() });
    tree[inner].entries_mut().unwrap().insert(b"loop".as_slice().into(), file);
    let mut image = written(&tree);
    let entry = image.windows(4).rposition(|bytes| bytes == b"loop").unwrap();
    let open = Image::open(image.as_slice()).unwrap();
    let root = open.inode(open.root()).unwrap();
    let inner = open.lookup(&root, b"inner").unwrap().unwrap().nid;
    let child = open.lookup(&open.inode(inner).unwrap(), b"loop").unwrap().unwrap().nid;
    let slot = image[..entry].windows(8).rposition(|bytes| bytes == child.0.to_le_bytes()).unwrap();
    image[slot..slot + 8].copy_from_slice(&inner.0.to_le_bytes());
    image[slot + 10] = 2;
    let mut tar = Vec::new();
    let error = write_layer_tar(&Image::open(image.as_slice()).unwrap(), &mut tar, &Cancel::new());
    assert_eq!(error.unwrap_err().kind(), layer::ErrorKind::Corrupt);
}
