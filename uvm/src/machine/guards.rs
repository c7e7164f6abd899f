//! Uses of attached things. Letting go of one is releasing it; what cannot be undone then is not lost, but in the
//! journal and in the table, for [`Machine::settle`].

use crate::table::EntryId;
use crate::{Machine, Result, ScsiSlot};

use super::kinds::{Combined, Disks, Mounts, Pmem, PmemPlace, Shares};

/// What a SCSI guard is counted on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Held {
    Disk(EntryId),
    Mount(EntryId),
}

macro_rules! guard {
    ($name:ident) => {
        impl $name {
            /// Ends this use, and if it was the last one undoes everything, the guest's part first.
            ///
            /// # Errors
            /// What could not be undone; it is tried again by [`Machine::settle`], by the next equal request and by the
            /// next [`Machine::open`].
            pub fn release(mut self) -> Result<()> {
                self.let_go()
            }

            fn let_go(&mut self) -> Result<()> {
                match self.held.take() {
                    Some(held) => self.let_go_of(held),
                    None => Ok(()),
                }
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // Nobody to tell; it is in the journal.
                let _ = self.let_go();
            }
        }
    };
}

/// A disk in use, mounted or only attached.
#[derive(Debug)]
pub struct ScsiGuard {
    machine: Machine,
    slot: ScsiSlot,
    path: Option<String>,
    held: Option<Held>,
}

impl ScsiGuard {
    pub(super) fn new(machine: Machine, slot: ScsiSlot, path: Option<String>, held: Held) -> Self {
        Self { machine, slot, path, held: Some(held) }
    }

    /// Where it is mounted in the guest, if it is.
    pub fn guest_path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// Where it is attached.
    pub fn slot(&self) -> ScsiSlot {
        self.slot
    }

    fn let_go_of(&self, held: Held) -> Result<()> {
        match held {
            Held::Disk(id) => self.machine.0.release::<Disks>(id),
            Held::Mount(id) => self.machine.0.release::<Mounts>(id),
        }
    }
}

/// A layer on a pmem device, in use.
#[derive(Debug)]
pub struct PmemGuard {
    machine: Machine,
    device: u32,
    path: String,
    held: Option<EntryId>,
}

impl PmemGuard {
    pub(super) fn new(machine: Machine, id: EntryId, place: &PmemPlace) -> Self {
        Self { machine, device: place.device, path: place.guest_path(), held: Some(id) }
    }

    /// Where it is mounted in the guest.
    pub fn guest_path(&self) -> &str {
        &self.path
    }

    /// The device it is on.
    pub fn device(&self) -> u32 {
        self.device
    }

    fn let_go_of(&self, id: EntryId) -> Result<()> {
        self.machine.0.release::<Pmem>(id)
    }
}

/// A shared directory in use.
#[derive(Debug)]
pub struct ShareGuard {
    machine: Machine,
    path: String,
    held: Option<EntryId>,
}

impl ShareGuard {
    pub(super) fn new(machine: Machine, id: EntryId, path: String) -> Self {
        Self { machine, path, held: Some(id) }
    }

    /// Where it is mounted in the guest.
    pub fn guest_path(&self) -> &str {
        &self.path
    }

    fn let_go_of(&self, id: EntryId) -> Result<()> {
        self.machine.0.release::<Shares>(id)
    }
}

/// A combined root file system in use.
#[derive(Debug)]
pub struct CombinedGuard {
    machine: Machine,
    root: String,
    held: Option<EntryId>,
}

impl CombinedGuard {
    pub(super) fn new(machine: Machine, id: EntryId, root: String) -> Self {
        Self { machine, root, held: Some(id) }
    }

    /// Where it is in the guest.
    pub fn guest_path(&self) -> &str {
        &self.root
    }

    fn let_go_of(&self, id: EntryId) -> Result<()> {
        self.machine.0.release::<Combined>(id)
    }
}

guard!(ScsiGuard);
guard!(PmemGuard);
guard!(ShareGuard);
guard!(CombinedGuard);
