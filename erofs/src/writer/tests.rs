//! Placement rules and the worked example, on images in memory.

use sha2::{Digest, Sha256};

use super::*;
use crate::tree::{Content, Inode, InodeId};

fn add(tree: &mut Tree, dir: InodeId, name: &[u8], inode: Inode) -> InodeId {
    let id = tree.add(inode);
    tree[dir].entries_mut().unwrap().insert(name.into(), id);
    id
}

fn regular(bytes: &[u8]) -> Inode {
    Inode {
        permissions: 0o644,
        content: Content::Regular(FileData::Bytes(bytes.into())),
        ..Inode::directory()
    }
}

fn write(tree: &Tree, options: WriterOptions) -> Result<(Vec<u8>, ImageSummary)> {
    ImageWriter::new(Vec::new(), options)?.finish(tree, [0; 16])
}

#[test]
fn worked_example_is_byte_exact() {
    let mut tree = Tree::new();
    add(&mut tree, Tree::ROOT, b"hi", regular(b"hello\n"));
    let cases = [
        (
            BlockSize::B4096,
            8192,
            "82f61ffe2c4fcdce53d20b099cdfb51f38135b332fcc82cc184ae5442c6a9c17",
        ),
        (BlockSize::B512, 4096, "b96076af73aeb67452abb9c9fa87493ad47790ef0f626387f4c29459259dc1fb"),
    ];
    for (block_size, length, digest) in cases {
        let options = WriterOptions { block_size, checksum: Some(true), ..Default::default() };
        let (image, summary) = write(&tree, options).unwrap();
        assert_eq!(image.len(), length);
        assert_eq!(summary.length, length as u64);
        assert_eq!((summary.inodes, summary.compact_inodes), (2, 2));
        let found: String = Sha256::digest(&image).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, digest, "{block_size:?}");
    }
}

fn at_root(content: Content) -> Tree {
    let mut tree = Tree::new();
    add(&mut tree, Tree::ROOT, b"it", Inode { content, ..Inode::directory() });
    tree
}

#[track_caller]
fn refused(tree: &Tree, options: WriterOptions, kind: ErrorKind, message: &str) {
    let error = write(tree, options).map(|(_, summary)| summary).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(message), "{error} should say {message:?}");
}

#[test]
fn trees_that_cannot_be_stored_are_refused_with_their_path() {
    use ErrorKind::{Invalid, TooLarge};
    let plain = WriterOptions::default;
    for (name, message) in [
        (&b""[..], "/: an empty name"),
        (b".", "/.: the names"),
        (b"..", "/..: the names"),
        (b"a/b", "/a/b: a name with a slash"),
        (b"a\0b", "/a\\x00b: a name with a NUL"),
        (&[b'n'; 256], "255 bytes"),
    ] {
        let mut tree = Tree::new();
        add(&mut tree, Tree::ROOT, name, regular(b""));
        refused(&tree, plain(), Invalid, message);
    }
    let device = |major, minor| Content::CharDevice(crate::DeviceNumber { major, minor });
    for (content, kind, message) in [
        (Content::Symlink([].into()), Invalid, "/it: an empty symbolic link"),
        (Content::Symlink(vec![b'x'; 4096].into()), Invalid, "4096 bytes"),
        (Content::Symlink(b"a\0".as_slice().into()), Invalid, "NUL"),
        (device(4096, 0), Invalid, "/it: device number 4096:0"),
        (device(0, 1 << 20), Invalid, "0:1048576"),
    ] {
        refused(&at_root(content), plain(), kind, message);
    }
    for (name, value, kind, message) in [
        (&b"system.nfs4_acl"[..], 1, Invalid, "/it: the format has no room"),
        (b"user.", 1, Invalid, "no room"),
        (b"system.posix_acl_access2", 1, Invalid, "no room"),
        (b"user.a\0", 1, Invalid, "NUL"),
        (b"trusted.big", 65_536, TooLarge, "65536 bytes"),
    ] {
        let mut tree = at_root(Content::Fifo);
        tree[InodeId(1)].set_xattr(name, &vec![0; value]);
        refused(&tree, plain(), kind, message);
    }
    let mut tree = at_root(Content::Fifo);
    for index in 0..5 {
        tree[InodeId(1)].set_xattr(format!("user.{index}").as_bytes(), &[0; 65_000]);
    }
    refused(&tree, plain(), TooLarge, "/it: 325");
    let twice = tree[InodeId(1)].xattrs[0].clone();
    tree[InodeId(1)].xattrs.push(twice);
    refused(&tree, plain(), Invalid, "/it: xattr user.0 is there twice");
    let mut tree = at_root(Content::Fifo);
    tree[InodeId(1)].mtime.nanoseconds = 1_000_000_000;
    refused(&tree, plain(), Invalid, "/it: 1000000000 nanoseconds");
    tree[InodeId(1)].mtime.nanoseconds = 0;
    tree[InodeId(1)].permissions = 0o10000;
    refused(&tree, plain(), Invalid, "/it: permissions 0o10000");
    tree[Tree::ROOT].permissions = 0o10000;
    refused(&tree, plain(), Invalid, "/: permissions 0o10000");
}

#[test]
fn directories_with_two_names_and_cycles_are_refused() {
    let mut tree = Tree::new();
    let dir = add(&mut tree, Tree::ROOT, b"dir", Inode::directory());
    let sub = add(&mut tree, dir, b"sub", Inode::directory());
    for target in [Tree::ROOT, dir, sub] {
        tree[sub].entries_mut().unwrap().insert(b"again".as_slice().into(), target);
        let message = "/dir/sub/again: a directory has a second name";
        refused(&tree, WriterOptions::default(), ErrorKind::Invalid, message);
    }
    tree[sub].entries_mut().unwrap().insert(b"again".as_slice().into(), InodeId(9));
    refused(&tree, WriterOptions::default(), ErrorKind::Invalid, "the tree does not hold");
}

#[test]
fn data_outside_image_and_devices_is_refused() {
    use crate::tree::BlockAddress;
    let options = || WriterOptions {
        devices: vec![DeviceInfo { tag: Vec::new(), blocks: 10 }],
        ..Default::default()
    };
    let extent =
        |device, block, size| FileData::Extent { start: BlockAddress { device, block }, size };
    let chunks = |chunk_bits, size, chunks: &[Option<BlockAddress>]| FileData::Chunks {
        size,
        chunk_bits,
        chunks: chunks.into(),
    };
    let tail = |size, tail: &[u8]| FileData::ExtentAndTail {
        start: BlockAddress { device: 1, block: 0 },
        size,
        tail: tail.into(),
    };
    let cases = [
        (extent(0, 1, 1), "outside the image's data"),
        (extent(0, 0, 4096), "outside the image's data"),
        (extent(1, 9, 4097), "/it: blocks 9..11 are outside device 1, which has 10"),
        (extent(1, u32::MAX, u64::MAX / 2), "outside device 1"),
        (extent(2, 0, 1), "extra device 2, but there are 1"),
        (tail(4097, b"ab"), "a tail of 2 bytes"),
        (tail(4096, b""), "a tail of 0 bytes"),
        (chunks(11, 1, &[None]), "chunks of 2^11"),
        (chunks(44, 1, &[None]), "chunks of 2^44"),
        (chunks(12, 4097, &[None]), "1 chunks of 4096 bytes"),
        (chunks(12, 8192, &[None, Some(BlockAddress { device: 1, block: 10 })]), "10..11"),
    ];
    for (data, message) in cases {
        refused(&at_root(Content::Regular(data)), options(), ErrorKind::Invalid, message);
    }
    let good = at_root(Content::Regular(extent(1, 0, 40_960)));
    write(&good, options()).unwrap();
    let huge = at_root(Content::Regular(chunks(43, u64::MAX, &vec![None; 1 << 21])));
    refused(&huge, options(), ErrorKind::TooLarge, "a file of 18446744073709551615 bytes");
    let devices = vec![DeviceInfo { tag: Vec::new(), blocks: u32::MAX - 1 }];
    let options = WriterOptions { devices, ..Default::default() };
    refused(&Tree::new(), options, ErrorKind::TooLarge, "together exceed 2^32 blocks");
}

#[test]
fn options_that_cannot_be_stored_are_refused() {
    let new = |options| ImageWriter::new(Vec::new(), options).unwrap_err().to_string();
    let label = |label: &str| WriterOptions { label: label.into(), ..Default::default() };
    assert!(new(label("sixteen bytes are")).contains("over 15 bytes"));
    assert!(new(label("a\0b")).contains("NUL"));
    let devices = vec![DeviceInfo { tag: vec![0; 65], blocks: 1 }];
    assert!(new(WriterOptions { devices, ..Default::default() }).contains("tag of device 1"));
}

#[test]
fn announced_and_written_lengths_must_agree() {
    for size in [10u64, 5000] {
        let mut writer = ImageWriter::new(Vec::new(), WriterOptions::default()).unwrap();
        assert!(writer.write_data(b"x").is_err());
        assert!(writer.end_file().is_err());
        writer.begin_file(size).unwrap();
        assert!(writer.begin_file(1).is_err());
        assert!(writer.write_data(&vec![0; 5001]).unwrap_err().to_string().contains("announced"));
        let error = writer.end_file().unwrap_err().to_string();
        assert!(error.contains(&format!("{size} bytes are missing")), "{error}");
        let mut writer = ImageWriter::new(Vec::new(), WriterOptions::default()).unwrap();
        for segments in [&[(5, 2), (4, 1)][..], &[(0, size + 1)], &[(u64::MAX, 2)]] {
            assert!(writer.begin_sparse_file(size, segments).is_err());
        }
        writer.begin_sparse_file(size, &[(1, 2), (5, 0), (6, 1)]).unwrap();
        writer.write_data(b"ab").unwrap();
        assert!(writer.write_data(b"cd").unwrap_err().to_string().contains("announced"));
    }
    let mut writer = ImageWriter::new(Vec::new(), WriterOptions::default()).unwrap();
    writer.begin_file(5000).unwrap();
    assert!(writer.finish(&Tree::new(), [0; 16]).is_err());
}

#[test]
fn small_files_stay_in_memory_while_the_budget_lasts() {
    let options = WriterOptions { inline_budget: 4100, ..Default::default() };
    let mut writer = ImageWriter::new(Vec::new(), options).unwrap();
    let mut inline = |size: u64| {
        writer.begin_file(size).unwrap();
        writer.write_data(&vec![7; usize::try_from(size).unwrap()]).unwrap();
        matches!(writer.end_file().unwrap(), FileData::Bytes(_))
    };
    assert_eq!([4096, 4095, 6, 5, 1, 0].map(&mut inline), [false, true, false, true, false, true]);
    assert_eq!(writer.written(), 4096 * 4);
}

#[test]
fn sparse_files_take_blocks_only_for_data_chunks() {
    let mut writer = ImageWriter::new(Vec::new(), WriterOptions::default()).unwrap();
    let size = 20 * 4096 + 1;
    writer.begin_sparse_file(size, &[(4095, 2), (40_960, 4096), (size - 1, 1)]).unwrap();
    writer.write_data(&[1; 4099]).unwrap();
    let FileData::Chunks { chunk_bits: 12, chunks, .. } = writer.end_file().unwrap() else {
        panic!("not chunked");
    };
    let found: Vec<_> = (0..).zip(&chunks).filter_map(|(i, c)| Some((i, (*c)?.block))).collect();
    assert_eq!(found, [(0, 1), (1, 2), (10, 3), (20, 4)]);
    assert_eq!(writer.written(), 5 * 4096);
    writer.begin_sparse_file(1 << 40, &[(0, 1)]).unwrap();
    writer.write_data(&[1]).unwrap();
    let FileData::Chunks { chunk_bits: 24, chunks, .. } = writer.end_file().unwrap() else {
        panic!("not chunked");
    };
    assert_eq!(chunks.len(), 65_536);
    writer.begin_sparse_file(1 << 40, &[]).unwrap();
    let FileData::Chunks { chunk_bits: 40, chunks, .. } = writer.end_file().unwrap() else {
        panic!("not chunked");
    };
    assert_eq!(*chunks, [None]);
    writer.begin_sparse_file(9000, &[(0, 5000), (5000, 4000)]).unwrap();
    writer.write_data(&[1; 9000]).unwrap();
    assert!(matches!(writer.end_file().unwrap(), FileData::Extent { size: 9000, .. }));
}

/// What the kernel needs of places: heads at slots, nothing overlapping, tails and links in one block.
#[test]
fn places_follow_the_rules() {
    for block_size in [BlockSize::B512, BlockSize::B4096] {
        let bs = block_size.bytes();
        let mut tree = Tree::new();
        for step in 0..2000u64 {
            let length = usize::try_from((step * 37) % (bs + 100)).unwrap();
            let name = format!("{step:05}");
            let content = match step % 3 {
                0 if length > 0 && length < 4096 => Content::Symlink(vec![b'l'; length].into()),
                1 => Content::Directory(Default::default()),
                _ => Content::Regular(FileData::Bytes(vec![1; length].into())),
            };
            let mtime = Timestamp { seconds: i64::from(step % 5 == 0), nanoseconds: 0 };
            let inode = Inode { content, mtime, ..Inode::directory() };
            let id = add(&mut tree, Tree::ROOT, name.as_bytes(), inode);
            if step % 4 == 0 {
                let value = vec![3; usize::try_from(step % 700).unwrap()];
                tree[id].set_xattr(b"trusted.v", &value);
            }
        }
        let options = WriterOptions { block_size, ..Default::default() };
        let census = census::Census::take(&tree).unwrap();
        let xattrs = xattr::XattrPlan::new(&tree, &census, &options, 4096);
        let layout = layout::Layout::new(&tree, &census, &xattrs, &options, 4096).unwrap();
        let mut end = 0;
        for (&id, placed) in census.order.iter().zip(&layout.inodes) {
            let at = layout.meta_start + layout.nid(id) * 32;
            assert!(layout.nid(id) > 0 && at >= end, "{id:?} overlaps");
            let head = at + if placed.extended { 64 } else { 32 } + u64::from(placed.body);
            end = head + u64::from(placed.tail);
            assert!(head % bs + u64::from(placed.tail) <= bs, "{id:?}: the tail crosses a block");
            if placed.tail > 0 && tree[id].entries().is_none() && tree[id].permissions == 0o755 {
                assert_eq!(placed.layout, crate::format::DataLayout::FlatInline);
            }
            if matches!(tree[id].content, Content::Symlink(_)) && placed.tail > 0 {
                assert_eq!(at / bs, (end - 1) / bs, "{id:?}: the link crosses a block");
            }
            assert!(placed.size % bs != 0 || placed.tail == 0, "{id:?}: an inline tail of nothing");
        }
    }
}

#[test]
fn dots_are_sorted_among_names() {
    let names: &[&[u8]] = &[b"!", b"-", b".-", b"...", b".a", b"/", b"0", b"\xff"];
    let map = names.iter().map(|&name| (name.into(), InodeId(1))).collect();
    let sorted: Vec<_> = directory::entries(&map, Tree::ROOT, Tree::ROOT).map(|e| e.name).collect();
    let expected: &[&[u8]] = &[b"!", b"-", b".", b".-", b"..", b"...", b".a", b"/", b"0", b"\xff"];
    assert_eq!(sorted, expected);
}

#[test]
fn full_directory_blocks_are_counted_as_they_are_packed() {
    for length in [1usize, 20, 243, 244, 255] {
        for count in [0usize, 1, 2, 33, 34, 35, 1000] {
            let name = |i: usize| format!("{i:0length$}").into_bytes();
            let names: Vec<_> = (0..count).map(name).filter(|name| name.len() <= 255).collect();
            let entries = || names.iter().map(|name| directory::Entry { name, id: Tree::ROOT });
            let mut blocks = Vec::new();
            directory::pack(entries(), 512, |block, used| {
                let mut out = Vec::new();
                directory::encode(block, |_| (1, crate::format::FileType::Fifo), &mut out);
                assert_eq!(out.len() as u64, used);
                assert!(used <= 512);
                blocks.push(used);
            });
            let size = directory::size(entries(), 512);
            assert_eq!(size.blocks_before + 1, blocks.len() as u64);
            assert_eq!(Some(&size.last), blocks.last());
        }
    }
}

#[test]
fn prefixes_are_chosen_where_they_pay() {
    let names = [
        (&b"trusted.overlay.opaque"[..], 3),
        (b"trusted.overlay.origin", 1),
        (b"trusted.overlay.", 1),
        (b"user.once", 1),
        (b"security.capability", 9),
        (b"system.posix_acl_access", 50),
    ];
    let prefixes = prefix::LongPrefixes::choose(&names.into());
    assert_eq!(prefixes.apply(6, b"capability"), (0x81, &b""[..]));
    assert_eq!(prefixes.apply(4, b"overlay.opaque"), (0x80, &b""[..]));
    assert_eq!(prefixes.apply(1, b"once"), (1, &b"once"[..]));
    assert_eq!(prefixes.apply(2, b""), (2, &b""[..]));
    assert_eq!(prefixes.apply(4, b"overlay.origin"), (0x82, &b"origin"[..]));
    assert_eq!(prefixes.count(), 3);
    assert_eq!(prefixes.table().len(), 20 + 16 + 12);
    let few = [(&b"user.a"[..], 2)];
    assert_eq!(prefix::LongPrefixes::choose(&few.into()).count(), 0);
}

#[test]
fn pairs_are_shared_from_the_third_use_on() {
    let mut tree = Tree::new();
    for (value, uses) in [(&b"two"[..], 2), (b"three", 3)] {
        for index in 0..uses {
            let name = format!("{}{index}", value.escape_ascii());
            let id = add(&mut tree, Tree::ROOT, name.as_bytes(), regular(b""));
            tree[id].set_xattr(b"user.x", value);
        }
    }
    assert_eq!(write(&tree, WriterOptions::default()).unwrap().1.shared_xattrs, 1);
}

#[test]
fn distinct_values_are_shared_by_where_they_are() {
    let value: std::sync::Arc<[u8]> = (*b"one allocation").into();
    let mut tree = Tree::new();
    for number in 0..3 {
        let mut inode = regular(b"");
        inode.set_xattr(b"user.alike", b"three allocations");
        inode.xattrs.push(crate::Xattr { name: (*b"user.shared").into(), value: value.clone() });
        add(&mut tree, Tree::ROOT, format!("{number}").as_bytes(), inode);
    }
    drop(value);
    for (distinct_xattrs, shared) in [(false, 2), (true, 1)] {
        let options = WriterOptions { distinct_xattrs, ..WriterOptions::default() };
        let (bytes, summary) = write(&tree, options).unwrap();
        assert_eq!(summary.shared_xattrs, shared);
        let image = crate::Image::open(bytes).unwrap();
        assert!(crate::check(&image).findings.is_empty());
        let inode = image.resolve(b"2", false).unwrap();
        let values: Vec<_> = image.xattrs(&inode).unwrap().into_iter().map(|x| x.value).collect();
        assert_eq!(values.len(), 2);
        assert!(values.contains(&(*b"three allocations").into()));
        assert!(values.contains(&(*b"one allocation").into()));
    }
}

#[test]
fn epoch_is_the_most_frequent_time_and_the_earlier_of_two() {
    let mut tree = Tree::new();
    let time = |seconds| Timestamp { seconds, nanoseconds: 3 };
    for (name, seconds) in [("a", 9), ("b", 4), ("c", 9), ("d", 4), ("e", 5)] {
        add(&mut tree, Tree::ROOT, name.as_bytes(), Inode { mtime: time(seconds), ..regular(b"") });
    }
    tree[Tree::ROOT].mtime = time(7);
    let (_, summary) = write(&tree, WriterOptions::default()).unwrap();
    assert_eq!((summary.epoch, summary.compact_inodes), (time(4), 2));
}

#[test]
fn arena_order_and_unreachable_inodes_leave_no_trace() {
    let mut one = Tree::new();
    let mut other = Tree::new();
    for name in ["a", "b", "c"] {
        add(&mut one, Tree::ROOT, name.as_bytes(), regular(name.as_bytes()));
    }
    for name in ["c", "x", "a", "b"] {
        add(&mut other, Tree::ROOT, name.as_bytes(), regular(name.as_bytes()));
    }
    other[Tree::ROOT].entries_mut().unwrap().remove(&b"x"[..]);
    let options = WriterOptions::default;
    let (image, summary) = write(&one, options()).unwrap();
    assert_eq!(write(&other, options()).unwrap(), (image.clone(), summary.clone()));
    assert_eq!(summary.inodes, 4);
    let sink = SeekSink::new(std::io::Cursor::new(Vec::new()));
    let (sink, _) = ImageWriter::new(sink, options()).unwrap().finish(&one, [0; 16]).unwrap();
    assert_eq!(sink.into_inner().into_inner(), image);
}

#[test]
fn files_beyond_the_last_address_are_refused() {
    for (block_size, limit) in [(BlockSize::B512, 1 << 41), (BlockSize::B4096, 1 << 44)] {
        let options = WriterOptions { block_size, ..Default::default() };
        let mut writer = ImageWriter::new(Vec::new(), options).unwrap();
        for size in [limit, u64::MAX] {
            assert_eq!(writer.begin_file(size).unwrap_err().kind(), ErrorKind::TooLarge);
            let sparse = writer.begin_sparse_file(size, &[(1, size - 1)]);
            assert_eq!(sparse.unwrap_err().kind(), ErrorKind::TooLarge);
        }
        writer.begin_sparse_file(limit, &[(1, 1)]).unwrap();
    }
}

/// A medium that is full after so many bytes.
#[derive(Debug)]
struct Full(usize);

impl Sink for Full {
    fn reserve(&mut self, len: u64) -> std::io::Result<()> {
        self.append(&vec![0; usize::try_from(len).unwrap()])
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(())
    }

    fn write_header(&mut self, _: &[u8]) -> std::io::Result<()> {
        self.append(&[0])
    }
}

#[test]
fn a_full_medium_is_an_error_wherever_it_fills() {
    let run = |room: usize| -> Result<()> {
        let mut writer = ImageWriter::new(Full(room), WriterOptions::default())?;
        writer.begin_file(100_000)?;
        writer.write_data(&[1; 100_000])?;
        let data = writer.end_file()?;
        writer.finish(&at_root(Content::Regular(data)), [0; 16]).map(|_| ())
    };
    let length = 4096 + 102_400 + 4096 + 1;
    run(length).unwrap();
    for room in [0, 4095, 4096, 50_000, 104_096, 106_496, length - 2, length - 1] {
        let error = run(room).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{room}");
        let cause = std::error::Error::source(&error).unwrap().downcast_ref::<std::io::Error>();
        assert_eq!(cause.unwrap().kind(), std::io::ErrorKind::StorageFull);
    }
}

/// Metadata goes out in pieces that end anywhere; alignment is that of the image, not of a piece.
#[test]
fn pieces_of_metadata_may_end_at_odd_places() {
    let mut tree = Tree::new();
    for index in 0..2000usize {
        let bytes = vec![1; 2001 + index % 4];
        let id = add(&mut tree, Tree::ROOT, format!("{index}").as_bytes(), regular(&bytes));
        tree[id].set_xattr(b"user.number", format!("{index}").as_bytes());
        tree[id].set_xattr(b"user.odd", &vec![2; index % 7]);
    }
    let (image, summary) = write(&tree, WriterOptions::default()).unwrap();
    assert!(summary.metadata > 3 << 20);
    let image = crate::Image::open(image).unwrap();
    assert_eq!(crate::check(&image).findings, []);
    let loaded = image.load_tree().unwrap();
    for (name, &id) in tree.root().entries().unwrap() {
        let found = loaded.lookup([&**name]).unwrap();
        assert_eq!(loaded[found], tree[id]);
    }
}
