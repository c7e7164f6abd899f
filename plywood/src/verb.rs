//! What the verbs do, one module a group.

pub(crate) mod erofs;
pub(crate) mod version;
