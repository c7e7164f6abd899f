//! The virtual machine as its devices see it: what a back end implements.

use std::path::Path;
use std::time::Duration;

use bridge::GuestRequest;

use crate::{Capabilities, Deadline, Result, ScsiDisk, ScsiSlot, Share};

/// A piece of a packed pmem device.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct PmemRange {
    /// Byte offset on the device.
    pub offset: u64,
    /// Bytes, a multiple of the page size.
    pub size: u64,
}

/// How a virtual machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// What the back end knows about it, for people.
    pub reason: String,
    /// Whether it was asked for by [`Vm::close`] or by the guest, and in order.
    pub orderly: bool,
}

/// A running utility VM. Every call may come from any thread at any time, blocks until it is done, and ends with an
/// error of kind [`Dead`](crate::ErrorKind::Dead) soon after the machine has ended. A call that failed has left
/// nothing behind. Who uses what is not a back end's business: [`Machine`](crate::Machine) counts.
pub trait Vm: Send + Sync {
    /// What it can do; always the same for one machine.
    fn capabilities(&self) -> Capabilities;

    /// Attaches a disk at a free slot.
    fn add_scsi(&self, slot: ScsiSlot, disk: &ScsiDisk) -> Result<()>;

    /// Detaches what is at the slot and waits until the guest has let go of it. An empty slot is
    /// [`NotAttached`](crate::ErrorKind::NotAttached).
    fn remove_scsi(&self, slot: ScsiSlot) -> Result<()>;

    /// Attaches a file as pmem device `device`, or on that device as one of several where `range` is given.
    fn add_pmem(
        &self,
        device: u32,
        range: Option<PmemRange>,
        path: &Path,
        read_only: bool,
    ) -> Result<()>;

    /// Takes it away; without it, or at a device that cannot be removed, an error of kind
    /// [`NotAttached`](crate::ErrorKind::NotAttached) or [`Unsupported`](crate::ErrorKind::Unsupported).
    fn remove_pmem(&self, device: u32, range: Option<PmemRange>) -> Result<()>;

    /// Serves a directory to the guest; returns the vsock port that the guest is to dial for it.
    fn add_share(&self, share: &Share) -> Result<u32>;

    /// Stops serving the share of that name; connections of the guest to it end.
    fn remove_share(&self, name: &str) -> Result<()>;

    /// Asks the guest to change something and waits for its answer; a refusal is
    /// [`Guest`](crate::ErrorKind::Guest).
    fn guest(&self, request: &GuestRequest, deadline: &Deadline) -> Result<()>;

    /// Waits until the machine has ended; `None` if it has not by then.
    fn wait(&self, time: Duration) -> Option<Exit>;

    /// Ends it: asks the guest to, and after `grace` kills. Nothing to do if it has ended.
    fn close(&self, grace: Duration) -> Result<()>;
}
