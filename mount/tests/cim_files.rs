//! What the FUSE driver answers for damaged images, asked without a kernel.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "test code")]

use cimfs::{Guid, Image, ImageWriter, MemorySet, Metadata, Name, ReadAt, WriterOptions};
use mount::{CimFiles, CimOptions};
use sys::{FUSE_ROOT, FuseFiles as _, FuseKind};

fn sample() -> MemorySet {
    let set = MemorySet::new();
    let guid = Guid::for_content(b"sample");
    let mut writer =
        ImageWriter::create(set.clone(), "a.cim", guid, WriterOptions::default()).unwrap();
    let plain = Metadata::default();
    let junction = Metadata {
        reparse: b"\x03\0\0\xA0\x0c\0\0\0\0\0\0\0\0\0\x04\0C\0:\0".to_vec(),
        ..Metadata::default()
    };
    for directory in ["a", "a/b"] {
        writer.add_directory(&directory.into(), &plain).unwrap();
    }
    writer.add_directory(&"a/junction".into(), &junction).unwrap();
    for number in 0..20 {
        let path = format!("a/b/{number}");
        writer.add_file(&path.as_str().into(), &plain, &vec![1; number * 500]).unwrap();
    }
    writer.begin_stream(&"a/b/7".into(), &Name::from("stream"), 3).unwrap();
    writer.write_data(b"abc").unwrap();
    writer.end().unwrap();
    writer.commit().unwrap();
    set
}

/// Asks for everything that a walk over the file system would ask for. Returns how many names there are.
fn ask<R: ReadAt + Send + Sync + 'static>(files: &CimFiles<R>) -> usize {
    let mut names = 0;
    let mut directories = vec![FUSE_ROOT];
    let mut seen = std::collections::HashSet::from([FUSE_ROOT]);
    let mut buf = vec![0; 10_000];
    while let Some(directory) = directories.pop() {
        let mut found = Vec::new();
        let mut take = |name: &[u8], node: &sys::FuseNode| {
            found.push((name.to_vec(), *node));
            true
        };
        let _ = files.names(directory, 2, &mut take);
        for (name, node) in found {
            names += 1;
            let _ = files.lookup(directory, &name);
            let _ = files.lookup(directory, &[&name[..], b":STREAM"].concat());
            let _ = files.node(node.number);
            let _ = files.target(node.number);
            let _ = files.xattr_names(node.number);
            let _ = files.xattr(node.number, b"user.ntfs_acl");
            for offset in [0, 100, 1 << 40, u64::MAX >> 1] {
                if let Ok(length) = files.read(node.number, &mut buf, offset) {
                    assert!(length <= buf.len());
                }
            }
            if node.kind == FuseKind::Directory && seen.insert(node.number) {
                directories.push(node.number);
            }
        }
    }
    names
}

#[test]
fn damaged_images_are_answered_for() {
    let set = sample();
    let options = CimOptions { ignore_case: true };
    let image = Image::open(&set, "a.cim").unwrap();
    let region = image.region_name(0).unwrap().to_owned();
    let bytes = set.bytes(&region).unwrap();
    assert_eq!(ask(&CimFiles::new(image, options)), 23);
    let mut opened = 0;
    // Behind the header and the upcase table.
    for at in (40 + 131_072..bytes.len()).step_by(41) {
        for value in [0, 0xFF, bytes[at] ^ 1] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            set.insert(region.as_str(), damaged);
            let Ok(image) = Image::open(&set, "a.cim") else { continue };
            ask(&CimFiles::new(image, options));
            opened += 1;
        }
    }
    assert!(opened > 150, "{opened}");
}

#[test]
fn numbers_that_were_never_given_are_stale() {
    let files = CimFiles::new(Image::open(&sample(), "a.cim").unwrap(), CimOptions::default());
    for number in [0, 1 << 20, (1 << 33) - 1, 1 << 33, (5 << 33) + 3, u64::MAX] {
        assert!(files.node(number).is_err(), "{number}");
        assert!(files.read(number, &mut [0; 10], 0).is_err(), "{number}");
        assert!(files.names(number, 0, &mut |_, _| true).is_err(), "{number}");
    }
}
