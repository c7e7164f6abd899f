//! The Windows filter's layers that are attached on this host, for whom, and where they are mounted.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use layer::Cancel;
use serde::{Deserialize, Serialize};
use sys::process::Process;
use sys::windows::{HResult, Host};

use super::attached_layer::{attach, attach_scratch, detach, native};
use super::folders::{Folders, PathKind};
use super::ledger::{Ledger, Locked};
use super::step::{failed, is_gone};
use super::{AttachedLayer, Retry, WindowsLayer, WindowsPath};
use crate::clock::unix_time_now;
use crate::{Error, ErrorKind, Mount, Result};

/// The attached layers of a host, with their ledger in the run directory.
///
/// A scratch is attached for one owner at a time. What a dead process left is detached by [`Self::reconcile`], or
/// when somebody wants the same scratch.
pub struct WindowsLayers {
    host: Arc<dyn Host>,
    folders: Folders,
    retry: Retry,
    ledger: Ledger<State>,
}

/// A root file system that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedLayer {
    /// The link that leads to it.
    pub target: WindowsPath,
    /// Its volume, with a backslash at the end: what the link says.
    pub volume: String,
    /// It was asked for as read-only. Windows' filter attaches no other way than writable: what is written lies in the
    /// scratch, which belongs to this mount alone, and reaches no layer.
    pub read_only: bool,
}

/// What [`WindowsLayers::reconcile`] did and what it left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerReconcileReport {
    /// Scratches that were never finished, or whose owner is dead: detached.
    pub undone: Vec<String>,
    /// Those that could not be detached, with the reason; they stay on record.
    pub kept: Vec<(String, String)>,
}

/// What the ledger says: attached scratches by the key of their path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    scratches: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    scratch: String,
    /// For whom: a container's id, or the target.
    owner: String,
    /// Whether the filter is attached too.
    filter: bool,
    /// `None`: intended.
    volume: Option<String>,
    /// Who is at it now (`PID:START`); without one, what is only intended was left by somebody who failed.
    maker: Option<String>,
    target: Option<Target>,
    since: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Target {
    path: String,
    /// An empty folder was there, and is to be there again.
    folder: bool,
}

impl Entry {
    /// Whether somebody who lives is at it.
    fn is_being_made(&self) -> Result<bool> {
        let maker = self.maker.as_ref().and_then(|maker| maker.parse::<Process>().ok());
        maker.map_or(Ok(false), |maker| {
            maker.is_alive().map_err(|error| Error::sys("cannot look for a process", error))
        })
    }
}

impl WindowsLayers {
    /// The layers of `host`, with the ledger `windows-layers.ledger` in `run`. Calls wait at most `wait` for another
    /// process.
    ///
    /// # Errors
    /// What opening the ledger says.
    pub fn open(
        host: Arc<dyn Host>,
        folders: Folders,
        run: &Path,
        retry: Retry,
        wait: Duration,
    ) -> Result<Self> {
        let ledger = Ledger::open(&run.join("windows-layers.ledger"), wait)?;
        Ok(Self { host, folders, retry, ledger })
    }

    /// The interfaces of the host.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// The folders of the host.
    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    /// Attaches the scratch and the filter over its parents, for `owner`.
    ///
    /// # Errors
    /// `Busy` if the scratch is attached already; `Invalid` for parents that are not the scratch's; `Cancelled`; what
    /// Windows says. What was attached is detached then; the error says what could not be.
    pub fn attach(
        &self,
        layer: &WindowsLayer,
        owner: &str,
        cancel: &Cancel,
    ) -> Result<AttachedLayer> {
        layer.check()?;
        self.check_order(layer)?;
        self.attach_recorded(&layer.scratch, owner, None, true, |host, retry| {
            attach(host, layer, retry, cancel)
        })
    }

    /// Attaches the scratch alone, for `owner`.
    ///
    /// # Errors
    /// Those of [`Self::attach`].
    pub fn attach_scratch(
        &self,
        scratch: &WindowsPath,
        owner: &str,
        cancel: &Cancel,
    ) -> Result<AttachedLayer> {
        self.attach_recorded(scratch, owner, None, false, |host, retry| {
            attach_scratch(host, scratch, retry, cancel)
        })
    }

    /// Detaches what was attached to a scratch; `false` if it is not on record.
    ///
    /// # Errors
    /// Everything that failed, after all of it was tried; it stays on record then, and can be detached again.
    pub fn detach(&self, scratch: &WindowsPath) -> Result<bool> {
        let mut locked = self.ledger.locked()?;
        let key = scratch.key();
        if !locked.state.scratches.contains_key(&key) {
            return Ok(false);
        }
        self.undo(&mut locked, &key)?;
        Ok(true)
    }

    /// For whom a scratch is attached, and its volume if that is done; `None` if it is not on record.
    ///
    /// # Errors
    /// Those of the ledger.
    pub fn owner_of(&self, scratch: &WindowsPath) -> Result<Option<(String, Option<String>)>> {
        let locked = self.ledger.locked()?;
        let entry = locked.state.scratches.get(&scratch.key());
        Ok(entry.map(|entry| (entry.owner.clone(), entry.volume.clone())))
    }

    /// Mounts the root file system that a `windows-layer` mount describes: `target` becomes a link to its volume. An
    /// empty folder there makes way, and comes back when it is unmounted.
    ///
    /// # Errors
    /// `Invalid` for another type of mount (which is named), for options that make no sense and for a target that
    /// cannot be; `AlreadyExists` if something is at the target; those of [`Self::attach`].
    pub fn mount(
        &self,
        mount: &Mount,
        target: &WindowsPath,
        cancel: &Cancel,
    ) -> Result<MountedLayer> {
        let layer = WindowsLayer::parse(mount)?;
        let folder = self.check_target(&layer, target)?;
        self.check_order(&layer)?;
        let intended = Target { path: target.to_string(), folder };
        let owner = target.to_string();
        let linked = |host: &dyn Host, retry: &Retry| {
            let attached = attach(host, &layer, retry, cancel)?;
            match self.link(target, &attached.volume, folder) {
                Ok(()) => Ok(attached),
                Err(error) => Err(error.and(detach(host, &layer.scratch, true))),
            }
        };
        let attached =
            self.attach_recorded(&layer.scratch, &owner, Some(intended), true, linked)?;
        let volume = format!(r"{}\", attached.volume);
        Ok(MountedLayer { target: target.clone(), volume, read_only: layer.read_only })
    }

    /// Unmounts what was mounted at `target`: removes the link, detaches filter and scratch. `false` if nothing of
    /// ours is there: doing it again does no harm. What else is at the target stays.
    ///
    /// # Errors
    /// Those of [`Self::detach`].
    pub fn unmount(&self, target: &WindowsPath) -> Result<bool> {
        let mut locked = self.ledger.locked()?;
        let Some(key) = at_target(&locked.state, target) else { return Ok(false) };
        self.undo(&mut locked, &key)?;
        Ok(true)
    }

    /// Unmounts until nothing of ours is at `target`; how often that was. A target that does not exist is fine.
    ///
    /// # Errors
    /// Those of [`Self::unmount`].
    pub fn unmount_all(&self, target: &WindowsPath) -> Result<usize> {
        let mut count = 0;
        while self.unmount(target)? {
            count += 1;
        }
        Ok(count)
    }

    /// Detaches what was never finished and what belongs to the dead (`alive` says whether an owner lives).
    ///
    /// # Errors
    /// Those of the ledger.
    pub fn reconcile(&self, alive: &dyn Fn(&str) -> bool) -> Result<LayerReconcileReport> {
        let mut locked = self.ledger.locked()?;
        let mut report = LayerReconcileReport::default();
        let mut dead = Vec::new();
        for (key, entry) in &locked.state.scratches {
            let stays = match entry.volume {
                Some(_) => alive(&entry.owner),
                None => entry.is_being_made()?,
            };
            if !stays {
                dead.push((key.clone(), entry.scratch.clone()));
            }
        }
        for (key, scratch) in dead {
            match self.undo(&mut locked, &key) {
                Ok(()) => report.undone.push(scratch),
                Err(error) => report.kept.push((scratch, error.chain())),
            }
        }
        Ok(report)
    }

    /// Writes the intention, acts, and writes what came of it. The lock is held for the writing only: trying again takes
    /// time that others have better uses for.
    fn attach_recorded(
        &self,
        scratch: &WindowsPath,
        owner: &str,
        target: Option<Target>,
        filter: bool,
        act: impl FnOnce(&dyn Host, &Retry) -> Result<AttachedLayer>,
    ) -> Result<AttachedLayer> {
        let maker = Process::current()
            .map_err(|error| Error::sys("cannot look at this process", error))?
            .to_string();
        let mut entry = Entry {
            scratch: scratch.to_string(),
            owner: owner.to_owned(),
            filter,
            volume: None,
            maker: Some(maker),
            target,
            since: unix_time_now(),
        };
        self.intend(scratch, &entry)?;
        sys::failpoint::hit("layer-intended");
        let attached = act(&*self.host, &self.retry);
        sys::failpoint::hit("layer-attached");
        entry.maker = None;
        match attached {
            Ok(attached) => {
                entry.volume = Some(attached.volume.clone());
                match self.record(scratch, Some(&entry)) {
                    Ok(()) => Ok(attached),
                    Err(error) => Err(error.and(self.dismantle(&entry)?)),
                }
            }
            Err(error) => {
                // What could not be undone stays on record. The error that came first is the one to tell.
                let left = Some(&entry).filter(|_| !error.left().is_empty());
                let _ = self.record(scratch, left);
                Err(error)
            }
        }
    }

    /// Takes the scratch for `entry`, after undoing what somebody who failed has left of it.
    fn intend(&self, scratch: &WindowsPath, entry: &Entry) -> Result<()> {
        let mut locked = self.ledger.locked()?;
        let key = scratch.key();
        let busy = |what: String| {
            let message = format!("the scratch {scratch} is in use: {what}");
            Err(Error::new(ErrorKind::Busy, message))
        };
        match locked.state.scratches.get(&key) {
            Some(Entry { volume: Some(volume), owner, .. }) => {
                return busy(format!("it is attached as {volume} for {owner}"));
            }
            Some(other) if other.is_being_made()? => {
                return busy(format!("it is being attached for {}", other.owner));
            }
            Some(_) => self.undo(&mut locked, &key)?,
            None => {}
        }
        locked.state.scratches.insert(key, entry.clone());
        locked.write()
    }

    /// Writes what the scratch's entry has become.
    fn record(&self, scratch: &WindowsPath, entry: Option<&Entry>) -> Result<()> {
        let mut locked = self.ledger.locked()?;
        match entry {
            Some(entry) => locked.state.scratches.insert(scratch.key(), entry.clone()),
            None => locked.state.scratches.remove(&scratch.key()),
        };
        locked.write()
    }

    /// Undoes everything of an entry, and forgets it if all of that is done.
    fn undo(&self, locked: &mut Locked<'_, State>, key: &str) -> Result<()> {
        let Some(entry) = locked.state.scratches.get(key).cloned() else { return Ok(()) };
        if entry.volume.is_none() && entry.is_being_made()? {
            let message = format!("the scratch {} is being attached", entry.scratch);
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let mut errors = self.dismantle(&entry)?.into_iter();
        if let Some(first) = errors.next() {
            return Err(first.and(errors.collect()));
        }
        sys::failpoint::hit("layer-detached");
        locked.state.scratches.remove(key);
        locked.write()
    }

    /// Undoes everything of an entry, in the order link, filter, disk; what failed.
    fn dismantle(&self, entry: &Entry) -> Result<Vec<Error>> {
        let scratch = WindowsPath::parse(&entry.scratch)?;
        let mut errors = Vec::new();
        if let Some(target) = &entry.target {
            errors.extend(self.unlink(target, entry.volume.as_deref()).err());
        }
        errors.extend(detach(&*self.host, &scratch, entry.filter));
        Ok(errors)
    }

    fn link(&self, target: &WindowsPath, volume: &str, folder: bool) -> Result<()> {
        if folder {
            self.folders.remove(target)?;
        }
        let root = format!(r"{volume}\");
        self.host.create_directory_symlink(&native(target), &root).map_err(|error| {
            let error = failed("link to the volume at", target, error);
            match folder.then(|| self.folders.make(target)) {
                Some(Err(undo)) => error.and(vec![undo]),
                _ => error,
            }
        })
    }

    /// Removes the link, if that is what is at the target and it leads to a volume of ours.
    fn unlink(&self, target: &Target, volume: Option<&str>) -> Result<()> {
        let path = WindowsPath::parse(&target.path)?;
        let leads = match self.host.read_link(&native(&path)) {
            Ok(leads) => Some(leads.to_string_lossy().trim_end_matches('\\').to_owned()),
            Err(error) if is_gone(&error) || error.code() == HResult::from_bits(0x8007_1126) => {
                None
            }
            Err(error) => return Err(failed("look at the link", &path, error)),
        };
        // Of an unfinished mount the volume is not known; then any volume's link at the target is its.
        let ours = leads.as_deref().is_some_and(|leads| match volume {
            Some(volume) => leads.eq_ignore_ascii_case(volume.trim_end_matches('\\')),
            None => leads.starts_with(r"\\?\Volume{"),
        });
        if ours {
            self.host
                .remove_directory_link(&native(&path))
                .map_err(|error| failed("remove the link", &path, error))?;
        }
        if target.folder && self.folders.kind(&path)? == PathKind::Absent {
            self.folders.make(&path)?;
        }
        Ok(())
    }

    /// Whether an empty folder is at the target, which makes way.
    fn check_target(&self, layer: &WindowsLayer, target: &WindowsPath) -> Result<bool> {
        let refused = |kind, what: &str| {
            Err(Error::new(kind, format!("cannot mount {} at {target}: {what}", layer.scratch)))
        };
        if target.is_root() {
            return refused(ErrorKind::Invalid, "it is a root");
        }
        let mut layers = layer.parents.iter().chain([&layer.scratch]);
        if let Some(within) = layers.find(|folder| target.is_in(folder)) {
            return refused(ErrorKind::Invalid, &format!("that is in the layer {within}"));
        }
        match self.folders.kind(target)? {
            PathKind::Absent => match target.parent().map(|parent| self.folders.kind(&parent)) {
                Some(Ok(PathKind::Absent | PathKind::File)) => {
                    refused(ErrorKind::NotFound, "the folder that it is to be in does not exist")
                }
                Some(Err(error)) => Err(error),
                _ => Ok(false),
            },
            PathKind::EmptyDirectory => Ok(true),
            PathKind::Directory => refused(ErrorKind::AlreadyExists, "the folder is not empty"),
            PathKind::Link => refused(
                ErrorKind::AlreadyExists,
                "a link is there; if something is mounted at it, unmount that first",
            ),
            PathKind::File => refused(ErrorKind::AlreadyExists, "a file is there"),
        }
    }

    /// Compares the parents with what the scratch and the topmost of them say about themselves, where they do
    /// (`layerchain.json`: those who write layers put it there).
    fn check_order(&self, layer: &WindowsLayer) -> Result<()> {
        self.check_chain(&layer.scratch, &layer.parents, 1)?;
        let Some((top, below)) = layer.parents.split_first() else { return Ok(()) };
        self.check_chain(top, below, 2)
    }

    /// Whether `parents`, the first of which has that number, are those that the folder says it has.
    fn check_chain(&self, of: &WindowsPath, parents: &[WindowsPath], first: usize) -> Result<()> {
        let Some(text) = self.folders.read(&of.join("layerchain.json")?)? else { return Ok(()) };
        let chain: Option<Vec<String>> = serde_json::from_str(&text).map_err(|error| {
            let message = format!("{of} has a layerchain.json that is no JSON array of folders");
            Error::caused(ErrorKind::Corrupt, message, error)
        })?;
        let chain: Vec<WindowsPath> = chain
            .unwrap_or_default()
            .iter()
            .map(|path| WindowsPath::parse(path))
            .collect::<Result<_>>()?;
        let wrong = |what: String| {
            let message = format!("the parents that are given are not those of {of}: {what}");
            Err(Error::new(ErrorKind::Invalid, message))
        };
        for (number, (said, given)) in chain.iter().zip(parents).enumerate() {
            if said.key() != given.key() {
                return wrong(format!(
                    "number {} is {given}, and should be {said} (the topmost comes first)",
                    number + first
                ));
            }
        }
        match (chain.get(parents.len()), parents.get(chain.len())) {
            (Some(missing), _) => wrong(format!("{missing} is missing")),
            (_, Some(extra)) => wrong(format!("{extra} is none of them")),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for WindowsLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WindowsLayers")
            .field("folders", &self.folders)
            .field("retry", &self.retry)
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

/// The key of the scratch that is mounted at the target.
fn at_target(state: &State, target: &WindowsPath) -> Option<String> {
    let key = target.key();
    let here = |entry: &Entry| {
        let path = entry.target.as_ref().map(|target| WindowsPath::parse(&target.path));
        path.is_some_and(|path| path.is_ok_and(|path| path.key() == key))
    };
    state.scratches.iter().find(|(_, entry)| here(entry)).map(|(key, _)| key.clone())
}
