//! What the verbs do, one module a group.

pub(crate) mod erofs;
pub(crate) mod house;
pub(crate) mod image;
mod import;
pub(crate) mod mount;
pub(crate) mod run;
pub(crate) mod snapshot;
pub(crate) mod version;
