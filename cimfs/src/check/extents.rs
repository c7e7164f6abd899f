//! Which bytes are used, and whether twice.

use std::collections::BTreeMap;

use super::{Checker, Code, Place};
use crate::format::OBJECT_ALIGNMENT;
use crate::{ReadAt, RegionOffset};

/// Used bytes by region and start. Equal ones are one: objects are shared.
#[derive(Default)]
pub(super) struct Extents(BTreeMap<(u16, u64), Extent>);

#[derive(Clone, Copy)]
struct Extent {
    /// The longest that begins here.
    length: u64,
    metadata: bool,
    /// Whether data and metadata begin at the same byte.
    mixed: bool,
}

impl Extents {
    fn insert(&mut self, offset: RegionOffset, length: u64, metadata: bool) {
        let new = Extent { length, metadata, mixed: false };
        let extent = self.0.entry((offset.region(), offset.byte())).or_insert(new);
        extent.mixed |= extent.metadata != metadata;
        extent.length = extent.length.max(length);
        extent.metadata |= metadata;
    }

    pub(super) fn data(&mut self, offset: RegionOffset, length: u64) {
        self.insert(offset, length, false);
    }
}

impl<R: ReadAt> Checker<'_, R> {
    /// Takes down a piece of metadata that was found to lie in its region.
    pub(super) fn metadata(&mut self, offset: RegionOffset, length: u64) {
        if !offset.byte().is_multiple_of(OBJECT_ALIGNMENT) {
            let place = Place { offset: Some(offset), path: None };
            self.find(Code::Alignment, place, "metadata that is not at a multiple of 8");
        }
        self.extents.insert(offset, length, true);
    }

    pub(super) fn overlaps(&mut self) {
        let extents = std::mem::take(&mut self.extents);
        let mut before: Option<(u16, u64, bool)> = None;
        for ((region, start), extent) in extents.0 {
            let end = start.saturating_add(extent.length);
            let overlapped = before.filter(|(other, end, _)| *other == region && *end > start);
            if let Some((_, other_end, metadata)) = overlapped {
                let code = match metadata || extent.metadata {
                    true => Code::Overlap,
                    false => Code::DataOverlap,
                };
                let place = Place { offset: RegionOffset::new(region, start), path: None };
                let what =
                    format!("{} bytes, of which others end at {other_end:#x}", extent.length);
                self.find(code, place, what);
            }
            if extent.mixed {
                let place = Place { offset: RegionOffset::new(region, start), path: None };
                self.find(Code::Overlap, place, "data and metadata at once");
            }
            before = match before {
                Some((other, other_end, metadata)) if other == region && other_end > end => {
                    Some((other, other_end, metadata))
                }
                _ => Some((region, end, extent.metadata)),
            };
        }
    }
}
