//! The two directories that a command works with, and the store in one of them: a daemon's or our own.

#[cfg(windows)]
#[path = "host/windows.rs"]
mod order;
#[cfg(target_os = "linux")]
#[path = "host/linux.rs"]
mod order;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use layer::Cancel;
use serve::control::{
    Call, Client, ConnectionError, ConnectionErrorKind, Descriptors, Import, Operation as _,
    Progress, Serving, Target, serving,
};
use store::import::ImportedImage;
use store::{ErrorKind, OpenOptions, Store};

use crate::exit::{Exit, Failure};
use crate::store_handle::{StoreHandle, raised};

#[cfg(target_os = "linux")]
pub(crate) use order::require_root;

/// How long a command waits for another one that has the store or the journal open; both are opened briefly.
const WAIT: Duration = Duration::from_secs(30);

/// How often it looks meanwhile whether a daemon answers.
const SLICE: Duration = Duration::from_millis(250);

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
            None => order::address(&run),
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
            let busy = match order::open_store(&self.root, options.clone())? {
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
}

/// Where an open store is.
enum Either {
    Daemon(Client),
    Local(Store),
}
