//! The operations, and doing them.

use std::fmt;
use std::sync::Mutex;

use layer::Digest;
use serde::{Deserialize, Serialize};
use store::{
    CommitOptions, ExportPlan, FsckOptions, FsckReport, GcItem, GcOptions, ImageRecord, Labels,
    Layer, LayerId, Scratch, Snapshot,
};

use super::{Call, Fault, Operation, PROTOCOL, Reply};

mod import;
#[cfg(target_os = "linux")]
mod kernel;
#[cfg(windows)]
#[path = "operations/no_kernel.rs"]
mod kernel;

pub use import::{Import, Input};

macro_rules! operations {
    ($($name:ident),+ $(,)?) => {
        /// An operation as it travels.
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[allow(missing_docs, reason = "each is documented as the type it holds")]
        pub enum Request {
            $($name($name),)+
        }

        $(impl From<$name> for Request {
            fn from(operation: $name) -> Self {
                Self::$name(operation)
            }
        })+

        impl Request {
            /// Its name, for logs.
            pub(super) fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)+
                }
            }

            /// Does it and encodes the answer.
            pub(super) fn perform(self, call: &Call<'_>) -> Result<Vec<u8>, Fault> {
                match self {
                    $(Self::$name(operation) => {
                        Ok(serde_json::to_vec(&Reply::Done(operation.perform(call)?))?)
                    })+
                }
            }
        }
    };
}

operations!(
    Hello,
    Stat,
    Chain,
    List,
    Usage,
    CommittedLayers,
    Prepare,
    View,
    Commit,
    Remove,
    RemoveOwned,
    Update,
    FindLayer,
    FindImage,
    Images,
    FindBlob,
    RemoveImage,
    Export,
    Gc,
    Fsck,
    Import,
);

/// A failed step, said before its cause.
#[derive(Debug)]
pub(in crate::control) struct Failed {
    message: String,
    source: Fault,
}

impl Failed {
    pub(in crate::control) fn because(
        message: impl Into<String>,
        source: impl Into<Fault>,
    ) -> Fault {
        Box::new(Self { message: message.into(), source: source.into() })
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// A snapshot with its key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Keyed(#[serde(with = "store::keyed")] pub Snapshot);

/// Who answers, for which store.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Hello {}

/// The answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The version of Plywood.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// Device and inode of the store's directory, by which it is the same under whatever name.
    pub root: Option<(u64, u64)>,
}

impl Operation for Hello {
    type Answer = Welcome;

    fn perform(self, call: &Call<'_>) -> Result<Welcome, Fault> {
        Ok(Welcome {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            root: super::serving::identity(call.store()?.root()),
        })
    }
}

/// A snapshot by key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stat {
    /// Its key.
    #[serde(with = "store::name")]
    pub key: Vec<u8>,
}

impl Operation for Stat {
    type Answer = Keyed;

    fn perform(self, call: &Call<'_>) -> Result<Keyed, Fault> {
        Ok(Keyed(call.store()?.stat(&self.key)?))
    }
}

/// What an active snapshot's or a view's mounts are made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Chain {
    /// Its key.
    #[serde(with = "store::name")]
    pub key: Vec<u8>,
}

impl Operation for Chain {
    type Answer = store::Chain;

    fn perform(self, call: &Call<'_>) -> Result<store::Chain, Fault> {
        Ok(call.store()?.chain(&self.key)?)
    }
}

/// Snapshots that match one of some filters, or all if there are none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct List {
    /// The filters.
    pub filters: Vec<String>,
}

impl Operation for List {
    type Answer = Vec<Keyed>;

    fn perform(self, call: &Call<'_>) -> Result<Vec<Keyed>, Fault> {
        let filters: Vec<&str> = self.filters.iter().map(String::as_str).collect();
        Ok(call.store()?.list(&filters)?.into_iter().map(Keyed).collect())
    }
}

/// What a snapshot costs on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Usage {
    /// Its key.
    #[serde(with = "store::name")]
    pub key: Vec<u8>,
}

impl Operation for Usage {
    type Answer = store::Usage;

    fn perform(self, call: &Call<'_>) -> Result<store::Usage, Fault> {
        Ok(call.store()?.usage(&self.key)?)
    }
}

/// The layers of a committed snapshot and those below it, top first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommittedLayers {
    /// Its key.
    #[serde(with = "store::name")]
    pub name: Vec<u8>,
}

impl Operation for CommittedLayers {
    type Answer = Vec<Layer>;

    fn perform(self, call: &Call<'_>) -> Result<Vec<Layer>, Fault> {
        Ok(call.store()?.committed_layers(&self.name)?)
    }
}

/// Makes a writable snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Prepare {
    /// Its key.
    #[serde(with = "store::name")]
    pub key: Vec<u8>,
    /// The committed snapshot below it.
    #[serde(with = "store::name::optional")]
    pub parent: Option<Vec<u8>>,
    /// Its labels.
    pub labels: Labels,
    /// What it writes to.
    pub scratch: Scratch,
}

impl Operation for Prepare {
    type Answer = Keyed;

    fn perform(self, call: &Call<'_>) -> Result<Keyed, Fault> {
        let Self { key, parent, labels, scratch } = self;
        Ok(Keyed(call.store()?.prepare(&key, parent.as_deref(), labels, scratch)?))
    }
}

/// Makes a read-only snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct View {
    /// Its key.
    #[serde(with = "store::name")]
    pub key: Vec<u8>,
    /// The committed snapshot that it shows.
    #[serde(with = "store::name::optional")]
    pub parent: Option<Vec<u8>>,
    /// Its labels.
    pub labels: Labels,
}

impl Operation for View {
    type Answer = Keyed;

    fn perform(self, call: &Call<'_>) -> Result<Keyed, Fault> {
        Ok(Keyed(call.store()?.view(&self.key, self.parent.as_deref(), self.labels)?))
    }
}

/// Turns an active snapshot into a committed one. A scratch image is mounted meanwhile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Commit {
    /// The committed snapshot's key.
    #[serde(with = "store::name")]
    pub name: Vec<u8>,
    /// The active one's.
    #[serde(with = "store::name")]
    pub key: Vec<u8>,
    /// Labels of the committed one.
    pub labels: Labels,
}

impl Operation for Commit {
    type Answer = Keyed;

    fn perform(self, call: &Call<'_>) -> Result<Keyed, Fault> {
        let store = call.store()?;
        let options = CommitOptions {
            labels: self.labels.clone(),
            cancel: call.cancel.clone(),
            ..CommitOptions::default()
        };
        let active = store.stat(&self.key)?;
        let Some(Scratch::Image { .. }) = active.scratch else {
            return Ok(Keyed(store.commit(&self.name, &self.key, &options)?));
        };
        kernel::commit_image(call, self, options).map(Keyed)
    }
}

/// Removes a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Remove {
    /// Its key.
    #[serde(with = "store::name")]
    pub key: Vec<u8>,
}

impl Operation for Remove {
    type Answer = ();

    fn perform(self, call: &Call<'_>) -> Result<(), Fault> {
        Ok(call.store()?.remove(&self.key)?)
    }
}

/// Removes a snapshot whose owner is gone, unless somebody else did, or the key is another's by now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveOwned {
    /// Its key.
    #[serde(with = "store::name")]
    pub key: Vec<u8>,
    /// Its number.
    pub number: u64,
}

impl Operation for RemoveOwned {
    type Answer = ();

    fn perform(self, call: &Call<'_>) -> Result<(), Fault> {
        // Two commands may find the same orphan, and a third take its key between the look and the removal.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _alone = ONE_AT_A_TIME.lock();
        let store = call.store()?;
        match store.stat(&self.key) {
            Ok(snapshot) if snapshot.id == self.number => Ok(store.remove(&self.key)?),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == store::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Changes a snapshot's labels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Update {
    /// Its key.
    #[serde(with = "store::name")]
    pub key: Vec<u8>,
    /// The labels.
    pub labels: Labels,
    /// Which of them.
    pub mask: Vec<String>,
}

impl Operation for Update {
    type Answer = Keyed;

    fn perform(self, call: &Call<'_>) -> Result<Keyed, Fault> {
        let mask: Vec<&str> = self.mask.iter().map(String::as_str).collect();
        Ok(Keyed(call.store()?.update(&self.key, self.labels, &mask)?))
    }
}

/// A layer by id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindLayer {
    /// Its id.
    pub id: LayerId,
}

impl Operation for FindLayer {
    type Answer = Option<Layer>;

    fn perform(self, call: &Call<'_>) -> Result<Option<Layer>, Fault> {
        Ok(call.store()?.layer(&self.id)?)
    }
}

/// An image by reference.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindImage {
    /// Its reference.
    pub reference: String,
}

impl Operation for FindImage {
    type Answer = Option<ImageRecord>;

    fn perform(self, call: &Call<'_>) -> Result<Option<ImageRecord>, Fault> {
        Ok(call.store()?.image(&self.reference)?)
    }
}

/// All images.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Images {}

impl Operation for Images {
    type Answer = Vec<ImageRecord>;

    fn perform(self, call: &Call<'_>) -> Result<Vec<ImageRecord>, Fault> {
        Ok(call.store()?.images()?)
    }
}

/// A blob by digest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindBlob {
    /// Its digest.
    pub digest: Digest,
}

impl Operation for FindBlob {
    type Answer = Option<Vec<u8>>;

    fn perform(self, call: &Call<'_>) -> Result<Option<Vec<u8>>, Fault> {
        Ok(call.store()?.blob(&self.digest)?)
    }
}

/// Forgets an image's name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveImage {
    /// Its reference.
    pub reference: String,
}

impl Operation for RemoveImage {
    type Answer = ();

    fn perform(self, call: &Call<'_>) -> Result<(), Fault> {
        Ok(call.store()?.remove_image(&self.reference)?)
    }
}

/// What an image is made of, for whoever writes it as an archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Export {
    /// Its reference.
    pub reference: String,
}

impl Operation for Export {
    type Answer = ExportPlan;

    fn perform(self, call: &Call<'_>) -> Result<ExportPlan, Fault> {
        Ok(call.store()?.plan_export(&self.reference)?)
    }
}

/// Removes what nothing needs and nothing has mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gc {
    /// How.
    pub options: GcOptions,
}

impl Operation for Gc {
    type Answer = Vec<GcItem>;

    fn perform(self, call: &Call<'_>) -> Result<Vec<GcItem>, Fault> {
        let mounted = kernel::mounted_layers(call)?;
        Ok(call.store()?.gc(self.options, &|layer| mounted.contains(layer.as_str()))?)
    }
}

/// Checks the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fsck {
    /// How.
    pub options: FsckOptions,
}

impl Operation for Fsck {
    type Answer = FsckReport;

    fn perform(self, call: &Call<'_>) -> Result<FsckReport, Fault> {
        Ok(call.store()?.fsck(self.options)?)
    }
}
