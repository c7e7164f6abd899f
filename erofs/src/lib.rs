//! The EROFS on-disk format, uncompressed: write, read, merge, check, compare.

mod error;
pub mod format;
mod tree;
mod writer;

pub use error::{Error, ErrorKind, Result};
pub use tree::{
    BlockAddress, Content, DeviceNumber, FileData, Inode, InodeId, Timestamp, Tree, Xattr,
};
pub use writer::{BlockSize, DeviceInfo, ImageSummary, ImageWriter, SeekSink, Sink, WriterOptions};
