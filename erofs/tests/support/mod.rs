//! Random trees, and images of them, for every test that needs one.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;

use erofs::{
    BlockAddress, BlockSize, Content, DeviceInfo, DeviceNumber, FileData, ImageSummary,
    ImageWriter, Inode, InodeId, Timestamp, Tree, WriterOptions, Xattr,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;

/// A tree as it was written, with what its files hold.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) options: WriterOptions,
    pub(crate) tree: Tree,
    /// Contents of regular files.
    pub(crate) contents: BTreeMap<InodeId, Vec<u8>>,
    pub(crate) devices: Vec<Vec<u8>>,
    pub(crate) image: Vec<u8>,
    pub(crate) summary: ImageSummary,
}

/// What to make; turned into a [`Sample`] by [`Recipe::build`].
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) block_size: BlockSize,
    pub(crate) long_xattr_prefixes: bool,
    pub(crate) inline_budget: u64,
    pub(crate) root: Meta,
    pub(crate) nodes: Vec<Node>,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) parent: Index,
    pub(crate) name: Vec<u8>,
    pub(crate) meta: Meta,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) struct Meta {
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Directory,
    /// Bytes in the tree.
    Held(Vec<u8>),
    /// Bytes through `begin_file`.
    Streamed(Vec<u8>),
    /// A size in blocks and a rest, and data segments in 1/64 of it.
    Sparse {
        size: u64,
        segments: Vec<(u8, u8)>,
    },
    /// One run on an extra device.
    OnDevice {
        device: bool,
        size: u64,
    },
    /// Whole blocks on an extra device, the rest inline.
    TailOnDevice {
        device: bool,
        size: u64,
    },
    /// Chunks all over the devices, and holes.
    Chunked {
        extra_bits: u8,
        size: u64,
        chunks: Vec<Option<(bool, Index)>>,
    },
    Symlink(Vec<u8>),
    Char(DeviceNumber),
    Block(DeviceNumber),
    Fifo,
    Socket,
    HardLink(Index),
}

const DEVICE_BLOCKS: u64 = 40;

impl Recipe {
    /// Writes the tree into memory.
    pub(crate) fn build(&self) -> Sample {
        let block = self.block_size.bytes();
        let devices: Vec<Vec<u8>> =
            (1..=2).map(|seed| noise(seed, DEVICE_BLOCKS * block)).collect();
        let uses_devices = self.nodes.iter().any(|node| {
            matches!(
                node.kind,
                Kind::OnDevice { .. } | Kind::TailOnDevice { .. } | Kind::Chunked { .. }
            )
        });
        let devices = if uses_devices { devices } else { Vec::new() };
        let options = WriterOptions {
            block_size: self.block_size,
            label: "sample".to_owned(),
            inline_budget: self.inline_budget,
            devices: devices
                .iter()
                .map(|bytes| DeviceInfo {
                    tag: b"device".to_vec(),
                    blocks: u32::try_from(bytes.len() as u64 / block).unwrap(),
                })
                .collect(),
            long_xattr_prefixes: self.long_xattr_prefixes,
            ..WriterOptions::default()
        };
        let mut writer = ImageWriter::new(Vec::new(), options.clone()).unwrap();
        let mut tree = Tree::new();
        let mut contents = BTreeMap::new();
        tree[Tree::ROOT] = self.root.inode(Content::Directory(BTreeMap::new()));
        let (mut directories, mut others) = (vec![Tree::ROOT], Vec::new());
        for node in &self.nodes {
            let parent = *node.parent.get(&directories);
            if tree[parent].entries().unwrap().contains_key(&*node.name) {
                continue;
            }
            let id = match &node.kind {
                Kind::HardLink(target) if !others.is_empty() => *target.get(&others),
                kind => {
                    let (content, bytes) = kind.make(&mut writer, &devices, block);
                    let id = tree.add(node.meta.inode(content));
                    match &tree[id].content {
                        Content::Directory(_) => directories.push(id),
                        _ => others.push(id),
                    }
                    contents.extend(bytes.map(|bytes| (id, bytes)));
                    id
                }
            };
            tree[parent].entries_mut().unwrap().insert(node.name.clone().into(), id);
        }
        let (image, summary) = writer.finish(&tree, *b"0123456789abcdef").unwrap();
        Sample { options, tree, contents, devices, image, summary }
    }
}

impl Meta {
    fn inode(&self, content: Content) -> Inode {
        let allowed = |name: &[u8]| match content {
            Content::Directory(_) => true,
            // The VFS keeps user attributes and default ACLs from other types.
            Content::Regular(_) => !name.ends_with(b"acl_default"),
            _ => !name.starts_with(b"user.") && !name.starts_with(b"system."),
        };
        Inode {
            permissions: self.permissions,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs: self
                .xattrs
                .iter()
                .filter(|(name, _)| allowed(name))
                .map(|(name, value)| Xattr { name: name[..].into(), value: value[..].into() })
                .collect(),
            content,
        }
    }
}

impl Kind {
    fn make(
        &self,
        writer: &mut ImageWriter<Vec<u8>>,
        devices: &[Vec<u8>],
        block: u64,
    ) -> (Content, Option<Vec<u8>>) {
        let regular = |data, bytes| (Content::Regular(data), Some(bytes));
        let device = |second: bool| (u16::from(second) + 1, &devices[usize::from(second)]);
        match self {
            Self::Directory => (Content::Directory(BTreeMap::new()), None),
            Self::Held(bytes) => regular(FileData::Bytes(bytes[..].into()), bytes.clone()),
            Self::Streamed(bytes) => {
                writer.begin_file(bytes.len() as u64).unwrap();
                bytes.chunks(1000).for_each(|piece| writer.write_data(piece).unwrap());
                regular(writer.end_file().unwrap(), bytes.clone())
            }
            Self::Sparse { size, segments } => {
                let mut bytes = vec![0; to_usize(*size)];
                let mut given = Vec::new();
                let mut end = 0;
                for &(gap, length) in segments {
                    let start = (end + u64::from(gap) * size / 64).min(*size);
                    end = (start + u64::from(length) * size / 64).min(*size);
                    given.push((start, end - start));
                    bytes[to_usize(start)..to_usize(end)].copy_from_slice(&noise(end, end - start));
                }
                writer.begin_sparse_file(*size, &given).unwrap();
                for (start, length) in given {
                    writer.write_data(&bytes[to_usize(start)..to_usize(start + length)]).unwrap();
                }
                regular(writer.end_file().unwrap(), bytes)
            }
            Self::OnDevice { device: second, size } => {
                let (device, bytes) = device(*second);
                let size = size % (DEVICE_BLOCKS * block / 2);
                let start = BlockAddress { device, block: 3 };
                let from = to_usize(3 * block);
                regular(FileData::Extent { start, size }, bytes[from..from + to_usize(size)].into())
            }
            Self::TailOnDevice { device: second, size } => {
                let (device, bytes) = device(*second);
                let size = size % (DEVICE_BLOCKS * block / 2);
                let tail = noise(size, size % block);
                if tail.is_empty() {
                    return regular(FileData::Bytes([].into()), Vec::new());
                }
                let start = BlockAddress { device, block: 5 };
                let from = to_usize(5 * block);
                let mut content = bytes[from..from + to_usize(size / block * block)].to_vec();
                content.extend_from_slice(&tail);
                regular(FileData::ExtentAndTail { start, size, tail: tail.into() }, content)
            }
            Self::Chunked { extra_bits, size, chunks } => {
                let chunk = block << extra_bits;
                let size = size % (chunks.len() as u64 * chunk);
                let mut content = Vec::new();
                let mut table = Vec::new();
                for spec in &chunks[..to_usize(size.div_ceil(chunk))] {
                    let length = to_usize(chunk.min(size - content.len() as u64));
                    table.push(spec.map(|(second, at)| {
                        let (device, bytes) = device(second);
                        let at = at.index(to_usize(DEVICE_BLOCKS - (1 << extra_bits) + 1)) as u64;
                        let from = to_usize(at * block);
                        content.extend_from_slice(&bytes[from..from + length]);
                        BlockAddress { device, block: u32::try_from(at).unwrap() }
                    }));
                    if spec.is_none() {
                        content.resize(content.len() + length, 0);
                    }
                }
                let chunk_bits = u8::try_from(chunk.trailing_zeros()).unwrap();
                regular(FileData::Chunks { size, chunk_bits, chunks: table.into() }, content)
            }
            Self::Symlink(target) => (Content::Symlink(target[..].into()), None),
            Self::Char(number) => (Content::CharDevice(*number), None),
            Self::Block(number) => (Content::BlockDevice(*number), None),
            Self::Fifo | Self::HardLink(_) => (Content::Fifo, None),
            Self::Socket => (Content::Socket, None),
        }
    }
}

/// Bytes that look random and depend on `seed` only.
pub(crate) fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

pub(crate) fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

/// Recipes over both block sizes; with `devices`, files may lie on two extra devices.
pub(crate) fn recipes(devices: bool) -> impl Strategy<Value = Recipe> {
    (
        prop_oneof![Just(BlockSize::B4096), Just(BlockSize::B512)],
        any::<bool>(),
        prop_oneof![Just(0), Just(3000), Just(1 << 20)],
        meta(),
        vec(node(devices), 0..60),
    )
        .prop_map(|(block_size, long_xattr_prefixes, inline_budget, root, nodes)| Recipe {
            block_size,
            long_xattr_prefixes,
            inline_budget,
            root,
            nodes,
        })
}

fn node(devices: bool) -> impl Strategy<Value = Node> {
    (any::<Index>(), name(), meta(), kind(devices)).prop_map(|(parent, name, meta, kind)| Node {
        parent,
        name,
        meta,
        kind,
    })
}

/// Names of 1 to 255 bytes, often around the dot, at 0xFF, or with a common beginning.
pub(crate) fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => prop_oneof![Just(0x20u8), Just(0x2D), Just(0x2E), Just(0x30), Just(0xFF), Just(1)],
        2 => 1..=255u8,
    ]
    .prop_map(|byte| if byte == b'/' { b'_' } else { byte });
    prop_oneof![
        4 => vec(byte.clone(), 1..4),
        4 => "[a-z]{1,12}".prop_map(String::into_bytes),
        1 => vec(byte, 200..=255),
    ]
    .prop_filter("reserved", |name| name != b"." && name != b"..")
}

fn meta() -> impl Strategy<Value = Meta> {
    let id = prop_oneof![4 => Just(0), 2 => 0..70_000u32, 1 => Just(4_294_967_294u32)];
    let mtime = prop_oneof![
        3 => Just((1_735_689_600, 0)),
        1 => (-3_000_000_000..300_000_000_000i64, 0..1_000_000_000u32),
    ];
    (0..0o10000u16, id.clone(), id, mtime, xattrs()).prop_map(
        |(permissions, uid, gid, (seconds, nanoseconds), xattrs)| {
            let mtime = Timestamp { seconds, nanoseconds };
            Meta { permissions, uid, gid, mtime, xattrs }
        },
    )
}

fn xattrs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let name = prop_oneof![
        "(user|trusted|security)\\.[a-z.]{1,10}".prop_map(String::into_bytes),
        prop_oneof![
            Just("trusted.overlay.opaque"),
            Just("trusted.overlay.origin"),
            Just("user.mime_type"),
            Just("security.selinux"),
        ]
        .prop_map(|name| name.as_bytes().to_vec()),
    ];
    let value = prop_oneof![
        3 => Just(b"y".to_vec()),
        2 => vec(any::<u8>(), 0..40),
        1 => (0..6000u64).prop_map(|length| noise(length, length)),
    ];
    let some = btree_map(name, value, 1..5).prop_map(|mut xattrs| {
        // Other values mean something else to overlayfs, or nothing.
        if let Some(value) = xattrs.get_mut(&b"trusted.overlay.opaque"[..]) {
            *value = b"y".to_vec();
        }
        xattrs
    });
    prop_oneof![2 => Just(BTreeMap::new()), 1 => some]
}

fn kind(devices: bool) -> impl Strategy<Value = Kind> {
    let size = prop_oneof![
        Just(0u64),
        Just(1),
        Just(511),
        Just(512),
        Just(513),
        Just(4095),
        Just(4096),
        Just(4097),
        0..20_000u64,
    ];
    let bytes = size.clone().prop_map(|size| noise(size, size));
    let number =
        (0..4096u32, 0..1_048_576u32).prop_map(|(major, minor)| DeviceNumber { major, minor });
    let target = prop_oneof![
        "[a-z/.]{1,60}".prop_map(String::into_bytes),
        (1..=4095usize).prop_map(|length| vec![b't'; length]),
    ];
    let plain = prop_oneof![
        4 => Just(Kind::Directory),
        3 => bytes.clone().prop_map(Kind::Held),
        3 => bytes.prop_map(Kind::Streamed),
        2 => (0..200_000u64, vec((0..40u8, 0..20u8), 0..4))
            .prop_map(|(size, segments)| Kind::Sparse { size, segments }),
        2 => target.prop_map(Kind::Symlink),
        1 => prop_oneof![Just(DeviceNumber::WHITEOUT), number.clone()].prop_map(Kind::Char),
        1 => number.prop_map(Kind::Block),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        2 => any::<Index>().prop_map(Kind::HardLink),
    ];
    if !devices {
        return plain.boxed();
    }
    let external = prop_oneof![
        (any::<bool>(), size.clone()).prop_map(|(device, size)| Kind::OnDevice { device, size }),
        (any::<bool>(), size.clone())
            .prop_map(|(device, size)| Kind::TailOnDevice { device, size }),
        (0..3u8, 0..100_000u64, vec(proptest::option::of((any::<bool>(), any::<Index>())), 1..12))
            .prop_map(|(extra_bits, size, chunks)| Kind::Chunked { extra_bits, size, chunks }),
    ];
    prop_oneof![3 => plain, 1 => external].boxed()
}
