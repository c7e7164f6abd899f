//! A double of a virtual machine for tests, here and in crates that use this one: it records every call, keeps what is
//! attached and mounted as a real one would, refuses what a real one refuses, and fails where a test asks it to.
//!
//! It is the one double in the project. It exists because a fault has to be put at each step of each function, which
//! a real machine cannot be asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bridge::{GuestRequest, RequestType, Resource};
use serde::{Deserialize, Serialize};

use crate::{
    Capabilities, Deadline, Error, ErrorKind, Exit, LUNS, PMEM_MAX, PmemRange, Result, ScsiDisk,
    ScsiSlot, Share, Vm,
};

/// A call, in the order in which they came in.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// [`Vm::add_scsi`]
    AddScsi(ScsiSlot, ScsiDisk),
    /// [`Vm::remove_scsi`]
    RemoveScsi(ScsiSlot),
    /// [`Vm::add_pmem`]
    AddPmem(u32, Option<PmemRange>, PathBuf),
    /// [`Vm::remove_pmem`]
    RemovePmem(u32, Option<PmemRange>),
    /// [`Vm::add_share`]
    AddShare(Share),
    /// [`Vm::remove_share`]
    RemoveShare(String),
    /// [`Vm::guest`]
    Guest(GuestRequest),
}

/// What such a machine holds now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Disks, by controller and LUN.
    pub disks: Vec<(ScsiSlot, ScsiDisk)>,
    /// Files on pmem devices.
    pub pmem: Vec<(u32, Option<PmemRange>, PathBuf)>,
    /// Shares by name.
    pub shares: BTreeMap<String, PathBuf>,
    /// What is mounted in the guest, by path: the request that did it.
    pub mounts: BTreeMap<String, GuestRequest>,
}

impl Held {
    /// Whether nothing at all is attached or mounted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The double.
#[derive(Debug)]
pub struct Recording {
    can: Capabilities,
    /// Every call takes this long, so that tests with threads meet each other.
    delay: Duration,
    /// Where what is held is kept beyond this process, for tests that kill it.
    file: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Held,
    calls: Vec<Call>,
    /// By number of the call, from 0: what it fails with.
    faults: BTreeMap<usize, Error>,
    /// Calls that were impossible in the state they met: bugs of the caller.
    violations: Vec<String>,
    dead: bool,
    /// The call at which it dies.
    dies_at: Option<usize>,
    next_port: u32,
}

impl Default for Recording {
    fn default() -> Self {
        Self::new(Capabilities {
            scsi_controllers: 4,
            reserved_slots: Vec::new(),
            pass_through: true,
            extensible: true,
            pmem_devices: 64,
            pmem_max: PMEM_MAX,
            pmem_packed: false,
            pmem_removable: true,
            shares: true,
            writable_shares: true,
        })
    }
}

impl Recording {
    /// One that can do so much. The default one can do everything.
    pub fn new(can: Capabilities) -> Self {
        Self { can, delay: Duration::ZERO, file: None, state: Mutex::default() }
    }

    /// Every call takes that long.
    #[must_use]
    pub fn with_delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// What is held outlives this process in a file, and is taken from there.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn kept_in(self, file: &Path) -> Result<Self> {
        let failed = |error| Error::io(format!("cannot read {}", file.display()), error);
        match std::fs::read(file) {
            Ok(text) => {
                let held = serde_json::from_slice(&text)
                    .map_err(|error| Error::caused(ErrorKind::Corrupt, "not a recording", error))?;
                self.lock().held = held;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        Ok(Self { file: Some(file.to_owned()), ..self })
    }

    /// Lets the call of that number, from 0, fail with `error` and do nothing.
    pub fn fail_at(&self, number: usize, error: Error) {
        self.lock().faults.insert(number, error);
    }

    /// Takes back all faults that have not happened.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Lets it end at the call of that number, from 0.
    pub fn die_at(&self, number: usize) {
        self.lock().dies_at = Some(number);
    }

    /// The machine has ended: every call fails from now on, and nothing is held.
    pub fn die(&self) {
        let mut state = self.lock();
        state.dead = true;
        state.held = Held::default();
    }

    /// Calls so far, those that failed included.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// What is attached and mounted now.
    pub fn held(&self) -> Held {
        self.lock().held.clone()
    }

    /// Calls that cannot be right in the state they came in, such as detaching a mounted disk.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call goes through here.
    fn call<T>(&self, call: Call, act: impl FnOnce(&mut State) -> Result<T, String>) -> Result<T> {
        std::thread::sleep(self.delay);
        let mut state = self.lock();
        let number = state.calls.len();
        state.calls.push(call.clone());
        if state.dies_at == Some(number) {
            state.dead = true;
            state.held = Held::default();
        }
        if state.dead {
            return Err(Error::new(ErrorKind::Dead, "the virtual machine has ended"));
        }
        if let Some(error) = state.faults.remove(&number) {
            return Err(error);
        }
        let result = act(&mut state).map_err(|what| {
            let what = format!("{what}: {call:?}");
            state.violations.push(what.clone());
            Error::new(ErrorKind::Invalid, what)
        })?;
        if let Some(file) = &self.file {
            let text = serde_json::to_vec(&state.held).map_err(|error| {
                Error::caused(ErrorKind::Io, "cannot keep the recording", error)
            })?;
            let new = file.with_extension("new");
            std::fs::write(&new, text)
                .and_then(|()| std::fs::rename(&new, file))
                .map_err(|error| Error::io("cannot keep the recording", error))?;
        }
        Ok(result)
    }
}

impl Vm for Recording {
    fn capabilities(&self) -> Capabilities {
        self.can.clone()
    }

    fn add_scsi(&self, slot: ScsiSlot, disk: &ScsiDisk) -> Result<()> {
        let can = self.can.scsi_controllers;
        self.call(Call::AddScsi(slot, disk.clone()), |state| {
            if slot.controller >= can || slot.lun >= LUNS {
                return Err("no such slot".to_owned());
            }
            if state.held.disks.iter().any(|(taken, _)| *taken == slot) {
                return Err("the slot is taken".to_owned());
            }
            state.held.disks.push((slot, disk.clone()));
            Ok(())
        })
    }

    fn remove_scsi(&self, slot: ScsiSlot) -> Result<()> {
        let there = self.call(Call::RemoveScsi(slot), |state| {
            if mounted_from(&state.held, slot) {
                return Err("a mounted disk is detached".to_owned());
            }
            let before = state.held.disks.len();
            state.held.disks.retain(|(taken, _)| *taken != slot);
            Ok(state.held.disks.len() < before)
        })?;
        not_attached(there, || format!("SCSI {slot}"))
    }

    fn add_pmem(&self, device: u32, range: Option<PmemRange>, path: &Path, _: bool) -> Result<()> {
        let most = self.can.pmem_devices;
        self.call(Call::AddPmem(device, range, path.to_owned()), |state| {
            let taken = |other: Option<PmemRange>| match (range, other) {
                (Some(a), Some(b)) => a.offset < b.offset + b.size && b.offset < a.offset + a.size,
                _ => true,
            };
            if device >= most
                || state.held.pmem.iter().any(|(other, at, _)| *other == device && taken(*at))
            {
                return Err("no such pmem device, or it is taken".to_owned());
            }
            state.held.pmem.push((device, range, path.to_owned()));
            Ok(())
        })
    }

    fn remove_pmem(&self, device: u32, range: Option<PmemRange>) -> Result<()> {
        let removable = self.can.pmem_removable;
        let there = self.call(Call::RemovePmem(device, range), |state| {
            if !removable {
                return Err("pmem devices cannot be removed here".to_owned());
            }
            let before = state.held.pmem.len();
            state.held.pmem.retain(|(other, at, _)| (*other, *at) != (device, range));
            Ok(state.held.pmem.len() < before)
        })?;
        not_attached(there, || format!("pmem device {device}"))
    }

    fn add_share(&self, share: &Share) -> Result<u32> {
        self.call(Call::AddShare(share.clone()), |state| {
            if state.held.shares.insert(share.name.clone(), share.path.clone()).is_some() {
                return Err("a share of that name is there".to_owned());
            }
            state.next_port += 1;
            Ok(bridge::PLAN9_PORT + state.next_port)
        })
    }

    fn remove_share(&self, name: &str) -> Result<()> {
        let there = self.call(Call::RemoveShare(name.to_owned()), |state| {
            let uses = |request: &GuestRequest| matches!(&request.resource, Resource::MappedDirectory(share) if share.share_name == name);
            if state.held.mounts.values().any(uses) {
                return Err("a mounted share is removed".to_owned());
            }
            Ok(state.held.shares.remove(name).is_some())
        })?;
        not_attached(there, || format!("share {name}"))
    }

    fn guest(&self, request: &GuestRequest, deadline: &Deadline) -> Result<()> {
        deadline.slice("ask the guest").map_err(Error::from_bridge)?;
        self.call(Call::Guest(request.clone()), |state| guest(&mut state.held, request))
    }

    fn wait(&self, time: Duration) -> Option<Exit> {
        let until = Instant::now() + time;
        loop {
            if self.lock().dead {
                return Some(Exit { reason: "it was closed".to_owned(), orderly: true });
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn close(&self, _: Duration) -> Result<()> {
        self.die();
        Ok(())
    }
}

fn not_attached(there: bool, what: impl Fn() -> String) -> Result<()> {
    if there {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotAttached, format!("nothing is attached: {}", what())))
}

fn mounted_from(held: &Held, slot: ScsiSlot) -> bool {
    held.mounts.values().any(|request| {
        matches!(&request.resource, Resource::MappedVirtualDisk(disk)
            if (disk.controller, disk.lun) == (slot.controller, slot.lun))
    })
}

/// What a guest would do.
fn guest(held: &mut Held, request: &GuestRequest) -> Result<(), String> {
    let (path, source_is_there) = match &request.resource {
        Resource::MappedVirtualDisk(disk) => {
            let slot = ScsiSlot { controller: disk.controller, lun: disk.lun };
            (&disk.mount_path, held.disks.iter().any(|(taken, _)| *taken == slot))
        }
        Resource::VPMemDevice(pmem) => {
            let there = held.pmem.iter().any(|(device, range, _)| {
                *device == pmem.device_number
                    && range.map(|range| (range.offset, range.size))
                        == pmem
                            .mapping_info
                            .map(|map| (map.device_offset_in_bytes, map.device_size_in_bytes))
            });
            (&pmem.mount_path, there)
        }
        Resource::MappedDirectory(share) => {
            (&share.mount_path, held.shares.contains_key(&share.share_name) && share.port > 0)
        }
        Resource::CombinedLayers(layers) => (&layers.container_root_path, true),
        Resource::ScsiDevice(device) => {
            let slot = ScsiSlot { controller: device.controller, lun: device.lun };
            return match mounted_from(held, slot) {
                true => Err("a mounted disk is unplugged".to_owned()),
                false => Ok(()),
            };
        }
        _ => return Err("the guest does not know this resource".to_owned()),
    };
    match request.request_type {
        RequestType::Add if !source_is_there => {
            Err("what is to be mounted is not attached".to_owned())
        }
        RequestType::Add => match held.mounts.insert(path.clone(), request.clone()) {
            Some(_) => Err("something is mounted there".to_owned()),
            None => Ok(()),
        },
        RequestType::Remove => {
            // Removing what is not there is done already, as in the guest.
            held.mounts.remove(path);
            Ok(())
        }
        _ => Err("the guest does not know this request".to_owned()),
    }
}
