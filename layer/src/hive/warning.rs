//! What was strange about a hive and did not stop its use.

use std::fmt;

use super::Name;

/// Something unusual at a key, and what was made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    kind: WarningKind,
    path: String,
}

/// What was unusual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WarningKind {
    /// The hive was not closed properly, and was read as it is because the caller asked for that.
    Dirty,
    /// Layer marks and a minor version that does not go with them; the marks were trusted.
    VersionOfLayers,
    /// Subkeys were out of order: Windows would not find all of them.
    Order,
    /// Two subkeys of one name; the first one counts.
    DuplicateKey,
    /// A key's hint or hash in its parent's list is wrong.
    Hint,
    /// A key names another parent than the one that lists it.
    Parent,
    /// A key that can only be in memory was skipped.
    NotStored,
    /// A predefined handle: a key without values of its own.
    PredefinedHandle,
    /// Data of more than one segment lies in one cell.
    LongCell,
    /// A tombstone has data, values or subkeys; they were ignored.
    TombstoneWithContent,
    /// Bits of a layer mark that mean nothing were set.
    SpareLayerBits,
    /// A key below a superseding one is not superseding itself; it was taken for one.
    NotSuperseding,
    /// A key supersedes only itself, which no known hive does.
    SupersedesLocally,
    /// The root supersedes the root of the base.
    SupersedingRoot,
    /// A value has several entries in one key.
    DuplicateValue,
    /// Keys were merged into a symbolic link, which was not followed.
    BelowLink,
}

impl Warning {
    /// What was unusual.
    pub fn kind(&self) -> WarningKind {
        self.kind
    }

    /// The key, from the root, which is `\`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.kind {
            WarningKind::Dirty => "the hive was not closed properly and no log was applied",
            WarningKind::VersionOfLayers => "layer marks do not go with the minor version",
            WarningKind::Order => "its subkeys are out of order",
            WarningKind::DuplicateKey => "two subkeys have one name; the second was dropped",
            WarningKind::Hint => "wrong hash or hint in a list",
            WarningKind::Parent => "names another parent",
            WarningKind::NotStored => "has a subkey for memory only, which was skipped",
            WarningKind::PredefinedHandle => "is a predefined handle",
            WarningKind::LongCell => "has a value that should be in segments",
            WarningKind::TombstoneWithContent => "content of a tombstone was ignored",
            WarningKind::SpareLayerBits => "unknown bits of its layer mark were ignored",
            WarningKind::NotSuperseding => "was taken to supersede, as the key above does",
            WarningKind::SupersedesLocally => "supersedes only itself, which no known hive does",
            WarningKind::SupersedingRoot => "the root supersedes that of the base",
            WarningKind::DuplicateValue => "has a value twice",
            WarningKind::BelowLink => "is a symbolic link that the delta has keys below",
        };
        write!(f, "registry key {}: {text}", self.path)
    }
}

/// The first warnings; a damaged hive could have millions.
#[derive(Debug, Clone, Default)]
pub(super) struct Warnings {
    kept: Vec<Warning>,
    omitted: usize,
}

impl Warnings {
    const KEPT: usize = 100;

    pub(super) fn add(&mut self, kind: WarningKind, path: impl FnOnce() -> String) {
        if self.kept.len() < Self::KEPT {
            self.kept.push(Warning { kind, path: path() });
        } else {
            self.omitted += 1;
        }
    }

    pub(super) fn kept(&self) -> &[Warning] {
        &self.kept
    }

    pub(super) fn omitted(&self) -> usize {
        self.omitted
    }
}

/// A path for messages: its last keys if it is very long.
pub(super) fn path<'a>(names_upwards: impl Iterator<Item = &'a Name>) -> String {
    const SHOWN: usize = 16;
    let mut names: Vec<&Name> = names_upwards.take(SHOWN + 1).collect();
    let cut = names.len() > SHOWN;
    names.truncate(SHOWN);
    if names.is_empty() {
        return "\\".to_owned();
    }
    let mut text = if cut { "\\…".to_owned() } else { String::new() };
    for name in names.iter().rev() {
        text.push('\\');
        text.push_str(&name.to_string());
    }
    text
}
