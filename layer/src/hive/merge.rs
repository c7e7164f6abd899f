//! Merging a differencing hive onto the hive below it.
//!
//! The rules are those of layered keys as far as they are public: the file format specification and "Containerized
//! registry hives in Windows" of M. Suhanov, Project Zero's "The Windows Registry Adventure", and one real delta.
//! What Windows' own library makes of the same two files is not documented. Where sources are silent (the spelling
//! of names, times, flags of merged keys) the choice is ours and noted; it never decides which keys and values exist.
//! **Unverified on Windows.**

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::tree::{Hive, Key, KeyFlags, KeyId, Layer, Semantics, Value};
use super::warning::Warnings;
use super::{Name, WarningKind};
use crate::{Error, ErrorKind, Result};

/// `REG_LINK`.
const LINK_TYPE: u32 = 6;

/// A merged hive, and what the delta did.
#[derive(Debug, Clone)]
pub struct Merged<'a> {
    /// The hive of both, without marks of layers. Its warnings are about the delta.
    pub hive: Hive<'a>,
    /// What the delta did.
    pub counts: MergeCounts,
}

/// Keys by how they came into a merged hive, or why they did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MergeCounts {
    /// Keys of the base that the delta does not mention.
    pub untouched: u64,
    /// Keys that are in both and let the base show through.
    pub merged: u64,
    /// Keys of the delta that have nothing below them, or hide it.
    pub added: u64,
    /// Marks of deleted keys, those with nothing to delete included.
    pub tombstones: u64,
}

/// Merges a delta onto a base: what a container sees whose layers end with these two.
///
/// Several layers are merged from the lowest upwards: every merge resolves its marks. A base that has marks itself is
/// first taken as a delta onto nothing. A delta without marks replaces values and adds keys.
///
/// A delta that deletes the root is an error, and so are predefined handles: their values are elsewhere.
pub fn merge<'a>(base: &Hive<'a>, delta: &Hive<'a>) -> Result<Merged<'a>> {
    if !base.is_layered() {
        return overlay(Some(base), delta);
    }
    let resolved = overlay(None, base)?;
    let mut merged = overlay(Some(&resolved.hive), delta)?;
    for warning in resolved.hive.warnings() {
        merged.hive.warnings.add(warning.kind(), || warning.path().to_owned());
    }
    Ok(merged)
}

fn overlay<'a>(base: Option<&Hive<'a>>, delta: &Hive<'a>) -> Result<Merged<'a>> {
    let mut merge =
        Merge { base, delta, counts: MergeCounts::default(), warnings: Warnings::default() };
    let Some(source) = merge.upper(delta.root(), base.map(Hive::root), false) else {
        return Err(Error::corrupt("registry: a delta deletes the root of its hive"));
    };
    let mut root = merge.key(source)?;
    if let Some(base) = base {
        // Roots match whatever they are called.
        root.name = base.key(base.root()).name.clone();
        if !matches!(source, Source::Both { semantics: Both::Merge, .. }) {
            merge.warn(WarningKind::SupersedingRoot, delta.root());
        }
    }
    let mut hive = Hive::new(root);
    let mut pending = vec![(hive.root(), source)];
    while let Some((id, source)) = pending.pop() {
        for child in merge.children(source) {
            let key = merge.key(child)?;
            let child_id = hive.push(id, key)?;
            pending.push((child_id, child));
        }
    }
    hive.warnings = merge.warnings;
    Ok(Merged { hive, counts: merge.counts })
}

/// Where a key of the result comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// The base; the delta does not mention it.
    Low(KeyId),
    /// The delta alone. `cut`: a key hides all that is below it in the base, this one or one above.
    High { key: KeyId, cut: bool },
    /// A key in both, with the base's keys below it.
    Both { key: KeyId, low: KeyId, semantics: Both },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Both {
    Merge,
    /// The base gives the keys below, but neither values nor class.
    Local,
}

struct Merge<'h, 'a> {
    base: Option<&'h Hive<'a>>,
    delta: &'h Hive<'a>,
    counts: MergeCounts,
    warnings: Warnings,
}

impl<'h, 'a> Merge<'h, 'a> {
    fn base(&self) -> &'h Hive<'a> {
        self.base.expect("keys of a base come from one")
    }

    fn warn(&mut self, kind: WarningKind, key: KeyId) {
        self.warnings.add(kind, || self.delta.path(key));
    }

    /// What becomes of a key of the delta with what is below it: nothing if it is a tombstone.
    fn upper(&mut self, key: KeyId, low: Option<KeyId>, cut: bool) -> Option<Source> {
        let source = match (self.delta.key(key).layer.semantics, low) {
            (Semantics::Tombstone, _) => {
                self.counts.tombstones += 1;
                let content = self.delta.key(key);
                let empty = content.values.is_empty() && content.class.is_empty();
                if !empty || !self.delta.subkeys(key).is_empty() {
                    self.warn(WarningKind::TombstoneWithContent, key);
                }
                return None;
            }
            (Semantics::SupersedeTree, _) => Source::High { key, cut: true },
            _ if cut => {
                self.warn(WarningKind::NotSuperseding, key);
                Source::High { key, cut: true }
            }
            (Semantics::Merge, Some(low)) => Source::Both { key, low, semantics: Both::Merge },
            (Semantics::Merge, None) => Source::High { key, cut: false },
            (Semantics::SupersedeLocal, low) => {
                self.warn(WarningKind::SupersedesLocally, key);
                match low {
                    Some(low) => Source::Both { key, low, semantics: Both::Local },
                    None => Source::High { key, cut: false },
                }
            }
        };
        match source {
            Source::Both { .. } => self.counts.merged += 1,
            _ => self.counts.added += 1,
        }
        Some(source)
    }

    /// The keys below a key of the result, sorted as both hives have theirs.
    fn children(&mut self, source: Source) -> Vec<Source> {
        let (key, low, cut) = match source {
            Source::Low(low) => {
                let children = self.base().subkeys(low);
                self.counts.untouched += children.len() as u64;
                return children.iter().copied().map(Source::Low).collect();
            }
            Source::High { key, cut } => (key, None, cut),
            Source::Both { key, low, .. } => (key, Some(low), false),
        };
        let delta = self.delta;
        let mut upper = delta.subkeys(key);
        let mut lower = low.map_or(&[][..], |low| self.base().subkeys(low));
        let mut children = Vec::with_capacity(upper.len().max(lower.len()));
        loop {
            let order = match (upper, lower) {
                ([], []) => return children,
                ([_, ..], []) => Ordering::Less,
                ([], [_, ..]) => Ordering::Greater,
                ([high, ..], [low, ..]) => {
                    delta.key(*high).name.compare(&self.base().key(*low).name)
                }
            };
            let low = if order.is_ge() { lower.split_off_first().copied() } else { None };
            if order.is_le() {
                let high = upper.split_off_first().copied();
                children.extend(high.and_then(|high| self.upper(high, low, cut)));
            } else if let Some(low) = low {
                self.counts.untouched += 1;
                children.push(Source::Low(low));
            }
        }
    }

    /// What is stored of a key of the result.
    fn key(&mut self, source: Source) -> Result<Key<'a>> {
        match source {
            Source::Low(id) => self.lower_key(id).cloned(),
            Source::High { key: id, cut } => {
                let mut key = self.upper_key(id)?;
                // With nothing below there is no class to inherit. A key that hides what is below has its own.
                let own = cut || self.delta.key(id).layer.semantics != Semantics::Merge;
                if self.delta.key(id).layer.inherits_class && !own {
                    key.class = Cow::Borrowed(&[]);
                }
                key.values.retain(|value| !value.deleted);
                Ok(key)
            }
            Source::Both { key: id, low, semantics } => {
                let low = self.lower_key(low)?;
                let mut key = self.upper_key(id)?;
                // A choice; keys that a container opened for writing mostly have the base's spelling (observed).
                key.name = low.name.clone();
                key.flags |= low.flags & KeyFlags::NO_DELETE;
                if semantics == Both::Local {
                    key.values.retain(|value| !value.deleted);
                    return Ok(key);
                }
                key.written = key.written.max(low.written);
                if self.delta.key(id).layer.inherits_class {
                    key.class = low.class.clone();
                }
                key.values = overlaid(&low.values, key.values);
                if low.flags.contains(KeyFlags::LINK) {
                    let target = key.value(&Name::from("SymbolicLinkValue"));
                    if target.is_some_and(|target| target.kind == LINK_TYPE) {
                        key.flags |= KeyFlags::LINK;
                    }
                    if !self.delta.subkeys(id).is_empty() {
                        self.warn(WarningKind::BelowLink, id);
                    }
                }
                Ok(key)
            }
        }
    }

    fn lower_key(&self, id: KeyId) -> Result<&'h Key<'a>> {
        let base = self.base();
        refuse_handle(base, id)?;
        Ok(base.key(id))
    }

    /// A key of the delta without its mark, and with one entry for each name.
    fn upper_key(&mut self, id: KeyId) -> Result<Key<'a>> {
        refuse_handle(self.delta, id)?;
        let key = self.delta.key(id);
        let values = distinct(&key.values);
        if values.len() != key.values.len() {
            self.warn(WarningKind::DuplicateValue, id);
        }
        Ok(Key {
            name: key.name.clone(),
            written: key.written,
            flags: key.flags,
            virtualization: key.virtualization,
            layer: Layer::default(),
            class: key.class.clone(),
            security: key.security.clone(),
            values,
        })
    }
}

/// The values of a key are not its own: what they would be depends on the machine.
fn refuse_handle(hive: &Hive<'_>, id: KeyId) -> Result<()> {
    if hive.key(id).flags.contains(KeyFlags::PREDEFINED) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("registry key {}: a predefined handle cannot be merged", hive.path(id)),
        ));
    }
    Ok(())
}

/// One value for each name: of two equal kinds the first, as look-ups find it; a tombstone and a value: the later.
fn distinct<'a>(values: &[Value<'a>]) -> Vec<Value<'a>> {
    let mut places: HashMap<Box<[u16]>, usize> = HashMap::new();
    let mut distinct: Vec<Value<'a>> = Vec::with_capacity(values.len());
    for value in values {
        match places.entry(value.name.folded()) {
            Entry::Vacant(place) => {
                place.insert(distinct.len());
                distinct.push(value.clone());
            }
            Entry::Occupied(place) => {
                let known = &mut distinct[*place.get()];
                if known.deleted != value.deleted {
                    *known = value.clone();
                }
            }
        }
    }
    distinct
}

/// The values of both in the order of the lower ones, new ones behind. A replaced value is spelled as above.
fn overlaid<'a>(low: &[Value<'a>], upper: Vec<Value<'a>>) -> Vec<Value<'a>> {
    if upper.is_empty() {
        return low.to_vec();
    }
    let places: HashMap<Box<[u16]>, usize> =
        upper.iter().enumerate().map(|(place, value)| (value.name.folded(), place)).collect();
    let mut upper: Vec<Option<Value<'a>>> =
        upper.into_iter().map(|value| (!value.deleted).then_some(value)).collect();
    let mut values = Vec::with_capacity(low.len() + upper.len());
    for value in low {
        match places.get(&value.name.folded()) {
            None => values.push(value.clone()),
            Some(place) => values.extend(upper[*place].take()),
        }
    }
    values.extend(upper.into_iter().flatten());
    values
}
