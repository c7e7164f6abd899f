//! Writing a hive: compact, and the same bytes for the same hive.

use std::collections::HashMap;
use std::sync::Arc;

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use super::format::{
    self, BIN_HEADER, BLOCK, BaseBlock, BigData, BinHeader, INLINE, KeyNode, LEAF, NIL, SEGMENT,
    SEGMENT_CELL, SecurityNode, ValueNode, key_flag,
};
use super::tree::{Hive, Key, KeyFlags, KeyId, Semantics, Value};
use crate::{Error, ErrorKind, Result};

impl Hive<'_> {
    /// The bytes of a primary file: version 1.5, or 1.6 for a differencing hive. Cells have no slack beyond their
    /// alignment, descriptors are stored once, and no field depends on the time or on a file's name.
    ///
    /// Reading the bytes gives an equal hive. What a hive cannot hold is an error: names that are too long, too much
    /// of anything, and predefined handles, whose meaning ends with the hive that they were read from.
    pub fn write(&self) -> Result<Vec<u8>> {
        let mut writer = Writer {
            bins: Bins::new(),
            cells: vec![NIL; self.key_count()],
            descriptors: HashMap::new(),
            ring: Vec::new(),
        };
        let mut pending = vec![Step::Enter(self.root(), NIL)];
        while let Some(step) = pending.pop() {
            match step {
                Step::Enter(id, parent) => {
                    let cell = writer
                        .key(self, id, parent)
                        .map_err(|what| what.of_key(|| self.path(id)))?;
                    writer.cells[id.index()] = cell;
                    let children = self.subkeys(id);
                    if !children.is_empty() {
                        pending.push(Step::Leave(id));
                        pending.extend(children.iter().rev().map(|id| Step::Enter(*id, cell)));
                    }
                }
                Step::Leave(id) => {
                    writer.lists(self, id).map_err(|what| what.of_key(|| self.path(id)))?;
                }
            }
        }
        writer.finish(self)
    }
}

enum Step {
    Enter(KeyId, u32),
    Leave(KeyId),
}

/// Why something cannot be stored.
struct Unstorable {
    kind: ErrorKind,
    what: &'static str,
}

impl Unstorable {
    const fn invalid(what: &'static str) -> Self {
        Self { kind: ErrorKind::Invalid, what }
    }

    const fn too_large(what: &'static str) -> Self {
        Self { kind: ErrorKind::TooLarge, what }
    }

    fn of_key(self, path: impl FnOnce() -> String) -> Error {
        Error::new(self.kind, format!("registry key {}: {}", path(), self.what))
    }
}

struct Writer<'h> {
    bins: Bins,
    /// By key: where it is.
    cells: Vec<u32>,
    /// By descriptor: its place in the ring.
    descriptors: HashMap<&'h [u8], usize>,
    ring: Vec<Descriptor>,
}

struct Descriptor {
    cell: u32,
    size: u32,
    references: u32,
}

impl<'h> Writer<'h> {
    /// Writes all of a key but its list of subkeys.
    fn key(&mut self, hive: &'h Hive<'_>, id: KeyId, parent: u32) -> Result<u32, Unstorable> {
        let key = hive.key(id);
        let is_root = id == hive.root();
        check_key(key, is_root)?;
        let (name, latin1) = stored_name(&key.name);
        let mut node = KeyNode::new_zeroed();
        node.signature = KeyNode::SIGNATURE;
        let mut flags = key.flags.bits();
        if is_root {
            // All three, although offreg sets the last only: some readers look for the first (O).
            flags |= key_flag::HIVE_ENTRY | key_flag::NO_DELETE;
        }
        if latin1 {
            flags |= key_flag::LATIN1;
        }
        node.flags.set(flags);
        node.written.set(key.written);
        if hive.is_layered() {
            node.layer = match key.layer.semantics {
                Semantics::Merge => 0,
                Semantics::Tombstone => 1,
                Semantics::SupersedeLocal => 2,
                Semantics::SupersedeTree => 3,
            };
            if key.layer.inherits_class {
                node.layer |= format::LAYER_INHERIT_CLASS;
            }
        }
        node.parent.set(parent);
        node.virtualization = key.virtualization;
        for field in
            [&mut node.subkey_list, &mut node.volatile_list, &mut node.value_list, &mut node.class]
        {
            field.set(NIL);
        }
        let children = hive.subkeys(id);
        node.subkeys.set(count(children.len())?);
        for child in children.iter().map(|child| hive.key(*child)) {
            let length = u16::try_from(child.name.units().len() * 2).unwrap_or(u16::MAX);
            node.longest_subkey.set(node.longest_subkey.get().max(length));
            let class = count(child.class.len())?;
            node.longest_class.set(node.longest_class.get().max(class));
        }
        node.values.set(count(key.values.len())?);
        for value in &key.values {
            let length = count(value.name.units().len() * 2)?;
            node.longest_value_name.set(node.longest_value_name.get().max(length));
            node.largest_value.set(node.largest_value.get().max(count(value.data.len())?));
        }
        node.name_length.set(length(&name)?);

        let cell = self.bins.allocate(size_of::<KeyNode>() + name.len())?;
        node.security.set(self.descriptor(&key.security)?);
        if !key.class.is_empty() {
            node.class_length.set(length(&key.class)?);
            node.class.set(self.bins.store(&[&key.class])?);
        }
        let mut values = Vec::with_capacity(key.values.len() * 4);
        for value in &key.values {
            values.extend(self.value(value, hive.is_layered())?.to_le_bytes());
        }
        if !values.is_empty() {
            node.value_list.set(self.bins.store(&[&values])?);
        }
        self.bins.fill(cell, &[node.as_bytes(), &name]);
        Ok(cell)
    }

    /// The cell of a descriptor, whose fields come last: they need the whole ring.
    fn descriptor(&mut self, descriptor: &'h Arc<[u8]>) -> Result<u32, Unstorable> {
        if let Some(place) = self.descriptors.get(&**descriptor) {
            let known = &mut self.ring[*place];
            known.references += 1;
            return Ok(known.cell);
        }
        let empty = SecurityNode::new_zeroed();
        let cell = self.bins.store(&[empty.as_bytes(), descriptor])?;
        self.descriptors.insert(descriptor, self.ring.len());
        self.ring.push(Descriptor { cell, size: count(descriptor.len())?, references: 1 });
        Ok(cell)
    }

    fn value(&mut self, value: &Value<'_>, layered: bool) -> Result<u32, Unstorable> {
        if value.name.units().len() > format::MAX_VALUE_NAME {
            return Err(Unstorable::too_large("the name of a value is longer than 16383 units"));
        }
        if value.deleted && !layered {
            return Err(Unstorable::invalid("a deleted value is in a hive that is no delta"));
        }
        let (name, latin1) = stored_name(&value.name);
        let mut node = ValueNode::new_zeroed();
        node.signature = ValueNode::SIGNATURE;
        node.name_length.set(length(&name)?);
        if latin1 {
            node.flags.set(format::VALUE_LATIN1);
        }
        if value.deleted {
            // As the kernel marks them: no type, no size, no cell (O).
            node.flags.set(node.flags.get() | format::VALUE_TOMBSTONE);
            node.data.set(NIL);
            return self.bins.store(&[node.as_bytes(), &name]);
        }
        node.kind.set(value.kind);
        let size = count(value.data.len())?;
        if let Some(rest) = 4_usize.checked_sub(value.data.len()) {
            node.size.set(size | INLINE);
            let mut field = [0; 4];
            field[..4 - rest].copy_from_slice(&value.data);
            node.data = U32::from_bytes(field);
        } else {
            node.size.set(size);
            node.data.set(self.data(&value.data)?);
        }
        self.bins.store(&[node.as_bytes(), &name])
    }

    fn data(&mut self, data: &[u8]) -> Result<u32, Unstorable> {
        if data.len() <= SEGMENT {
            return self.bins.store(&[data]);
        }
        let segments = data.chunks(SEGMENT);
        let number = u16::try_from(segments.len())
            .map_err(|_| Unstorable::too_large("a value is longer than 65535 segments"))?;
        let mut list = Vec::with_capacity(segments.len() * 4);
        for segment in segments {
            let cell = self.bins.allocate(SEGMENT_CELL)?;
            self.bins.fill(cell, &[segment]);
            list.extend(cell.to_le_bytes());
        }
        let mut big = BigData::new_zeroed();
        big.signature = BigData::SIGNATURE;
        big.segments.set(number);
        big.list.set(self.bins.store(&[&list])?);
        self.bins.store(&[big.as_bytes()])
    }

    /// Writes the list of a key's subkeys, which are all there, and enters it into the key.
    fn lists(&mut self, hive: &Hive<'_>, id: KeyId) -> Result<(), Unstorable> {
        let mut leaves = Vec::new();
        for part in hive.subkeys(id).chunks(LEAF) {
            let mut leaf = Vec::with_capacity(4 + part.len() * 8);
            leaf.extend(*b"lh");
            leaf.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_le_bytes());
            for child in part {
                leaf.extend(self.cells[child.index()].to_le_bytes());
                leaf.extend(hive.key(*child).name.hash().to_le_bytes());
            }
            leaves.push(self.bins.store(&[&leaf])?);
        }
        let list = match *leaves {
            [only] => only,
            _ => {
                let number = u16::try_from(leaves.len())
                    .map_err(|_| Unstorable::too_large("it has too many subkeys"))?;
                let leaves: Vec<u8> = leaves.iter().flat_map(|leaf| leaf.to_le_bytes()).collect();
                self.bins.store(&[b"ri", &number.to_le_bytes(), &leaves])?
            }
        };
        let field = std::mem::offset_of!(KeyNode, subkey_list);
        self.bins.patch(self.cells[id.index()], field, &list.to_le_bytes());
        Ok(())
    }

    fn finish(mut self, hive: &Hive<'_>) -> Result<Vec<u8>> {
        for (place, descriptor) in self.ring.iter().enumerate() {
            let at = |place: usize| self.ring[place % self.ring.len()].cell;
            let mut node = SecurityNode::new_zeroed();
            node.signature = SecurityNode::SIGNATURE;
            node.next.set(at(place + 1));
            node.previous.set(at(place + self.ring.len() - 1));
            node.references.set(descriptor.references);
            node.size.set(descriptor.size);
            self.bins.patch(descriptor.cell, 0, node.as_bytes());
        }
        let mut base = BaseBlock::new_zeroed();
        base.signature = BaseBlock::SIGNATURE;
        base.sequence.set(1);
        base.second_sequence.set(1);
        base.major.set(1);
        base.minor.set(if hive.is_layered() { 6 } else { 5 });
        base.file_type.set(format::PRIMARY);
        base.format.set(1);
        base.root.set(self.cells[hive.root().index()]);
        base.clustering.set(1);
        base.flags.set(if hive.is_layered() { format::LAYERED } else { 0 });
        Ok(self.bins.finish(base))
    }
}

fn check_key(key: &Key<'_>, is_root: bool) -> Result<(), Unstorable> {
    let name = key.name.units();
    if name.is_empty() || name.len() > format::MAX_KEY_NAME {
        return Err(Unstorable::invalid("a key's name has 1 to 255 units"));
    }
    // The root's name is part of no path.
    if !is_root && name.contains(&u16::from(b'\\')) {
        return Err(Unstorable::invalid("a backslash is in its name"));
    }
    if key.flags.contains(KeyFlags::PREDEFINED) {
        return Err(Unstorable {
            kind: ErrorKind::Unsupported,
            what: "a predefined handle cannot be written",
        });
    }
    Ok(())
}

/// A name as stored, and whether it has one byte a unit: Windows does that whenever all units fit (O).
fn stored_name(name: &super::Name) -> (Vec<u8>, bool) {
    match name.latin1() {
        Some(bytes) => (bytes, true),
        None => (name.units().iter().flat_map(|unit| unit.to_le_bytes()).collect(), false),
    }
}

fn count(number: usize) -> Result<u32, Unstorable> {
    let small = u32::try_from(number).ok().filter(|number| number & INLINE == 0);
    small.ok_or(Unstorable::too_large("it has more of something than a field holds"))
}

fn length(bytes: &[u8]) -> Result<u16, Unstorable> {
    u16::try_from(bytes.len())
        .map_err(|_| Unstorable::too_large("a name or class is longer than its field says"))
}

/// The file as it grows: the base block's room, then bins.
struct Bins {
    bytes: Vec<u8>,
    /// Where the last bin ends. Everything up to `bytes.len()` is in use.
    end: usize,
}

impl Bins {
    fn new() -> Self {
        Self { bytes: vec![0; BLOCK], end: BLOCK }
    }

    /// Room for so many bytes of content, zeroed.
    fn allocate(&mut self, content: usize) -> Result<u32, Unstorable> {
        let too_large = Unstorable::too_large("the hive grows beyond 2 GiB");
        if content > format::MAX_BINS {
            return Err(too_large);
        }
        let size = (content + 4).next_multiple_of(8);
        if size > self.end - self.bytes.len() {
            self.close_bin();
            let bin = (size + BIN_HEADER).next_multiple_of(BLOCK);
            let start = self.bytes.len();
            if start + bin - BLOCK > format::MAX_BINS {
                return Err(too_large);
            }
            let mut header = BinHeader::new_zeroed();
            header.signature = BinHeader::SIGNATURE;
            header.offset.set(Self::stored(start));
            header.size.set(u32::try_from(bin).unwrap_or(u32::MAX));
            self.bytes.extend_from_slice(header.as_bytes());
            self.end = start + bin;
        }
        let cell = self.bytes.len();
        let field = i32::try_from(size).map_or(i32::MIN, |size| -size);
        self.bytes.extend_from_slice(&field.to_le_bytes());
        self.bytes.resize(cell + size, 0);
        Ok(Self::stored(cell))
    }

    /// A position as offsets count it.
    fn stored(position: usize) -> u32 {
        u32::try_from(position - BLOCK).expect("bins end below 2 GiB")
    }

    fn store(&mut self, parts: &[&[u8]]) -> Result<u32, Unstorable> {
        let cell = self.allocate(parts.iter().map(|part| part.len()).sum())?;
        self.fill(cell, parts);
        Ok(cell)
    }

    fn fill(&mut self, cell: u32, parts: &[&[u8]]) {
        let mut at = 0;
        for part in parts {
            self.patch(cell, at, part);
            at += part.len();
        }
    }

    fn patch(&mut self, cell: u32, at: usize, bytes: &[u8]) {
        let start = BLOCK + cell as usize + 4 + at;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes the rest of the last bin one free cell.
    fn close_bin(&mut self) {
        let rest = self.end - self.bytes.len();
        if rest > 0 {
            let field = i32::try_from(rest).unwrap_or(i32::MAX);
            self.bytes.extend_from_slice(&field.to_le_bytes());
            self.bytes.resize(self.end, 0);
        }
    }

    fn finish(mut self, mut base: BaseBlock) -> Vec<u8> {
        self.close_bin();
        base.bins_size.set(Self::stored(self.bytes.len()));
        base.checksum.set(base.computed_checksum());
        self.bytes[..size_of::<BaseBlock>()].copy_from_slice(base.as_bytes());
        self.bytes
    }
}
