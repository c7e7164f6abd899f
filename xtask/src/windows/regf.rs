//! Registry hives from nothing: an empty one for hivex to fill, and differencing hives, which no public tool writes.
//!
//! One bin holds all cells, in the order key, values, children; keys and values are few, so no list needs a second
//! leaf. Names are ASCII.

/// The deltas' marks on a key, as they are on disk.
pub(super) mod layered {
    /// New, or merged with the lower layers' key of the name.
    pub(crate) const MERGE: u8 = 0x00;
    /// The lower layers' key is gone.
    pub(crate) const TOMBSTONE: u8 = 0x01;
    /// This key alone counts, the lower layers' is hidden with all below it.
    pub(crate) const SUPERSEDE_TREE: u8 = 0x03;
    /// Merged, with the class of the lower layers' key.
    pub(crate) const PROMOTED: u8 = 0x80;
}

/// A registry key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    name: String,
    mark: u8,
    values: Vec<Value>,
    children: Vec<Key>,
}

#[derive(Debug, Clone)]
struct Value {
    name: String,
    kind: u32,
    /// `None` is the tombstone of a value.
    data: Option<Vec<u8>>,
}

const NIL: u32 = 0xffff_ffff;
const BASE_BLOCK: usize = 4096;

/// `O:BAG:BAD:(A;CI;KA;;;SY)(A;CI;KA;;;BA)(A;CI;KR;;;WD)(A;CI;KR;;;RC)`, with which Windows' offline registry library
/// begins a hive.
const DESCRIPTOR: [u32; 36] = [
    0x8004_0001,
    0x70,
    0x80,
    0,
    0x14,
    0x005c_0002,
    4,
    0x0014_0200,
    0x000f_003f,
    0x0101,
    0x0500_0000,
    0x12,
    0x0018_0200,
    0x000f_003f,
    0x0201,
    0x0500_0000,
    0x20,
    0x220,
    0x0014_0200,
    0x0002_0019,
    0x0101,
    0x0100_0000,
    0,
    0x0014_0200,
    0x0002_0019,
    0x0101,
    0x0500_0000,
    0x0c,
    0x0201,
    0x0500_0000,
    0x20,
    0x220,
    0x0201,
    0x0500_0000,
    0x20,
    0x220,
];

impl Key {
    pub(super) fn new(name: &str, mark: u8) -> Self {
        Self { name: name.to_owned(), mark, values: Vec::new(), children: Vec::new() }
    }

    pub(super) fn with(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    pub(super) fn text(mut self, name: &str, text: &str) -> Self {
        let data = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        self.values.push(Value { name: name.to_owned(), kind: 1, data: Some(data) });
        self
    }

    pub(super) fn number(mut self, name: &str, number: u32) -> Self {
        let data = Some(number.to_le_bytes().to_vec());
        self.values.push(Value { name: name.to_owned(), kind: 4, data });
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.values.push(Value { name: name.to_owned(), kind: 0, data: None });
        self
    }
}

/// The hive file of a root. `differencing` decides whether the marks count.
pub(super) fn write(root: &Key, differencing: bool) -> Vec<u8> {
    let mut cells = Cells { bytes: vec![0; 32], descriptor: 0, keys: 0 };
    let root = cells.key(root, NIL, true);
    let keys = cells.keys;
    cells.put(cells.descriptor, 12, &keys.to_le_bytes());
    let mut bins = cells.bytes;
    let used = bins.len();
    bins.resize((used + 8).next_multiple_of(4096), 0);
    let free = word(bins.len() - used);
    bins[used..used + 4].copy_from_slice(&free.to_le_bytes());
    bins[..4].copy_from_slice(b"hbin");
    let size = word(bins.len()).to_le_bytes();
    bins[8..12].copy_from_slice(&size);

    let mut base = vec![0; BASE_BLOCK];
    base[..4].copy_from_slice(b"regf");
    let minor = if differencing { 6 } else { 5 };
    let fields = [(4, 1), (8, 1), (20, 1), (24, minor), (32, 1), (36, root), (44, 1)];
    for (at, value) in fields {
        base[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    base[40..44].copy_from_slice(&size);
    base[144] = if differencing { 2 } else { 0 };
    let words = base[..508].chunks_exact(4);
    let sum =
        words.fold(0, |sum, word| sum ^ word.iter().rev().fold(0, |w, b| w << 8 | u32::from(*b)));
    let sum = match sum {
        0 => 1,
        NIL => NIL - 1,
        sum => sum,
    };
    base[508..512].copy_from_slice(&sum.to_le_bytes());
    base.extend(bins);
    base
}

struct Cells {
    /// The bin, its header first.
    bytes: Vec<u8>,
    /// The one security cell, made with the root.
    descriptor: u32,
    keys: u32,
}

impl Cells {
    /// Appends a cell and returns its offset.
    fn cell(&mut self, content: &[u8]) -> u32 {
        let at = self.bytes.len();
        let size = (content.len() + 4).next_multiple_of(8);
        self.bytes.extend(word(size).wrapping_neg().to_le_bytes());
        self.bytes.extend(content);
        self.bytes.resize(at + size, 0);
        word(at)
    }

    fn put(&mut self, cell: u32, at: usize, bytes: &[u8]) {
        let at = cell as usize + 4 + at;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn key(&mut self, key: &Key, parent: u32, root: bool) -> u32 {
        self.keys += 1;
        let longest = |names: &mut dyn Iterator<Item = &String>| {
            names.map(|name| 2 * word(name.len())).max().unwrap_or(0)
        };
        let child_name = longest(&mut key.children.iter().map(|child| &child.name));
        let value_name = longest(&mut key.values.iter().map(|value| &value.name));
        let data = key.values.iter().filter_map(|value| value.data.as_ref());
        let data = data.map(|data| word(data.len())).max().unwrap_or(0);
        let fields = [
            parent,
            word(key.children.len()),
            0,
            NIL,
            NIL,
            word(key.values.len()),
            NIL,
            self.descriptor,
            NIL,
            child_name,
            0,
            value_name,
            data,
            0,
            word(key.name.len()),
        ];
        let mut record = b"nk".to_vec();
        record.push(if root { 0x2c } else { 0x20 });
        record.extend([0; 10]);
        record.extend([key.mark, 0, 0]);
        record.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        record.extend(key.name.bytes());
        let cell = self.cell(&record);
        if root {
            let next = word(self.bytes.len());
            let mut record = b"sk\0\0".to_vec();
            let size = 4 * word(DESCRIPTOR.len());
            record.extend([next, next, 0, size].iter().flat_map(|field| field.to_le_bytes()));
            record.extend(DESCRIPTOR.iter().flat_map(|field| field.to_le_bytes()));
            self.descriptor = self.cell(&record);
            self.put(cell, 44, &next.to_le_bytes());
        }
        if !key.values.is_empty() {
            let list: Vec<u8> =
                key.values.iter().flat_map(|value| self.value(value).to_le_bytes()).collect();
            let list = self.cell(&list);
            self.put(cell, 40, &list.to_le_bytes());
        }
        let mut children: Vec<(String, &Key)> =
            key.children.iter().map(|child| (child.name.to_ascii_uppercase(), child)).collect();
        children.sort_by(|a, b| a.0.cmp(&b.0));
        if !children.is_empty() {
            let mut list = b"lh".to_vec();
            list.extend(word(children.len()).to_le_bytes().iter().take(2));
            for (name, child) in children {
                let hash = name
                    .bytes()
                    .fold(0, |hash: u32, byte| hash.wrapping_mul(37).wrapping_add(byte.into()));
                list.extend(self.key(child, cell, false).to_le_bytes());
                list.extend(hash.to_le_bytes());
            }
            let list = self.cell(&list);
            self.put(cell, 28, &list.to_le_bytes());
        }
        cell
    }

    fn value(&mut self, value: &Value) -> u32 {
        let (size, data) = match &value.data {
            None => (0, NIL),
            Some(data) if data.len() <= 4 => {
                let inline = data.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
                (word(data.len()) | 0x8000_0000, inline)
            }
            Some(data) => (word(data.len()), self.cell(data)),
        };
        let flags = if value.data.is_none() { 3_u16 } else { 1 };
        let mut record = b"vk".to_vec();
        record.extend(word(value.name.len()).to_le_bytes().iter().take(2));
        record.extend([size, data, value.kind].iter().flat_map(|field| field.to_le_bytes()));
        record.extend(flags.to_le_bytes());
        record.extend([0, 0]);
        record.extend(value.name.bytes());
        self.cell(&record)
    }
}

/// Hives of this generator are far below 4 GiB.
fn word(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(NIL)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::oci_layout::hexadecimal;

    #[test]
    fn an_empty_hive_is_the_known_one() {
        let hive = write(&Key::new("ROOT", 0), false);
        assert_eq!(hive.len(), 8192);
        assert_eq!(
            hexadecimal(&Sha256::digest(&hive)),
            "7d6db9fa24a1728730c579f63fda0a9581ec3391f6c94ca53c5c90f95362db10"
        );
    }
}
