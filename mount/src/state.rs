//! What the journal's records add up to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use store::Labels;

use crate::record::{ActiveRecord, Identity, Record};
use crate::volume::Place;
use crate::{Holder, HolderKind, IdMapping, Mount, TargetKind, VolumeId};

/// A volume that exists or was going to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeState {
    pub(crate) layer: String,
    pub(crate) image: PathBuf,
    pub(crate) uuid: [u8; 16],
    pub(crate) place: Place,
    pub(crate) mapping: Option<IdMapping>,
    /// `None`: intended, and whoever intended it is dead or is us.
    pub(crate) done: Option<Done>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) identity: Identity,
    pub(crate) loop_device: Option<u32>,
    pub(crate) since: u64,
}

/// A directory on which something of ours is, or was going to be, attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TargetState {
    pub(crate) identity: Identity,
    pub(crate) kind: TargetKind,
    pub(crate) holder: Holder,
    pub(crate) what: String,
    pub(crate) volumes: Vec<VolumeId>,
    pub(crate) upper: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) since: u64,
    pub(crate) attached: bool,
}

/// What one holder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HoldState {
    pub(crate) holder: Holder,
    pub(crate) volumes: BTreeSet<VolumeId>,
    pub(crate) since: u64,
}

/// An activation that exists or was going to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActivationState {
    pub(crate) labels: Labels,
    pub(crate) since: u64,
    /// `None`: whoever was at it is dead or is us.
    pub(crate) done: Option<Activated>,
}

/// What a complete activation consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Activated {
    pub(crate) active: Vec<ActiveRecord>,
    pub(crate) system: Vec<Mount>,
}

/// Everything that the journal knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) volumes: BTreeMap<VolumeId, VolumeState>,
    pub(crate) targets: BTreeMap<PathBuf, TargetState>,
    pub(crate) holds: BTreeMap<(HolderKind, String), HoldState>,
    pub(crate) activations: BTreeMap<String, ActivationState>,
    /// How many holds and targets name each volume, so that no call has to look at all of them.
    uses: HashMap<VolumeId, usize>,
    /// Volumes that none names.
    idle: BTreeSet<VolumeId>,
}

impl State {
    /// Applies one record. Records that speak of unknown things change nothing: a journal is never rejected
    /// for its meaning, since reconciling compares it with the kernel anyway.
    pub(crate) fn apply(&mut self, record: Record) {
        match record {
            Record::Volume { id, layer, image, uuid, scratch, mapping } => {
                let place = Place::of(scratch, mapping.is_some());
                if !self.uses.contains_key(&id) {
                    self.idle.insert(id.clone());
                }
                let volume = VolumeState { layer, image, uuid, place, mapping, done: None };
                self.volumes.insert(id, volume);
            }
            Record::Mounted { id, identity, loop_device, since } => {
                if let Some(volume) = self.volumes.get_mut(&id) {
                    volume.done = Some(Done { identity, loop_device, since });
                }
            }
            Record::Gone { id } => {
                self.volumes.remove(&id);
                self.idle.remove(&id);
            }
            Record::Target {
                path,
                identity,
                kind,
                holder,
                what,
                volumes,
                upper,
                read_only,
                since,
            } => {
                let attached = false;
                let target = TargetState {
                    identity,
                    kind,
                    holder,
                    what,
                    volumes,
                    upper,
                    read_only,
                    since,
                    attached,
                };
                for id in &target.volumes {
                    self.add_use(id);
                }
                if let Some(before) = self.targets.insert(path, target) {
                    self.drop_uses(&before.volumes);
                }
            }
            Record::Attached { path } => {
                if let Some(target) = self.targets.get_mut(&path) {
                    target.attached = true;
                }
            }
            Record::Detached { path } => {
                if let Some(before) = self.targets.remove(&path) {
                    self.drop_uses(&before.volumes);
                }
            }
            Record::Hold { holder, volumes, since } => {
                let key = (holder.kind, holder.name.clone());
                let hold = self.holds.entry(key).or_insert_with(|| HoldState {
                    holder: holder.clone(),
                    volumes: BTreeSet::new(),
                    since,
                });
                hold.holder = holder;
                let new: Vec<VolumeId> =
                    volumes.into_iter().filter(|id| hold.volumes.insert(id.clone())).collect();
                for id in &new {
                    self.add_use(id);
                }
            }
            Record::Release { kind, name } => {
                if let Some(before) = self.holds.remove(&(kind, name)) {
                    self.drop_uses(&before.volumes);
                }
            }
            Record::Activate { name, labels, since } => {
                self.activations.insert(name, ActivationState { labels, since, done: None });
            }
            Record::Activated { name, active, system } => {
                if let Some(activation) = self.activations.get_mut(&name) {
                    activation.done = Some(Activated { active, system });
                }
            }
            Record::Deactivated { name } => {
                self.activations.remove(&name);
            }
        }
    }

    fn add_use(&mut self, id: &VolumeId) {
        if let Some(uses) = self.uses.get_mut(id) {
            *uses += 1;
            return;
        }
        self.uses.insert(id.clone(), 1);
        self.idle.remove(id);
    }

    fn drop_uses<'a>(&mut self, ids: impl IntoIterator<Item = &'a VolumeId>) {
        for id in ids {
            let Some(uses) = self.uses.get_mut(id) else { continue };
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(id);
                if self.volumes.contains_key(id) {
                    self.idle.insert(id.clone());
                }
            }
        }
    }

    /// Whether `holder` holds all of `volumes` already, as it is.
    pub(crate) fn holds_all(&self, holder: &Holder, volumes: &[VolumeId]) -> bool {
        // The tuple of a map's key cannot be borrowed from parts.
        let hold = self.holds.get(&(holder.kind, holder.name.clone()));
        hold.is_some_and(|hold| {
            hold.holder == *holder && volumes.iter().all(|id| hold.volumes.contains(id))
        })
    }

    /// Scratch images that only `holder` holds.
    pub(crate) fn scratches_of(&self, holder: &Holder) -> Vec<VolumeId> {
        let hold = self.holds.get(&(holder.kind, holder.name.clone()));
        let scratch = |id: &&VolumeId| {
            self.volumes.get(id).is_some_and(|volume| volume.place == Place::Scratch)
                && self.uses.get(id) == Some(&1)
        };
        hold.into_iter().flat_map(|hold| &hold.volumes).filter(scratch).cloned().collect()
    }

    /// Volumes that nobody holds and no target needs.
    pub(crate) fn idle(&self) -> &BTreeSet<VolumeId> {
        &self.idle
    }

    /// Volumes that would be idle without the target at `path`.
    pub(crate) fn idle_without(&self, path: &Path) -> Vec<VolumeId> {
        let mut idle: BTreeSet<&VolumeId> = self.idle.iter().collect();
        if let Some(target) = self.targets.get(path) {
            for id in &target.volumes {
                let own = target.volumes.iter().filter(|other| *other == id).count();
                if self.uses.get(id) == Some(&own) && self.volumes.contains_key(id) {
                    idle.insert(id);
                }
            }
        }
        idle.into_iter().cloned().collect()
    }

    /// The shortest journal of this state.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (id, volume) in &self.volumes {
            records.push(Record::Volume {
                id: id.clone(),
                layer: volume.layer.clone(),
                image: volume.image.clone(),
                uuid: volume.uuid,
                scratch: volume.place == Place::Scratch,
                mapping: volume.mapping.clone(),
            });
            if let Some(Done { identity, loop_device, since }) = volume.done {
                records.push(Record::Mounted { id: id.clone(), identity, loop_device, since });
            }
        }
        for (path, target) in &self.targets {
            let path = path.clone();
            records.push(Record::Target {
                path: path.clone(),
                identity: target.identity,
                kind: target.kind,
                holder: target.holder.clone(),
                what: target.what.clone(),
                volumes: target.volumes.clone(),
                upper: target.upper.clone(),
                read_only: target.read_only,
                since: target.since,
            });
            if target.attached {
                records.push(Record::Attached { path });
            }
        }
        for hold in self.holds.values() {
            records.push(Record::Hold {
                holder: hold.holder.clone(),
                volumes: hold.volumes.iter().cloned().collect(),
                since: hold.since,
            });
        }
        for (name, activation) in &self.activations {
            let (name, labels) = (name.clone(), activation.labels.clone());
            records.push(Record::Activate { name: name.clone(), labels, since: activation.since });
            if let Some(Activated { active, system }) = activation.done.clone() {
                records.push(Record::Activated { name, active, system });
            }
        }
        records
    }

    /// Everybody who keeps volume `id`, each once, in order of kind and name.
    pub(crate) fn holders(&self, id: &VolumeId) -> Vec<Holder> {
        let mut found: BTreeMap<(HolderKind, &str), &Holder> = BTreeMap::new();
        for hold in self.holds.values().filter(|hold| hold.volumes.contains(id)) {
            found.insert((hold.holder.kind, &hold.holder.name), &hold.holder);
        }
        for target in self.targets.values().filter(|target| target.volumes.contains(id)) {
            found.entry((target.holder.kind, &target.holder.name)).or_insert(&target.holder);
        }
        found.into_values().cloned().collect()
    }
}
