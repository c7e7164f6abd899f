//! The EROFS on-disk format, uncompressed: write, read, merge, check, compare.

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
