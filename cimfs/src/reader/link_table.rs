//! Link tables: names with values, sorted by upcased name.

use std::cmp::Ordering;
use std::marker::PhantomData;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use crate::format::{LinkTableHeader, NAME_MAX, RegionOffset};
use crate::reader::Regions;
use crate::{Error, Name, ReadAt, Result, Upcase};

/// A table whose frame was checked: its length, and that values and offsets of names fit. Names are
/// checked one by one as they are read.
pub(crate) struct LinkTable<V> {
    start: RegionOffset,
    length: u64,
    count: u32,
    value: PhantomData<fn() -> V>,
}

const HEADER: u64 = size_of::<LinkTableHeader>() as u64;

impl<V: FromBytes + IntoBytes> LinkTable<V> {
    const VALUE: u64 = size_of::<V>() as u64;

    /// `limit`: bytes that the table may have.
    pub(crate) fn open<R: ReadAt>(
        regions: &Regions<R>,
        start: RegionOffset,
        limit: u64,
    ) -> Result<Self> {
        let header: LinkTableHeader = regions.read_struct(start)?;
        let (length, count) = (u64::from(header.length.get()), header.count.get());
        if length < HEADER || length > limit {
            let what = format!("a link table of {length} bytes in {limit}");
            return Err(Error::corrupt(start, what));
        }
        if u64::from(count) > (length - HEADER) / (Self::VALUE + 4) {
            let what = format!("a link table of {length} bytes with {count} links");
            return Err(Error::corrupt(start, what));
        }
        regions.locate(start, length)?;
        Ok(Self { start, length, count, value: PhantomData })
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    fn at(&self, byte: u64) -> Result<RegionOffset> {
        self.start.checked_add(byte).ok_or_else(|| Error::corrupt(self.start, "past its region"))
    }

    pub(crate) fn value<R: ReadAt>(&self, regions: &Regions<R>, index: u32) -> Result<V> {
        regions.read_struct(self.at(HEADER + u64::from(index) * Self::VALUE)?)
    }

    /// First byte behind the offsets of names.
    pub(crate) fn names_start(&self) -> u64 {
        HEADER + u64::from(self.count) * (Self::VALUE + 4)
    }

    /// Where the name of a link lies in the table.
    pub(crate) fn name_offset<R: ReadAt>(&self, regions: &Regions<R>, index: u32) -> Result<u64> {
        let place = HEADER + u64::from(self.count) * Self::VALUE + u64::from(index) * 4;
        let offset: U32 = regions.read_struct(self.at(place)?)?;
        Ok(offset.get().into())
    }

    pub(crate) fn name<R: ReadAt>(&self, regions: &Regions<R>, index: u32) -> Result<Name> {
        let offset = self.name_offset(regions, index)?;
        let bad = |what: String| Error::corrupt(self.start, format!("link {index}: {what}"));
        if offset < self.names_start() || offset + 2 > self.length {
            return Err(bad(format!("its name at {offset:#x} is outside the names")));
        }
        let count: U16 = regions.read_struct(self.at(offset)?)?;
        let count = usize::from(count.get());
        if count > NAME_MAX || offset + 2 + 2 * count as u64 > self.length {
            return Err(bad(format!("a name of {count} code units does not fit")));
        }
        let mut units = [U16::ZERO; NAME_MAX];
        let units = &mut units[..count];
        regions.read_metadata(units.as_mut_bytes(), self.at(offset + 2)?)?;
        Ok(Name::from_units(units.iter().map(|unit| unit.get()).collect::<Box<[u16]>>()))
    }

    /// Finds a name. Of several that differ only in case, the one that is exactly the same comes first;
    /// `exact` takes no other.
    ///
    /// Whether tables are sorted by code units or by characters is not known, so both are tried where they
    /// make a difference.
    pub(crate) fn find<R: ReadAt>(
        &self,
        regions: &Regions<R>,
        upcase: &Upcase,
        name: &Name,
        exact: bool,
    ) -> Result<Option<u32>> {
        let found = self.search(regions, name, exact, |a, b| upcase.compare(a, b))?;
        let orders_differ = name.units().iter().any(|unit| upcase.fold(*unit) >= 0xD800);
        if found.is_some() || !orders_differ {
            return Ok(found);
        }
        self.search(regions, name, exact, |a, b| upcase.compare_by_character(a, b))
    }

    fn search<R: ReadAt>(
        &self,
        regions: &Regions<R>,
        name: &Name,
        exact: bool,
        compare: impl Fn(&[u16], &[u16]) -> Ordering,
    ) -> Result<Option<u32>> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match compare(self.name(regions, middle)?.units(), name.units()) {
                Ordering::Less => low = middle + 1,
                _ => high = middle,
            }
        }
        let mut first = None;
        for index in low..self.count {
            let candidate = self.name(regions, index)?;
            if candidate == *name {
                return Ok(Some(index));
            }
            if compare(candidate.units(), name.units()) != Ordering::Equal {
                break;
            }
            first = first.or(Some(index));
        }
        Ok(first.filter(|_| !exact))
    }
}
