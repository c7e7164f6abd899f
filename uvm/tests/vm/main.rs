//! Tests against a real machine: QEMU with the kit's kernel and guest. They need `cargo xtask setup vm` and
//! `cargo xtask vm-kit`, and fail without. One machine is booted and shared where what is tested allows it.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bench;
mod devices;
mod endings;
mod shares;
