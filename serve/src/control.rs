//! How the command line reaches the store that a daemon has open.
//!
//! ```text
//!  verb ──▶ Operation ──┬─ no daemon: perform() on a store of one's own
//!                       └─ Client ──▶ plywood.v1.Control ──▶ perform() on the daemon's store
//! ```
//!
//! An operation is the same type and the same code either way, so its answer and its errors are too: an error's chain
//! of causes travels with its messages and kinds, and arrives as a chain of [`RemoteCause`]s.

mod client;
#[cfg(target_os = "linux")]
#[path = "control/descriptors/linux.rs"]
mod descriptors;
#[cfg(windows)]
#[path = "control/descriptors/windows.rs"]
mod descriptors;
mod operations;
mod service;
mod serving;

use std::error::Error;

use layer::Cancel;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::import::PlannedLayer;

pub use self::client::Client;
pub use self::descriptors::Descriptors;
#[cfg(target_os = "linux")]
pub use self::descriptors::Peer;
pub use self::operations::{
    Chain, Commit, CommittedLayers, Export, FindBlob, FindImage, FindLayer, Fsck, Gc, Hello,
    Images, Import, Input, Keyed, List, Prepare, Remove, RemoveImage, RemoveOwned, Request, Stat,
    Update, Usage, View, Welcome,
};
pub(crate) use self::service::ControlService;
pub(crate) use self::serving::Note;
pub use self::serving::{Serving, serving};
pub use crate::cause::{CauseKind, RemoteCause};
pub use crate::connection_error::{ConnectionError, ConnectionErrorKind};

/// Version of the operations. A daemon answers clients of its own version only.
pub const PROTOCOL: u32 = 1;

/// What an operation fails with: any crate's error, or the causes that a daemon told.
pub type Fault = Box<dyn Error + Send + Sync>;

/// Something that the command line asks of a store.
pub trait Operation: Serialize + DeserializeOwned + Into<Request> {
    /// What it answers.
    type Answer: Serialize + DeserializeOwned;

    /// Does it.
    ///
    /// # Errors
    /// Those of the store, and of the mounts where they are concerned.
    fn perform(self, call: &Call<'_>) -> Result<Self::Answer, Fault>;
}

/// What an operation works with.
#[derive(Debug)]
pub struct Call<'a> {
    /// The store.
    pub target: Target<'a>,
    /// The directory of the journal of mounts.
    pub run: &'a std::path::Path,
    /// Raised when the caller wants no answer any more.
    pub cancel: &'a Cancel,
    /// Told how far it is.
    pub progress: &'a dyn Progress,
    /// The caller's open files.
    pub descriptors: &'a Descriptors,
}

/// The store that an operation is for.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// It is open.
    Open(&'a store::Store),
    /// It is in this directory, and the operation opens it for as long as it needs it: an import.
    Closed(&'a std::path::Path),
}

/// Is told what happens while an operation goes on, from any thread.
pub trait Progress: Sync + std::fmt::Debug {
    /// Something happened.
    fn report(&self, event: Event);
}

/// Nobody wants to know.
impl Progress for () {
    fn report(&self, _event: Event) {}
}

/// What happens during an import. Layers are numbered as in [`Event::Planned`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// It is known what is to be done.
    Planned(Vec<PlannedLayer>),
    /// More of a layer's blob was read.
    Advanced {
        /// Its number.
        layer: usize,
        /// How many bytes more.
        bytes: u64,
    },
    /// A layer is converted.
    Converted {
        /// Its number.
        layer: usize,
    },
    /// A layer turned out to be the same as one that was converted before.
    Reused {
        /// Its number.
        layer: usize,
    },
}

/// A message of an answer: any number of events, then one of the others.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reply<T> {
    /// Something happened.
    Event(Event),
    /// It is done.
    Done(T),
    /// It failed: the chain of causes, outermost first.
    Failed(RemoteCause),
}

impl<'a> Call<'a> {
    fn store(&self) -> Result<&'a store::Store, Fault> {
        match self.target {
            Target::Open(store) => Ok(store),
            Target::Closed(root) => Err(store::Error::new(
                store::ErrorKind::FailedPrecondition,
                format!("the store {} is not open", root.display()),
            )
            .into()),
        }
    }
}
