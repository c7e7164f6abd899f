//! Layers that come as images.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use erofs::{BlockSize, DeviceInfo, Image, ImageWriter, Tree, WriterOptions};
use layer::{
    Cancel, Compression, Digest, Error, ErrorKind, LayerImage, LayerOptions, image_checksum,
    write_native_image,
};
use support::trees::written;
use support::{Tar, contents, list, make, noise, zstd};

fn take(blob: &[u8], options: &LayerOptions) -> Result<(LayerImage, Vec<u8>), Error> {
    let file = tempfile::tempfile().unwrap();
    let image = write_native_image(blob, &file, options, &(), &Cancel::new())?;
    assert_eq!(image_checksum(&file).unwrap(), image.checksum);
    Ok((image, contents(&file)))
}

#[track_caller]
fn refused(blob: &[u8], kind: ErrorKind, text: &str) {
    let error = take(blob, &LayerOptions::default()).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

fn sample() -> Vec<u8> {
    let tar = Tar::new().dir(b"d").file(b"d/big", &noise(200_000, 1)).file(b".wh.gone", b"");
    make(&tar.file(b"d/.wh..wh..opq", b"").end()).unwrap().bytes
}

#[test]
fn an_image_is_taken_as_it_is() {
    let bytes = sample();
    for (blob, compression) in [(bytes.clone(), None), (zstd(&bytes), Some(Compression::Zstd))] {
        let options = LayerOptions {
            compression,
            digest: Some(Digest::of(&blob)),
            size: Some(blob.len() as u64),
            diff_id: Some(Digest::of(&bytes)),
            ..LayerOptions::default()
        };
        let (report, taken) = take(&blob, &options).unwrap();
        assert!(taken == bytes);
        assert_eq!((report.digest, report.size), (Digest::of(&blob), blob.len() as u64));
        assert_eq!((report.diff_id, report.tar_size), (Digest::of(&bytes), bytes.len() as u64));
        assert_eq!(report.image_size, bytes.len() as u64);
        assert_eq!(report.entries, list(&bytes).len() as u64);
        assert_eq!(report.uuid, Image::open(bytes.as_slice()).unwrap().uuid());
        assert!(!report.depends_on_parents && !report.hides_lower);

        let wrong = LayerOptions { digest: Some(Digest::of(b"other")), ..LayerOptions::default() };
        assert_eq!(take(&blob, &wrong).unwrap_err().kind(), ErrorKind::DigestMismatch);
        let limited = LayerOptions { max_size: Some(100_000), ..LayerOptions::default() };
        assert_eq!(take(&blob, &limited).unwrap_err().kind(), ErrorKind::TooLarge);
    }
    let promised = LayerOptions { compression: Some(Compression::Zstd), ..LayerOptions::default() };
    assert_eq!(take(&bytes, &promised).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_short_last_page_is_filled() {
    let mut tree = Tree::new();
    tree[Tree::ROOT].set_xattr(b"trusted.overlay.opaque", b"y");
    let options = WriterOptions { block_size: BlockSize::B512, ..WriterOptions::default() };
    let writer = ImageWriter::new(Vec::new(), options).unwrap();
    let mut bytes = writer.finish(&tree, [1; 16]).unwrap().0;
    bytes.truncate(bytes.len().next_multiple_of(4096) - 4096 + 2048);
    let (report, taken) = take(&bytes, &LayerOptions::default()).unwrap();
    assert_eq!(report.diff_id, Digest::of(&bytes));
    assert_eq!(report.tar_size, bytes.len() as u64);
    assert_eq!(report.image_size, bytes.len().next_multiple_of(4096) as u64);
    assert_eq!(taken.len() as u64, report.image_size);
    assert!(report.hides_lower);
}

#[test]
fn what_is_not_wholly_understood_is_refused() {
    refused(b"", ErrorKind::Corrupt, "");
    refused(&Tar::new().file(b"a", b"a").end(), ErrorKind::Corrupt, "not an image");
    let bytes = sample();
    refused(&bytes[..bytes.len() / 2], ErrorKind::Corrupt, "");

    let mut damaged = bytes.clone();
    let name = damaged.windows(3).rposition(|window| window == b"big").unwrap();
    damaged[name] = 0;
    refused(&damaged, ErrorKind::Corrupt, "");

    // Bytes of superblock and metadata changed: an answer, whatever it is.
    for at in (1024..1152).chain((bytes.len() - 4096..bytes.len()).step_by(11)) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x41;
        drop(take(&changed, &LayerOptions::default()));
    }

    let options = WriterOptions {
        devices: vec![DeviceInfo { tag: b"other".to_vec(), blocks: 10 }],
        ..WriterOptions::default()
    };
    let writer = ImageWriter::new(Vec::new(), options).unwrap();
    let (with_device, _) = writer.finish(&Tree::new(), [1; 16]).unwrap();
    refused(&with_device, ErrorKind::Unsupported, "other files");

    for (name, value) in [("redirect", "/etc"), ("metacopy", ""), ("opaque", "x")] {
        let mut tree = Tree::new();
        let dir = tree.add(erofs::Inode::directory());
        tree[dir].set_xattr(format!("trusted.overlay.{name}").as_bytes(), value.as_bytes());
        tree[Tree::ROOT].entries_mut().unwrap().insert(b"d".as_slice().into(), dir);
        refused(&written(&tree), ErrorKind::Unsupported, name);
    }
}

/// What `mkfs.erofs` makes: plain images are taken, compressed ones are not.
#[test]
fn images_of_mkfs() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("text"), b"compressible ".repeat(20_000)).unwrap();
    std::fs::create_dir(source.path().join("d")).unwrap();
    for (arguments, wanted) in [(&[][..], None), (&["-zlz4"], Some(ErrorKind::Unsupported))] {
        let image = source.path().with_extension("erofs");
        let run = std::process::Command::new("mkfs.erofs")
            .args(arguments)
            .arg(&image)
            .arg(source.path())
            .output();
        let Ok(run) = run else {
            println!("SKIPPED: there is no mkfs.erofs");
            return;
        };
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let bytes = std::fs::read(&image).unwrap();
        std::fs::remove_file(&image).unwrap();
        let taken = take(&bytes, &LayerOptions::default());
        assert_eq!(taken.as_ref().err().map(Error::kind), wanted, "{taken:?}");
    }
}
