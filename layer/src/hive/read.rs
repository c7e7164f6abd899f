//! Reading a primary file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use zerocopy::FromBytes;

use super::cells::{Cells, Damage};
use super::format::{
    self, BLOCK, BaseBlock, BigData, INLINE, KeyNode, ListHeader, SEGMENT, SecurityNode, ValueNode,
    key_flag,
};
use super::tree::{Hive, Key, KeyFlags, KeyId, Layer, Semantics, Value};
use super::{Name, WarningKind};
use crate::{Error, ErrorKind, Result};

impl<'a> Hive<'a> {
    /// Reads a hive from a primary file. One that was not closed properly is refused as corrupt: see
    /// [`recover`](super::recover).
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        read(bytes, Dirty::Refused)
    }

    /// The same, but takes a hive that was not closed properly as it is, and warns: changes may be missing or
    /// half there.
    pub fn read_without_log(bytes: &'a [u8]) -> Result<Self> {
        read(bytes, Dirty::Taken)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dirty {
    Refused,
    Taken,
}

fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("registry hive: {what}"))
}

fn read(bytes: &[u8], dirty: Dirty) -> Result<Hive<'_>> {
    if bytes.is_empty() {
        return Err(corrupt("the file is empty"));
    }
    if bytes.len() > format::MAX_FILE {
        return Err(Error::new(ErrorKind::TooLarge, "registry hive: larger than 512 MiB"));
    }
    let (base, _) = BaseBlock::ref_from_prefix(bytes).map_err(|_| corrupt("it is too short"))?;
    check_base(base)?;
    let is_dirty = !base.checksum_is_right() || base.sequence != base.second_sequence;
    if is_dirty && dirty == Dirty::Refused {
        return Err(corrupt(
            "it was not closed properly, and changes in its logs are not applied to it",
        ));
    }
    let size = base.bins_size.get() as usize;
    let bins = bytes.get(BLOCK..).and_then(|rest| rest.get(..size));
    let bins = bins
        .filter(|bins| !bins.is_empty() && bins.len().is_multiple_of(BLOCK))
        .ok_or_else(|| corrupt("the size of its bins is impossible"))?;
    let cells = Cells::new(bins).map_err(|Damage(what)| corrupt(what))?;
    let mut reader = Reader {
        cells,
        layered: base.flags.get() & format::LAYERED != 0,
        big_data: base.minor.get() > format::LAST_MINOR_WITHOUT_BIG_DATA,
        security: HashMap::new(),
        values: 0,
    };
    let mut hive = reader.hive(base.root.get())?;
    if is_dirty {
        hive.warn(WarningKind::Dirty, hive.root());
    }
    // Differencing hives have the minor version 6, and nothing else has it (S, O).
    if hive.is_layered() != (base.minor.get() == 6) {
        hive.warn(WarningKind::VersionOfLayers, hive.root());
    }
    Ok(hive)
}

/// The rules for a base block that do not depend on whether the hive was closed.
fn check_base(base: &BaseBlock) -> Result<()> {
    if base.signature != BaseBlock::SIGNATURE {
        return Err(corrupt("it has no signature"));
    }
    let (major, minor) = (base.major.get(), base.minor.get());
    if major != 1 || !(3..=6).contains(&minor) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("registry hive: version {major}.{minor}; 1.3 to 1.6 are known"),
        ));
    }
    if base.file_type.get() != format::PRIMARY || base.format.get() != 1 {
        return Err(corrupt("it is not a primary file"));
    }
    Ok(())
}

struct Reader<'a> {
    cells: Cells<'a>,
    layered: bool,
    big_data: bool,
    security: HashMap<u32, Arc<[u8]>>,
    /// Values so far.
    values: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    BelowRoot,
}

/// A key whose subkeys were not read yet.
struct Decoded<'a> {
    key: Key<'a>,
    parent: u32,
    subkeys: u32,
    list: u32,
    warnings: Vec<WarningKind>,
}

/// An entry of a list of subkeys.
struct Entry {
    cell: u32,
    hint: Hint,
}

enum Hint {
    None,
    Start([u8; 4]),
    Hash(u32),
}

impl<'a> Reader<'a> {
    fn hive(&mut self, root: u32) -> Result<Hive<'a>> {
        let decoded = self
            .key(root, Place::Root)
            .and_then(|root| root.ok_or_else(|| Damage("it is for memory only".to_owned())))
            .map_err(|Damage(what)| corrupt(format!("the root: {what}")))?;
        let mut hive = Hive::new(decoded.key);
        hive.set_layered(self.layered);
        for kind in decoded.warnings {
            hive.warn(kind, hive.root());
        }
        let mut pending = vec![(hive.root(), root, decoded.subkeys, decoded.list)];
        while let Some((id, cell, count, list)) = pending.pop() {
            let wrong = |hive: &Hive<'_>, Damage(what)| {
                Error::corrupt(format!("registry key {}: {what}", hive.path(id)))
            };
            let entries = self.entries(count, list).map_err(|damage| wrong(&hive, damage))?;
            // Nothing is reserved by a list's word: its entries take less room than what they name.
            let mut children = Vec::new();
            for entry in entries {
                let child = self
                    .key(entry.cell, Place::BelowRoot)
                    .map_err(|damage| wrong(&hive, damage))?;
                let Some(child) = child else {
                    hive.warn(WarningKind::NotStored, id);
                    continue;
                };
                if !entry.hint.is_right(&child.key.name) {
                    hive.warn(WarningKind::Hint, id);
                }
                children.push((entry.cell, child));
            }
            if !children
                .is_sorted_by(|left, right| left.1.key.name.compare(&right.1.key.name).is_le())
            {
                hive.warn(WarningKind::Order, id);
                children.sort_by(|left, right| left.1.key.name.compare(&right.1.key.name));
            }
            let mut last: Option<KeyId> = None;
            for (child_cell, child) in children {
                let name = &child.key.name;
                if last.is_some_and(|last| hive.key(last).name.compare(name).is_eq()) {
                    // Which of the two a delta means, nobody can tell.
                    if self.layered {
                        let what = format!("it has two subkeys {name}");
                        return Err(wrong(&hive, Damage(what)));
                    }
                    hive.warn(WarningKind::DuplicateKey, id);
                    continue;
                }
                if hive.key_count() >= format::MAX_KEYS {
                    let what = "registry hive: more than 4 million keys";
                    return Err(Error::new(ErrorKind::TooLarge, what));
                }
                let child_id = hive.push(id, child.key)?;
                last = Some(child_id);
                if child.parent != cell {
                    hive.warn(WarningKind::Parent, child_id);
                }
                for kind in child.warnings {
                    hive.warn(kind, child_id);
                }
                pending.push((child_id, child_cell, child.subkeys, child.list));
            }
        }
        Ok(hive)
    }

    /// A key, or `None` if only memory can have it.
    fn key(&mut self, cell: u32, place: Place) -> Result<Option<Decoded<'a>>, Damage> {
        let content = self.cells.claim(cell, "key")?;
        let damage = |what: &str| Damage::at(cell, what);
        let (node, rest) = KeyNode::ref_from_prefix(content)
            .ok()
            .filter(|(node, _)| node.signature == KeyNode::SIGNATURE)
            .ok_or_else(|| damage("a key is something else"))?;
        let flags = node.flags.get();
        // Where a hive is mounted in another one is known to memory only, so in a delta there is nothing to apply.
        let exit = self.layered && flags & key_flag::HIVE_EXIT != 0;
        if place == Place::BelowRoot && (flags & key_flag::VOLATILE != 0 || exit) {
            return Ok(None);
        }
        let name = name(rest, node.name_length.get(), flags & key_flag::LATIN1 != 0)
            .ok_or_else(|| damage("the name of a key is longer than its cell"))?;
        if name.is_empty() || name.units().len() > format::MAX_KEY_NAME {
            return Err(damage("the name of a key is empty or too long"));
        }
        if place == Place::BelowRoot && name.units().contains(&u16::from(b'\\')) {
            return Err(damage("a backslash is in the name of a key"));
        }
        let named = |Damage(what): Damage| Damage(format!("subkey {name}: {what}"));
        let mut warnings = Vec::new();
        let mut layer = Layer::default();
        if self.layered {
            layer = Layer {
                semantics: match node.layer & format::LAYER_SEMANTICS {
                    0 => Semantics::Merge,
                    1 => Semantics::Tombstone,
                    2 => Semantics::SupersedeLocal,
                    _ => Semantics::SupersedeTree,
                },
                inherits_class: node.layer & format::LAYER_INHERIT_CLASS != 0,
            };
            if node.layer & !(format::LAYER_SEMANTICS | format::LAYER_INHERIT_CLASS) != 0 {
                warnings.push(WarningKind::SpareLayerBits);
            }
        }
        let class = match node.class_length.get() {
            0 => &[],
            length => self
                .cells
                .claim(node.class.get(), "class name")
                .map_err(named)?
                .get(..usize::from(length))
                .ok_or_else(|| named(damage("the class name is longer than its cell")))?,
        };
        let security = self.security(node.security.get()).map_err(named)?;
        let mut values = Vec::new();
        let flags_kept = KeyFlags::from_bits_truncate(flags);
        if flags_kept.contains(KeyFlags::PREDEFINED) {
            // The field with the number of values is a handle (S).
            warnings.push(WarningKind::PredefinedHandle);
        } else if node.values.get() > 0 {
            values = self
                .values(node.values.get(), node.value_list.get(), &mut warnings)
                .map_err(named)?;
        }
        Ok(Some(Decoded {
            parent: node.parent.get(),
            subkeys: node.subkeys.get(),
            list: node.subkey_list.get(),
            key: Key {
                written: node.written.get(),
                flags: flags_kept,
                virtualization: node.virtualization,
                layer,
                class: Cow::Borrowed(class),
                security,
                values,
                name,
            },
            warnings,
        }))
    }

    fn security(&mut self, cell: u32) -> Result<Arc<[u8]>, Damage> {
        if let Some(known) = self.security.get(&cell) {
            return Ok(known.clone());
        }
        let content = self.cells.claim(cell, "security descriptor")?;
        let descriptor: Arc<[u8]> = SecurityNode::ref_from_prefix(content)
            .ok()
            .filter(|(node, _)| node.signature == SecurityNode::SIGNATURE)
            .and_then(|(node, rest)| rest.get(..node.size.get() as usize))
            .ok_or_else(|| Damage::at(cell, "a security descriptor is something else"))?
            .into();
        self.security.insert(cell, descriptor.clone());
        Ok(descriptor)
    }

    fn values(
        &mut self,
        count: u32,
        list: u32,
        warnings: &mut Vec<WarningKind>,
    ) -> Result<Vec<Value<'a>>, Damage> {
        let content = self.cells.claim(list, "list of values")?;
        let entries = content
            .as_chunks()
            .0
            .get(..count as usize)
            .ok_or_else(|| Damage::at(list, "it has more values than its list"))?;
        self.values = self.values.saturating_add(entries.len());
        if self.values > format::MAX_VALUES {
            return Err(Damage("the hive has more than 16 million values".to_owned()));
        }
        let mut values = Vec::new();
        for entry in entries {
            values.push(self.value(u32::from_le_bytes(*entry), warnings)?);
        }
        Ok(values)
    }

    fn value(&mut self, cell: u32, warnings: &mut Vec<WarningKind>) -> Result<Value<'a>, Damage> {
        let content = self.cells.claim(cell, "value")?;
        let (node, rest) = ValueNode::ref_from_prefix(content)
            .ok()
            .filter(|(node, _)| node.signature == ValueNode::SIGNATURE)
            .ok_or_else(|| Damage::at(cell, "a value is something else"))?;
        let flags = node.flags.get();
        let name = name(rest, node.name_length.get(), flags & format::VALUE_LATIN1 != 0)
            .filter(|name| name.units().len() <= format::MAX_VALUE_NAME)
            .ok_or_else(|| Damage::at(cell, "the name of a value is longer than its cell"))?;
        if self.layered && flags & format::VALUE_TOMBSTONE != 0 {
            if node.kind.get() != 0 || node.size.get() & !INLINE != 0 {
                warnings.push(WarningKind::TombstoneWithContent);
            }
            return Ok(Value::tombstone(name));
        }
        let size = node.size.get();
        let data = if size & INLINE != 0 {
            // The field of the structure, inside of the content.
            let field = &content[8..12];
            field.get(..(size & !INLINE) as usize).map(Cow::Borrowed).ok_or_else(|| {
                Damage::at(cell, format_args!("value {name} has more data than fits its record"))
            })?
        } else {
            self.data(node.data.get(), size as usize, warnings)
                .map_err(|Damage(what)| Damage(format!("value {name}: {what}")))?
        };
        Ok(Value { kind: node.kind.get(), data, deleted: false, name })
    }

    fn data(
        &mut self,
        cell: u32,
        size: usize,
        warnings: &mut Vec<WarningKind>,
    ) -> Result<Cow<'a, [u8]>, Damage> {
        if size == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let content = self.cells.claim(cell, "data")?;
        if let Some(data) = content.get(..size) {
            if self.big_data && size > SEGMENT {
                warnings.push(WarningKind::LongCell);
            }
            return Ok(Cow::Borrowed(data));
        }
        let big = BigData::ref_from_prefix(content)
            .ok()
            .filter(|(big, _)| {
                self.big_data && size > SEGMENT && big.signature == BigData::SIGNATURE
            })
            .map(|(big, _)| big)
            .ok_or_else(|| Damage::at(cell, "the data is longer than its cell"))?;
        let list = self.cells.claim(big.list.get(), "list of segments")?;
        let segments = list
            .as_chunks()
            .0
            .get(..usize::from(big.segments.get()))
            .filter(|segments| segments.len() == size.div_ceil(SEGMENT))
            .ok_or_else(|| Damage::at(cell, "the data has the wrong number of segments"))?;
        // Not reserved: every segment's cell is checked before its bytes are there.
        let mut data = Vec::new();
        for segment in segments {
            let segment = u32::from_le_bytes(*segment);
            let length = (size - data.len()).min(SEGMENT);
            let content = self.cells.claim(segment, "segment")?;
            let bytes = content
                .get(..length)
                .ok_or_else(|| Damage::at(segment, "a segment is longer than its cell"))?;
            data.extend_from_slice(bytes);
        }
        Ok(Cow::Owned(data))
    }

    /// The entries of all leaves of a list, in their order.
    fn entries(&mut self, count: u32, list: u32) -> Result<Vec<Entry>, Damage> {
        let mut entries = Vec::new();
        if count == 0 {
            return Ok(entries);
        }
        let (signature, number, content) = self.list(list)?;
        if &signature == b"ri" {
            let leaves = content.as_chunks().0.get(..number);
            let leaves =
                leaves.ok_or_else(|| Damage::at(list, "a list is longer than its cell"))?;
            for leaf in leaves {
                let leaf = u32::from_le_bytes(*leaf);
                let (signature, number, content) = self.list(leaf)?;
                read_leaf(leaf, signature, number, content, &mut entries)?;
            }
        } else {
            read_leaf(list, signature, number, content, &mut entries)?;
        }
        if entries.len() != count as usize {
            let found = entries.len();
            let what = format_args!("{found} subkeys are listed where {count} should be");
            return Err(Damage::at(list, what));
        }
        Ok(entries)
    }

    fn list(&mut self, cell: u32) -> Result<([u8; 2], usize, &'a [u8]), Damage> {
        let content = self.cells.claim(cell, "list of subkeys")?;
        let (header, rest) = ListHeader::ref_from_prefix(content)
            .map_err(|_| Damage::at(cell, "a list of subkeys is something else"))?;
        Ok((header.signature, usize::from(header.count.get()), rest))
    }
}

fn read_leaf(
    cell: u32,
    signature: [u8; 2],
    number: usize,
    content: &[u8],
    entries: &mut Vec<Entry>,
) -> Result<(), Damage> {
    let word = |bytes: [u8; 4]| u32::from_le_bytes(bytes);
    let short = || Damage::at(cell, "a list of subkeys is longer than its cell");
    match &signature {
        b"li" => {
            let list = content.as_chunks::<4>().0.get(..number).ok_or_else(short)?;
            entries.extend(list.iter().map(|cell| Entry { cell: word(*cell), hint: Hint::None }));
        }
        b"lf" | b"lh" => {
            let list = content.as_chunks::<8>().0.get(..number).ok_or_else(short)?;
            entries.extend(list.iter().map(|&[a, b, c, d, hint @ ..]| Entry {
                cell: word([a, b, c, d]),
                hint: if &signature == b"lh" { Hint::Hash(word(hint)) } else { Hint::Start(hint) },
            }));
        }
        b"ri" => return Err(Damage::at(cell, "an index of lists is inside of another")),
        _ => return Err(Damage::at(cell, "a list of subkeys is something else")),
    }
    Ok(())
}

impl Hint {
    fn is_right(&self, name: &Name) -> bool {
        match self {
            Self::None => true,
            Self::Hash(hash) => name.hash() == *hash,
            Self::Start(start) => {
                let mut expected = [0; 4];
                for (byte, unit) in expected.iter_mut().zip(name.units()) {
                    match u8::try_from(*unit) {
                        Ok(small) => *byte = small,
                        // A unit that does not fit: no hint at all.
                        Err(_) => return *start == [0; 4],
                    }
                }
                *start == expected
            }
        }
    }
}

/// The name at the start of `bytes`, if it is all there.
fn name(bytes: &[u8], length: u16, latin1: bool) -> Option<Name> {
    let bytes = bytes.get(..usize::from(length))?;
    if latin1 {
        Some(Name::from_latin1(bytes))
    } else {
        bytes.len().is_multiple_of(2).then(|| Name::from_utf16(bytes))
    }
}
