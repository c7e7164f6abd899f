//! What the verbs do, one module a group.

#[cfg(target_os = "linux")]
mod changes;
pub(crate) mod cim;
#[cfg(target_os = "linux")]
pub(crate) mod containerd_config;
pub(crate) mod doctor;
pub(crate) mod erofs;
#[cfg(target_os = "linux")]
mod export;
pub(crate) mod house;
pub(crate) mod image;
mod import;
#[cfg(target_os = "linux")]
pub(crate) mod mount;
#[cfg(target_os = "linux")]
pub(crate) mod run;
pub(crate) mod serve;
#[cfg(target_os = "linux")]
pub(crate) mod snapshot;
#[cfg(target_os = "linux")]
mod unpack_target;
pub(crate) mod version;
#[cfg(target_os = "linux")]
pub(crate) mod vm;
pub(crate) mod wclayer;

/// The answer of a verb that this host cannot have.
#[cfg(windows)]
fn only_on_linux(what: &str) -> anyhow::Result<()> {
    use crate::exit::{Exit, Failure};
    anyhow::bail!(Failure::new(Exit::NotSupported, format!("{what} is only on Linux")))
}
