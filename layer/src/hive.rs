//! Windows registry hives (`regf` files): read, merged and written without Windows.
//!
//! A Windows layer on top of another carries *differencing hives* with what its registry changes. Windows merges
//! each with the hive of the layers below; so does this module.
//!
//! ```text
//!  base, bytes  ──▶ Hive::read ──▶ Hive ──┐
//!                                         ├──▶ merge ──▶ Merged ──▶ Hive::write ──▶ bytes
//!  delta, bytes ──▶ Hive::read ──▶ Hive ──┘
//! ```
//!
//! A hive that was not closed properly goes through [`recover`] first, with the logs beside it.
//!
//! The merge follows public descriptions of layered keys and one real delta; it was not yet compared with Windows'
//! own merge: **unverified on Windows**. `docs/format/regf.md` says what is known how well.
//!
//! # Guarantees
//!
//! * No bytes make the reader panic, loop or recurse; memory stays a small multiple of the file's size. Damage is an
//!   error and is never repaired, as the kernel would do: a part of the registry would be gone without a word.
//! * Names, types and data are carried as they are: unpaired surrogates, embedded zeros, unknown types, class names.
//! * Symbolic links are never followed.
//! * The same hive is written to the same bytes: there is no clock in it.

mod cells;
mod format;
mod log;
mod merge;
mod name;
mod read;
mod tree;
mod warning;
mod write;

pub use log::{Recovered, recover};
pub use merge::{MergeCounts, Merged, merge};
pub use name::Name;
pub use tree::{Hive, Key, KeyFlags, KeyId, Layer, Semantics, Value};
pub use warning::{Warning, WarningKind};

#[cfg(test)]
mod tests;
