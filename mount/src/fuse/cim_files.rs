//! A CIM as a file system in user space.
//!
//! Numbers of files are made of the image's own, so nothing is remembered of what the kernel knows: it may forget
//! or ask in any order, and memory does not grow with the number of files that were looked at.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use cimfs::{
    AlternateStream, Case, FileId, FileView, Image, Listing, Name, ReadAt, RegionOffset, Segments,
    Stream,
};
use layer::cim_view::{Attributes, FileKind, file_kind, modified, name_units, permissions};
use layer::windows::encode_wtf8;
use sys::{FUSE_ROOT, FileMap, FuseFiles, FuseKind, FuseNode, MappedBytes};

use super::recent::Recent;

/// How lookups are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CimOptions {
    /// Names are found in any case, as Windows finds them.
    pub ignore_case: bool,
}

/// A CIM to be served by FUSE.
#[derive(Debug)]
pub struct CimFiles<R> {
    image: Image<R>,
    options: CimOptions,
    /// The regions, as far as they could be mapped.
    maps: Vec<Option<FileMap>>,
    totals: (u64, u64),
    listings: Mutex<Recent<u64, Arc<Listing>>>,
    segments: Mutex<Recent<u64, Arc<Segments>>>,
    attributes: Mutex<Recent<u64, Arc<Vec<erofs::Xattr>>>>,
}

/// Bits of a file's number for the image's own number and one more; above are those for alternate streams.
const ID_BITS: u32 = 33;
/// What most metadata has: the view's names in their own namespace, and ntfs-3g's.
const THEIR_NAMESPACE: &[u8] = b"system.";
/// Less than this is read instead of mapped: for a few pages the calls cost more than a copy.
const MAPPED_MIN: usize = 32 << 10;

impl CimFiles<File> {
    /// With its regions in memory where the kernel can copy data from. The files must not be cut meanwhile: what is
    /// gone then cannot be read, as without this.
    #[must_use]
    pub fn with_mapped_regions(mut self) -> Self {
        let regions = 0..u16::try_from(self.image.region_count()).unwrap_or(u16::MAX);
        let map = |index| {
            let (file, length) = (self.image.region(index)?, self.image.region_length(index)?);
            FileMap::of(file, length).ok()
        };
        self.maps = regions.map(map).collect();
        self
    }
}

impl<R: ReadAt + Send + Sync + 'static> CimFiles<R> {
    /// Of an opened image.
    pub fn new(image: Image<R>, options: CimOptions) -> Self {
        let regions = 0..u16::try_from(image.region_count()).unwrap_or(u16::MAX);
        let bytes = regions.filter_map(|index| image.region_length(index)).sum();
        let tables = u64::from(image.filesystem().file_table_count.get());
        let files = tables * u64::from(cimfs::format::FILES_PER_TABLE);
        Self {
            image,
            options,
            maps: Vec::new(),
            totals: (bytes, files),
            listings: Mutex::default(),
            segments: Mutex::default(),
            attributes: Mutex::default(),
        }
    }

    /// What a number stands for: a file, and one of its alternate streams.
    fn split(&self, number: u64) -> io::Result<(FileView, Option<u32>)> {
        let stale = || io::Error::from_raw_os_error(libc::ESTALE);
        let id = match number & ((1 << ID_BITS) - 1) {
            FUSE_ROOT => self.image.root(),
            other => {
                FileId(other.checked_sub(1).and_then(|id| id.try_into().ok()).ok_or_else(stale)?)
            }
        };
        let stream = u32::try_from(number >> ID_BITS).map_err(|_| stale())?;
        let file = self.image.file(id).map_err(failed)?;
        Ok((file, stream.checked_sub(1)))
    }

    /// The directory that a number stands for.
    fn directory(&self, number: u64) -> io::Result<FileView> {
        match self.split(number)? {
            (file, None) if file.is_dir() => Ok(file),
            _ => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        }
    }

    fn number(&self, id: FileId) -> u64 {
        if id == self.image.root() { FUSE_ROOT } else { u64::from(id.0) + 1 }
    }

    fn node_of(&self, file: &FileView) -> io::Result<FuseNode> {
        let kind = file_kind(&self.image, file).map_err(shown)?;
        Ok(FuseNode {
            number: self.number(file.id),
            size: match &kind {
                FileKind::Directory => 0,
                FileKind::Symlink(target) => target.len() as u64,
                FileKind::Regular if file.is_dir() => 0,
                FileKind::Regular => file.size(),
            },
            permissions: permissions(file, &kind),
            modified: {
                let time = modified(file);
                (time.seconds, time.nanoseconds)
            },
            kind: match kind {
                FileKind::Directory => FuseKind::Directory,
                FileKind::Symlink(_) => FuseKind::Symlink,
                FileKind::Regular => FuseKind::Regular,
            },
        })
    }

    /// An alternate stream, as a file beside the one that it belongs to.
    fn stream_node(&self, file: &FileView, index: u32, stream: &Stream) -> FuseNode {
        let time = modified(file);
        FuseNode {
            number: self.number(file.id) | (u64::from(index) + 1) << ID_BITS,
            kind: FuseKind::Regular,
            size: stream.length(),
            permissions: permissions(file, &FileKind::Regular),
            modified: (time.seconds, time.nanoseconds),
        }
    }

    fn stream(&self, file: &FileView, index: u32) -> io::Result<AlternateStream> {
        let mut streams = self.image.alternate_streams(file).map_err(failed)?;
        let stream = streams.nth(usize::try_from(index).unwrap_or(usize::MAX));
        stream.ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?.map_err(failed)
    }

    /// A name without a stream.
    fn find(&self, directory: &FileView, units: &[u16]) -> io::Result<Option<FileView>> {
        let case = if self.options.ignore_case { Case::Ignored } else { Case::Exact };
        let name = Name::from_units(units);
        let found = self.image.lookup(directory, &name, case).map_err(failed)?;
        found.map(|entry| self.image.file(entry.id).map_err(failed)).transpose()
    }

    fn find_stream(&self, file: &FileView, name: &[u16]) -> io::Result<Option<FuseNode>> {
        let upcase = self.image.upcase().map_err(failed)?;
        let streams = self.image.alternate_streams(file).map_err(failed)?;
        for (index, stream) in (0..).zip(streams) {
            let stream = stream.map_err(failed)?;
            if upcase.compare(stream.name.units(), name).is_eq() {
                return Ok(Some(self.stream_node(file, index, &stream.stream)));
            }
        }
        Ok(None)
    }

    fn listing(&self, directory: &FileView) -> io::Result<Arc<Listing>> {
        let number = u64::from(directory.id.0);
        if let Some(listing) = recent(&self.listings).get(&number) {
            return Ok(listing);
        }
        let listing = Arc::new(self.image.listing(directory).map_err(failed)?);
        recent(&self.listings).put(number, listing.clone());
        Ok(listing)
    }

    /// Where the bytes behind a number are.
    fn segments(&self, number: u64) -> io::Result<Arc<Segments>> {
        if let Some(segments) = recent(&self.segments).get(&number) {
            return Ok(segments);
        }
        let (file, index) = self.split(number)?;
        let stream = match index {
            Some(index) => self.stream(&file, index)?.stream,
            // A link that cannot be shown as one has no data that anybody could want.
            None if file.is_dir() => return Ok(Arc::default()),
            None => file.data(),
        };
        let segments = Arc::new(self.image.segments(&stream).map_err(failed)?);
        recent(&self.segments).put(number, segments.clone());
        Ok(segments)
    }

    fn attributes(&self, number: u64) -> io::Result<Arc<Vec<erofs::Xattr>>> {
        if let Some(attributes) = recent(&self.attributes).get(&number) {
            return Ok(attributes);
        }
        let attributes = match self.split(number)? {
            (_, Some(_)) => Arc::default(),
            (file, None) => {
                let kind = file_kind(&self.image, &file).map_err(shown)?;
                Arc::new(Attributes::default().of(&self.image, &file, &kind).map_err(shown)?)
            }
        };
        recent(&self.attributes).put(number, attributes.clone());
        Ok(attributes)
    }

    fn fill(&self, buf: &mut [u8], source: RegionOffset) -> io::Result<()> {
        let region = self.image.region(source.region());
        let region = region.ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))?;
        let mut done = 0;
        while done < buf.len() {
            match region.read_at(&mut buf[done..], source.byte() + done as u64) {
                Ok(0) => return Err(io::Error::from_raw_os_error(libc::EIO)),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<R: ReadAt + Send + Sync + 'static> FuseFiles for CimFiles<R> {
    fn lookup(&self, directory: u64, name: &[u8]) -> io::Result<Option<FuseNode>> {
        let directory = self.directory(directory)?;
        // Bytes that no name of the image becomes lead nowhere.
        let Some(units) = name_units(name) else { return Ok(None) };
        let colon = u16::from(b':');
        match units.iter().position(|unit| *unit == colon) {
            None => match self.find(&directory, &units)? {
                Some(file) => self.node_of(&file).map(Some),
                None => Ok(None),
            },
            // No name holds a colon; what is behind it is an alternate stream.
            Some(at) => {
                let Some(file) = self.find(&directory, &units[..at])? else { return Ok(None) };
                let stream = &units[at + 1..];
                let kind: Vec<u16> = ":$DATA".encode_utf16().collect();
                let stream = stream.strip_suffix(&*kind).unwrap_or(stream);
                self.find_stream(&file, stream)
            }
        }
    }

    fn node(&self, number: u64) -> io::Result<FuseNode> {
        match self.split(number)? {
            (file, None) => self.node_of(&file),
            (file, Some(index)) => {
                let stream = self.stream(&file, index)?;
                Ok(self.stream_node(&file, index, &stream.stream))
            }
        }
    }

    fn target(&self, number: u64) -> io::Result<Vec<u8>> {
        let (file, _) = self.split(number)?;
        match file_kind(&self.image, &file).map_err(shown)? {
            FileKind::Symlink(target) => Ok(target),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    fn read(&self, number: u64, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let segments = self.segments(number)?;
        let mut done = 0;
        while done < buf.len() {
            let position = offset + done as u64;
            let after = segments.partition_point(|segment| segment.offset <= position);
            let Some(segment) = after.checked_sub(1).and_then(|index| segments.get(index)) else {
                break;
            };
            let inside = position - segment.offset;
            let left = segment.length.saturating_sub(inside);
            if left == 0 {
                break;
            }
            let length = left.min((buf.len() - done) as u64);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let piece = &mut buf[done..done + length];
            match segment.source.and_then(|source| source.checked_add(inside)) {
                Some(source) => self.fill(piece, source)?,
                None => piece.fill(0),
            }
            done += length;
        }
        Ok(done)
    }

    fn mapped(&self, number: u64, offset: u64, size: usize) -> Option<MappedBytes<'_>> {
        if size < MAPPED_MIN || self.maps.is_empty() {
            return None;
        }
        let segments = self.segments(number).ok()?;
        let after = segments.partition_point(|segment| segment.offset <= offset);
        let segment = segments.get(after.checked_sub(1)?)?;
        let inside = offset - segment.offset;
        let left = usize::try_from(segment.length.checked_sub(inside)?).unwrap_or(usize::MAX);
        // An answer that is too short says that the file ends.
        if left < size && after < segments.len() {
            return None;
        }
        let source = segment.source?.checked_add(inside)?;
        let map = self.maps.get(usize::from(source.region()))?.as_ref()?;
        map.cached(source.byte(), size.min(left))
    }

    fn names(
        &self,
        directory: u64,
        start: u64,
        take: &mut dyn FnMut(&[u8], &FuseNode) -> bool,
    ) -> io::Result<()> {
        let file = self.directory(directory)?;
        let own = self.node_of(&file)?;
        for dots in [&b"."[..], b".."].iter().skip(usize::try_from(start).unwrap_or(2)) {
            // Which directory is above is the kernel's own knowledge.
            if !take(dots, &own) {
                return Ok(());
            }
        }
        let listing = self.listing(&file)?;
        let first = usize::try_from(start.saturating_sub(2)).unwrap_or(usize::MAX);
        for entry in listing.iter().skip(first) {
            let (units, id) = entry.map_err(failed)?;
            let name = encode_wtf8(units.iter().map(|unit| unit.get()));
            // The kernel refuses the whole directory for a name that cannot be; a file that cannot be read is
            // named at least, and whoever asks for it gets the error.
            let node = self.image.file(id).map_err(failed).and_then(|file| self.node_of(&file));
            let node = node.unwrap_or(FuseNode {
                number: self.number(id),
                kind: FuseKind::Regular,
                size: 0,
                permissions: 0,
                modified: (0, 0),
            });
            let possible = !matches!(&*name, b"" | b"." | b"..")
                && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
            let (name, node) = match possible {
                true => (&*name, node),
                false => continue,
            };
            if !take(name, &node) {
                break;
            }
        }
        Ok(())
    }

    fn xattr(&self, number: u64, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let attributes = self.attributes(number)?;
        let theirs = name.strip_prefix(THEIR_NAMESPACE);
        let found = attributes.iter().find(|xattr| match theirs {
            None => *xattr.name == *name,
            Some(name) => {
                let own = xattr.name.splitn(2, |byte| *byte == b'.').nth(1);
                own.is_some_and(|own| own == name && own.starts_with(b"ntfs_"))
            }
        });
        Ok(found.map(|xattr| xattr.value.to_vec()))
    }

    fn xattr_names(&self, number: u64) -> io::Result<Vec<u8>> {
        let attributes = self.attributes(number)?;
        let names = attributes.iter().flat_map(|xattr| xattr.name.iter().chain(&[0]));
        Ok(names.copied().collect())
    }

    fn totals(&self) -> (u64, u64) {
        self.totals
    }
}

fn recent<K, V>(cache: &Mutex<Recent<K, V>>) -> std::sync::MutexGuard<'_, Recent<K, V>> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number that a program gets for an error of the image.
fn failed(error: cimfs::Error) -> io::Error {
    use cimfs::ErrorKind;
    io::Error::from_raw_os_error(match error.kind() {
        ErrorKind::Unsupported => libc::EOPNOTSUPP,
        ErrorKind::NotFound => libc::ENOENT,
        ErrorKind::Corrupt => libc::EUCLEAN,
        _ => libc::EIO,
    })
}

fn shown(error: layer::Error) -> io::Error {
    io::Error::from_raw_os_error(match error.kind() {
        layer::ErrorKind::Unsupported => libc::EOPNOTSUPP,
        layer::ErrorKind::Corrupt => libc::EUCLEAN,
        _ => libc::EIO,
    })
}
