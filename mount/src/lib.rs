//! The `mount` crate.
