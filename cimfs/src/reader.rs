//! Opening an image: the filesystem file, its regions, and the way to everything else.

mod blob;
mod directory;
mod file;
mod link_table;
mod listing;
mod regions;
mod stream;
mod walk;

use std::fmt;
use std::sync::OnceLock;

use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use crate::format::{
    CommonHeader, FILE_TYPE_IMAGE, FILE_TYPE_OBJECT_ID, FILE_TYPE_REGION, FileTable, Filesystem,
    ImageHeader, MAGIC, RegionSet, UPCASE_LENGTH,
};
use crate::{Error, ErrorKind, FileId, FileSet, Guid, ReadAt, Result, Upcase};

pub use blob::{Ea, Eas};
pub use directory::{Case, DirEntry, Entries};
pub use file::{FileTime, FileView};
pub(crate) use link_table::LinkTable;
pub use listing::Listing;
pub(crate) use regions::{Region, Regions, object_id_name, region_name};
pub use stream::{AlternateStream, Segment, Segments, Stream, StreamReader};
pub use walk::{Walk, WalkEntry};

/// The identity of a fixed VHD's footer, which Windows puts behind block images to attach them as disks.
const VHD_FOOTER: [u8; 8] = *b"conectix";
const VHD_FOOTER_LENGTH: u64 = 512;

/// An opened image with all regions that it consists of.
///
/// Opening reads headers only: it takes the same time however many files the image has. Everything else is
/// read when it is asked for and checked against the real lengths of the region files, so any bytes can be
/// opened: what breaks the format's rules is an error of kind [`ErrorKind::Corrupt`], never a panic.
pub struct Image<R> {
    header: ImageHeader,
    length: u64,
    parents: Vec<RegionSet>,
    regions: Regions<R>,
    filesystem: Filesystem,
    upcase: OnceLock<Upcase>,
}

impl<R> fmt::Debug for Image<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("guid", &self.guid())
            .field("version", &self.version())
            .field("parents", &self.parent_guids().collect::<Vec<_>>())
            .field("filesystem", &self.filesystem)
            .finish_non_exhaustive()
    }
}

impl<R: ReadAt> Image<R> {
    /// Opens the image whose filesystem file is `name`, with the regions that lie beside it.
    ///
    /// # Errors
    /// [`ErrorKind::NotCim`] if the file is something else; [`ErrorKind::Unsupported`] for other versions
    /// and for what is recognised as a block image; [`ErrorKind::Missing`] if a file is not there;
    /// [`ErrorKind::Corrupt`]; [`ErrorKind::Io`].
    pub fn open<S: FileSet<File = R>>(set: &S, name: &str) -> Result<Self> {
        let file = FilesystemFile::read(set, name)?;
        let regions = Regions::open(set, &file.parents, &file.header.regions)?;
        let filesystem =
            regions.read_struct(file.header.filesystem).map_err(|error| match error.kind() {
                ErrorKind::Corrupt => error.within("the filesystem object"),
                _ => error,
            })?;
        let FilesystemFile { header, length, parents } = file;
        Ok(Self { header, length, parents, regions, filesystem, upcase: OnceLock::new() })
    }

    /// The upcase table; read at the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub fn upcase(&self) -> Result<&Upcase> {
        if let Some(upcase) = self.upcase.get() {
            return Ok(upcase);
        }
        let bytes = self.regions.read_bytes(self.filesystem.upcase, UPCASE_LENGTH)?;
        let units = bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        let upcase = Upcase::from_units(units).expect("its length is that of the table");
        Ok(self.upcase.get_or_init(|| upcase))
    }

    /// A file table by its index.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the image has fewer; [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub fn file_table(&self, index: u32) -> Result<FileTable> {
        if index >= self.filesystem.file_table_count.get() {
            let what = format!("the image has no file table {index}");
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        let list = self.filesystem.file_tables;
        let offset = list.checked_add(u64::from(index) * size_of::<FileTable>() as u64);
        let past = || Error::corrupt(list, format!("file table {index} lies past the region"));
        self.regions.read_struct(offset.ok_or_else(past)?)
    }
}

impl<R> Image<R> {
    /// The header of the filesystem file as it is on disk.
    pub fn header(&self) -> &ImageHeader {
        &self.header
    }

    /// Length of the filesystem file in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        (self.header.common.major.get(), self.header.common.minor.get())
    }

    /// The identifier of the image's own region set.
    pub fn guid(&self) -> Guid {
        Guid::from_disk(self.header.regions.id)
    }

    /// The identifiers of the region sets that the image was forked from, the oldest first.
    pub fn parent_guids(&self) -> impl Iterator<Item = Guid> + '_ {
        self.parents.iter().map(|set| Guid::from_disk(set.id))
    }

    /// The region sets that the image was forked from, the oldest first.
    pub fn parents(&self) -> &[RegionSet] {
        &self.parents
    }

    /// The filesystem object as it is on disk.
    pub fn filesystem(&self) -> &Filesystem {
        &self.filesystem
    }

    /// The root directory.
    pub fn root(&self) -> FileId {
        FileId(self.filesystem.root.get())
    }

    /// The file behind a region, its parents' regions first. `None` if there are fewer.
    pub fn region(&self, index: u16) -> Option<&R> {
        self.regions.get(index).map(Region::file)
    }

    /// Name of a region's file. `None` if there are fewer.
    pub fn region_name(&self, index: u16) -> Option<&str> {
        self.regions.get(index).map(Region::name)
    }

    /// Length of a region's file in bytes when the image was opened. `None` if there are fewer.
    pub fn region_length(&self, index: u16) -> Option<u64> {
        self.regions.get(index).map(Region::length)
    }

    /// Number of regions, those of the parents included.
    pub fn region_count(&self) -> usize {
        self.regions.count()
    }

    /// Index of the first region that is the image's own.
    pub fn own_regions_start(&self) -> usize {
        self.regions.count() - usize::from(self.header.regions.count.get())
    }

    pub(crate) fn regions(&self) -> &Regions<R> {
        &self.regions
    }
}

/// What the filesystem file says, without any region.
pub(crate) struct FilesystemFile {
    pub(crate) header: ImageHeader,
    pub(crate) length: u64,
    pub(crate) parents: Vec<RegionSet>,
}

impl FilesystemFile {
    pub(crate) fn read<S: FileSet>(set: &S, name: &str) -> Result<Self> {
        let file = set.open(name).map_err(|e| missing(name, e))?;
        let failed = |e| Error::io(format!("reading {name}"), e);
        let length = file.size().map_err(failed)?;
        let not_cim = |what: String| Err(Error::new(ErrorKind::NotCim, format!("{name} {what}")));

        let mut header = ImageHeader::new_zeroed();
        let got = read_up_to(&file, header.as_mut_bytes(), 0).map_err(failed)?;
        if header.common.magic != MAGIC {
            if ends_as_vhd(&file, length).map_err(failed)? || name.ends_with(".bcim") {
                return Err(block_image(name));
            }
            return not_cim("does not begin as a file of a CIM".into());
        }
        check_version(&header.common, name)?;
        match header.common.file_type {
            FILE_TYPE_IMAGE => {}
            FILE_TYPE_REGION => return not_cim("is a region file of a CIM".into()),
            FILE_TYPE_OBJECT_ID => return not_cim("is an object-ID file of a CIM".into()),
            // Nothing is known of the header of block images; another type may be one.
            other => {
                let what = format!("{name} has file type {other}, which is none of a classic CIM");
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
        }
        if got < size_of::<ImageHeader>() {
            let what = format!("{name} has {got} bytes, too few for its header");
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        let count = usize::from(header.parent_count.get());
        let mut bytes = vec![0; count * size_of::<RegionSet>()];
        let got = read_up_to(&file, &mut bytes, size_of::<ImageHeader>() as u64).map_err(failed)?;
        if got < bytes.len() {
            let what = format!("{name} ends before its list of {count} parents does");
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        let parents = bytes.chunks_exact(size_of::<RegionSet>()).map(|set| {
            RegionSet::read_from_bytes(set).expect("a chunk has the structure's length")
        });
        Ok(Self { header, length, parents: parents.collect() })
    }
}

pub(crate) fn check_version(header: &CommonHeader, name: &str) -> Result<()> {
    match header.major.get() {
        1..=3 => Ok(()),
        other => {
            let what = format!("{name} has version {other}, only 1 to 3 are known");
            Err(Error::new(ErrorKind::Unsupported, what))
        }
    }
}

fn block_image(name: &str) -> Error {
    let what = format!(
        "{name} is a block CIM (possibly sealed or merged), whose layout is not public; \
         CimConvertBlockImage on Windows makes a classic CIM of it"
    );
    Error::new(ErrorKind::Unsupported, what)
}

pub(crate) fn missing(name: &str, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::Missing, format!("there is no file {name}"))
        }
        _ => Error::io(format!("opening {name}"), error),
    }
}

/// Reads until the buffer is full or the file ends, and returns how many bytes that are.
pub(crate) fn read_up_to<R: ReadAt>(
    file: &R,
    buf: &mut [u8],
    offset: u64,
) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn ends_as_vhd<R: ReadAt>(file: &R, length: u64) -> std::io::Result<bool> {
    let mut cookie = [0; VHD_FOOTER.len()];
    match length.checked_sub(VHD_FOOTER_LENGTH) {
        Some(start) => read_up_to(file, &mut cookie, start).map(|_| cookie == VHD_FOOTER),
        None => Ok(false),
    }
}
