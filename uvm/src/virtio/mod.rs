//! Virtio devices of ours, beside the machine's process: the back end's side of vhost-user.
//!
//! ```text
//!  guest's driver ── rings in its memory ──▶ queue ──▶ device          (requests; kicks and calls by eventfds)
//!  machine's process ── unix socket ───────▶ vhost_user               (memory, rings, configuration)
//! ```
//!
//! A device has one queue. The guest is hostile, as everywhere: see [`queue`]. The machine's process is trusted with its own
//! guest's memory and nothing else: what it sends is checked too.

mod memory;
mod queue;
mod vhost_user;

#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
mod tests;

pub(crate) use memory::Pieces;
pub(crate) use queue::{Available, Chain, Head, Used};
pub(crate) use vhost_user::{Device, serve};
