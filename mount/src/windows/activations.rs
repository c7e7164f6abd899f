//! Mounts performed under a name on a Windows host: the library under `containerd.services.mounts.v1` there.
//!
//! ```text
//!  windows-layer ─▶ WindowsLayers::mount ─▶ a link in the run directory
//!  CimFS, ro     ─▶ CimVolumes ─▶ the volume's `Files`
//!  CimFS, rw     ─▶ CimVolumes ─▶ WindowsLayers::attach_scratch ─▶ overlay filter ─▶ the scratch's volume
//! ```
//!
//! What is intended is in `activations.ledger` before it is done. **Never run on a real HCS host.**

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layer::Cancel;
use serde::{Deserialize, Serialize};
use store::Labels;
use sys::process::Process;

use super::cim_layer::{CIM_LAYER, CimLayer};
use super::ledger::Ledger;
use super::step::{failed, is_gone};
use super::{
    CimVolumes, WINDOWS_LAYER, WindowsCims, WindowsLayer, WindowsLayers, WindowsPath,
    container_volume, overlay_document,
};
use crate::activated::{check_name, not_found};
use crate::clock::{time_of, unix_time_now};
use crate::{Activation, ActiveMount, Error, ErrorKind, Mount, Result};

/// The activations of a host, with their ledger in the run directory.
#[derive(Debug)]
pub struct Activations {
    layers: WindowsLayers,
    cims: CimVolumes<WindowsCims>,
    /// Where links to mounted layers are.
    place: WindowsPath,
    ledger: Ledger<State>,
}

/// What the ledger says: activations by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    activations: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    mount: Mount,
    labels: Labels,
    what: What,
    /// Where it is mounted. `None`: intended.
    point: Option<String>,
    /// Who is at it now (`PID:START`).
    maker: Option<String>,
    /// Nanoseconds since 1970.
    since: u64,
}

/// What is to be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    /// The link to a mounted layer.
    Link(String),
    /// The holder of a CIM's volume, and the scratch over it.
    Cim { cim: PathBuf, holder: String, scratch: Option<String> },
}

/// What [`Activations::reconcile`] did and what it left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActivationReconcileReport {
    /// Never finished: undone.
    pub undone: Vec<String>,
    /// Those that could not be undone, with the reason; they stay on record.
    pub kept: Vec<(String, String)>,
}

impl Entry {
    /// Whether somebody who lives is at it.
    fn is_busy(&self) -> Result<bool> {
        let maker = self.maker.as_ref().and_then(|maker| maker.parse::<Process>().ok());
        maker.map_or(Ok(false), |maker| {
            maker.is_alive().map_err(|error| Error::sys("cannot look for a process", error))
        })
    }

    fn described(&self, name: &str) -> Option<Activation> {
        let point = self.point.as_ref()?;
        let read_only = self.mount.options.iter().any(|option| option == "ro");
        let active = ActiveMount {
            mount: self.mount.clone(),
            mount_point: PathBuf::from(point),
            mounted_at: time_of(self.since),
        };
        let system = Mount {
            r#type: "bind".to_owned(),
            source: PathBuf::from(point),
            target: PathBuf::new(),
            options: vec![if read_only { "ro" } else { "rw" }.to_owned(), "rbind".to_owned()],
        };
        Some(Activation {
            name: name.to_owned(),
            active: vec![active],
            system: vec![system],
            labels: self.labels.clone(),
            since: time_of(self.since),
        })
    }
}

impl Activations {
    /// Activations over these accounts, with links in `place` and the ledger `activations.ledger` in `run`. Calls wait
    /// at most `wait` for another process.
    ///
    /// # Errors
    /// What opening the ledger says.
    pub fn open(
        layers: WindowsLayers,
        cims: CimVolumes<WindowsCims>,
        place: WindowsPath,
        run: &Path,
        wait: Duration,
    ) -> Result<Self> {
        let ledger = Ledger::open(&run.join("activations.ledger"), wait)?;
        Ok(Self { layers, cims, place, ledger })
    }

    /// The account of attached layers.
    pub fn layers(&self) -> &WindowsLayers {
        &self.layers
    }

    /// The account of CIM volumes.
    pub fn cims(&self) -> &CimVolumes<WindowsCims> {
        &self.cims
    }

    /// Performs the one mount of a snapshot. A `windows-layer` is performed only if it is `temporary`: else the caller
    /// does it. All or nothing, as far as it can be undone; the error says what could not.
    ///
    /// # Errors
    /// `NotSupported` for what is not performed here; `AlreadyExists` if the name is active; `Invalid` before anything is
    /// done; what mounting says.
    pub fn activate(
        &self,
        name: &str,
        mounts: &[Mount],
        labels: Labels,
        temporary: bool,
        cancel: &Cancel,
    ) -> Result<Activation> {
        check_name(name)?;
        let [mount] = mounts else { return Err(unsupported(&format!("{} mounts", mounts.len()))) };
        let what = match mount.r#type.as_str() {
            WINDOWS_LAYER if !temporary => {
                return Err(unsupported("a windows-layer mount, which the caller can mount"));
            }
            WINDOWS_LAYER => {
                WindowsLayer::parse(mount)?;
                let link = container_volume(&holder_of(name)).to_string();
                What::Link(self.place.join(&link)?.to_string())
            }
            CIM_LAYER => {
                let CimLayer { scratch, cim, read_only } = CimLayer::parse(mount)?;
                let scratch = (!read_only).then(|| scratch.to_string());
                What::Cim { cim, holder: holder_of(name), scratch }
            }
            other => return Err(unsupported(&format!("a mount of the type {other:?}"))),
        };
        let maker = Process::current()
            .map_err(|error| Error::sys("cannot look at this process", error))?
            .to_string();
        let mut entry = Entry {
            mount: mount.clone(),
            labels,
            what,
            point: None,
            maker: Some(maker),
            since: unix_time_now(),
        };
        self.intend(name, &entry)?;
        sys::failpoint::hit("activation-intended");
        let performed = self.perform(&entry, cancel);
        sys::failpoint::hit("activation-performed");
        entry.maker = None;
        let point = match performed {
            Ok(point) => point,
            Err(error) => {
                // What could not be undone stays on record, for a deactivation or a reconcile.
                let stays = !error.left().is_empty();
                let noted = self.note(name, stays.then_some(&entry));
                return Err(error.and(noted.err().into_iter().collect()));
            }
        };
        entry.point = Some(point);
        if let Err(error) = self.note(name, Some(&entry)) {
            return Err(error.and(self.undo(&entry)));
        }
        entry.described(name).ok_or_else(|| not_found(name))
    }

    fn intend(&self, name: &str, entry: &Entry) -> Result<()> {
        let mut locked = self.ledger.locked()?;
        if let Some(present) = locked.state.activations.get(name) {
            let state = match (&present.point, present.is_busy()?) {
                (Some(_), _) => "is active already",
                (None, true) => "is being activated",
                (None, false) => "was left half done; deactivate it first",
            };
            let message = format!("the activation {name} {state}");
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        locked.state.activations.insert(name.to_owned(), entry.clone());
        locked.write()
    }

    fn note(&self, name: &str, entry: Option<&Entry>) -> Result<()> {
        let mut locked = self.ledger.locked()?;
        match entry {
            Some(entry) => locked.state.activations.insert(name.to_owned(), entry.clone()),
            None => locked.state.activations.remove(name),
        };
        locked.write()
    }

    /// Mounts; where that is. After an error nothing is left but what it says.
    fn perform(&self, entry: &Entry, cancel: &Cancel) -> Result<String> {
        match &entry.what {
            What::Link(target) => {
                let target = WindowsPath::parse(target)?;
                self.layers.folders().make(&self.place)?;
                self.layers.mount(&entry.mount, &target, cancel)?;
                Ok(target.to_string())
            }
            What::Cim { cim, holder, scratch } => {
                let volume = self.cims.mount_cim_layer(cim, holder)?;
                let files = format!("{}Files", volume.path.display());
                let Some(scratch) = scratch else { return Ok(files) };
                self.cover(scratch, holder, &(volume.guid, files), cancel)
                    .map_err(|error| error.and(self.undo(entry)))
            }
        }
    }

    /// Attaches a scratch with the overlay filter on it; the root of its volume.
    fn cover(
        &self,
        scratch: &str,
        holder: &str,
        below: &(sys::windows::Guid, String),
        cancel: &Cancel,
    ) -> Result<String> {
        let scratch = WindowsPath::parse(scratch)?;
        let attached = self.layers.attach_scratch(&scratch, holder, cancel)?;
        let document = overlay_document(Some((&below.0, &below.1)))?;
        let filter = self.layers.host().attach_overlay_filter(&attached.volume, &document);
        filter.map_err(|error| failed("attach the overlay filter to", &scratch, error))?;
        Ok(format!(r"{}\", attached.volume))
    }

    /// Undoes an activation: everything is tried, and what is gone already is as good as undone. Doing it again does no
    /// harm.
    fn undo(&self, entry: &Entry) -> Vec<Error> {
        let mut errors = Vec::new();
        match &entry.what {
            What::Link(target) => {
                let unmounted = WindowsPath::parse(target)
                    .and_then(|target| self.layers.unmount(&target).map(drop));
                errors.extend(unmounted.err());
            }
            What::Cim { cim, holder, scratch } => {
                let scratch = scratch.as_deref().map(WindowsPath::parse);
                match scratch {
                    Some(Ok(scratch)) => errors.extend(self.uncover(&scratch, entry, holder)),
                    Some(Err(error)) => errors.push(error),
                    None => {}
                }
                errors.extend(self.cims.unmount_cim_layer(cim, holder).err());
            }
        }
        errors
    }

    fn uncover(&self, scratch: &WindowsPath, entry: &Entry, holder: &str) -> Vec<Error> {
        let volume = match self.layers.owner_of(scratch) {
            Ok(Some((owner, volume))) if owner == holder => volume,
            // Nothing is attached in our name.
            Ok(_) => return Vec::new(),
            Err(error) => return vec![error],
        };
        let mut errors = Vec::new();
        if let Some(volume) = volume {
            let detached = overlay_document(None).and_then(|document| {
                let detached = self.layers.host().detach_overlay_filter(&volume, &document);
                detached.or_else(|error| match is_gone(&error) || entry.point.is_none() {
                    // Where it is only intended, it may not be there.
                    true => Ok(()),
                    false => Err(failed("detach the overlay filter from", scratch, error)),
                })
            });
            errors.extend(detached.err());
        }
        errors.extend(self.layers.detach(scratch).err());
        errors
    }

    /// Undoes an activation. What could not be undone stays on record; deactivating it again goes on from there.
    ///
    /// # Errors
    /// `NotFound` if there is none of this name; `Busy` while it is being made; what undoing says.
    pub fn deactivate(&self, name: &str) -> Result<()> {
        let mut locked = self.ledger.locked()?;
        let Some(entry) = locked.state.activations.get(name).cloned() else {
            return Err(not_found(name));
        };
        if entry.point.is_none() && entry.is_busy()? {
            let message = format!("the activation {name} is being made");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let mut errors = self.undo(&entry).into_iter();
        if let Some(first) = errors.next() {
            return Err(first.and(errors.collect()));
        }
        locked.state.activations.remove(name);
        locked.write()
    }

    /// The activation of this name.
    ///
    /// # Errors
    /// `NotFound` if there is none that is complete.
    pub fn activation(&self, name: &str) -> Result<Activation> {
        let locked = self.ledger.locked()?;
        let entry = locked.state.activations.get(name);
        entry.and_then(|entry| entry.described(name)).ok_or_else(|| not_found(name))
    }

    /// All activations that are complete, in order of name.
    ///
    /// # Errors
    /// Those of the ledger.
    pub fn activations(&self) -> Result<Vec<Activation>> {
        let locked = self.ledger.locked()?;
        let entries = locked.state.activations.iter();
        Ok(entries.filter_map(|(name, entry)| entry.described(name)).collect())
    }

    /// Undoes what was never finished by a process that is dead. What is complete stays: it has no process.
    ///
    /// # Errors
    /// Those of the ledger.
    pub fn reconcile(&self) -> Result<ActivationReconcileReport> {
        let mut locked = self.ledger.locked()?;
        let mut report = ActivationReconcileReport::default();
        for (name, entry) in locked.state.activations.clone() {
            if entry.point.is_some() || entry.is_busy()? {
                continue;
            }
            match self.undo(&entry).into_iter().next() {
                None => {
                    locked.state.activations.remove(&name);
                    report.undone.push(name);
                }
                Some(error) => report.kept.push((name, error.chain())),
            }
        }
        if !report.undone.is_empty() {
            locked.write()?;
        }
        Ok(report)
    }

    /// How many CIMs are mounted, for whoever.
    ///
    /// # Errors
    /// Those of the ledger.
    pub fn volume_count(&self) -> Result<usize> {
        Ok(self.cims.volumes()?.len())
    }
}

/// In whose name CIMs and scratches are held.
fn holder_of(name: &str) -> String {
    format!("activation:{name}")
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::NotSupported, format!("nothing to perform here: {what}"))
}
