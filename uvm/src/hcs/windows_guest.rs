//! A Windows guest: VSMB shares, disks at `c:\mounts\scsi`, and layers combined by its filter.
//!
//! The order is that of hcs-layers.md 4.4: the host's part is added first and the guest's removed first; a failure in
//! the guest undoes the host's part. Equal shares and disks are counted, and no lock is held while the host or the
//! guest works.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bridge::GuestRequest;
use serde::{Deserialize, Serialize};

use super::request::windows_resource;
use super::schema::{
    HcsLayer, ModifySettingRequest, RequestType, VirtualSmbShareOptions, WindowsCombinedLayers,
    WindowsMappedDisk,
};
use super::vm::{Failure, HcsVm};
use crate::journal::{Journal, StepId};
use crate::{Error, ErrorKind, LUNS, Result, ScsiDisk, ScsiSlot};

/// Where a Windows guest finds shares (hcs-layers.md 4.3).
const VSMB_ROOT: &str = r"\\?\VMSMB\VSMB-{dcc079ae-60ba-4d07-847c-3493609c0870}";

/// The devices of a Windows guest. Who releases what it took has no other account to keep, and with
/// [a journal](Self::recover) not even whoever comes after a process that was killed.
#[derive(Debug)]
pub struct WindowsGuest {
    vm: HcsVm,
    journal: Option<Mutex<Journal<GuestStep>>>,
    tables: Mutex<Tables>,
    changed: Condvar,
}

/// A directory or file of the host to share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VsmbRequest {
    /// The directory on the host.
    pub path: PathBuf,
    /// Only these files directly in it exist for the guest.
    pub allowed: Option<BTreeSet<OsString>>,
    /// How it is served.
    pub options: VirtualSmbShareOptions,
}

/// A share in use; [`WindowsGuest::remove_vsmb`] ends it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it stays until it is removed"]
pub struct VsmbShare {
    number: u64,
    path: String,
}

impl VsmbShare {
    /// Where the guest has the directory.
    pub fn guest_path(&self) -> &str {
        &self.path
    }
}

/// A disk in use; [`WindowsGuest::remove_disk`] ends it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it stays until it is removed"]
pub struct WindowsDisk {
    lun: u8,
    path: String,
}

impl WindowsDisk {
    /// Where the guest has mounted it.
    pub fn guest_path(&self) -> &str {
        &self.path
    }

    /// Its place on the first controller.
    pub fn lun(&self) -> u8 {
        self.lun
    }
}

/// Layers that are combined; [`WindowsGuest::remove_combined`] undoes it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it stays until it is removed"]
pub struct WindowsCombined {
    root: String,
}

/// What is attached, and how it is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum GuestStep {
    Share { number: u64 },
    Disk { lun: u8 },
    Combined { root: String },
    Pipe { path: String },
}

#[derive(Debug, Default)]
struct Tables {
    shares: Vec<Counted<VsmbRequest>>,
    /// Numbers of shares count up and are never used again.
    next_share: u64,
    /// By LUN.
    disks: Vec<Counted<ScsiDisk>>,
    /// Places of disks that could not be detached.
    lost: BTreeSet<u8>,
    roots: BTreeSet<String>,
}

#[derive(Debug)]
struct Counted<K> {
    number: u64,
    key: K,
    count: usize,
    /// Somebody is making or removing it, without the lock.
    busy: bool,
}

impl WindowsGuest {
    /// The devices of a machine that runs Windows, and has none of these yet.
    pub fn new(vm: HcsVm) -> Self {
        Self { vm, journal: None, tables: Mutex::default(), changed: Condvar::new() }
    }

    /// The devices of a machine that may have some of a process that was killed: whatever the journal at that path says is
    /// attached, or may be, is undone, the last first. What could not be is told, stays in the journal for the next start,
    /// and keeps its place. From then on everything is in the journal before it is done.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn recover(vm: HcsVm, journal: &Path) -> Result<(Self, Vec<Error>)> {
        let journal = Journal::<GuestStep>::open(journal)?;
        let left: Vec<(StepId, GuestStep)> =
            journal.live().iter().map(|(id, step)| (*id, step.clone())).collect();
        let guest = Self { journal: Some(Mutex::new(journal)), ..Self::new(vm) };
        let mut errors = Vec::new();
        for (_, step) in left.iter().rev() {
            guest.record(step, Journal::undo);
            match guest.undo(step) {
                Ok(()) => guest.record(step, Journal::gone),
                Err(error) => {
                    guest.record(step, |journal, id| journal.failed(id, &error));
                    let mut tables = guest.lock();
                    match step {
                        GuestStep::Share { number } => {
                            tables.next_share = tables.next_share.max(number + 1);
                        }
                        GuestStep::Disk { lun } => drop(tables.lost.insert(*lun)),
                        GuestStep::Combined { root } => drop(tables.roots.insert(root.clone())),
                        GuestStep::Pipe { .. } => {}
                    }
                    drop(tables);
                    errors.push(error);
                }
            }
        }
        Ok((guest, errors))
    }

    /// Undoes a step, all of it.
    fn undo(&self, step: &GuestStep) -> Result<()> {
        match step {
            GuestStep::Share { number } => self.end_share(*number),
            GuestStep::Disk { lun } => {
                let slot = slot((*lun).into());
                let resource = windows_resource("MappedVirtualDisk", &mapped(slot))?;
                // It may be attached without being mounted: the guest's refusal is no reason to leave it.
                let unmounted = self.vm.ask(&GuestRequest::remove(resource));
                gone(self.vm.detach_disk(slot)).map_err(|error| match unmounted {
                    Ok(_) => error,
                    Err(refused) => error.with_more(&format!("and in the guest: {refused}")),
                })
            }
            GuestStep::Combined { root } => gone(self.separate(root)),
            GuestStep::Pipe { path } => self.end_pipe(path),
        }
    }

    fn intend(&self, step: &GuestStep) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.lock().unwrap_or_else(PoisonError::into_inner).intend(step).map(drop)
    }

    /// Writes down what becomes of a step.
    fn record(&self, step: &GuestStep, write: impl Fn(&mut Journal<GuestStep>, StepId)) {
        let Some(journal) = &self.journal else { return };
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        let same = journal.live().iter().filter(|(_, live)| *live == step);
        let same: Vec<StepId> = same.map(|(id, _)| *id).collect();
        same.into_iter().for_each(|id| write(&mut journal, id));
    }

    /// Does something that is in the journal before, and after.
    fn journaled<T>(&self, step: &GuestStep, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.intend(step)?;
        let acted = act();
        match &acted {
            Ok(_) => self.record(step, Journal::done),
            Err(error) => {
                let lost =
                    matches!(step, GuestStep::Disk { lun } if self.lock().lost.contains(lun));
                match lost {
                    true => self.record(step, |journal, id| journal.failed(id, error)),
                    false => self.record(step, Journal::gone),
                }
            }
        }
        acted
    }

    /// Undoes something that is in the journal before, and after.
    fn unjournaled(&self, step: &GuestStep, undo: impl FnOnce() -> Result<()>) -> Result<()> {
        self.record(step, Journal::undo);
        let undone = undo();
        match &undone {
            Ok(()) => self.record(step, Journal::gone),
            Err(error) => self.record(step, |journal, id| journal.failed(id, error)),
        }
        undone
    }

    /// The machine.
    pub fn vm(&self) -> &HcsVm {
        &self.vm
    }

    /// Shares a directory. An equal request that is served already is counted.
    ///
    /// # Errors
    /// What the service says.
    pub fn add_vsmb(&self, request: &VsmbRequest) -> Result<VsmbShare> {
        let next = |tables: &mut Tables| {
            tables.next_share += 1;
            Ok(tables.next_share - 1)
        };
        let number = self.acquire(
            |tables| &mut tables.shares,
            request,
            next,
            |number| GuestStep::Share { number },
            |number| {
                let VsmbRequest { path, allowed, options } = request;
                let restricted = VirtualSmbShareOptions {
                    restrict_file_access: allowed.is_some(),
                    single_file_mapping: allowed.is_some(),
                    ..*options
                };
                let name = share_name(number);
                let document = ModifySettingRequest::vsmb(
                    RequestType::Add,
                    &name,
                    path,
                    allowed.as_ref(),
                    restricted,
                )?;
                self.vm
                    .modify(&format!("share {}", path.display()), &document)
                    .map_err(Failure::error)
            },
        )?;
        Ok(VsmbShare { number, path: format!(r"{VSMB_ROOT}\{}", share_name(number)) })
    }

    /// Where the guest has a directory that is shared already as a layer.
    ///
    /// # Errors
    /// `NotAttached`, naming it, if it is not.
    pub fn layer_path(&self, folder: &Path) -> Result<String> {
        let tables = self.lock();
        let found = tables
            .shares
            .iter()
            .find(|entry| !entry.busy && entry.key.path == folder && entry.key.options.read_only);
        found.map(|entry| format!(r"{VSMB_ROOT}\{}", share_name(entry.number))).ok_or_else(|| {
            let message = format!("{} is not shared with the virtual machine", folder.display());
            Error::new(ErrorKind::NotAttached, message)
        })
    }

    /// Ends one use of a share, and with the last one the share.
    ///
    /// # Errors
    /// What the service says; the share stays in the table then, without users, for the next equal request.
    pub fn remove_vsmb(&self, share: &VsmbShare) -> Result<()> {
        self.release(
            |tables| &mut tables.shares,
            share.number,
            |number| self.unjournaled(&GuestStep::Share { number }, || self.end_share(number)),
        )
    }

    fn end_share(&self, number: u64) -> Result<()> {
        let name = share_name(number);
        let document = ModifySettingRequest::remove_vsmb(&name);
        let ended = self.vm.modify(&format!("end the share {name}"), &document);
        gone(ended.map_err(Failure::error))
    }

    /// Attaches a disk to the first controller and mounts it at `c:\mounts\scsi\m<n>`. An equal disk is counted.
    ///
    /// # Errors
    /// `NoAvailableLocation`; what the service and the guest say. It is detached again then.
    pub fn add_disk(&self, disk: &ScsiDisk) -> Result<WindowsDisk> {
        let reserved = crate::Vm::capabilities(&self.vm).reserved_slots;
        let free = |tables: &mut Tables| {
            let taken = |lun: &u8| {
                reserved.contains(&ScsiSlot { controller: 0, lun: *lun })
                    || tables.lost.contains(lun)
                    || tables.disks.iter().any(|entry| entry.number == u64::from(*lun))
            };
            (0..LUNS).find(|lun| !taken(lun)).map(u64::from).ok_or_else(|| {
                let message = format!(
                    "cannot attach {}: no available location, all {LUNS} SCSI slots are taken",
                    disk.path.display()
                );
                Error::new(ErrorKind::NoAvailableLocation, message)
            })
        };
        let number = self.acquire(
            |tables| &mut tables.disks,
            disk,
            free,
            |number| GuestStep::Disk { lun: slot(number).lun },
            |number| {
                let slot = slot(number);
                self.vm.attach_disk(slot, disk)?;
                let mounted = windows_resource("MappedVirtualDisk", &mapped(slot))
                    .and_then(|resource| self.vm.ask(&GuestRequest::add(resource)));
                mounted.map_err(|error| match gone(self.vm.detach_disk(slot)) {
                    Ok(()) => error,
                    Err(undo) => {
                        self.lock().lost.insert(slot.lun);
                        error.with_more(&format!("and it stays attached at SCSI {slot}: {undo}"))
                    }
                })
            },
        )?;
        let slot = slot(number);
        Ok(WindowsDisk { lun: slot.lun, path: mapped(slot).container_path })
    }

    /// Ends one use of a disk; with the last one the guest lets go of it, and the host detaches it.
    ///
    /// # Errors
    /// What the guest and the service say. After a failure of the guest it stays attached.
    pub fn remove_disk(&self, disk: &WindowsDisk) -> Result<()> {
        self.release(
            |tables| &mut tables.disks,
            disk.lun.into(),
            |number| {
                let slot = slot(number);
                self.unjournaled(&GuestStep::Disk { lun: slot.lun }, || {
                    let resource = windows_resource("MappedVirtualDisk", &mapped(slot))?;
                    self.vm.ask(&GuestRequest::remove(resource))?;
                    gone(self.vm.detach_disk(slot))
                })
            },
        )
    }

    /// Combines layers, topmost first, to the root file system at `root`, where the scratch is mounted.
    ///
    /// # Errors
    /// `Invalid` without layers, `AlreadyExists` if layers are combined there; what the guest says.
    pub fn combine(
        &self,
        root: &str,
        layers: &[HcsLayer],
        filter: Option<&'static str>,
    ) -> Result<WindowsCombined> {
        if layers.is_empty() {
            let message = format!("there are no layers to combine at {root}");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if !self.lock().roots.insert(root.to_owned()) {
            let message = format!("layers are combined at {root} already");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let settings = WindowsCombinedLayers {
            container_root_path: root.to_owned(),
            layers: layers.to_vec(),
            scratch_path: String::new(),
            filter_type: filter,
        };
        let asked = self.journaled(&GuestStep::Combined { root: root.to_owned() }, || {
            let resource = windows_resource("CombinedLayers", &settings)?;
            self.vm.ask(&GuestRequest::add(resource))
        });
        if let Err(error) = asked {
            self.lock().roots.remove(root);
            return Err(error);
        }
        Ok(WindowsCombined { root: root.to_owned() })
    }

    /// Undoes it. Only the root is named (hcs-layers.md 4.5).
    ///
    /// # Errors
    /// What the guest says.
    pub fn remove_combined(&self, combined: &WindowsCombined) -> Result<()> {
        let step = GuestStep::Combined { root: combined.root.clone() };
        self.unjournaled(&step, || self.separate(&combined.root))?;
        self.lock().roots.remove(&combined.root);
        Ok(())
    }

    fn separate(&self, root: &str) -> Result<()> {
        let settings = WindowsCombinedLayers {
            container_root_path: root.to_owned(),
            ..WindowsCombinedLayers::default()
        };
        let resource = windows_resource("CombinedLayers", &settings)?;
        self.vm.ask(&GuestRequest::remove(resource))
    }

    /// Lets the guest open a named pipe of the host, `\\.\pipe\NAME`; returns its path in the guest. Not counted.
    ///
    /// # Errors
    /// `Invalid` for another path; what the service says.
    pub fn add_pipe(&self, path: &str) -> Result<String> {
        let Some(name) = path.strip_prefix(r"\\.\pipe\").filter(|name| !name.is_empty()) else {
            return Err(Error::new(ErrorKind::Invalid, format!("{path} is no named pipe")));
        };
        let request = ModifySettingRequest::pipe(RequestType::Add, path);
        self.journaled(&GuestStep::Pipe { path: path.to_owned() }, || {
            self.vm.modify(&format!("share the pipe {path}"), &request).map_err(Failure::error)
        })?;
        Ok(format!(r"{VSMB_ROOT}\IPC$\{name}"))
    }

    /// Ends that.
    ///
    /// # Errors
    /// What the service says.
    pub fn remove_pipe(&self, path: &str) -> Result<()> {
        self.unjournaled(&GuestStep::Pipe { path: path.to_owned() }, || self.end_pipe(path))
    }

    fn end_pipe(&self, path: &str) -> Result<()> {
        let request = ModifySettingRequest::pipe(RequestType::Remove, path);
        let removed = self.vm.modify(&format!("end the share of the pipe {path}"), &request);
        gone(removed.map_err(Failure::error))
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // A panic elsewhere leaves the tables as they were: they are only changed by code that cannot panic midway.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the caller as a user of `key`, making it first if nobody has.
    fn acquire<K: Clone + PartialEq>(
        &self,
        table: impl Fn(&mut Tables) -> &mut Vec<Counted<K>>,
        key: &K,
        next: impl Fn(&mut Tables) -> Result<u64>,
        step: impl FnOnce(u64) -> GuestStep,
        make: impl FnOnce(u64) -> Result<()>,
    ) -> Result<u64> {
        let mut tables = self.lock();
        let number = loop {
            match table(&mut tables).iter_mut().find(|entry| entry.key == *key) {
                Some(entry) if entry.busy => {
                    tables = self.changed.wait(tables).unwrap_or_else(PoisonError::into_inner);
                }
                // Also one without users, which could not be removed.
                Some(entry) => {
                    entry.count += 1;
                    return Ok(entry.number);
                }
                None => {
                    let number = next(&mut tables)?;
                    let entry = Counted { number, key: key.clone(), count: 1, busy: true };
                    table(&mut tables).push(entry);
                    break number;
                }
            }
        };
        drop(tables);
        let made = self.journaled(&step(number), || make(number));
        let mut tables = self.lock();
        let entries = table(&mut tables);
        match made {
            Ok(()) => entries
                .iter_mut()
                .filter(|entry| entry.number == number)
                .for_each(|entry| entry.busy = false),
            Err(_) => entries.retain(|entry| entry.number != number),
        }
        drop(tables);
        self.changed.notify_all();
        made.map(|()| number)
    }

    /// One user less; the last one removes.
    fn release<K>(
        &self,
        table: impl Fn(&mut Tables) -> &mut Vec<Counted<K>>,
        number: u64,
        remove: impl FnOnce(u64) -> Result<()>,
    ) -> Result<()> {
        {
            let mut tables = self.lock();
            let found = table(&mut tables).iter_mut().find(|entry| entry.number == number);
            let Some(entry) = found else {
                let message = "what is to be removed has been removed already";
                return Err(Error::new(ErrorKind::AlreadyReleased, message));
            };
            entry.count = entry.count.saturating_sub(1);
            if entry.count > 0 {
                return Ok(());
            }
            entry.busy = true;
        }
        let removed = remove(number);
        let mut tables = self.lock();
        let entries = table(&mut tables);
        match removed {
            Ok(()) => entries.retain(|entry| entry.number != number),
            Err(_) => entries
                .iter_mut()
                .filter(|entry| entry.number == number)
                .for_each(|entry| entry.busy = false),
        }
        drop(tables);
        self.changed.notify_all();
        removed
    }
}

fn share_name(number: u64) -> String {
    format!("s{number:x}")
}

fn slot(number: u64) -> ScsiSlot {
    ScsiSlot { controller: 0, lun: u8::try_from(number).unwrap_or(u8::MAX) }
}

fn mapped(slot: ScsiSlot) -> WindowsMappedDisk {
    WindowsMappedDisk { container_path: format!(r"c:\mounts\scsi\m{}", slot.lun), lun: slot.lun }
}

/// What is gone needs no removing.
fn gone(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotAttached => Ok(()),
        other => other,
    }
}
