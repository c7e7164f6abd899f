//! The CimFS on-disk format (`.cim`).
//!
//! A CIM, a *composite image*, is how Windows keeps container layers: a small *filesystem file*, by custom
//! `NAME.cim`, and beside it *region files* with everything else, which forks of the image share.
//!
//! Microsoft has not published the format. [`format`] says of every field how well it is known.

#![deny(clippy::cast_possible_truncation, clippy::host_endian_bytes, clippy::big_endian_bytes)]

mod error;
mod files;
pub mod format;
mod guid;
mod lifecycle;
mod name;
mod read_at;
mod reader;
mod trail;
mod upcase;
mod writer;

pub use error::{Error, ErrorKind, Result};
pub use files::{DirectorySet, FileSet, MemoryFile, MemorySet, WritableFile, WritableSet};
pub use format::{FileFlags, FileId, RegionOffset, StreamFraming};
pub use guid::Guid;
pub use lifecycle::{Usage, destroy, forks, orphans, usage};
pub use name::{ImagePath, Name};
pub use read_at::ReadAt;
pub use reader::{
    AlternateStream, Case, DirEntry, Ea, Eas, Entries, FileTime, FileView, Image, Segment,
    Segments, Stream, StreamReader, Walk, WalkEntry,
};
pub use upcase::Upcase;
pub use writer::{ImageWriter, Metadata, Summary, WriterOptions};
