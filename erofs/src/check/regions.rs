//! Which bytes of the image hold what, to find bytes that are used twice.

use crate::Nid;
use crate::check::Code;

/// Byte ranges of the primary.
#[derive(Debug, Default)]
pub(super) struct Regions {
    /// Start, end, and the inode it belongs to.
    metadata: Vec<(u64, u64, Option<Nid>)>,
    data: Vec<(u64, u64, Nid)>,
}

impl Regions {
    pub(super) fn metadata(&mut self, start: u64, length: u64, nid: Option<Nid>) {
        if length > 0 {
            self.metadata.push((start, start.saturating_add(length), nid));
        }
    }

    pub(super) fn data(&mut self, start: u64, length: u64, nid: Nid) {
        if length > 0 {
            self.data.push((start, start.saturating_add(length), nid));
        }
    }

    /// Reports metadata on metadata and data on metadata. Files may share data.
    pub(super) fn overlaps(mut self, mut report: impl FnMut(Code, u64, Option<Nid>, String)) {
        let name = |nid: Option<Nid>| match nid {
            Some(nid) => format!("inode {nid}"),
            None => "the superblock, a table or a shared xattr".to_owned(),
        };
        self.metadata.sort_unstable();
        let mut before: Option<(u64, Option<Nid>)> = None;
        for (start, end, nid) in &self.metadata {
            match before {
                Some((covered, owner)) if *start < covered => {
                    let message = format!("{} begins inside {}", name(*nid), name(owner));
                    report(Code::MetadataOverlap, *start, *nid, message);
                }
                _ => {}
            }
            if before.is_none_or(|(covered, _)| *end > covered) {
                before = Some((*end, *nid));
            }
        }

        // Both lists are sorted, so one pass over the data with a cursor in the metadata would miss long
        // regions that began earlier; the running maximum of ends, kept per metadata region, does not.
        let mut reach = 0;
        let reaches: Vec<u64> = self
            .metadata
            .iter()
            .map(|(_, end, _)| {
                reach = reach.max(*end);
                reach
            })
            .collect();
        self.data.sort_unstable();
        for (start, end, nid) in &self.data {
            // The last metadata region that begins before this data ends.
            let below = self.metadata.partition_point(|(other, ..)| other < end);
            if below > 0 && reaches[below - 1] > *start {
                let message =
                    format!("data of inode {nid} at {start:#x}..{end:#x} covers metadata");
                report(Code::DataOverlap, *start, Some(*nid), message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found_and_neighbours_are_not() {
        let mut regions = Regions::default();
        regions.metadata(0, 100, None);
        regions.metadata(100, 50, Some(Nid(1)));
        regions.metadata(149, 10, Some(Nid(2)));
        regions.data(159, 100, Nid(1));
        regions.data(159, 100, Nid(2));
        regions.data(158, 1, Nid(3));
        let mut found = Vec::new();
        regions.overlaps(|code, offset, nid, _| found.push((code, offset, nid)));
        assert_eq!(
            found,
            [(Code::MetadataOverlap, 149, Some(Nid(2))), (Code::DataOverlap, 158, Some(Nid(3))),]
        );
    }
}
