//! The tar format: a streaming reader and a writer.
//!
//! Our own rather than a crate's, because a layer's tar needs all of: payloads handed on without a copy
//! whatever the size of the input's buffers, times before 1970 and with nanoseconds, raw bytes in the keys of
//! PAX records, global headers, all four sparse forms, and errors that name the byte. The crates at hand lack
//! the first three (`tar-core` 0.1) or the sparse forms of PAX (`tar` 0.4); `tar` is the second opinion in
//! the tests.
//!
//! Where readers in the field disagree, the entry is refused rather than guessed, since two programs that see
//! two different trees in one layer are a security hole: a PAX size that contradicts the header's, data behind
//! an entry whose type has none, a header behind a single zero block, names with NUL bytes.

mod blocks;
mod header;
mod pax;
mod pax_writer;
mod reader;
mod writer;

pub(crate) use pax_writer::{PaxEntry, PaxWriter};
pub(crate) use reader::{End, Entry, EntryKind, Reader};
pub(crate) use writer::Writer;
