use super::*;
use crate::testing::{Item, image_of, sample, tree_of};
use crate::{ImageWriter, WriterOptions, check};

fn file(bytes: &[u8]) -> Content {
    Content::Regular(FileData::Bytes(bytes.into()))
}

fn dir() -> Content {
    Inode::directory().content
}

fn whiteout() -> Content {
    Content::CharDevice(DeviceNumber::WHITEOUT)
}

type Items<'a> = &'a [Item<'a>];

fn merged(layers: &[Items<'_>]) -> Result<Merged> {
    let images: Vec<_> = layers
        .iter()
        .zip(1..)
        .map(|(items, uuid)| Image::open(image_of(&tree_of(items), uuid)).unwrap())
        .collect();
    merge(&images.iter().collect::<Vec<_>>())
}

/// Every path of a tree, with the bytes of files that are in memory.
fn paths(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut stack = vec![(String::new(), Tree::ROOT)];
    while let Some((path, id)) = stack.pop() {
        match &tree[id].content {
            Content::Directory(entries) => {
                for (name, child) in entries {
                    let name = String::from_utf8_lossy(name);
                    stack.push((format!("{path}/{name}"), *child));
                }
                found.push(format!("{path}/"));
            }
            Content::Regular(FileData::Bytes(bytes)) => {
                found.push(format!("{path}={}", String::from_utf8_lossy(bytes)));
            }
            other => found.push(format!("{path} {other:?}")),
        }
    }
    found.sort();
    found
}

#[test]
fn upper_names_win_and_whiteouts_hide() {
    let merged = merged(&[
        &[("a", file(b"1"), &[]), ("b", file(b"1"), &[]), ("c", file(b"1"), &[])],
        &[("a", file(b"2"), &[]), ("b", whiteout(), &[]), ("d", whiteout(), &[])],
        &[("c", file(b""), &[("trusted.overlay.whiteout", "")]), ("e", file(b""), &[])],
    ])
    .unwrap();
    assert_eq!(paths(&merged.tree), ["/", "/a=2", "/e="]);
    let layers: Vec<_> = merged.devices.iter().map(|d| (d.layer, d.device)).collect();
    assert_eq!(layers, [(0, 0), (1, 0), (2, 0)]);
    assert_eq!(merged.devices[1].info.tag, "02".repeat(16).into_bytes());
}

#[test]
fn directories_merge_until_something_stops_them() {
    let merged = merged(&[
        &[("d/deep", file(b"0"), &[]), ("o/low", file(b"0"), &[]), ("f/low", file(b"0"), &[])],
        &[("d", file(b"hides"), &[]), ("f", file(b"1"), &[])],
        &[
            ("d/x", file(b"2"), &[]),
            ("o/", dir(), &[("trusted.overlay.opaque", "y")]),
            ("o/up", file(b"2"), &[]),
            ("x/", dir(), &[("trusted.overlay.opaque", "x")]),
        ],
        &[("o/top", file(b"3"), &[]), ("w/y", file(b"3"), &[])],
        &[("w", whiteout(), &[])],
    ])
    .unwrap();
    let expected = ["/", "/d/", "/d/x=2", "/f=1", "/o/", "/o/top=3", "/o/up=2", "/x/"];
    assert_eq!(paths(&merged.tree), expected);
    for id in 0..merged.tree.len() {
        let inode = &merged.tree[InodeId(u32::try_from(id).unwrap())];
        assert_eq!(inode.xattrs, [], "overlay marks do not come through");
    }
}

#[test]
fn escaped_marks_come_out_one_level_up() {
    let merged = merged(&[&[(
        "f",
        file(b""),
        &[("trusted.overlay.overlay.opaque", "y"), ("trusted.overlay.origin", ""), ("user.a", "1")],
    )]])
    .unwrap();
    let inode = &merged.tree[merged.tree.lookup([&b"f"[..]]).unwrap()];
    assert_eq!(inode.xattr(b"trusted.overlay.opaque"), Some(&b"y"[..]));
    assert_eq!(inode.xattr(b"user.a"), Some(&b"1"[..]));
    assert_eq!(inode.xattrs.len(), 2);
}

#[test]
fn redirect_and_metacopy_are_refused_with_the_path() {
    for (name, content) in [
        ("trusted.overlay.redirect", dir()),
        ("trusted.overlay.redirect", file(b"1")),
        ("trusted.overlay.metacopy", file(b"1")),
    ] {
        let error = merged(&[&[("sub/it", content, &[(name, "v")])]]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().starts_with("/sub/it: "), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    // Below a whiteout nobody looks.
    let lower: Items<'_> = &[("it", file(b"1"), &[("trusted.overlay.metacopy", "")])];
    assert_eq!(paths(&merged(&[lower, &[("it", whiteout(), &[])]]).unwrap().tree), ["/"]);
}

#[test]
fn hard_links_stay_together_by_layer_and_inode() {
    let link = |tree: &mut Tree, from: &str, to: &str| {
        let id = tree.lookup([from.as_bytes()]).unwrap();
        tree[Tree::ROOT].entries_mut().unwrap().insert(to.as_bytes().into(), id);
    };
    let mut lower = tree_of(&[("a", file(b"1"), &[])]);
    link(&mut lower, "a", "b");
    link(&mut lower, "a", "c");
    let mut upper = tree_of(&[("a", file(b"2"), &[])]);
    link(&mut upper, "a", "z");
    let images = [lower, upper].map(|tree| Image::open(image_of(&tree, 1)).unwrap());
    let tree = merge(&images.iter().collect::<Vec<_>>()).unwrap().tree;
    let id = |name: &str| tree.lookup([name.as_bytes()]).unwrap();
    assert_eq!(id("a"), id("z"));
    assert_eq!(id("b"), id("c"));
    assert_ne!(id("a"), id("b"));
}

/// Merges images, writes the result, opens it over them and gives back every file's bytes.
fn written(layers: &[Vec<u8>], block_size: BlockSize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let images: Vec<_> =
        layers.iter().map(|bytes| Image::open(bytes.as_slice()).unwrap()).collect();
    let merged = merge_with_block_size(&images.iter().collect::<Vec<_>>(), block_size)?;
    let options =
        WriterOptions { devices: merged.device_infos(), block_size, ..WriterOptions::default() };
    let (index, _) =
        ImageWriter::new(Vec::new(), options).unwrap().finish(&merged.tree, [9; 16]).unwrap();
    let devices = layers.iter().map(Vec::as_slice).collect();
    let image = Image::open_with_devices(index.as_slice(), devices).unwrap();
    assert_eq!(check(&image).findings, []);
    let mut found = Vec::new();
    let root = image.inode(image.root()).unwrap();
    for entry in image.read_dir(&root).unwrap() {
        let view = image.inode(entry.nid).unwrap();
        let mut bytes = vec![0; usize::try_from(view.size).unwrap()];
        if view.file_type == FileType::Regular {
            image.read_at(&view, &mut bytes, 0).unwrap();
            found.push((entry.name.to_vec(), bytes));
        }
    }
    Ok(found)
}

#[test]
fn a_merged_image_reads_the_layers_data_at_both_block_sizes() {
    let (_, layer) = sample(WriterOptions::default());
    let upper = image_of(&tree_of(&[("top", file(&[b'x'; 4000]), &[])]), 2);
    for block_size in [BlockSize::B4096, BlockSize::B512] {
        let found = written(&[layer.clone(), upper.clone()], block_size).unwrap();
        let of = |name: &str| &found.iter().find(|(other, _)| other == name.as_bytes()).unwrap().1;
        assert_eq!(of("a"), b"hello\n");
        assert_eq!(of("big"), &[7; 5000]);
        assert_eq!(of("top"), &[b'x'; 4000]);
        let sparse = of("sparse");
        assert_eq!(sparse.len(), 1 << 20);
        assert_eq!(sparse[..10], [9; 10]);
        assert_eq!(sparse[1 << 19..][..5000], [9; 5000]);
        assert_eq!(sparse.iter().filter(|byte| **byte != 0).count(), 5010);
    }
}

#[test]
fn large_blocks_cannot_refer_to_small_ones() {
    let options = WriterOptions { block_size: BlockSize::B512, ..WriterOptions::default() };
    let (_, layer) = sample(options);
    let error = written(std::slice::from_ref(&layer), BlockSize::B4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let image = Image::open(layer).unwrap();
    assert_eq!(merge(&[&image]).unwrap().block_size, BlockSize::B512);
}

#[test]
fn a_layers_own_devices_become_devices_of_the_result() {
    let device = vec![0x77_u8; 8192];
    let options = WriterOptions {
        devices: vec![DeviceInfo { tag: b"its own".to_vec(), blocks: 2 }],
        ..WriterOptions::default()
    };
    let start = BlockAddress { device: 1, block: 1 };
    let data = FileData::Extent { start, size: 4000 };
    let tree = tree_of(&[("far", Content::Regular(data), &[])]);
    let (upper, _) = ImageWriter::new(Vec::new(), options).unwrap().finish(&tree, [5; 16]).unwrap();
    let lower = image_of(&tree_of(&[("near", file(b"1"), &[])]), 4);
    let lower = Image::open(&lower[..]).unwrap();
    let given = Image::open_with_devices(&upper[..], vec![&device[..]]).unwrap();
    let merged = merge(&[&lower, &given]).unwrap();
    let found: Vec<_> = merged.devices.iter().map(|d| (d.layer, d.device, d.info.blocks)).collect();
    let upper_blocks = u32::try_from(upper.len() / 4096).unwrap();
    assert_eq!(found[1..], [(1, 0, upper_blocks), (1, 1, 2)]);
    assert_eq!(merged.devices[2].info.tag, b"its own");
    let far = &merged.tree[merged.tree.lookup([&b"far"[..]]).unwrap()];
    let start = BlockAddress { device: 3, block: 1 };
    let Content::Regular(FileData::Chunks { chunks, .. }) = &far.content else {
        panic!("{:?}", far.content)
    };
    assert_eq!(**chunks, [Some(start)]);

    // Without its device the layer cannot be merged; behind it in one file it can.
    let alone = Image::open(&upper[..]).unwrap();
    assert_eq!(merge(&[&alone]).unwrap_err().kind(), ErrorKind::NotFound);
    let flattened = [&upper[..], &device[..]].concat();
    let flattened = Image::open(flattened).unwrap();
    let merged = merge(&[&flattened]).unwrap();
    assert_eq!(merged.devices.len(), 1);
}

#[test]
fn a_directory_with_two_names_is_refused() {
    let tree = tree_of(&[("a/x", file(b"1"), &[]), ("b/", dir(), &[])]);
    let image = image_of(&tree, 1);
    let opened = Image::open(&image[..]).unwrap();
    let (a, b) = (opened.resolve(b"a", true).unwrap(), opened.resolve(b"b", true).unwrap());
    let (a, b) = (a.nid.0.to_le_bytes(), b.nid.0.to_le_bytes());
    let root = usize::try_from(opened.resolve(b"", true).unwrap().head_end()).unwrap();
    let at = image[root..].windows(8).position(|bytes| bytes == b).unwrap();
    let mut damaged = image.clone();
    damaged[root + at..root + at + 8].copy_from_slice(&a);
    let damaged = Image::open(damaged).unwrap();
    assert_eq!(merge(&[&damaged]).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(damaged.load_tree().unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(crate::diff(&damaged, &opened).unwrap_err().kind(), ErrorKind::Corrupt);
}
