//! The 9P2000.L server of shares: directories of the host that a guest mounts with the kernel's 9p client.
//!
//! ```text
//!  guest: v9fs ──virtqueue──▶ channel ┐
//!         v9fs ──vsock──────▶ stream ─┴▶ connection (threads) ──▶ session (fids) ──▶ share (confinement) ──▶ openat2, …
//! ```
//!
//! A guest reaches nothing but what lies beneath the shared directory, whatever bytes it sends and whatever happens to the
//! directory on the host meanwhile: see [`Export`], and `docs/9p.md` for ownership, limits and what is not supported.
//!
//! [`Server::share`] names a directory, [`Server::serve`] serves one connection, [`Server::serve_channel`] a device; all can be called at any
//! time.

mod attribute;
mod budget;
mod change;
mod channel;
mod connection;
mod error;
mod fid;
mod lock;
pub mod message;
mod node;
mod server;
mod session;
mod share;
pub mod wire;

#[cfg(test)]
mod tests;

pub use error::{Error, Result};
pub use server::{Limits, Server};
pub use share::Export;
