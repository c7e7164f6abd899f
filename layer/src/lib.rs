//! The `layer` crate.
