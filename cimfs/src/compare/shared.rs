//! What two images have in common because it is the same bytes of the same file.

use std::collections::HashMap;

use crate::format::RegionOffset;
use crate::{FileId, FileView, Image, ReadAt};

pub(super) struct Shared {
    /// For every region of the first image the one of the second that is the same file.
    regions: Vec<Option<u16>>,
    /// Whether all regions of one image are regions of the other under the same index, so that offsets in bytes
    /// that both have mean the same bytes again.
    related: bool,
    /// File tables that were compared.
    tables: HashMap<u32, bool>,
}

impl Shared {
    pub(super) fn new<A: ReadAt, B: ReadAt>(a: &Image<A>, b: &Image<B>) -> Self {
        let identities = (0..=u16::MAX).zip(b.regions().iter());
        let identities = identities.filter_map(|(index, region)| {
            let identity = region.file().identity()?;
            Some(((identity, region.name()), index))
        });
        let identities: HashMap<_, _> = identities.collect();
        let regions: Vec<_> = a
            .regions()
            .iter()
            .map(|region| identities.get(&(region.file().identity()?, region.name())).copied())
            .collect();
        let common = regions.len().min(b.region_count());
        let under_one_index = |(index, other): (usize, &Option<u16>)| {
            other.is_some_and(|other| usize::from(other) == index)
        };
        let related = regions.iter().enumerate().take(common).all(under_one_index);
        Self { regions, related, tables: HashMap::new() }
    }

    /// Whether two offsets, of the first and the second image, are one place.
    pub(super) fn is_same_offset(&self, before: RegionOffset, after: RegionOffset) -> bool {
        if before.is_null() || after.is_null() {
            return before.is_null() && after.is_null();
        }
        let region = self.regions.get(usize::from(before.region())).copied().flatten();
        region == Some(after.region()) && before.byte() == after.byte()
    }

    /// Whether two files are one, with all that their entries point at.
    pub(super) fn is_same_place(&self, before: &FileView, after: &FileView) -> bool {
        self.related
            && self.is_same_offset(before.position, after.position)
            && before.entry_size == after.entry_size
    }

    /// Whether both images have a file's entry at the same place.
    pub(super) fn is_same_entry<A: ReadAt, B: ReadAt>(
        &mut self,
        a: &Image<A>,
        b: &Image<B>,
        id: FileId,
    ) -> bool {
        let Some((table, _)) = id.place().filter(|_| self.related) else { return false };
        if let Some(same) = self.tables.get(&table) {
            return *same;
        }
        // What cannot be read is found where it is wanted.
        let tables = a.file_table(table).ok().zip(b.file_table(table).ok());
        let same = tables.is_some_and(|(before, after)| {
            self.is_same_offset(before.offset, after.offset)
                && before.count == after.count
                && before.entry_size == after.entry_size
        });
        self.tables.insert(table, same);
        same
    }
}
