//! The region files with their real lengths: the only place that reads them.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::format::{MAGIC, REGIONS_MAX, RegionHeader, RegionOffset, RegionSet};
use crate::reader::{check_version, missing, read_up_to};
use crate::{Error, ErrorKind, FileSet, Guid, ReadAt, Result};

/// Metadata is read in pieces of this many bytes, so that neighbours cost one system call.
const WINDOW: u64 = 16 * 1024;
/// How many pieces are kept (1 MiB in all, for all regions).
const WINDOWS: usize = 64;
/// Places that a piece can be kept at, the last used first: reading a directory goes to and fro between its table and
/// the files'.
const WAYS: usize = 4;
/// Where objects can begin: behind the region's header.
const FIRST_BYTE: u64 = size_of::<RegionHeader>() as u64;

/// A region file.
pub(crate) struct Region<R> {
    file: R,
    name: String,
    length: u64,
    header: RegionHeader,
}

impl<R> Region<R> {
    pub(crate) fn file(&self) -> &R {
        &self.file
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn header(&self) -> &RegionHeader {
        &self.header
    }
}

struct Window {
    region: u16,
    number: u64,
    bytes: Vec<u8>,
}

/// All regions of an image in the order of their indexes, and a small cache for metadata.
pub(crate) struct Regions<R> {
    regions: Vec<Arc<Region<R>>>,
    windows: Mutex<Vec<Option<Window>>>,
}

/// Name of a region file.
pub(crate) fn region_name(id: Guid, index: u16) -> String {
    format!("region_{id}_{index}")
}

/// Name of an object-ID file.
pub(crate) fn object_id_name(id: Guid, index: u16) -> String {
    format!("objectid_{id}_{index}")
}

impl<R: ReadAt> Regions<R> {
    pub(crate) fn open<S: FileSet<File = R>>(
        set: &S,
        parents: &[RegionSet],
        own: &RegionSet,
    ) -> Result<Self> {
        let sets = || parents.iter().chain([own]);
        let total: usize = sets().map(|set| usize::from(set.count.get())).sum();
        if !(1..=REGIONS_MAX).contains(&total) {
            let what = format!("the image has {total} regions, 1 to {REGIONS_MAX} are possible");
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        let mut regions: Vec<Arc<Region<R>>> = Vec::new();
        let mut opened: HashMap<[u8; 16], usize> = HashMap::new();
        for region_set in sets() {
            let id = Guid::from_disk(region_set.id);
            // A set named twice must not cost a file descriptor for every mention.
            let start = regions.len();
            let known = opened.get(&region_set.id).copied();
            opened.entry(region_set.id).or_insert(start);
            for index in 0..region_set.count.get() {
                let name = region_name(id, index);
                let shared = known.and_then(|at| regions.get(at + usize::from(index)));
                let region = match shared.filter(|region| region.name == name) {
                    Some(region) => region.clone(),
                    None => Arc::new(open_region(set, name)?),
                };
                regions.push(region);
            }
        }
        Ok(Self { regions, windows: Mutex::default() })
    }
}

fn open_region<S: FileSet>(set: &S, name: String) -> Result<Region<S::File>> {
    let file = set.open(&name).map_err(|e| missing(&name, e))?;
    let failed = |e| Error::io(format!("reading {name}"), e);
    let length = file.size().map_err(failed)?;
    let mut header = RegionHeader::new_zeroed();
    let got = read_up_to(&file, header.as_mut_bytes(), 0).map_err(failed)?;
    if got < size_of::<RegionHeader>() || header.common.magic != MAGIC {
        let what = format!("{name} does not begin as a region file");
        return Err(Error::new(ErrorKind::Corrupt, what));
    }
    check_version(&header.common, &name)?;
    Ok(Region { file, name, length, header })
}

impl<R> Regions<R> {
    pub(crate) fn count(&self) -> usize {
        self.regions.len()
    }

    pub(crate) fn get(&self, index: u16) -> Option<&Region<R>> {
        self.regions.get(usize::from(index)).map(|region| &**region)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Region<R>> {
        self.regions.iter().map(|region| &**region)
    }

    /// Length of all region files.
    pub(crate) fn total_length(&self) -> u64 {
        self.iter().fold(0, |sum, region| sum.saturating_add(region.length))
    }

    /// The region, if `length` bytes at `offset` lie inside it, behind its header.
    pub(crate) fn locate(&self, offset: RegionOffset, length: u64) -> Result<&Region<R>> {
        if offset.is_null() {
            return Err(Error::new(ErrorKind::Corrupt, "a null offset where an object should be"));
        }
        let region = self.get(offset.region()).ok_or_else(|| {
            let what = format!("region {} of {}", offset.region(), self.regions.len());
            Error::corrupt(offset, what)
        })?;
        if offset.byte() < FIRST_BYTE {
            return Err(Error::corrupt(offset, "an offset into the header of a region"));
        }
        match offset.byte().checked_add(length) {
            Some(end) if end <= region.length => Ok(region),
            _ => {
                let end = region.length;
                let what = format!("{length} bytes reach past the end of the region ({end} bytes)");
                Err(Error::corrupt(offset, what))
            }
        }
    }
}

impl<R: ReadAt> Regions<R> {
    /// Fills `buf`, past the cache: for file data.
    pub(crate) fn read_exact(&self, buf: &mut [u8], offset: RegionOffset) -> Result<()> {
        let region = self.locate(offset, buf.len() as u64)?;
        fill(region, buf, offset.byte()).map_err(|error| or_at(error, offset))
    }

    /// Fills `buf` through the cache: for metadata.
    pub(crate) fn read_metadata(&self, mut buf: &mut [u8], offset: RegionOffset) -> Result<()> {
        let region = self.locate(offset, buf.len() as u64)?;
        if buf.len() as u64 > WINDOW {
            return self.read_exact(buf, offset);
        }
        let mut byte = offset.byte();
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.resize_with(WINDOWS, || None);
        while !buf.is_empty() {
            let number = byte / WINDOW;
            // Regions begin at different places, so that parents' metadata does not push each other out.
            let set = number.wrapping_add(u64::from(offset.region()) * 5) % (WINDOWS / WAYS) as u64;
            let set = usize::try_from(set).unwrap_or(0) * WAYS;
            let ways = &mut windows[set..set + WAYS];
            let is_it = |window: &Option<Window>| {
                window.as_ref().is_some_and(|window| {
                    window.number == number && window.region == offset.region()
                })
            };
            let known = ways.iter().position(is_it);
            ways[..=known.unwrap_or(WAYS - 1)].rotate_right(1);
            let window = match (known, &mut ways[0]) {
                (Some(_), Some(window)) => window,
                (_, place) => {
                    let start = number * WINDOW;
                    let length = (region.length - start).min(WINDOW);
                    let mut bytes = place.take().map(|window| window.bytes).unwrap_or_default();
                    bytes.resize(usize::try_from(length).unwrap_or(0), 0);
                    fill(region, &mut bytes, start).map_err(|error| or_at(error, offset))?;
                    place.insert(Window { region: offset.region(), number, bytes })
                }
            };
            let inside = usize::try_from(byte % WINDOW).unwrap_or(0);
            let length = (window.bytes.len() - inside).min(buf.len());
            buf[..length].copy_from_slice(&window.bytes[inside..inside + length]);
            buf = &mut buf[length..];
            byte += length as u64;
        }
        Ok(())
    }

    /// Reads a structure through the cache.
    pub(crate) fn read_struct<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        &self,
        offset: RegionOffset,
    ) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read_metadata(value.as_mut_bytes(), offset)?;
        Ok(value)
    }

    /// Reads `length` bytes through the cache. The length is checked before memory is taken.
    pub(crate) fn read_bytes(&self, offset: RegionOffset, length: u64) -> Result<Vec<u8>> {
        self.locate(offset, length)?;
        let length = usize::try_from(length)
            .map_err(|_| Error::corrupt(offset, "more bytes than this machine can address"))?;
        let mut bytes = vec![0; length];
        self.read_metadata(&mut bytes, offset)?;
        Ok(bytes)
    }
}

fn or_at(error: Error, offset: RegionOffset) -> Error {
    if error.offset().is_some() { error } else { error.at(offset) }
}

fn fill<R: ReadAt>(region: &Region<R>, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
    while !buf.is_empty() {
        match region.file.read_at(buf, offset) {
            Ok(0) => {
                let what = format!("{} ends while it is read", region.name);
                return Err(Error::new(ErrorKind::Corrupt, what));
            }
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(format!("reading {}", region.name), e)),
        }
    }
    Ok(())
}
