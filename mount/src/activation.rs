//! Activations: lists of mounts of which a part is performed here, under a name, and the rest handed back. The
//! library under `containerd.services.mounts.v1`.

mod dismantling;
mod kernel;
mod making;
mod options;
mod plan;
mod roots;
mod template;

use std::path::{Path, PathBuf};

use store::{Labels, Layer};

use crate::activated::{check_name, not_found};
use crate::activation::making::Making;
use crate::activation::plan::Plan;
use crate::activation::roots::Roots;
use crate::clock::{time_of, unix_time_now};
use crate::record::Record;
use crate::state::ActivationState;
use crate::volumes::volume_id;
use crate::{
    Activation, ActiveMount, Error, ErrorKind, Holder, HolderKind, Mount, Registry, Result,
};

/// How [`Registry::activate`] works.
#[derive(Clone)]
pub struct ActivateOptions<'a> {
    /// Kept with the activation.
    pub labels: Labels,
    /// Everything is mounted, and what is handed back is one bind mount of the last.
    pub temporary: bool,
    /// Below these, and below the run directory, `mkfs/` and `mkdir/` may make files.
    pub roots: &'a [PathBuf],
    /// The layer of the store whose image a file is. It is not mounted for the activation alone, but as the
    /// volume that all share.
    pub layer_of: &'a dyn Fn(&Path) -> Option<Layer>,
}

impl Default for ActivateOptions<'_> {
    fn default() -> Self {
        Self { labels: Labels::new(), temporary: false, roots: &[], layer_of: &|_| None }
    }
}

impl std::fmt::Debug for ActivateOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActivateOptions")
            .field("labels", &self.labels)
            .field("temporary", &self.temporary)
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// Performs those of `mounts` that need more than `mount(2)`, and hands back the rest: types with `format/`,
    /// `mkfs/` and `mkdir/` before them, `erofs` from a file, and `loop`; and whatever comes before one of these.
    /// All or nothing: after an error nothing is left, except file systems and directories that were made.
    ///
    /// # Errors
    /// `NotSupported` if there is nothing to do, or for what this manager does not do (dm-verity, files outside
    /// the roots); `AlreadyExists` if the name is active; `Invalid` before anything is done; what mounting says.
    pub fn activate(
        &self,
        name: &str,
        mounts: &[Mount],
        options: &ActivateOptions<'_>,
    ) -> Result<Activation> {
        check_name(name)?;
        // They stay in the journal, which is read again at every start.
        store::check_labels(&options.labels).map_err(|error| {
            Error::caused(ErrorKind::Invalid, format!("cannot activate {name}"), error)
        })?;
        let plan = Plan::new(mounts, options.temporary)?;
        let given = options.roots.iter().map(PathBuf::as_path);
        let roots = Roots::new(given.chain([self.run_dir()]));
        let mut locked = self.locked()?;
        match locked.journal.state().activations.get(name) {
            Some(known) if known.done.is_some() => {
                let message = format!("an activation {name} exists already");
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            // Whoever was at it is dead, because we have the lock.
            Some(_) => self.dismantle(&mut locked.journal, name)?,
            None => {}
        }
        let labels = options.labels.clone();
        let begin = Record::Activate { name: name.to_owned(), labels, since: unix_time_now() };
        locked.journal.append(vec![begin])?;
        sys::failpoint::hit("activation-intended");
        let making = Making {
            registry: self,
            name,
            directory: self.activation_directory(name),
            roots: &roots,
            layer_of: options.layer_of,
            temporary: options.temporary,
        };
        if let Err(error) = making.make(&mut locked.journal, plan) {
            // Should that fail too, the next reconcile finds it half done.
            let _ = self.dismantle(&mut locked.journal, name);
            return Err(error);
        }
        sys::failpoint::hit("activated");
        let activation = locked.journal.state().activations.get(name);
        let activation = activation.and_then(|state| described(name, state));
        locked.journal.compact()?;
        activation.ok_or_else(|| Error::new(ErrorKind::Io, "the activation vanished"))
    }

    /// Undoes an activation. What is in use stays, with the activation; deactivating it again goes on from there.
    ///
    /// # Errors
    /// `NotFound` if there is none of this name; `Busy` if something of it is in use.
    pub fn deactivate(&self, name: &str) -> Result<()> {
        let mut locked = self.locked()?;
        if !locked.journal.state().activations.contains_key(name) {
            return Err(not_found(name));
        }
        self.dismantle(&mut locked.journal, name)?;
        locked.journal.compact()
    }

    /// The activation of this name.
    ///
    /// # Errors
    /// `NotFound` if there is none that is complete.
    pub fn activation(&self, name: &str) -> Result<Activation> {
        let locked = self.locked()?;
        let activation = locked.journal.state().activations.get(name);
        activation.and_then(|state| described(name, state)).ok_or_else(|| not_found(name))
    }

    /// All activations that are complete, in order of name.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn activations(&self) -> Result<Vec<Activation>> {
        let locked = self.locked()?;
        let activations = locked.journal.state().activations.iter();
        Ok(activations.filter_map(|(name, state)| described(name, state)).collect())
    }

    /// Where the mounts of the activation `name` are.
    pub(crate) fn activation_directory(&self, name: &str) -> PathBuf {
        let id = volume_id(format!("activation:{name}").as_bytes());
        self.run_dir().join(ACTIVATIONS).join(id.as_str())
    }
}

/// Name in the run directory of the directory of all activations.
const ACTIVATIONS: &str = "t";

fn holder_of(name: &str) -> Holder {
    Holder::new(HolderKind::Activation, name)
}

fn described(name: &str, state: &ActivationState) -> Option<Activation> {
    let done = state.done.as_ref()?;
    let active = done.active.iter().map(|active| ActiveMount {
        mount: active.mount.clone(),
        mount_point: active.point.clone(),
        mounted_at: time_of(active.since),
    });
    Some(Activation {
        name: name.to_owned(),
        active: active.collect(),
        system: done.system.clone(),
        labels: state.labels.clone(),
        since: time_of(state.since),
    })
}
