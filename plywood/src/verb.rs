//! What the verbs do, one module a group.

mod changes;
pub(crate) mod cim;
pub(crate) mod containerd_config;
pub(crate) mod doctor;
pub(crate) mod erofs;
mod export;
pub(crate) mod house;
pub(crate) mod image;
mod import;
pub(crate) mod mount;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod snapshot;
mod unpack_target;
pub(crate) mod version;
pub(crate) mod vm;
