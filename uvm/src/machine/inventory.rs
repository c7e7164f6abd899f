//! What is attached now, for people and for those who look something up.

use std::path::PathBuf;

use super::Machine;
use crate::table::Phase;
use crate::{Error, ErrorKind, PmemRange, Result, ScsiDisk, ScsiSlot};

/// Everything attached at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// By slot.
    pub disks: Vec<AttachedDisk>,
    /// By device.
    pub pmem: Vec<AttachedPmem>,
    /// By guest path.
    pub shares: Vec<AttachedShare>,
    /// Guest paths of combined roots.
    pub roots: Vec<String>,
    /// Things of an owner before us that could not be undone yet.
    pub leftover: usize,
}

/// A disk with its mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedDisk {
    /// Where.
    pub slot: ScsiSlot,
    /// What.
    pub disk: ScsiDisk,
    /// Users without a mount and mounts, those not finished yet included.
    pub users: usize,
    /// Whether detaching it failed.
    pub stuck: bool,
    /// Where the guest has it.
    pub mounts: Vec<MountedDisk>,
}

/// A mount of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedDisk {
    /// In the guest.
    pub path: String,
    /// Who uses it.
    pub users: usize,
    /// Whether unmounting it failed.
    pub stuck: bool,
}

/// A file on a pmem device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedPmem {
    /// Number of the device.
    pub device: u32,
    /// Its piece of a packed device.
    pub range: Option<PmemRange>,
    /// On the host.
    pub file: PathBuf,
    /// In the guest.
    pub path: String,
    /// Who uses it; nobody where the device cannot be removed.
    pub users: usize,
}

/// A shared directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedShare {
    /// On the host.
    pub host: PathBuf,
    /// In the guest.
    pub path: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Who uses it.
    pub users: usize,
}

impl Machine {
    /// What is attached now.
    pub fn inventory(&self) -> Inventory {
        let tables = self.0.lock();
        let mut disks: Vec<AttachedDisk> = tables
            .disks
            .entries()
            .iter()
            .map(|entry| AttachedDisk {
                slot: entry.place,
                disk: entry.key.clone(),
                users: entry.count,
                stuck: entry.phase == Phase::Stuck,
                mounts: tables
                    .mounts
                    .entries()
                    .iter()
                    .filter(|mount| mount.key.slot == entry.place)
                    .map(|mount| MountedDisk {
                        path: mount.place.path.clone(),
                        users: mount.count,
                        stuck: mount.phase == Phase::Stuck,
                    })
                    .collect(),
            })
            .collect();
        disks.sort_by_key(|disk| disk.slot);
        let pmem = tables.pmem.entries().iter().map(|entry| AttachedPmem {
            device: entry.place.device,
            range: entry.place.range,
            file: entry.key.path.clone(),
            path: entry.place.guest_path(),
            users: entry.count,
        });
        let mut pmem: Vec<AttachedPmem> = pmem.collect();
        pmem.sort_by_key(|one| (one.device, one.range));
        let shares = tables.shares.entries().iter().map(|entry| AttachedShare {
            host: entry.key.host.clone(),
            path: entry.key.guest_path.clone(),
            read_only: entry.key.read_only,
            users: entry.count,
        });
        let mut shares: Vec<AttachedShare> = shares.collect();
        shares.sort_by(|a, b| a.path.cmp(&b.path));
        let mut roots: Vec<String> =
            tables.combined.entries().iter().map(|entry| entry.key.request.root.clone()).collect();
        roots.sort();
        Inventory { disks, pmem, shares, roots, leftover: tables.leftover.len() }
    }

    /// The disk at a slot.
    ///
    /// # Errors
    /// [`NotAttached`](ErrorKind::NotAttached) if there is none.
    pub fn disk_at(&self, slot: ScsiSlot) -> Result<AttachedDisk> {
        let found = self.inventory().disks.into_iter().find(|disk| disk.slot == slot);
        found.ok_or_else(|| {
            Error::new(ErrorKind::NotAttached, format!("nothing is attached at SCSI {slot}"))
        })
    }

    /// The disk that is mounted at a guest path.
    ///
    /// # Errors
    /// [`NotAttached`](ErrorKind::NotAttached) if none is.
    pub fn disk_on(&self, path: &str) -> Result<AttachedDisk> {
        let has = |disk: &AttachedDisk| disk.mounts.iter().any(|mount| mount.path == path);
        let found = self.inventory().disks.into_iter().find(has);
        found.ok_or_else(|| {
            Error::new(ErrorKind::NotAttached, format!("no disk is mounted on {path} in the guest"))
        })
    }
}
