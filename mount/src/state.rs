//! What the journal's records add up to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::record::{Identity, Record};
use crate::{Holder, HolderKind, TargetKind, VolumeId};

/// A volume that exists or was going to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeState {
    pub(crate) layer: String,
    pub(crate) image: PathBuf,
    pub(crate) uuid: [u8; 16],
    pub(crate) scratch: bool,
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

/// Everything that the journal knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) volumes: BTreeMap<VolumeId, VolumeState>,
    pub(crate) targets: BTreeMap<PathBuf, TargetState>,
    pub(crate) holds: BTreeMap<(HolderKind, String), HoldState>,
}

impl State {
    /// Applies one record. Records that speak of unknown things change nothing: a journal is never rejected
    /// for its meaning, since reconciling compares it with the kernel anyway.
    pub(crate) fn apply(&mut self, record: Record) {
        match record {
            Record::Volume { id, layer, image, uuid, scratch } => {
                self.volumes.insert(id, VolumeState { layer, image, uuid, scratch, done: None });
            }
            Record::Mounted { id, identity, loop_device, since } => {
                if let Some(volume) = self.volumes.get_mut(&id) {
                    volume.done = Some(Done { identity, loop_device, since });
                }
            }
            Record::Gone { id } => {
                self.volumes.remove(&id);
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
                self.targets.insert(path, target);
            }
            Record::Attached { path } => {
                if let Some(target) = self.targets.get_mut(&path) {
                    target.attached = true;
                }
            }
            Record::Detached { path } => {
                self.targets.remove(&path);
            }
            Record::Hold { holder, volumes, since } => {
                let key = (holder.kind, holder.name.clone());
                let hold = self.holds.entry(key).or_insert_with(|| HoldState {
                    holder: holder.clone(),
                    volumes: BTreeSet::new(),
                    since,
                });
                hold.holder = holder;
                hold.volumes.extend(volumes);
            }
            Record::Release { kind, name } => {
                self.holds.remove(&(kind, name));
            }
        }
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
                scratch: volume.scratch,
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
        records
    }

    /// Volumes that somebody holds or that a target needs.
    pub(crate) fn held(&self) -> BTreeSet<&VolumeId> {
        let holds = self.holds.values().flat_map(|hold| &hold.volumes);
        holds.chain(self.targets.values().flat_map(|target| &target.volumes)).collect()
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
