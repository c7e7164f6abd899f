//! Finishing what was cut: leftovers of crashed imports, prepares, commits and removals.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::db::Records;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::REMOVED;
use crate::snapshot::{Kind, Scratch, Snapshot};
use crate::staging::{Claim, claim, listed};
use crate::store::Store;
use crate::windows::{ASIDE, SANDBOX, VM};

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files and directories removed that no record knows.
    pub removed: Vec<PathBuf>,
    /// Scratches of active snapshots made again, empty: a power cut took directories whose creation was recorded
    /// but that never held anything synced.
    pub restored: Vec<PathBuf>,
    /// Leftovers that could not be removed, and why; the next sweep tries again.
    pub kept: Vec<(PathBuf, String)>,
}

impl Swept {
    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.restored.is_empty() && self.kept.is_empty()
    }
}

/// What is on disk and should not be, and what should be and is not.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Already renamed for deletion, or in a staging directory that nobody claims (with the claim, now ours).
    dead: Vec<PathBuf>,
    claims: Vec<Claim>,
    /// To be renamed for deletion.
    orphans: Vec<PathBuf>,
    /// Directories of snapshots whose removal was cut before their records went, and their names.
    aside: Vec<(PathBuf, PathBuf)>,
    /// Active snapshots, and views without parent, that lack a directory.
    pub(crate) incomplete: Vec<Snapshot>,
    /// Highest number found in a name.
    highest: u64,
}

/// How much of a snapshot's directory to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Its name: all that can be left over by a process that lives, without a look at every snapshot.
    Names,
    /// What it has to hold too, of which a power cut may have taken a part.
    Inside,
}

impl Leftovers {
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.dead.iter().chain(&self.orphans)
    }
}

impl Store {
    /// Compares directories and records. Call it with the sweeping lock held for writing, else what is just being made
    /// looks like a leftover. `look_only` changes nothing on disk.
    pub(crate) fn leftovers(
        &self,
        records: &impl Records,
        look_only: bool,
        depth: Depth,
    ) -> Result<Leftovers> {
        let layout = self.layout();
        let mut found = Leftovers::default();
        let being_deleted = self.graves();
        for name in listed(layout.root())? {
            if name.starts_with(REMOVED) {
                found.highest = found.highest.max(number_in(&name));
                let path = layout.root().join(name);
                if !being_deleted.contains(&path) {
                    found.dead.push(path);
                }
            }
        }
        drop(being_deleted);
        for name in listed(&layout.staging())? {
            let path = layout.staging().join(&name);
            match claim(&path, look_only) {
                Ok(Claim::Held) => {}
                Ok(ours @ Claim::Ours(_)) => {
                    found.claims.push(ours);
                    found.orphans.push(path);
                }
                // Its owner removed it meanwhile, or it is no directory at all.
                Err(_) if !path.exists() => {}
                Err(_) => found.orphans.push(path),
            }
        }
        let snapshots: BTreeMap<u64, Snapshot> =
            records.snapshots()?.into_iter().map(|snapshot| (snapshot.id, snapshot)).collect();
        let mut present = BTreeSet::new();
        for name in listed(&layout.snapshots())? {
            found.highest = found.highest.max(number_in(&name));
            match name.parse::<u64>().ok().and_then(|id| snapshots.get(&id)) {
                // A committed snapshot is its layer; its scratch is what a cut commit left.
                Some(snapshot)
                    if snapshot.kind != Kind::Committed
                        || snapshot.scratch == Some(Scratch::Folder) =>
                {
                    present.insert(snapshot.id);
                }
                _ if aside_of(&name).is_some_and(|id| {
                    snapshots.contains_key(&id) && !layout.snapshot(id).exists()
                }) =>
                {
                    let id = aside_of(&name).unwrap_or_default();
                    present.insert(id);
                    found.aside.push((layout.snapshots().join(name), layout.snapshot(id)));
                }
                _ => found.orphans.push(layout.snapshots().join(name)),
            }
        }
        for snapshot in snapshots.into_values() {
            let files = self.scratch_files(&snapshot);
            let here = present.contains(&snapshot.id);
            let deferred = layout.deferred(snapshot.id);
            if depth == Depth::Inside && here && snapshot.deferred.is_none() && deferred.exists() {
                found.orphans.push(deferred);
            }
            let whole = || depth == Depth::Names || files.iter().all(|path| path.exists());
            // What is put back is looked into at the next opening.
            let directory = layout.snapshot(snapshot.id);
            if found.aside.iter().any(|(_, aside)| *aside == directory) {
                continue;
            }
            if snapshot.kind != Kind::Committed && !files.is_empty() && !(here && whole()) {
                found.incomplete.push(snapshot);
            }
        }
        let files = |(id, record)| layout.layer_files(&id, &record);
        let recorded: BTreeSet<PathBuf> = records.layers()?.into_iter().flat_map(files).collect();
        for directory in [layout.layers(), layout.cim_layers()] {
            let paths = listed(&directory)?.into_iter().map(|name| directory.join(name));
            found.orphans.extend(paths.filter(|path| !recorded.contains(path)));
        }
        Ok(found)
    }

    /// What a snapshot must have on disk.
    fn scratch_files(&self, snapshot: &Snapshot) -> Vec<PathBuf> {
        let directory = self.layout().snapshot(snapshot.id);
        match (snapshot.kind, snapshot.scratch) {
            (Kind::Active, Some(Scratch::Image { .. })) => vec![directory.join("scratch.img")],
            (Kind::Active | Kind::View, Some(Scratch::Disk { vm, .. })) => {
                let vm_disk = vm.then(|| directory.join(VM).join(SANDBOX));
                std::iter::once(directory.join(SANDBOX)).chain(vm_disk).collect()
            }
            (Kind::Active | Kind::View, Some(Scratch::Folder)) => vec![directory],
            (Kind::Active, _) => vec![directory.join("fs"), directory.join("work")],
            (Kind::View, _) if snapshot.parent.is_none() => vec![directory.join("fs")],
            _ => Vec::new(),
        }
    }

    pub(crate) fn sweep(&self, depth: Depth) -> Result<Swept> {
        let mut swept = Swept::default();
        let mut graves = Vec::new();
        let spares;
        {
            // Every maker of files holds this lock for reading from its first file to its record.
            let _alone = self.exclusively();
            spares = self.take_spares();
            let read = self.read()?;
            let found = match self.leftovers(&read, false, depth) {
                // What an unreadable record refers to would look like a leftover. The store opens, so that fsck and
                // everything that does not need the record work.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    swept.kept.push((self.layout().root().to_owned(), reason(&error)));
                    return Ok(swept);
                }
                found => found?,
            };
            // The numbers of leftovers were given out by transactions that never committed; they are spent.
            if found.highest > read.sequence()? {
                let mut write = self.write()?;
                let sequence = write.sequence()?.max(found.highest);
                write.put_sequence(sequence)?;
                write.commit()?;
            }
            graves.extend(found.dead.iter().map(|path| (path.clone(), self.grave(path.clone()))));
            for path in &found.orphans {
                match self.bury(path) {
                    Ok(Some(grave)) => graves.push((path.clone(), grave)),
                    Ok(None) => {}
                    Err(error) => swept.kept.push((path.clone(), reason(&error))),
                }
            }
            for (aside, directory) in &found.aside {
                match sys::file::rename(aside, directory) {
                    Ok(()) => swept.restored.push(directory.clone()),
                    Err(error) => {
                        let error = Error::sys("putting it back", error);
                        swept.kept.push((aside.clone(), reason(&error)));
                    }
                }
            }
            for snapshot in &found.incomplete {
                let directory = self.layout().snapshot(snapshot.id);
                match self.make_scratch(&directory, snapshot) {
                    Ok(()) => swept.restored.push(directory),
                    // Needs the host's help, or a layer that is damaged: the store opens all the same.
                    Err(error) if self.host().is_some() => {
                        swept.kept.push((directory, reason(&error)));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Remains(spares).delete();
        // With their new names they are nobody's: others need not wait for their end.
        for (shown, grave) in graves {
            match grave.delete() {
                Ok(()) => swept.removed.push(shown),
                Err(error) => swept.kept.push((shown, reason(&error))),
            }
        }
        Ok(swept)
    }

    /// Renames a file or directory for deletion, so that it is gone under its old name at once. `None` if it was not
    /// there.
    pub(crate) fn bury(&self, path: &Path) -> Result<Option<Grave<'_>>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut grave = self.layout().root().join(format!("{REMOVED}{name}"));
        // Nobody else looks for a free name, or takes this one for a leftover, meanwhile.
        let mut graves = self.graves();
        for attempt in 1..=u32::MAX {
            if grave.symlink_metadata().is_err() {
                break;
            }
            grave = self.layout().root().join(format!("{REMOVED}{name}-{attempt}"));
        }
        match sys::file::rename(path, &grave) {
            Ok(()) => {
                graves.insert(grave.clone());
                Ok(Some(Grave { store: self, path: grave, kind: Remnant::Any }))
            }
            Err(error) if error.io_kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::sys(format!("removing {}", path.display()), error)),
        }
    }

    pub(crate) fn grave(&self, path: PathBuf) -> Grave<'_> {
        self.graves().insert(path.clone());
        Grave { store: self, path, kind: Remnant::Any }
    }

    /// Deletes what [`bury`](Self::bury) renamed. What cannot be deleted now is left to the next sweep: the metadata
    /// no longer knows it, so the operation has happened.
    pub(crate) fn discard(&self, path: &Path) {
        if let Ok(Some(grave)) = self.bury(path) {
            sys::failpoint::hit("buried");
            drop(grave.delete());
        }
    }
}

/// Something renamed for deletion, which only we delete. What is not deleted when this goes is the next sweep's.
#[derive(Debug)]
pub(crate) struct Grave<'s> {
    store: &'s Store,
    path: PathBuf,
    kind: Remnant,
}

/// What a grave holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remnant {
    Any,
    /// Directories that an overlay wrote to, if anybody did.
    Scratch,
    /// The same, kept for the next snapshot.
    Spare,
}

impl Grave<'_> {
    /// What is buried are the directories of a snapshot whose mounts were overlays, if there were any.
    pub(crate) fn of_overlay(mut self) -> Self {
        self.kind = Remnant::Scratch;
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Stays what sweeps leave alone.
    pub(crate) fn stay(&mut self) {
        self.kind = Remnant::Spare;
    }

    pub(crate) fn delete(mut self) -> Result<()> {
        if self.kind == Remnant::Scratch && self.store.spare(&mut self) {
            return Ok(());
        }
        if let Some(host) = self.store.host() {
            host.destroy(&self.path)?;
        }
        sys::file::remove_tree(&self.path).map_err(|error| Error::sys("removing it", error))
    }
}

impl Drop for Grave<'_> {
    fn drop(&mut self) {
        if self.kind != Remnant::Spare {
            self.store.graves().remove(&self.path);
        }
    }
}

/// Files that nothing refers to any more, under other names. The next sweep deletes them if nobody does it here.
#[derive(Debug)]
#[must_use = "the files are still there"]
pub struct Remains<'s>(pub(crate) Vec<Grave<'s>>);

impl Remains<'_> {
    /// Deletes them; what cannot be deleted now is left to the next sweep.
    pub fn delete(self) {
        for grave in self.0 {
            sys::failpoint::hit("buried");
            drop(grave.delete());
        }
    }
}

/// An error with its causes in one line.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The number of the snapshot whose directory was renamed to this for its removal.
fn aside_of(name: &str) -> Option<u64> {
    name.strip_prefix(ASIDE)?.parse().ok()
}

/// The snapshot number in `17`, `rm-17` or `rm-17-1`; zero where there is none. Unnumbered directories and hexadecimal
/// names have other forms.
fn number_in(name: &str) -> u64 {
    let digits = name.strip_prefix(REMOVED).unwrap_or(name);
    let digits = digits.split_once('-').map_or(digits, |(digits, _)| digits);
    // A staging directory's name is 16 hexadecimal digits and may by chance have no letters.
    if digits.len() < 16 { digits.parse().unwrap_or(0) } else { 0 }
}
