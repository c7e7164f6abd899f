//! The guest's memory: the regions that the machine's process shares, by the guest's addresses.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;
use sys::{SharedMemory, read_to_shared};

/// Most regions of one machine; QEMU asks, and has one for each pmem device at most.
pub(super) const REGIONS: usize = 509;

/// A stretch of the guest's addresses.
#[derive(Debug)]
pub(super) struct Region {
    /// Its first address as the guest has it, and as the machine's process does.
    pub(super) guest: u64,
    pub(super) process: u64,
    pub(super) memory: SharedMemory,
}

/// All of them, as they were at some moment. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub(crate) struct GuestMemory(Arc<Vec<Arc<Region>>>);

/// A fixed place in the guest's memory, which stays mapped as long as this is held.
#[derive(Debug, Clone)]
pub(super) struct Place {
    region: Arc<Region>,
    at: usize,
}

impl Place {
    /// Reads at an offset from here.
    pub(super) fn read<const LENGTH: usize>(&self, offset: usize) -> Option<[u8; LENGTH]> {
        let mut bytes = [0; LENGTH];
        self.region.memory.read(self.at.checked_add(offset)?, &mut bytes)?;
        Some(bytes)
    }

    pub(super) fn write(&self, offset: usize, bytes: &[u8]) -> Option<()> {
        self.region.memory.write(self.at.checked_add(offset)?, bytes)
    }

    pub(super) fn load(&self, offset: usize) -> Option<u16> {
        self.region.memory.load(self.at.checked_add(offset)?)
    }

    pub(super) fn store(&self, offset: usize, value: u16) -> Option<()> {
        self.region.memory.store(self.at.checked_add(offset)?, value)
    }
}

impl GuestMemory {
    /// With one region more; `None` if there are too many.
    pub(super) fn with(&self, region: Region) -> Option<Self> {
        let mut regions = self.0.as_ref().clone();
        regions.push(Arc::new(region));
        (regions.len() <= REGIONS).then(|| Self(Arc::new(regions)))
    }

    /// Without the region that begins there; `None` if none does.
    pub(super) fn without(&self, guest: u64) -> Option<Self> {
        let mut regions = self.0.as_ref().clone();
        let index = regions.iter().position(|region| region.guest == guest)?;
        regions.swap_remove(index);
        Some(Self(Arc::new(regions)))
    }

    /// Where `length` bytes at an address of the machine's process are.
    pub(super) fn of_process(&self, address: u64, length: usize) -> Option<Place> {
        self.place(|region| region.process, address, length)
    }

    /// Where `length` bytes at an address of the guest are.
    pub(super) fn of_guest(&self, address: u64, length: usize) -> Option<Place> {
        self.place(|region| region.guest, address, length)
    }

    fn place(&self, of: impl Fn(&Region) -> u64, address: u64, length: usize) -> Option<Place> {
        self.0.iter().find_map(|region| {
            let at = usize::try_from(address.checked_sub(of(region))?).ok()?;
            let end = at.checked_add(length)?;
            (end <= region.memory.len()).then(|| Place { region: region.clone(), at })
        })
    }
}

/// Part of a region.
#[derive(Debug, Clone, Copy)]
struct Part {
    region: usize,
    at: usize,
    length: usize,
}

/// Bytes in several places of the guest's memory, as one row.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    memory: GuestMemory,
    parts: Vec<Part>,
    length: usize,
}

impl Pieces {
    pub(super) fn new(memory: GuestMemory) -> Self {
        Self { memory, parts: Vec::new(), length: 0 }
    }

    /// Appends `length` bytes of the guest's. `None` where no memory is.
    pub(super) fn push(&mut self, mut address: u64, length: u32) -> Option<()> {
        let mut left = usize::try_from(length).ok()?;
        // Neighbours may make one stretch of the guest's.
        while left > 0 {
            let (region, at, there) =
                self.memory.0.iter().enumerate().find_map(|(index, region)| {
                    let at = usize::try_from(address.checked_sub(region.guest)?).ok()?;
                    let there = region.memory.len().checked_sub(at)?;
                    (there > 0).then_some((index, at, there))
                })?;
            let length = left.min(there);
            self.parts.push(Part { region, at, length });
            self.length += length;
            left -= length;
            address = address.checked_add(length as u64)?;
        }
        Some(())
    }

    /// Bytes of all together.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The parts of `length` bytes behind the first `skip`, and where among those bytes each begins.
    fn between(&self, skip: usize, length: usize) -> impl Iterator<Item = (usize, Part)> {
        let (mut begin, end) = (0, skip.saturating_add(length));
        self.parts.iter().filter_map(move |&part| {
            let (from, to) = (begin.max(skip), (begin + part.length).min(end));
            let at = part.at + from.saturating_sub(begin);
            begin += part.length;
            (from < to).then(|| (from - skip, Part { at, length: to - from, ..part }))
        })
    }

    /// Copies what is behind the first `skip` bytes; `None` if it is less than `to` takes.
    #[must_use]
    pub(crate) fn read(&self, skip: usize, to: &mut [u8]) -> Option<()> {
        if skip.checked_add(to.len())? > self.length {
            return None;
        }
        self.between(skip, to.len()).try_for_each(|(begin, part)| {
            let to = &mut to[begin..begin + part.length];
            self.memory.0[part.region].memory.read(part.at, to)
        })
    }

    /// Copies bytes to behind the first `skip`; `None`, and nothing done, if they do not fit.
    #[must_use]
    pub(crate) fn write(&self, skip: usize, from: &[u8]) -> Option<()> {
        if skip.checked_add(from.len())? > self.length {
            return None;
        }
        self.between(skip, from.len()).try_for_each(|(begin, part)| {
            let from = &from[begin..begin + part.length];
            self.memory.0[part.region].memory.write(part.at, from)
        })
    }

    /// Reads up to `length` bytes of a file to behind the first `skip`; with `cached` what the host has in memory.
    ///
    /// # Errors
    /// Those of `preadv2(2)`.
    pub(crate) fn read_file(
        &self,
        (skip, length): (usize, usize),
        file: BorrowedFd<'_>,
        offset: u64,
        cached: bool,
    ) -> Result<usize, Errno> {
        let pieces: Vec<_> = self
            .between(skip, length)
            .filter_map(|(_, part)| self.memory.0[part.region].memory.piece(part.at, part.length))
            .collect();
        read_to_shared(file, offset, &pieces, cached)
    }
}
