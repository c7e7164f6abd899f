//! `plywood serve`: the store and the mounts behind one socket.
//!
//! ```text
//!  containerd ──┐                    ┌─ snapshots.v1 ──▶ store, mount
//!  ctr, tools ──┼─ plywood.sock ─────┼─ diff.v1 ───────▶ layer, store; containerd's content store
//!  plywood … ───┘  (0600, root)      ├─ mounts.v1 ─────▶ mount
//!                                    ├─ Control ───────▶ store, for the command line
//!                                    └─ health
//! ```
//!
//! [`run`] is the whole daemon. It holds the store open, so a second one is refused; volumes stay mounted when it
//! stops or is killed, and the next one takes them over. Libraries stay blocking: every call that touches the disk
//! runs on a thread for that. [`api`] is the wire interface, for clients too.

pub mod api;
mod calls;
mod config;
mod content;
pub mod control;
mod diff;
mod error;
mod logging;
mod metrics;
mod mounts;
mod server;
mod service;
mod signals;
mod snapshots;
mod socket;
mod status;
mod text;

pub use config::{Config, Configured, DEFAULT_FILE, Flag, LogFormat, LogLevel, MountForm, Source};
pub use error::{Error, ErrorKind, Result};
pub use server::{in_process, in_process_on, run};
pub use snapshots::key_of;
