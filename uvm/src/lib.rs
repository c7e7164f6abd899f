//! The utility VM and its devices: slots with counted references, back ends, and what directories are shared with it.
//!
//! ```text
//!  container, plywood ──▶ Machine: who uses what, journal, roll back
//!                            │ Vm: add, remove, ask the guest
//!                ┌───────────┴───────────┐
//!             qemu: QMP, boot, vsock    recording: a double for tests    hcs: documents of Windows' service
//!                │
//!             plan9: the host's side of shares
//! ```
//!
//! * [`Vm`] is what a back end does; it does not count. [`Machine`] counts, shares what is equal, and knows what has
//!   to be undone in which order. Its guards ([`ScsiGuard`] and the like) are the uses.
//! * Everything that is made is written to a journal first. What a dead owner has left is detached by the next
//!   [`Machine::open`].
//! * Every call blocks and has an end: a [`Deadline`] for what the caller waits for, times of the back end for the
//!   rest.
//!
//! What it does not do: it knows neither layers nor containers.

mod buddy;
mod device;
mod error;
pub mod hcs;
mod journal;
pub mod kit;
mod machine;
#[cfg(target_os = "linux")]
pub mod plan9;
#[cfg(target_os = "linux")]
pub mod qemu;
pub mod recording;
mod step;
mod table;
#[cfg(target_os = "linux")]
mod virtio;
mod vm;

pub use bridge::{Cancel, Deadline, GuestRequest};
pub use device::{
    Capabilities, CombineRequest, LUNS, MAX_CONTROLLERS, MAX_PMEM, PMEM_MAX, ScsiDisk, ScsiKind,
    ScsiMount, ScsiSlot, Share, ShareRequest,
};
pub use error::{Error, ErrorKind, Result};
pub use machine::{
    AttachedDisk, AttachedPmem, AttachedShare, CombinedGuard, Inventory, Machine, MountedDisk,
    PmemGuard, ScsiGuard, ShareGuard,
};
pub use vm::{Exit, PmemRange, Vm};
