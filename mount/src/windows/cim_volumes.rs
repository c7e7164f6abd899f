//! CIMs as volumes: who holds which, on hosts of both kinds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::identity::{container_volume, image_volume};
use super::ledger::{Ledger, Locked};
use crate::clock::{time_of, unix_time_now};
use crate::{Error, ErrorKind, Result};

/// How a host makes a volume of a CIM. It keeps no account; [`CimVolumes`] does.
pub trait CimHost: fmt::Debug + Send + Sync {
    /// The one spelling of a CIM's path.
    ///
    /// # Errors
    /// `Invalid` for what cannot be a CIM's path on this host.
    fn locate(&self, cim: &Path) -> Result<CimLocation>;

    /// Where a volume of that GUID appears, or would.
    fn volume_path(&self, guid: Uuid) -> PathBuf;

    /// Whether there is a volume of that GUID, whoever made it.
    ///
    /// # Errors
    /// What the host says.
    fn is_mounted(&self, guid: Uuid) -> Result<bool>;

    /// Makes the volume. After an error there is none of our making.
    ///
    /// # Errors
    /// `AlreadyExists` if the GUID is in use; what the host says.
    fn mount(&self, cim: &CimLocation, guid: Uuid) -> Result<()>;

    /// Takes the volume away; `false` if there is none.
    ///
    /// # Errors
    /// `Busy` while it is in use, and then it stays.
    fn dismount(&self, guid: Uuid) -> Result<bool>;
}

/// Where a CIM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CimLocation {
    /// Its path as functions of the host want it.
    pub path: String,
    /// The same for all spellings of the path.
    pub key: String,
}

/// Whether containers on one image share its volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Each container has a volume of its own, whose GUID is [`container_volume`]: as hcsshim does it.
    #[default]
    PerContainer,
    /// One volume for all containers on one image: less kernel memory, and one cache. What a container holds is
    /// then known from the ledger only.
    PerImage,
}

/// A volume that shows a CIM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CimVolume {
    /// Its identity.
    pub guid: Uuid,
    /// Its root: `\\?\Volume{guid}\`, or a directory on Linux.
    pub path: PathBuf,
    /// The CIM's filesystem file.
    pub cim: PathBuf,
    /// The containers that hold it, and how many times each does.
    pub holders: BTreeMap<String, u32>,
    /// When it was mounted.
    pub since: SystemTime,
}

/// What [`CimVolumes::reconcile`] did and what it left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CimReconcileReport {
    /// Never finished, or held by nobody who lives: dismounted.
    pub undone: Vec<Uuid>,
    /// In the ledger, but no longer there: forgotten.
    pub forgotten: Vec<Uuid>,
    /// Containers that are dead: their holds ended.
    pub released: Vec<String>,
    /// Held by nobody, but in use, so left as they are.
    pub kept_busy: Vec<Uuid>,
}

/// The account of a host's CIM volumes, in a ledger in the run directory.
///
/// A container that mounts a CIM twice has to unmount it twice; unmounting what is not mounted does nothing.
#[derive(Debug)]
pub struct CimVolumes<H> {
    host: H,
    sharing: Sharing,
    ledger: Ledger<State>,
}

/// What the ledger says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    volumes: BTreeMap<Uuid, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    cim: String,
    key: String,
    /// `false`: intended; whoever was at it is dead, or is us.
    mounted: bool,
    holders: BTreeMap<String, u32>,
    /// Nanoseconds since 1970.
    since: u64,
}

impl<H: CimHost> CimVolumes<H> {
    /// The volumes of `host`, with the ledger `cim-volumes.ledger` in `run`. Calls wait at most `wait` for another
    /// process.
    ///
    /// # Errors
    /// What opening the ledger says.
    pub fn open(host: H, run: &Path, sharing: Sharing, wait: Duration) -> Result<Self> {
        let ledger = Ledger::open(&run.join("cim-volumes.ledger"), wait)?;
        Ok(Self { host, sharing, ledger })
    }

    /// The host's part.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// Mounts the CIM for the container, or counts it as one more that holds it. Only the filesystem file of the
    /// topmost layer is named; its forks' parents are found beside it.
    ///
    /// # Errors
    /// `AlreadyExists` if the GUID is somebody else's, or the container's volume shows another CIM; what the host
    /// says. Nothing has changed then.
    pub fn mount_cim_layer(&self, cim: &Path, container: &str) -> Result<CimVolume> {
        check_container(container)?;
        let cim = self.host.locate(cim)?;
        let guid = match self.sharing {
            Sharing::PerContainer => container_volume(container),
            Sharing::PerImage => image_volume(&cim.key),
        };
        let mut locked = self.ledger.locked()?;
        let there = self.host.is_mounted(guid)?;
        match locked.state.volumes.get(&guid) {
            Some(entry) if entry.key != cim.key => {
                let message = format!(
                    "cannot mount {} for container {container}: its volume {guid} shows {}",
                    cim.path, entry.cim
                );
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            Some(entry) if entry.mounted && there => {}
            // Half made by a process that died.
            Some(_) if there => {
                self.host.dismount(guid)?;
                self.make(&mut locked, guid, &cim)?;
            }
            // Never made, or dismounted behind our back; those who held it will look for it here.
            Some(_) => self.make(&mut locked, guid, &cim)?,
            None if there => return Err(self.in_use(&cim, guid, container)),
            None => self.make(&mut locked, guid, &cim)?,
        }
        let entry = locked.state.volumes.get_mut(&guid).expect("it was there or was made");
        let count = entry.holders.entry(container.to_owned()).or_default();
        *count = count.saturating_add(1);
        let fresh = !entry.mounted;
        entry.mounted = true;
        let volume = volume(&self.host, guid, entry);
        if let Err(error) = locked.write() {
            if fresh {
                // The ledger says that it was intended, so the next to come finds it even if this fails.
                let _ = self.host.dismount(guid);
            }
            return Err(error);
        }
        Ok(volume)
    }

    /// Writes the intention and mounts. The entry is not marked as mounted yet.
    fn make(&self, locked: &mut Locked<'_, State>, guid: Uuid, cim: &CimLocation) -> Result<()> {
        let before = locked.state.volumes.get(&guid).cloned();
        let holders = before.as_ref().map(|entry| entry.holders.clone()).unwrap_or_default();
        let entry = Entry {
            cim: cim.path.clone(),
            key: cim.key.clone(),
            mounted: false,
            holders,
            since: unix_time_now(),
        };
        locked.state.volumes.insert(guid, entry);
        locked.write()?;
        sys::failpoint::hit("cim-intended");
        let made = self.host.mount(cim, guid);
        sys::failpoint::hit("cim-mounted");
        if let Err(error) = made {
            match before {
                // Others hold it still, and it is gone: that is how it stays.
                Some(before) => locked.state.volumes.insert(guid, before),
                None => locked.state.volumes.remove(&guid),
            };
            // The error that came first is the one to tell; an intention that stays is reconciled.
            let _ = locked.write();
            return Err(error);
        }
        Ok(())
    }

    fn in_use(&self, cim: &CimLocation, guid: Uuid, container: &str) -> Error {
        let message = format!(
            "cannot mount {} for container {container}: the volume {} exists, and is not on record here. If it is \
             left of that container, clean up the container's mounts; it is left alone",
            cim.path,
            self.host.volume_path(guid).display()
        );
        Error::new(ErrorKind::AlreadyExists, message)
    }

    /// Ends one hold of the container on the CIM, and dismounts it with the last. `false` if the container does not
    /// hold it: doing it again does no harm.
    ///
    /// # Errors
    /// What the host says, `Busy` above all: the hold is on record still then.
    pub fn unmount_cim_layer(&self, cim: &Path, container: &str) -> Result<bool> {
        let cim = self.host.locate(cim)?;
        let mut locked = self.ledger.locked()?;
        let Some((guid, _)) = held(&locked.state, &cim, container) else { return Ok(false) };
        self.end(&mut locked, guid, container, 1)?;
        Ok(true)
    }

    /// Where the CIM is mounted for the container.
    ///
    /// # Errors
    /// `NotFound`, naming the CIM and the container, if it is not.
    pub fn cim_mount_path(&self, cim: &Path, container: &str) -> Result<PathBuf> {
        let cim = self.host.locate(cim)?;
        let locked = self.ledger.locked()?;
        if let Some((guid, entry)) = held(&locked.state, &cim, container)
            && entry.mounted
            && self.host.is_mounted(guid)?
        {
            return Ok(self.host.volume_path(guid));
        }
        let message = format!("the CIM {} is not mounted for container {container}", cim.path);
        Err(Error::new(ErrorKind::NotFound, message))
    }

    /// Ends everything that the container holds, and dismounts its own volume whether or not the ledger knows of it.
    /// Returns what was dismounted. It needs nothing but the id, and can be repeated.
    ///
    /// # Errors
    /// What the host says, of the first volume that stays; all are tried. A damaged ledger is told after the
    /// container's own volume is gone.
    pub fn cleanup_container_mounts(&self, container: &str) -> Result<Vec<Uuid>> {
        check_container(container)?;
        let own = container_volume(container);
        let mut locked = match self.ledger.locked() {
            Ok(locked) => locked,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.host.dismount(own)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let holding =
            |(guid, entry): (&Uuid, &Entry)| entry.holders.contains_key(container).then_some(*guid);
        let held: Vec<Uuid> = locked.state.volumes.iter().filter_map(holding).collect();
        let (mut gone, mut failed) = (Vec::new(), None);
        for guid in held {
            match self.end(&mut locked, guid, container, u32::MAX) {
                Ok(true) => gone.push(guid),
                Ok(false) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        // On record it stays if somebody else holds it, and was tried if nobody does.
        let unknown = locked.state.volumes.get(&own).is_none_or(|entry| entry.holders.is_empty());
        if unknown && failed.is_none() && !gone.contains(&own) {
            if self.host.dismount(own)? {
                gone.push(own);
            }
            if locked.state.volumes.remove(&own).is_some() {
                locked.write()?;
            }
        }
        failed.map_or(Ok(gone), Err)
    }

    /// Takes up to `times` holds from the container, and dismounts what nobody holds then; whether it did.
    fn end(
        &self,
        locked: &mut Locked<'_, State>,
        guid: Uuid,
        container: &str,
        times: u32,
    ) -> Result<bool> {
        let Some(mut entry) = locked.state.volumes.get(&guid).cloned() else { return Ok(false) };
        if let Some(count) = entry.holders.get_mut(container) {
            *count = count.saturating_sub(times);
            if *count == 0 {
                entry.holders.remove(container);
            }
        }
        let last = entry.holders.is_empty();
        if last {
            // Before it is on record: what fails here is held still.
            self.host.dismount(guid)?;
            sys::failpoint::hit("cim-dismounted");
            locked.state.volumes.remove(&guid);
        } else {
            locked.state.volumes.insert(guid, entry);
        }
        locked.write()?;
        Ok(last)
    }

    /// The volumes on record, in order of their GUIDs.
    ///
    /// # Errors
    /// Those of the ledger.
    pub fn volumes(&self) -> Result<Vec<CimVolume>> {
        let locked = self.ledger.locked()?;
        let mounted = locked.state.volumes.iter().filter(|(_, entry)| entry.mounted);
        Ok(mounted.map(|(guid, entry)| volume(&self.host, *guid, entry)).collect())
    }

    /// Brings ledger and host in line: what was never finished or is held only by the dead (`alive` says who lives)
    /// is dismounted, what is no longer there is forgotten. Volumes that are not on record are left alone.
    ///
    /// # Errors
    /// Those of the ledger; a volume that stays for another reason than being in use.
    pub fn reconcile(&self, alive: &dyn Fn(&str) -> bool) -> Result<CimReconcileReport> {
        let mut locked = self.ledger.locked()?;
        let mut report = CimReconcileReport::default();
        let mut dead = std::collections::BTreeSet::new();
        for guid in locked.state.volumes.keys().copied().collect::<Vec<_>>() {
            let Some(entry) = locked.state.volumes.get_mut(&guid) else { continue };
            entry.holders.retain(|container, _| {
                let lives = alive(container);
                if !lives {
                    dead.insert(container.clone());
                }
                lives
            });
            if !self.host.is_mounted(guid)? {
                locked.state.volumes.remove(&guid);
                report.forgotten.push(guid);
            } else if !entry.mounted || entry.holders.is_empty() {
                match self.host.dismount(guid) {
                    Ok(_) => {
                        locked.state.volumes.remove(&guid);
                        report.undone.push(guid);
                    }
                    Err(error) if error.kind() == ErrorKind::Busy => report.kept_busy.push(guid),
                    Err(error) => {
                        // What was done so far is true whatever becomes of the rest.
                        locked.write()?;
                        return Err(error);
                    }
                }
            }
        }
        report.released = dead.into_iter().collect();
        if report != CimReconcileReport::default() {
            locked.write()?;
        }
        Ok(report)
    }
}

/// The volume that shows `cim` to the container, whichever way it is shared.
fn held<'a>(state: &'a State, cim: &CimLocation, container: &str) -> Option<(Uuid, &'a Entry)> {
    let mut volumes = state.volumes.iter();
    let found =
        volumes.find(|(_, entry)| entry.key == cim.key && entry.holders.contains_key(container));
    found.map(|(guid, entry)| (*guid, entry))
}

fn volume(host: &impl CimHost, guid: Uuid, entry: &Entry) -> CimVolume {
    CimVolume {
        guid,
        path: host.volume_path(guid),
        cim: PathBuf::from(&entry.cim),
        holders: entry.holders.clone(),
        since: time_of(entry.since),
    }
}

/// An empty id would be the same volume for everybody who forgets to give one.
fn check_container(id: &str) -> Result<()> {
    if !id.is_empty() && id.len() <= 1024 && !id.chars().any(char::is_control) {
        return Ok(());
    }
    let message = format!("`{}` is no container's id", id.escape_debug());
    Err(Error::new(ErrorKind::Invalid, message))
}
