//! A CIM as an EROFS image whose files are the bytes of the region files: a *view*.
//!
//! ```text
//!  NAME.cim, region_…_0, region_…_1 … ──▶ names, inodes, xattrs, small files ──▶ view
//!                                                                                │ chunk tables
//!  region_…_0, region_…_1 … (extra devices 1, 2 …) ◀─────────────────────────────┘
//! ```
//!
//! A fork is one image, so its view is one file system, without an overlay. Data that lies at the start of a block of
//! its region is pointed at, and what is shorter than a block wherever it lies, as a piece of a packed file. Everything else
//! is copied into the view. Blocks have 4096 bytes, or 512, without a packed file, where that lets the view point at much
//! more, as for executables in the layout of memory.
//!
//! `docs/cim-mount.md` says how names, kinds, modes, times and Windows' metadata look; [`file_kind`] and its
//! neighbours are that in code, for views and for whoever shows a CIM in another way.

mod ahead;
mod appearance;
mod cache;
mod content;
mod name;
mod packed;
mod reparse;
mod seen;
mod tree;
mod view_file;

use std::io;

use cimfs::{Image, ReadAt};
use erofs::{BlockSize, DeviceInfo, ImageSummary, ImageWriter, Sink, WriterOptions};

use crate::error::{Error, ErrorKind, Result};
use crate::progress::Cancel;
use tree::Failure;

pub use appearance::{Attributes, FileKind, file_kind, modified, permissions};
pub use cache::{CimView, view_of};
pub use name::name_units;

/// Changes with everything that changes the bytes of a view.
const VERSION: u32 = 3;
/// Longest alternate stream that is an extended attribute too.
pub const MAXIMAL_STREAM: u64 = 65_535;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewSummary {
    /// The view itself.
    pub image: ImageSummary,
    /// Its block size.
    pub block_size: BlockSize,
    /// Bytes of file data that it points at.
    pub pointed: u64,
    /// Bytes of file data that were copied into it.
    pub copied: u64,
}

/// Writes the view of an image to what `sink` makes, which may be asked twice and must begin anew then. Its extra devices
/// are the image's regions in the order of their indexes. The same image gives the same bytes.
///
/// # Errors
/// [`ErrorKind::Unsupported`] and [`ErrorKind::TooLarge`] for images that no view can show: names of more than 255
/// bytes, streams of unknown kinds, too much that would have to be copied. [`ErrorKind::Corrupt`] for images that
/// break the rules, [`ErrorKind::Cancelled`], [`ErrorKind::NoSpace`], [`ErrorKind::Io`].
pub fn write_cim_view<R: ReadAt, S: Sink>(
    image: &Image<R>,
    uuid: [u8; 16],
    mut sink: impl FnMut() -> io::Result<S>,
    cancel: &Cancel,
) -> Result<(S, ViewSummary)> {
    let mut write = |block_size| {
        let sink = sink().map_err(|error| Error::io("cannot begin the view", error))?;
        tree::write(image, block_size, uuid, sink, cancel)
    };
    let written = match write(BlockSize::B4096) {
        Err(Failure::SmallerBlocks) => write(BlockSize::B512),
        other => other,
    };
    written.map_err(|failure| match failure {
        Failure::Error(error) => error,
        Failure::SmallerBlocks => unreachable!("there are no smaller blocks"),
    })
}

/// The devices of a view: the complete blocks of every region.
fn devices<R: ReadAt>(image: &Image<R>, block_size: BlockSize) -> Result<Vec<DeviceInfo>> {
    let too_many = |what: &str| Error::new(ErrorKind::TooLarge, format!("the image has {what}"));
    let count = u16::try_from(image.region_count()).map_err(|_| too_many("65,536 regions"))?;
    let device = |index| {
        let blocks = image.region_length(index).unwrap_or(0) >> block_size.bits();
        let blocks = u32::try_from(blocks).map_err(|_| too_many("regions of 2^32 blocks"))?;
        let tag = image.region_name(index).unwrap_or_default().as_bytes().to_vec();
        Ok(DeviceInfo { tag, blocks })
    };
    (0..count).map(device).collect()
}

fn writer<S: Sink>(
    sink: S,
    block_size: BlockSize,
    devices: Vec<DeviceInfo>,
) -> Result<ImageWriter<S>> {
    let options = WriterOptions {
        block_size,
        devices,
        inline_budget: 256 << 20,
        // Values are made by `Attributes`.
        distinct_xattrs: true,
        ..WriterOptions::default()
    };
    ImageWriter::new(sink, options).map_err(|error| Error::erofs("cannot begin the view", error))
}

/// What the CIM's reader reported, in this crate's kinds.
pub(crate) fn cim_error(doing: impl Into<String>, source: cimfs::Error) -> Error {
    let kind = match source.kind() {
        cimfs::ErrorKind::NotCim | cimfs::ErrorKind::Corrupt | cimfs::ErrorKind::Missing => {
            ErrorKind::Corrupt
        }
        cimfs::ErrorKind::Unsupported => ErrorKind::Unsupported,
        cimfs::ErrorKind::Invalid => ErrorKind::Invalid,
        cimfs::ErrorKind::TooLarge => ErrorKind::TooLarge,
        cimfs::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    };
    Error::new(kind, doing).because(source)
}
