//! The kinds of things that a machine counts: for each, where the next one goes and which steps make it.

use super::Inner;
use crate::buddy::Buddy;
use crate::device::LUNS;
use crate::step::Step;
use crate::table::{EntryId, Table};
use crate::{
    Capabilities, CombineRequest, Error, ErrorKind, PmemRange, Result, ScsiDisk, ScsiMount,
    ScsiSlot, Share, ShareRequest,
};

/// Mappings on one packed pmem device at most (reference: hcsshim).
const MAPPINGS: usize = 1024;
const PAGE: u64 = 4096;

/// Everything that is attached or mounted.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) disks: Table<ScsiDisk, ScsiSlot>,
    pub(crate) mounts: Table<MountKey, MountPlace>,
    pub(crate) pmem: Table<PmemFile, PmemPlace>,
    pub(crate) shares: Table<ShareRequest, u64>,
    pub(crate) combined: Table<Combination, ()>,
    /// Space on packed pmem devices, by device.
    packed: Vec<Buddy>,
    /// Names of shares count up and are never used again.
    next_share: u64,
    /// Steps of an owner before us that could not be undone.
    pub(crate) leftover: Vec<(crate::journal::StepId, Step)>,
}

/// What two requests must agree in to share a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountKey {
    pub(crate) slot: ScsiSlot,
    /// Without a path, and with its options in order.
    pub(crate) mount: ScsiMount,
}

#[derive(Debug, Clone)]
pub(crate) struct MountPlace {
    pub(crate) path: String,
    index: usize,
    /// Counted once for the mount, however many use that.
    pub(crate) disk: EntryId,
}

/// A file for pmem; by its size a piece of a packed device is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PmemFile {
    pub(crate) path: std::path::PathBuf,
    pub(crate) size: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct PmemPlace {
    pub(crate) device: u32,
    pub(crate) range: Option<PmemRange>,
}

impl PmemPlace {
    /// Where the guest has it (reference: hcsshim's paths).
    pub(crate) fn guest_path(&self) -> String {
        match self.range {
            None => format!("/run/layers/p{}", self.device),
            Some(range) => format!("/run/layers/p{}-{}-{}", self.device, range.offset, range.size),
        }
    }
}

/// Never equal to another: two containers on one root would write over each other, so the second is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Combination {
    pub(crate) request: CombineRequest,
    pub(crate) number: u64,
}

/// A kind of counted things. `Wish` is what a place is looked for with, beyond the key.
pub(crate) trait Kind {
    type Key: Clone + PartialEq;
    type Place: Clone;
    type Wish;

    fn table(tables: &mut Tables) -> &mut Table<Self::Key, Self::Place>;

    /// A free place. Only called when there is none of that key.
    fn place(
        tables: &mut Tables,
        can: &Capabilities,
        key: &Self::Key,
        wish: &Self::Wish,
    ) -> Result<Self::Place>;

    /// What makes it, in order.
    fn steps(key: &Self::Key, place: &Self::Place) -> Vec<Step>;

    /// Gives the place back; the entry is gone.
    fn vacate(_: &mut Tables, _: &Self::Place) {}

    /// Lets go of what it stood on, after it is gone and without the lock.
    fn let_go(_: &Inner, _: &Self::Place) -> Result<()> {
        Ok(())
    }
}

pub(crate) struct Disks;

impl Kind for Disks {
    type Key = ScsiDisk;
    type Place = ScsiSlot;
    type Wish = ();

    fn table(tables: &mut Tables) -> &mut Table<ScsiDisk, ScsiSlot> {
        &mut tables.disks
    }

    fn place(tables: &mut Tables, can: &Capabilities, key: &ScsiDisk, _: &()) -> Result<ScsiSlot> {
        let taken = |slot: &ScsiSlot| {
            can.reserved_slots.contains(slot)
                || tables.disks.entries().iter().any(|entry| entry.place == *slot)
                || tables
                    .leftover
                    .iter()
                    .any(|(_, step)| matches!(step, Step::Scsi { slot: left, .. } if left == slot))
        };
        let mut slots = (0..can.scsi_controllers)
            .flat_map(|controller| (0..LUNS).map(move |lun| ScsiSlot { controller, lun }));
        slots.find(|slot| !taken(slot)).ok_or_else(|| {
            Error::new(
                ErrorKind::NoAvailableLocation,
                format!(
                    "cannot attach {}: no available location, all {} SCSI slots are taken",
                    key.path.display(),
                    u32::from(can.scsi_controllers) * u32::from(LUNS)
                ),
            )
        })
    }

    fn steps(key: &ScsiDisk, place: &ScsiSlot) -> Vec<Step> {
        vec![Step::Scsi { slot: *place, disk: key.clone() }]
    }
}

pub(crate) struct Mounts;

impl Kind for Mounts {
    type Key = MountKey;
    type Place = MountPlace;
    /// The path that was asked for, and the disk.
    type Wish = (Option<String>, EntryId);

    fn table(tables: &mut Tables) -> &mut Table<MountKey, MountPlace> {
        &mut tables.mounts
    }

    fn place(
        tables: &mut Tables,
        _: &Capabilities,
        _: &MountKey,
        (path, disk): &Self::Wish,
    ) -> Result<MountPlace> {
        let disk = *disk;
        if let Some(path) = path {
            tables.require_free(path)?;
        }
        // The mount itself, not its users, keeps the disk; the caller has it, so it is there.
        tables.disks.add_one(disk);
        // Mounts at a path of the caller's take an index too, as they do in hcsshim.
        let free =
            |index: usize| tables.mounts.entries().iter().all(|entry| entry.place.index != index);
        let mut places = (0..).filter(|index| free(*index)).map(|index| {
            let path = path.clone().unwrap_or_else(|| format!("/run/mounts/scsi/m{index}"));
            MountPlace { path, index, disk }
        });
        let found = places.find(|place| path.is_some() || !tables.is_used(&place.path));
        Ok(found.expect("indexes do not run out before memory does"))
    }

    fn steps(key: &MountKey, place: &MountPlace) -> Vec<Step> {
        let mount = ScsiMount { path: Some(place.path.clone()), ..key.mount.clone() };
        vec![Step::ScsiMount { slot: key.slot, mount }]
    }

    fn let_go(inner: &Inner, place: &MountPlace) -> Result<()> {
        inner.release::<Disks>(place.disk)
    }
}

pub(crate) struct Pmem;

impl Kind for Pmem {
    type Key = PmemFile;
    type Place = PmemPlace;
    type Wish = ();

    fn table(tables: &mut Tables) -> &mut Table<PmemFile, PmemPlace> {
        &mut tables.pmem
    }

    fn place(tables: &mut Tables, can: &Capabilities, key: &PmemFile, _: &()) -> Result<PmemPlace> {
        let none = || {
            Error::new(
                ErrorKind::NoAvailableLocation,
                format!(
                    "cannot attach {}: no available location on {} pmem devices",
                    key.path.display(),
                    can.pmem_devices
                ),
            )
        };
        let left = |device: u32| {
            tables
                .leftover
                .iter()
                .any(|(_, step)| matches!(step, Step::Pmem { device: left, .. } if *left == device))
        };
        if !can.pmem_packed {
            let taken = |device: u32| {
                left(device)
                    || tables.pmem.entries().iter().any(|entry| entry.place.device == device)
            };
            let device = (0..can.pmem_devices).find(|device| !taken(*device)).ok_or_else(none)?;
            return Ok(PmemPlace { device, range: None });
        }
        let size = key.size.next_multiple_of(PAGE);
        for device in 0..can.pmem_devices {
            let on_it =
                tables.pmem.entries().iter().filter(|entry| entry.place.device == device).count();
            if left(device) || on_it >= MAPPINGS {
                continue;
            }
            let index = device as usize;
            while tables.packed.len() <= index {
                tables.packed.push(Buddy::new(can.pmem_max));
            }
            if let Some(offset) = tables.packed[index].allocate(size) {
                return Ok(PmemPlace { device, range: Some(PmemRange { offset, size }) });
            }
        }
        Err(none())
    }

    fn steps(key: &PmemFile, place: &PmemPlace) -> Vec<Step> {
        let PmemPlace { device, range } = *place;
        vec![
            Step::Pmem { device, range, path: key.path.clone() },
            Step::PmemMount { device, range, path: place.guest_path() },
        ]
    }

    fn vacate(tables: &mut Tables, place: &PmemPlace) {
        if let Some(range) = place.range
            && let Some(buddy) = tables.packed.get_mut(place.device as usize)
        {
            let held = buddy.release(range.offset);
            debug_assert!(held, "an entry holds its piece");
        }
    }
}

pub(crate) struct Shares;

impl Kind for Shares {
    type Key = ShareRequest;
    type Place = u64;
    type Wish = ();

    fn table(tables: &mut Tables) -> &mut Table<ShareRequest, u64> {
        &mut tables.shares
    }

    fn place(tables: &mut Tables, _: &Capabilities, key: &ShareRequest, _: &()) -> Result<u64> {
        tables.require_free(&key.guest_path)?;
        tables.next_share += 1;
        Ok(tables.next_share - 1)
    }

    fn steps(key: &ShareRequest, place: &u64) -> Vec<Step> {
        let share = Share {
            name: place.to_string(),
            path: key.host.clone(),
            read_only: key.read_only,
            allowed: key.allowed.clone(),
        };
        let (name, path) = (share.name.clone(), key.guest_path.clone());
        vec![Step::Share(share), Step::ShareMount { name, port: 0, path, read_only: key.read_only }]
    }
}

pub(crate) struct Combined;

impl Kind for Combined {
    type Key = Combination;
    type Place = ();
    type Wish = ();

    fn table(tables: &mut Tables) -> &mut Table<Combination, ()> {
        &mut tables.combined
    }

    fn place(tables: &mut Tables, _: &Capabilities, key: &Combination, _: &()) -> Result<()> {
        tables.require_free(&key.request.root)
    }

    fn steps(key: &Combination, _: &()) -> Vec<Step> {
        vec![Step::combine(&key.request)]
    }
}

impl Tables {
    /// Share names start beyond what a machine's owner before us gave out.
    pub(crate) fn after_share(&mut self, name: &str) {
        if let Ok(number) = name.parse::<u64>() {
            self.next_share = self.next_share.max(number.saturating_add(1));
        }
    }

    /// Whether something of any kind is at that guest path, coming or going.
    fn is_used(&self, path: &str) -> bool {
        let steps = self.leftover.iter().any(|(_, step)| match step {
            Step::ScsiMount { mount, .. } => mount.path.as_deref() == Some(path),
            Step::PmemMount { path: left, .. } | Step::ShareMount { path: left, .. } => {
                left == path
            }
            Step::Combine { root, .. } => root == path,
            Step::Scsi { .. } | Step::Pmem { .. } | Step::Share(_) => false,
        });
        steps
            || self.mounts.entries().iter().any(|entry| entry.place.path == path)
            || self.pmem.entries().iter().any(|entry| entry.place.guest_path() == path)
            || self.shares.entries().iter().any(|entry| entry.key.guest_path == path)
            || self.combined.entries().iter().any(|entry| entry.key.request.root == path)
    }

    fn require_free(&self, path: &str) -> Result<()> {
        if self.is_used(path) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{path} in the guest is taken by something else"),
            ));
        }
        Ok(())
    }
}
