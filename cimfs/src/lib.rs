//! The CimFS on-disk format (`.cim`).
//!
//! A CIM, a *composite image*, is how Windows keeps container layers: a small *filesystem file*, by custom
//! `NAME.cim`, and beside it *region files* with everything else, which forks of the image share.
//!
//! ```text
//!                 ImageWriter::create, fork                 Image
//!   directories, ───────────────────────▶ NAME.cim     ─────────────────▶ paths, data, streams,
//!   data, links    begin, write, end,     region_…_0…2   walk, resolve,   descriptors
//!                  commit                 objectid_…     open_stream
//!                                            │
//!                                            └──▶ check: findings   usage, forks, destroy, orphans
//!                                                 compare, dump, repair
//! ```
//!
//! Microsoft has not published the format. [`format`](mod@format) is its specification as far as it is known, and
//! says of every field how well that is. **Unverified on Windows**: no Windows machine has mounted an image of this
//! crate's, and none of Windows' own was at hand to read.
//!
//! # Guarantees
//!
//! * No bytes make the reader panic, loop for ever or take memory beyond a small multiple of the image: every
//!   offset is compared with the real length of its region. A sparse stream may be larger than any disk; who
//!   reads data decides how much.
//! * Opening reads headers only, and metadata is read when it is asked for, through a cache of 1 MiB.
//! * The writer gives an image its name when everything is durable; what is dropped before leaves nothing. The
//!   same calls give the same bytes.
//! * Nothing here calls the operating system beyond `std`, and nothing is unsafe.
//!
//! # What it does not do
//!
//! Block images (and with them sealed ones) are refused by name, and so are files of merged images: their form is
//! not public ([`ErrorKind::Unsupported`]). Executables are read in the layout of memory but written as plain data.
//!
//! # Example
//!
//! ```
//! use std::io::Read as _;
//!
//! use cimfs::{Case, Guid, Image, ImageWriter, MemorySet, Metadata, WriterOptions};
//!
//! let set = MemorySet::new();
//! let guid = Guid::for_content(b"example");
//! let mut writer = ImageWriter::create(set.clone(), "a.cim", guid, WriterOptions::default())?;
//! writer.add_directory(&"Files".into(), &Metadata::default())?;
//! writer.add_file(&"Files/greeting.txt".into(), &Metadata::default(), b"hello")?;
//! writer.commit()?;
//!
//! let image = Image::open(&set, "a.cim")?;
//! let file = image.resolve(&r"\files\GREETING.TXT".into(), Case::Ignored)?;
//! let mut text = String::new();
//! image.open_stream(&file.data())?.read_to_string(&mut text).expect("memory can be read");
//! assert_eq!(text, "hello");
//! # Ok::<(), cimfs::Error>(())
//! ```

#![deny(clippy::cast_possible_truncation, clippy::host_endian_bytes, clippy::big_endian_bytes)]

mod check;
mod compare;
mod dump;
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

pub use check::{Code, Counts, Finding, Report, Severity, check, check_data};
pub use compare::{Change, ChangeKind, Difference, Pair, compare};
pub use dump::dump;
pub use error::{Error, ErrorKind, Result};
pub use files::{DirectorySet, FileSet, MemoryFile, MemorySet, WritableFile, WritableSet};
pub use format::{FileFlags, FileId, RegionOffset, StreamFraming};
pub use guid::Guid;
pub use lifecycle::{Usage, destroy, files, forks, orphans, orphans_without, usage};
pub use name::{ImagePath, Name};
pub use read_at::ReadAt;
pub use reader::{
    AlternateStream, Case, DirEntry, Ea, Eas, Entries, FileTime, FileView, Image, Listing, Segment,
    Segments, Stream, StreamReader, Walk, WalkEntry,
};
pub use upcase::Upcase;
pub use writer::{ImageWriter, Metadata, Rebuilt, Summary, WriterOptions, repair};
