//! Making and undoing volumes, under the registry's lock.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use sha2::{Digest as _, Sha256};
use store::Layer;
use sys::{DetachedMount, MountEvents, MountIdentity};

use crate::clock::unix_time_now;
use crate::journal::Journal;
use crate::record::{Identity, Record};
use crate::registry::make_directory;
use crate::state::State;
use crate::volume::Place;
use crate::{Error, ErrorKind, IdMapping, Registry, Result, VolumeId, image, scratch};

/// A volume that somebody wants mounted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) id: VolumeId,
    layer: String,
    image: PathBuf,
    sort: Sort,
}

#[derive(Debug, Clone)]
enum Sort {
    Layer { uuid: [u8; 16] },
    Scratch { size: u64 },
    Mapped { uuid: [u8; 16], base: VolumeId, mapping: IdMapping },
}

impl Wanted {
    pub(crate) fn layer(layer: &Layer) -> Self {
        Self {
            id: volume_id(layer.id.as_str().as_bytes()),
            layer: layer.id.as_str().to_owned(),
            image: layer.path.clone(),
            sort: Sort::Layer { uuid: layer.record.uuid },
        }
    }

    /// A clone of a layer's volume with other owners.
    pub(crate) fn mapped(layer: &Layer, mapping: &IdMapping) -> Self {
        let text = format!("mapped:{}:{mapping}", layer.id.as_str());
        Self {
            id: volume_id(text.as_bytes()),
            layer: layer.id.as_str().to_owned(),
            image: layer.path.clone(),
            sort: Sort::Mapped {
                uuid: layer.record.uuid,
                base: volume_id(layer.id.as_str().as_bytes()),
                mapping: mapping.clone(),
            },
        }
    }

    /// A scratch image; its path, made absolute, is what it is known by.
    pub(crate) fn scratch(path: &Path, size: u64) -> Result<Self> {
        let doing = || format!("cannot find the directory of scratch image {}", path.display());
        let path = std::path::absolute(path).map_err(|error| Error::io(doing(), error))?;
        let mut text = b"scratch:".to_vec();
        text.extend_from_slice(path.as_os_str().as_encoded_bytes());
        Ok(Self {
            id: volume_id(&text),
            layer: path.display().to_string(),
            image: path,
            sort: Sort::Scratch { size },
        })
    }

    fn place(&self) -> Place {
        match self.sort {
            Sort::Layer { .. } => Place::Layer,
            Sort::Scratch { .. } => Place::Scratch,
            Sort::Mapped { .. } => Place::Mapped,
        }
    }

    fn record(&self) -> Record {
        let (uuid, mapping) = match &self.sort {
            Sort::Layer { uuid } => (*uuid, None),
            Sort::Scratch { .. } => ([0; 16], None),
            Sort::Mapped { uuid, mapping, .. } => (*uuid, Some(mapping.clone())),
        };
        Record::Volume {
            id: self.id.clone(),
            layer: self.layer.clone(),
            image: self.image.clone(),
            uuid,
            scratch: self.place() == Place::Scratch,
            mapping,
        }
    }
}

pub(crate) fn volume_id(text: &[u8]) -> VolumeId {
    VolumeId(image::hex(&Sha256::digest(text)[..8]))
}

/// What an attempt to unmount a volume came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Undone {
    /// Neither mount nor directory is left.
    Yes,
    /// Somebody uses it.
    Busy,
}

/// Volumes being made or undone. Those made stay only if [`Volumes::finish`] succeeds.
#[derive(Debug)]
pub(crate) struct Volumes<'a> {
    registry: &'a Registry,
    journal: &'a mut Journal,
    /// Made since, with the record that says so.
    fresh: Vec<(VolumeId, Record)>,
}

impl<'a> Volumes<'a> {
    pub(crate) fn new(registry: &'a Registry, journal: &'a mut Journal) -> Self {
        Self { registry, journal, fresh: Vec::new() }
    }

    /// Mounts those of `wanted` that are not, writing the intention first.
    pub(crate) fn ensure(&mut self, wanted: &[Wanted]) -> Result<()> {
        let mut missing: Vec<&Wanted> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut gone = Vec::new();
        self.registry.seen.lock().unwrap_or_else(PoisonError::into_inner).refresh()?;
        for wanted in wanted.iter().filter(|wanted| seen.insert(&wanted.id)) {
            match self.is_mounted(&wanted.id)? {
                true => continue,
                false if self.journal.state().volumes.contains_key(&wanted.id) => {
                    // Half made by a process that died, or unmounted behind our back.
                    gone.push(wanted.id.clone());
                }
                false => {}
            }
            missing.push(wanted);
        }
        for id in gone {
            if self.undo(&id)? == Undone::Busy {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("volume {id} was left half made by a process that died, and is in use"),
                ));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        self.journal.append(missing.iter().map(|wanted| wanted.record()).collect())?;
        sys::failpoint::hit("volumes-intended");
        let mut made = Ok(());
        for wanted in missing {
            made = self.make(wanted);
            if made.is_err() {
                // What was intended and not made is undone with the rest.
                self.abandon();
                break;
            }
        }
        made
    }

    /// Writes that the volumes are there, together with `records`; undoes the volumes if that fails.
    pub(crate) fn finish(&mut self, records: Vec<Record>) -> Result<()> {
        let mut all: Vec<Record> = self.fresh.iter().map(|(_, record)| record.clone()).collect();
        all.extend(records);
        match self.journal.append(all) {
            Ok(()) => {
                self.fresh.clear();
                Ok(())
            }
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    /// Undoes what was made since the last [`Self::finish`], as far as it can be; what cannot stays in the
    /// journal as intended, and the next reconcile finds it.
    pub(crate) fn abandon(&mut self) {
        self.fresh.clear();
        let intended: Vec<VolumeId> = self
            .journal
            .state()
            .volumes
            .iter()
            .filter(|(_, volume)| volume.done.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in intended {
            let _ = self.undo(&id);
        }
    }

    /// Whether the volume is mounted now, as the journal says.
    fn is_mounted(&self, id: &VolumeId) -> Result<bool> {
        let Some(volume) = self.journal.state().volumes.get(id) else { return Ok(false) };
        let Some(done) = volume.done else { return Ok(false) };
        let mut seen = self.registry.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.mounted.get(id) == Some(&done.identity) {
            return Ok(true);
        }
        let path = self.registry.mount_point(id, volume.place);
        let there = identity_at(&path)?.is_some_and(|found| found == done.identity);
        if there {
            seen.mounted.insert(id.clone(), done.identity);
        }
        Ok(there)
    }

    fn make(&mut self, wanted: &Wanted) -> Result<()> {
        let mount_point = self.registry.mount_point(&wanted.id, wanted.place());
        if let Sort::Scratch { size } = wanted.sort {
            scratch::format(&wanted.image, size)?;
        }
        make_mount_point(&mount_point)?;
        sys::failpoint::hit("volume-directory");
        let (mount, loop_device): (DetachedMount, Option<u32>) = match &wanted.sort {
            Sort::Layer { uuid } => {
                let mounted = image::prepare(&wanted.image, &[], Some(uuid), self.registry.backing)
                    .map_err(missing_layer)?;
                (mounted.mount, mounted.loop_device)
            }
            Sort::Scratch { .. } => {
                let (mount, number) = scratch::prepare(&wanted.image)?;
                (mount, Some(number))
            }
            Sort::Mapped { base, mapping, .. } => {
                (mapping.clone_of(&self.registry.layer_mount_point(base))?, None)
            }
        };
        sys::failpoint::hit("volume-prepared");
        let identity = detached_identity(&mount)?;
        image::attach(&mount, &mount_point)?;
        sys::failpoint::hit("volume-attached");
        if wanted.place() == Place::Scratch {
            scratch::make_directories(&mount_point)?;
        }
        let id = wanted.id.clone();
        let record =
            Record::Mounted { id: id.clone(), identity, loop_device, since: unix_time_now() };
        self.fresh.push((id, record));
        Ok(())
    }

    /// Unmounts volume `id`, removes its directory and writes that it is gone.
    pub(crate) fn undo(&mut self, id: &VolumeId) -> Result<Undone> {
        let undone = self.take_down(id)?;
        if undone == Undone::Yes {
            self.journal.append(vec![Record::Gone { id: id.clone() }])?;
        }
        Ok(undone)
    }

    fn take_down(&self, id: &VolumeId) -> Result<Undone> {
        let Some(volume) = self.journal.state().volumes.get(id) else { return Ok(Undone::Yes) };
        take_down(&self.registry.mount_point(id, volume.place))
    }

    /// What the journal says now.
    pub(crate) fn state(&self) -> &State {
        self.journal.state()
    }

    /// Undoes volumes that nobody holds; those in use stay.
    pub(crate) fn drop_idle(&mut self) -> Result<Vec<VolumeId>> {
        let idle = self.journal.state().idle().iter().cloned().collect();
        self.drop_all(idle, Vec::new())
    }

    /// Writes that nothing is attached at `path` any more, and undoes the volumes that nobody holds without it;
    /// those in use stay. Dying before the write is harmless: the volumes are then found to be gone.
    pub(crate) fn drop_target(&mut self, path: &Path) -> Result<Vec<VolumeId>> {
        let idle = self.journal.state().idle_without(path);
        self.drop_all(idle, vec![Record::Detached { path: path.to_owned() }])
    }

    /// Undoes these volumes although they are held; the image file of the first that is in use, if one is.
    pub(crate) fn drop_held(&mut self, volumes: Vec<VolumeId>) -> Result<Option<PathBuf>> {
        for id in volumes {
            if self.undo(&id)? == Undone::Busy {
                let volume = self.journal.state().volumes.get(&id);
                return Ok(volume.map(|volume| volume.image.clone()));
            }
        }
        Ok(None)
    }

    fn drop_all(&mut self, idle: Vec<VolumeId>, records: Vec<Record>) -> Result<Vec<VolumeId>> {
        let mut written = records;
        let mut dropped = Vec::new();
        let mut result = Ok(());
        for id in idle {
            match self.take_down(&id) {
                Ok(Undone::Yes) => {
                    sys::failpoint::hit("volume-undone");
                    written.push(Record::Gone { id: id.clone() });
                    dropped.push(id);
                }
                Ok(Undone::Busy) => {}
                Err(error) => result = Err(error),
            }
        }
        self.journal.append(written)?;
        result.map(|()| dropped)
    }
}

/// Volumes that were looked at and found mounted, good until anything is mounted or unmounted anywhere: holding a
/// chain of ten layers would otherwise mean to look at ten mount points each time.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    events: Option<MountEvents>,
    mounted: HashMap<VolumeId, Identity>,
}

impl Seen {
    /// Forgets what may have changed.
    fn refresh(&mut self) -> Result<()> {
        let failed = |error| Error::sys("cannot watch the mount table", error);
        let changed = match &self.events {
            Some(events) => events.have_come().map_err(failed)?,
            None => {
                self.events = Some(MountEvents::new().map_err(failed)?);
                true
            }
        };
        if changed {
            self.mounted.clear();
        }
        Ok(())
    }
}

/// Unmounts whatever is at `mount_point`, which is ours alone, and removes it.
pub(crate) fn take_down(mount_point: &Path) -> Result<Undone> {
    /// Stacked mounts are possible only if someone else mounted there; this is no promise, just an end.
    const STACKED: usize = 16;
    for _ in 0..STACKED {
        match sys::unmount(mount_point) {
            Ok(()) => sys::failpoint::hit("volume-unmounted"),
            Err(error) => match error.errno() {
                Some(libc::EINVAL) => break,
                Some(libc::ENOENT) => return Ok(Undone::Yes),
                Some(libc::EBUSY) => return Ok(Undone::Busy),
                _ => {
                    let doing = format!("cannot unmount volume {}", mount_point.display());
                    return Err(Error::sys(doing, error));
                }
            },
        }
    }
    match std::fs::remove_dir(mount_point) {
        Ok(()) => Ok(Undone::Yes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Undone::Yes),
        // Files that someone put below the unmounted directory are theirs.
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(Undone::Yes),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(Undone::Busy),
        Err(error) => Err(Error::io(format!("cannot remove {}", mount_point.display()), error)),
    }
}

pub(crate) fn make_mount_point(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Only root passes: layers hold set-user-id programs and devices.
            if let Some(parent) = path.parent() {
                make_directory(parent, 0o700, false)?;
            }
            make_directory(path, 0o700, false)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::io(format!("cannot make directory {}", path.display()), error)),
        Ok(()) => Ok(()),
    }
}

/// The mount whose root `path` is; `None` if it is no mount point or does not exist.
pub(crate) fn identity_at(path: &Path) -> Result<Option<Identity>> {
    match MountIdentity::of_path(path) {
        Ok(identity) => Ok(identity.is_root.then(|| identity.into())),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(Error::sys(format!("cannot look at {}", path.display()), error)),
    }
}

pub(crate) fn detached_identity(mount: &DetachedMount) -> Result<Identity> {
    match MountIdentity::of_fd(mount.as_fd()) {
        Ok(identity) => Ok(identity.into()),
        Err(error) => Err(Error::sys("cannot identify a new mount", error)),
    }
}

/// A layer's file that is not there is damage to the store, not a wrong name given by a caller.
fn missing_layer(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            Error::caused(ErrorKind::Corrupt, "a layer's image is missing", error)
        }
        _ => error,
    }
}
