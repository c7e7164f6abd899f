//! The keys and values of a hive, apart from how a file lays them out.

use std::borrow::Cow;
use std::sync::Arc;

use bitflags::bitflags;

use super::warning::{self, Warning, WarningKind, Warnings};
use super::{Name, format};
use crate::{Error, ErrorKind, Result};

/// A registry hive: a tree of keys with values.
///
/// Data borrows from the bytes that the hive was read from. Equality is that of all keys, values and their order.
#[derive(Debug, Clone)]
pub struct Hive<'a> {
    keys: Vec<Node<'a>>,
    layered: bool,
    pub(super) warnings: Warnings,
}

/// A key of one [`Hive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u32);

/// What is stored of a key, except the keys below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key<'a> {
    /// Its name, of 1 to 255 units without a backslash.
    pub name: Name,
    /// When it was last written, in intervals of 100 ns since 1601.
    pub written: u64,
    /// What it is beside a plain key.
    pub flags: KeyFlags,
    /// Flags of WOW64 (the low half) and of registry virtualisation (the high half).
    pub virtualization: u8,
    /// How it covers the key of the same path in the layers below. Stored by layered hives only.
    pub layer: Layer,
    /// The class name, UTF-16LE by convention; mostly empty.
    pub class: Cow<'a, [u8]>,
    /// The self-relative security descriptor.
    pub security: Arc<[u8]>,
    /// Its values, in the order of their creation.
    pub values: Vec<Value<'a>>,
}

/// A named value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value<'a> {
    /// Its name; the default value's is empty.
    pub name: Name,
    /// Its type, such as 1 for `REG_SZ`: any number.
    pub kind: u32,
    /// Its data, opaque.
    pub data: Cow<'a, [u8]>,
    /// In a layered hive: the value of this name in the layers below is gone, and there is no data.
    pub deleted: bool,
}

bitflags! {
    /// What a key is beside a plain key.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct KeyFlags: u16 {
        /// It cannot be deleted, as roots.
        const NO_DELETE = format::key_flag::NO_DELETE;
        /// A symbolic link; its value `SymbolicLinkValue` says where to.
        const LINK = format::key_flag::LINK;
        /// A predefined handle, whose values are not its own. An artefact of old systems, read but never written.
        const PREDEFINED = format::key_flag::PREDEFINED;
        /// Taken part in registry virtualisation: source, target or store.
        const VIRTUAL = format::key_flag::VIRTUAL;
    }
}

/// How a key of a layered hive covers the key of the same path below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Layer {
    /// What of the key below still shows.
    pub semantics: Semantics,
    /// The class name is that of the key below.
    pub inherits_class: bool,
}

/// What of the key below still shows through a key of a layered hive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Semantics {
    /// Everything that this key does not replace.
    #[default]
    Merge,
    /// Nothing: the key and all below it are deleted.
    Tombstone,
    /// The keys below it, but not its values and class.
    SupersedeLocal,
    /// Nothing: the key and all below it were made anew.
    SupersedeTree,
}

#[derive(Debug, Clone)]
struct Node<'a> {
    key: Key<'a>,
    parent: Option<KeyId>,
    /// Keys above it.
    depth: usize,
    /// Sorted by name.
    children: Vec<KeyId>,
}

impl KeyId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

impl<'a> Key<'a> {
    /// A key without values, class or marks, that was never written.
    pub fn new(name: impl Into<Name>, security: Arc<[u8]>) -> Self {
        Self {
            name: name.into(),
            written: 0,
            flags: KeyFlags::empty(),
            virtualization: 0,
            layer: Layer::default(),
            class: Cow::Borrowed(&[]),
            security,
            values: Vec::new(),
        }
    }

    /// The value of this name in any case: the first one, as Windows finds it.
    pub fn value(&self, name: &Name) -> Option<&Value<'a>> {
        self.values.iter().find(|value| value.name.compare(name).is_eq())
    }
}

impl<'a> Value<'a> {
    /// A value.
    pub fn new(name: impl Into<Name>, kind: u32, data: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { name: name.into(), kind, data: data.into(), deleted: false }
    }

    /// The mark of a deleted value in a layered hive.
    pub fn tombstone(name: impl Into<Name>) -> Self {
        Self { name: name.into(), kind: 0, data: Cow::Borrowed(&[]), deleted: true }
    }
}

impl<'a> Hive<'a> {
    /// The security descriptor of hives that Windows' offline registry library makes:
    /// `O:BAG:BAD:(A;CI;KA;;;SY)(A;CI;KA;;;BA)(A;CI;KR;;;WD)(A;CI;KR;;;RC)`.
    #[rustfmt::skip]
    pub const DEFAULT_SECURITY: [u8; 144] = [
        1, 0, 4, 0x80, 0x70, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0,
        2, 0, 0x5C, 0, 4, 0, 0, 0,
        0, 2, 0x14, 0, 0x3F, 0, 0x0F, 0, 1, 1, 0, 0, 0, 0, 0, 5, 0x12, 0, 0, 0,
        0, 2, 0x18, 0, 0x3F, 0, 0x0F, 0, 1, 2, 0, 0, 0, 0, 0, 5, 0x20, 0, 0, 0, 0x20, 2, 0, 0,
        0, 2, 0x14, 0, 0x19, 0, 2, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0,
        0, 2, 0x14, 0, 0x19, 0, 2, 0, 1, 1, 0, 0, 0, 0, 0, 5, 0x0C, 0, 0, 0,
        1, 2, 0, 0, 0, 0, 0, 5, 0x20, 0, 0, 0, 0x20, 2, 0, 0,
        1, 2, 0, 0, 0, 0, 0, 5, 0x20, 0, 0, 0, 0x20, 2, 0, 0,
    ];

    /// A hive with this root only.
    pub fn new(mut root: Key<'a>) -> Self {
        root.flags |= KeyFlags::NO_DELETE;
        let root = Node { key: root, parent: None, depth: 0, children: Vec::new() };
        Self { keys: vec![root], layered: false, warnings: Warnings::default() }
    }

    /// Makes it a differencing hive, or a plain one: marks of layers are stored in the former only.
    pub fn set_layered(&mut self, layered: bool) {
        self.layered = layered;
    }

    /// Whether it is a differencing hive, to be merged onto another.
    pub fn is_layered(&self) -> bool {
        self.layered
    }

    /// Adds a key below another, in its place among its siblings.
    pub fn add_key(&mut self, parent: KeyId, key: Key<'a>) -> Result<KeyId> {
        let siblings = &self.keys[parent.index()].children;
        let place = siblings.binary_search_by(|id| self.key(*id).name.compare(&key.name));
        let Err(place) = place else {
            return Err(Error::invalid(format!(
                "registry key {}: there is a subkey {} already",
                self.path(parent),
                key.name
            )));
        };
        let id = self.push(parent, key)?;
        self.keys[parent.index()].children[place..].rotate_right(1);
        Ok(id)
    }

    /// Adds a key that comes behind all its siblings.
    pub(super) fn push(&mut self, parent: KeyId, key: Key<'a>) -> Result<KeyId> {
        let too_large = |what: &str| Error::new(ErrorKind::TooLarge, format!("registry: {what}"));
        let id = u32::try_from(self.keys.len()).map(KeyId).map_err(|_| too_large("2^32 keys"))?;
        let depth = self.keys[parent.index()].depth + 1;
        if depth > format::MAX_DEPTH {
            return Err(too_large("keys lie more than 512 levels deep"));
        }
        self.keys.push(Node { key, parent: Some(parent), depth, children: Vec::new() });
        self.keys[parent.index()].children.push(id);
        Ok(id)
    }

    /// The key above all others.
    pub fn root(&self) -> KeyId {
        KeyId(0)
    }

    /// What is stored of a key. Panics if the key is another hive's.
    pub fn key(&self, id: KeyId) -> &Key<'a> {
        &self.keys[id.index()].key
    }

    /// The values of a key, to be changed.
    pub fn values_mut(&mut self, id: KeyId) -> &mut Vec<Value<'a>> {
        &mut self.keys[id.index()].key.values
    }

    /// The keys below a key, sorted by name.
    pub fn subkeys(&self, id: KeyId) -> &[KeyId] {
        &self.keys[id.index()].children
    }

    /// The key below a key that has this name in any case.
    pub fn subkey(&self, id: KeyId, name: &Name) -> Option<KeyId> {
        let children = self.subkeys(id);
        let place = children.binary_search_by(|id| self.key(*id).name.compare(name));
        place.ok().map(|place| children[place])
    }

    /// The key at a path of names between backslashes, in any case; an empty path is the root's.
    pub fn find(&self, path: &str) -> Option<KeyId> {
        let mut names = path.split('\\').filter(|name| !name.is_empty());
        names.try_fold(self.root(), |id, name| self.subkey(id, &name.into()))
    }

    /// Keys in all, the root included.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Values in all.
    pub fn value_count(&self) -> usize {
        self.keys.iter().map(|node| node.key.values.len()).sum()
    }

    /// The path of a key for messages: of very deep ones the end.
    pub fn path(&self, id: KeyId) -> String {
        let upwards = std::iter::successors(Some(id), |id| self.keys[id.index()].parent);
        warning::path(
            upwards
                .filter(|id| self.keys[id.index()].parent.is_some())
                .map(|id| &self.key(id).name),
        )
    }

    /// What was unusual about it: at most the first hundred findings.
    pub fn warnings(&self) -> &[Warning] {
        self.warnings.kept()
    }

    /// Warnings beyond those in [`Hive::warnings`].
    pub fn omitted_warnings(&self) -> usize {
        self.warnings.omitted()
    }

    pub(super) fn warn(&mut self, kind: WarningKind, id: KeyId) {
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.add(kind, || self.path(id));
        self.warnings = warnings;
    }
}

impl PartialEq for Hive<'_> {
    fn eq(&self, other: &Self) -> bool {
        let mut pending = vec![(self.root(), other.root())];
        while let Some((left, right)) = pending.pop() {
            let [children, others] = [self.subkeys(left), other.subkeys(right)];
            if self.key(left) != other.key(right) || children.len() != others.len() {
                return false;
            }
            pending.extend(children.iter().copied().zip(others.iter().copied()));
        }
        self.layered == other.layered
    }
}

impl Eq for Hive<'_> {}
