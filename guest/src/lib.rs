//! The agent inside a utility VM: mounts devices and shares, combines layers, runs processes and containers.
//!
//! ```text
//!  host ──bridge──▶ Agent ─┬─ MappedVirtualDisk ─▶ SCSI disk ─▶ [verity | crypt] ─▶ ext4, xfs, EROFS, …
//!                          ├─ VPMemDevice ───────▶ pmem ─▶ [linear] ─▶ [verity] ─▶ ext4, EROFS, …
//!                          ├─ MappedDirectory ───▶ virtio-9p | vsock port ─▶ 9p
//!                          ├─ CombinedLayers ────▶ overlayfs, or a bind of the one layer
//!                          └─ Create, ExecuteProcess, … ─▶ runc ─▶ stdio over vsock ports
//! ```
//!
//! * It believes the host nothing but the protocol: paths are absolute and plain, numbers are in their ranges, text that
//!   goes into a table or a list of options is checked; and it answers whatever it is sent.
//! * Every wait for a device has a deadline.
//! * Everything it puts somewhere is on record with what undoes it. A failure undoes what it had made, a second request
//!   for a path that is taken is refused, and nothing is ever deleted through a mount.
//! * Requests run beside each other; only those about the same path or container exclude each other.
//!
//! It runs as the first process of a VM ([`init`]) or, for tests, in namespaces of its own.

mod agent;
mod children;
mod container;
mod dial;
mod disk;
mod error;
mod filesystem;
pub mod init;
mod layers;
mod mapper;
mod name_files;
mod place;
mod process;
mod resources;
mod runtime;
mod share;
mod spec;
mod stdio;

pub use agent::{Agent, AgentOptions};
pub use dial::{Dial, Nowhere, Sockets, Vsock};
pub use error::{Error, ErrorKind, Result};
