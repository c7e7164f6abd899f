//! The two directories that a command works with, and bringing them in order first.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use layer::Cancel;
use mount::{Holder, HolderKind, Registry};
use serde::{Deserialize, Serialize};
use serve::control::{
    Call, Client, ConnectionError, ConnectionErrorKind, Descriptors, Import, Operation as _,
    Progress, Serving, Target, serving,
};
use store::import::ImportedImage;
use store::{ErrorKind, Kind, Labels, OpenOptions, Snapshot, Store};
use sys::process::Process;

use crate::container;
use crate::exit::{Exit, Failure};
use crate::store_handle::{StoreHandle, raised};

/// How long a command waits for another one that has the store or the journal open; both are opened briefly.
const WAIT: Duration = Duration::from_secs(30);

/// How often it looks meanwhile whether a daemon answers.
const SLICE: Duration = Duration::from_millis(250);

/// Label of a snapshot that lives only as long as something that runs or is mounted.
const OWNER: &str = "plywood.owner";

/// Who a snapshot was made for: it is removed when that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    boot: String,
    run: PathBuf,
    process: String,
}

/// The store's and the run directory, and where a daemon may answer for the store.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    root: PathBuf,
    run: PathBuf,
    /// Where a daemon is looked for; `None` for the daemon itself.
    address: Option<PathBuf>,
}

impl Host {
    /// Relative directories are taken from the current one once and for all.
    pub(crate) fn new(root: &Path, run: &Path, address: Option<&Path>) -> Result<Self> {
        let absolute = |path: &Path| {
            std::path::absolute(path).with_context(|| format!("no such path: {}", path.display()))
        };
        let run = absolute(run)?;
        let address = match address {
            Some(address) => absolute(address)?,
            None => run.join("plywood.sock"),
        };
        Ok(Self { root: absolute(root)?, run, address: Some(address) })
    }

    /// Of a process that is about to be the daemon itself: what systemd listens on for it answers to nobody yet.
    pub(crate) fn without_daemon(root: &Path, run: &Path) -> Result<Self> {
        Ok(Self { address: None, ..Self::new(root, run, None)? })
    }

    fn connect(&self) -> Result<Option<Client>, ConnectionError> {
        match &self.address {
            Some(address) => Client::connect(address, &self.root),
            None => Ok(None),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    /// Opens the store, and makes it if there is none.
    pub(crate) fn store(&self) -> Result<StoreHandle> {
        self.open(OpenOptions { wait: SLICE, create: true, read_only: false })
    }

    /// Opens the store if there is one.
    pub(crate) fn existing_store(&self) -> Result<StoreHandle> {
        self.open(OpenOptions { wait: SLICE, create: false, read_only: false })
    }

    /// Opens the store to look at it: where it may not be written, that is no obstacle.
    pub(crate) fn store_to_read(&self) -> Result<StoreHandle> {
        match self.existing_store() {
            Err(error) if crate::exit::code(&error) == Exit::NotPermitted => {
                self.open(OpenOptions { wait: SLICE, create: false, read_only: true })
            }
            other => other,
        }
    }

    fn open(&self, options: OpenOptions) -> Result<StoreHandle> {
        let read_only = options.read_only;
        let store = match self.either(&options)? {
            Either::Daemon(client) => StoreHandle::daemon(client, self.run.clone()),
            Either::Local(store) => {
                let restored = store.swept().restored.iter().filter(|_| !read_only);
                for scratch in restored {
                    crate::exit::warn(&format!(
                        "{} was missing and was made again, empty",
                        scratch.display()
                    ));
                }
                StoreHandle::local(store, self.run.clone())
            }
        };
        if !read_only {
            self.remove_orphans(&store)?;
        }
        Ok(store)
    }

    /// A daemon's store if one answers, else our own. Which it is may change while another process has it open.
    fn either(&self, options: &OpenOptions) -> Result<Either> {
        let deadline = Instant::now() + WAIT;
        loop {
            let refused = match self.connect() {
                Ok(Some(client)) => return Ok(Either::Daemon(client)),
                Ok(None) => None,
                // It may be another store's.
                Err(error) if error.kind() == ConnectionErrorKind::Denied => Some(error),
                // It was just stopped.
                Err(error)
                    if error.kind() == ConnectionErrorKind::Lost && Instant::now() < deadline =>
                {
                    None
                }
                Err(error) => return Err(error.into()),
            };
            let busy = match Store::open(&self.root, options.clone()) {
                Ok(store) => return Ok(Either::Local(store)),
                Err(error) if error.kind() == ErrorKind::Busy => error,
                Err(error) => return Err(error).context("cannot open the store"),
            };
            if let (Some(_), Some(refused)) = (self.daemon_elsewhere()?, refused) {
                return Err(refused.into());
            }
            // A command, or a daemon that starts or stops, is done with it soon.
            if Instant::now() >= deadline {
                let error = self.busy().unwrap_or(busy);
                return Err(error).context("cannot open the store");
            }
        }
    }

    /// The error that says how long was waited in all.
    fn busy(&self) -> Option<store::Error> {
        let holder = Store::holder(&self.root)?;
        let root = self.root.display();
        let message = format!("the store {root} is in use by process {holder} (waited {WAIT:?})");
        Some(store::Error::new(ErrorKind::Busy, message))
    }

    /// The daemon that has the store open, if it is the one of our address.
    ///
    /// # Errors
    /// `Exists`, naming it, if it answers at another.
    fn daemon_elsewhere(&self) -> Result<Option<Serving>> {
        let holder = Store::holder(&self.root);
        let Some(daemon) = holder.and_then(|pid| serving(&self.root, pid)) else {
            return Ok(None);
        };
        if self.address.as_ref() == Some(&daemon.address) {
            return Ok(Some(daemon));
        }
        let address = daemon.address.display();
        let message = format!(
            "the store {} is in use by the daemon of process {}, which answers at {address}",
            self.root.display(),
            daemon.pid
        );
        Err(Failure::new(Exit::Exists, message)
            .hint(match self.address {
                Some(_) => format!("talk to it with --address {address}"),
                None => {
                    "one daemon serves a store: stop that one, or name another --root".to_owned()
                }
            })
            .into())
    }

    /// Imports images, in the daemon if one answers. The store is not kept open while layers are converted here.
    pub(crate) fn import(
        &self,
        import: Import,
        descriptors: Descriptors,
        cancel: &Cancel,
        progress: &dyn Progress,
    ) -> Result<Vec<ImportedImage>> {
        match self.connect() {
            Ok(Some(client)) => {
                return client.call(import, cancel, progress).map_err(raised);
            }
            Ok(None) => {}
            Err(error) if error.kind() == ConnectionErrorKind::Denied => {}
            Err(error) => return Err(error.into()),
        }
        self.daemon_elsewhere()?;
        let call = Call {
            target: Target::Closed(&self.root),
            run: &self.run,
            cancel,
            progress,
            descriptors: &descriptors,
        };
        import.perform(&call).map_err(raised)
    }

    /// Opens the journal of what is mounted.
    pub(crate) fn registry(&self) -> Result<Registry> {
        Registry::open(&self.run, WAIT).context("cannot open the journal of mounts")
    }

    /// Whether anything was ever mounted from this run directory since the machine started.
    pub(crate) fn has_journal(&self) -> bool {
        self.run.join("mounts.journal").exists()
    }

    /// Takes down the containers whose command was killed.
    pub(crate) fn settle_containers(&self) -> Result<()> {
        match rustix::process::geteuid().is_root() {
            true => crate::vm::settle(self).and_then(|()| container::settle(self)),
            false => Ok(()),
        }
    }

    /// Undoes what commands that were killed left behind: their containers, mounts and snapshots.
    pub(crate) fn settle(&self) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        crate::vm::settle(self)?;
        container::settle(self)?;
        if self.has_journal() {
            self.registry()?
                .reconcile(&|holder| self.is_alive(holder))
                .context("cannot bring the mounts in line with their journal")?;
        }
        Ok(())
    }

    /// Whether a holder of mounts still exists. A user's mounts and described snapshots stay until released.
    pub(crate) fn is_alive(&self, holder: &Holder) -> bool {
        match holder.kind {
            _ if holder.process.is_some() => holder.is_alive().unwrap_or(true),
            HolderKind::Container => container::exists(self, &holder.name),
            _ => true,
        }
    }

    /// The label that ties a snapshot to this process.
    pub(crate) fn owner_labels(&self) -> Result<Labels> {
        let owner = Owner {
            boot: sys::process::boot_id()?,
            run: self.run.clone(),
            process: Process::current()?.to_string(),
        };
        let owner = serde_json::to_string(&owner).context("cannot describe this process")?;
        Ok(Labels::from([(OWNER.to_owned(), owner)]))
    }

    /// Unties a snapshot from the process it was made for, so that it stays.
    pub(crate) fn disown(store: &StoreHandle, key: &[u8]) -> Result<()> {
        store.update(key, Labels::new(), &[&format!("labels.{OWNER}")])?;
        Ok(())
    }

    /// Removes snapshots of containers and mounts that are gone without a trace in the run directory: after a
    /// restart of the machine, or when a command was killed before it left one.
    fn remove_orphans(&self, store: &StoreHandle) -> Result<()> {
        let filter = format!("labels.\"{OWNER}\"");
        let owned = store.list(&[&filter]).context("cannot look for snapshots that nobody owns")?;
        for snapshot in owned {
            if self.is_orphan(&snapshot)? {
                store.remove_owned(&snapshot).with_context(|| {
                    format!("cannot remove snapshot {}, which nobody owns", snapshot.name())
                })?;
            }
        }
        Ok(())
    }

    fn is_orphan(&self, snapshot: &Snapshot) -> Result<bool> {
        let owner = snapshot.labels.get(OWNER).and_then(|text| serde_json::from_str(text).ok());
        // A label that is not ours is somebody's own affair.
        let Some(Owner { boot, run, process }) = owner else { return Ok(false) };
        if snapshot.kind == Kind::Committed {
            return Ok(false);
        }
        if boot != sys::process::boot_id()? {
            return Ok(true);
        }
        if run != self.run || process.parse::<Process>().is_ok_and(|p| p.is_alive().unwrap_or(true))
        {
            return Ok(false);
        }
        let name = snapshot.name();
        if let Some(container) = name.strip_prefix(container::KEY_PREFIX) {
            return Ok(!container::exists(self, container));
        }
        if !self.has_journal() {
            return Ok(true);
        }
        let mounts = self.registry()?.mounts().context("cannot list the mounts")?;
        Ok(!mounts.iter().any(|mount| mount.what == name))
    }
}

/// Where an open store is.
enum Either {
    Daemon(Client),
    Local(Store),
}

/// Refuses early, with the way out, what only root can do.
pub(crate) fn require_root(what: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(Exit::NotPermitted, format!("{what} takes root"))
        .hint("run it as root, for example with sudo")
        .into())
}
