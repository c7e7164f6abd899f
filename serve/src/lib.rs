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

#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "what the daemon needs"))]

pub mod api;
mod calls;
mod cause;
mod config;
mod connection_error;
mod content;
pub mod control;
mod diff;
mod error;
mod host_activations;
mod logging;
mod metrics;
mod mounts;
#[cfg(target_os = "linux")]
mod server;
mod service;
mod services;
#[cfg(target_os = "linux")]
mod signals;
mod snapshots;
#[cfg(target_os = "linux")]
mod socket;
mod status;
mod text;
#[cfg(windows)]
mod windows;

pub use cause::{CauseKind, RemoteCause};
pub use config::{Config, Configured, DEFAULT_FILE, Flag, LogFormat, LogLevel, MountForm, Source};
pub use connection_error::{ConnectionError, ConnectionErrorKind};
pub use error::{Error, ErrorKind, Result};
#[cfg(target_os = "linux")]
pub use server::{in_process, in_process_on, run};
#[cfg(target_os = "linux")]
pub use snapshots::key_of;
#[cfg(windows)]
pub use windows::{connect, run, serve_on};
