//! The store as verbs use it: one of our own, or a daemon's.

use std::error::Error as StdError;
use std::path::PathBuf;

use anyhow::{Error, Result};
use layer::{Cancel, Digest};
use serve::control::{
    self, Call, Client, ConnectionError, Descriptors, Fault, Operation, RemoteCause, Target,
};
use store::{
    Chain, Export, FsckOptions, FsckReport, GcItem, GcOptions, ImageRecord, Labels, Layer, LayerId,
    Scratch, Snapshot, Store, Usage,
};

/// An open store, wherever it is open. The operations are the same code either way, and so are their errors.
#[derive(Debug)]
pub(crate) struct StoreHandle {
    way: Way,
    run: PathBuf,
}

#[derive(Debug)]
enum Way {
    /// This process has it open.
    Local(Box<Store>),
    /// A daemon has it open and does what it is asked.
    Daemon(Box<Client>),
}

/// Takes a fault out of its box: inside, nobody would find out whose error it is.
pub(crate) fn raised(fault: Fault) -> Error {
    fn as_one<E: StdError + Send + Sync + 'static>(fault: Fault) -> Result<Error, Fault> {
        fault.downcast::<E>().map(|error| Error::new(*error))
    }
    Err(fault)
        .or_else(as_one::<store::Error>)
        .or_else(as_one::<RemoteCause>)
        .or_else(as_one::<ConnectionError>)
        .or_else(as_one::<layer::Error>)
        .or_else(as_one::<mount::Error>)
        .or_else(as_one::<sys::Error>)
        .unwrap_or_else(Error::from_boxed)
}

impl StoreHandle {
    pub(crate) fn local(store: Store, run: PathBuf) -> Self {
        Self { way: Way::Local(Box::new(store)), run }
    }

    pub(crate) fn daemon(client: Client, run: PathBuf) -> Self {
        Self { way: Way::Daemon(Box::new(client)), run }
    }

    fn call<O: Operation>(&self, operation: O) -> Result<O::Answer> {
        let cancel = Cancel::new();
        match &self.way {
            Way::Local(store) => operation.perform(&Call {
                target: Target::Open(store),
                run: &self.run,
                cancel: &cancel,
                progress: &(),
                descriptors: &Descriptors::none(),
            }),
            Way::Daemon(client) => client.call(operation, &cancel, &()),
        }
        .map_err(raised)
    }

    pub(crate) fn stat(&self, key: &[u8]) -> Result<Snapshot> {
        Ok(self.call(control::Stat { key: key.to_vec() })?.0)
    }

    pub(crate) fn chain(&self, key: &[u8]) -> Result<Chain> {
        self.call(control::Chain { key: key.to_vec() })
    }

    pub(crate) fn list(&self, filters: &[&str]) -> Result<Vec<Snapshot>> {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let found = self.call(control::List { filters })?;
        Ok(found.into_iter().map(|snapshot| snapshot.0).collect())
    }

    pub(crate) fn usage(&self, key: &[u8]) -> Result<Usage> {
        self.call(control::Usage { key: key.to_vec() })
    }

    pub(crate) fn committed_layers(&self, name: &[u8]) -> Result<Vec<Layer>> {
        self.call(control::CommittedLayers { name: name.to_vec() })
    }

    pub(crate) fn prepare(
        &self,
        key: &[u8],
        parent: Option<&[u8]>,
        labels: Labels,
        scratch: Scratch,
    ) -> Result<Snapshot> {
        let (key, parent) = (key.to_vec(), parent.map(<[u8]>::to_vec));
        Ok(self.call(control::Prepare { key, parent, labels, scratch })?.0)
    }

    pub(crate) fn view(
        &self,
        key: &[u8],
        parent: Option<&[u8]>,
        labels: Labels,
    ) -> Result<Snapshot> {
        let (key, parent) = (key.to_vec(), parent.map(<[u8]>::to_vec));
        Ok(self.call(control::View { key, parent, labels })?.0)
    }

    /// A scratch image is mounted for it, which takes root.
    pub(crate) fn commit(&self, name: &[u8], key: &[u8], labels: Labels) -> Result<Snapshot> {
        Ok(self.call(control::Commit { name: name.to_vec(), key: key.to_vec(), labels })?.0)
    }

    pub(crate) fn remove(&self, key: &[u8]) -> Result<()> {
        self.call(control::Remove { key: key.to_vec() })
    }

    /// Removes a snapshot only if it is still the one that was looked at.
    pub(crate) fn remove_owned(&self, snapshot: &Snapshot) -> Result<()> {
        self.call(control::RemoveOwned { key: snapshot.key.clone(), number: snapshot.id })
    }

    pub(crate) fn update(&self, key: &[u8], labels: Labels, mask: &[&str]) -> Result<Snapshot> {
        let mask = mask.iter().map(|&path| path.to_owned()).collect();
        Ok(self.call(control::Update { key: key.to_vec(), labels, mask })?.0)
    }

    pub(crate) fn layer(&self, id: &LayerId) -> Result<Option<Layer>> {
        self.call(control::FindLayer { id: id.clone() })
    }

    pub(crate) fn image(&self, reference: &str) -> Result<Option<ImageRecord>> {
        self.call(control::FindImage { reference: reference.to_owned() })
    }

    pub(crate) fn images(&self) -> Result<Vec<ImageRecord>> {
        self.call(control::Images {})
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        self.call(control::FindBlob { digest: *digest })
    }

    pub(crate) fn remove_image(&self, reference: &str) -> Result<()> {
        self.call(control::RemoveImage { reference: reference.to_owned() })
    }

    /// The layers' files are opened here, so that what is written needs no daemon.
    pub(crate) fn export(&self, reference: &str) -> Result<Export> {
        Ok(self.call(control::Export { reference: reference.to_owned() })?.open()?)
    }

    pub(crate) fn gc(&self, options: GcOptions) -> Result<Vec<GcItem>> {
        self.call(control::Gc { options })
    }

    pub(crate) fn fsck(&self, options: FsckOptions) -> Result<FsckReport> {
        self.call(control::Fsck { options })
    }
}
