//! The EROFS on-disk format, uncompressed: write, read, merge, check, compare.
//!
//! ```text
//!            ImageWriter                    Image
//!   Tree ───────────────▶ bytes ──────────────────────▶ Tree, names, data, xattrs
//!    ▲                                │
//!    └──────────── merge ◀────────────┼──▶ check: findings   diff: changes   dump: text
//! ```
//!
//! A [`Tree`] is what an image holds. [`ImageWriter`] turns it into bytes, the same bytes for the same
//! tree; [`Image`] reads images, its own and plain ones of `mkfs.erofs`, from anything that is [`ReadAt`].
//!
//! # Guarantees
//!
//! * No bytes make the reader panic, loop for ever or take memory beyond a small multiple of the image:
//!   every offset is compared with the real length of its file, and what directories, tables and tails
//!   take in all is bounded by it. A hole may make a *file* larger than any disk; who reads data decides
//!   how much.
//! * Nothing here calls the operating system beyond `std::io`, and nothing is unsafe.
//!
//! # What it does not do
//!
//! Compressed data is refused by name ([`ErrorKind::Unsupported`]) file by file, and metadata inside an
//! inode (metabox) altogether.
//!
//! # Example
//!
//! ```
//! use erofs::{Content, FileData, Image, ImageWriter, Inode, Tree, WriterOptions};
//!
//! let mut tree = Tree::new();
//! let content = Content::Regular(FileData::Bytes((*b"hello").into()));
//! let file = tree.add(Inode { content, permissions: 0o644, ..Inode::directory() });
//! tree[Tree::ROOT].entries_mut().expect("a directory").insert((*b"greeting").into(), file);
//! let (bytes, _) = ImageWriter::new(Vec::new(), WriterOptions::default())?.finish(&tree, [1; 16])?;
//!
//! let image = Image::open(bytes)?;
//! let view = image.resolve(b"/greeting", true)?;
//! let mut text = [0; 5];
//! image.read_at(&view, &mut text, 0)?;
//! assert_eq!(&text, b"hello");
//! assert!(erofs::check(&image).is_sound());
//! # Ok::<(), erofs::Error>(())
//! ```

mod check;
mod diff;
mod dump;
mod error;
pub mod format;
mod merge;
mod read_at;
mod reader;
#[cfg(test)]
mod testing;
mod trail;
mod tree;
mod writer;

pub use check::{Code, Counts, Finding, Report, Severity, check};
pub use diff::{Change, ChangeKind, Difference, Pair, diff};
pub use dump::{Escaped, dump};
pub use error::{Error, ErrorKind, Result};
pub use merge::{Merged, MergedDevice, merge, merge_with_block_size};
pub use read_at::ReadAt;
pub use reader::{DirEntry, Extent, ExtentSource, Extents, FileReader, Image, InodeView, Nid};
pub use tree::{
    BlockAddress, Content, DeviceNumber, FileData, Inode, InodeId, Timestamp, Tree, Xattr,
};
pub use writer::{BlockSize, DeviceInfo, ImageSummary, ImageWriter, SeekSink, Sink, WriterOptions};
