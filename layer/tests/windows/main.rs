//! Windows layers: their tars into CIMs and back. The cases are those that Microsoft's own importers and exporter were
//! run on, with what they made of them; where ours differs, the test says so.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../support/mod.rs"]
mod support;

mod export;
mod fixture;
mod import;
mod layers;
#[cfg(target_os = "linux")]
mod registry;
mod round_trip;
