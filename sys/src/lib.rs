//! Every system call that Plywood makes. The only crate with `unsafe`; it holds no policy.

mod error;

pub use error::{Error, Result};
