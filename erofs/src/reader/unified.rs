//! The unified address space: which device a block address of "device 0" really belongs to.

use std::collections::{BTreeMap, BTreeSet};

/// Disjoint ranges of blocks that belong to extra devices. Everything else is the primary's.
#[derive(Debug, Default)]
pub(crate) struct UnifiedSpace {
    /// First block to (end, device, block of the device that the first block is).
    ranges: BTreeMap<u64, (u64, u16, u64)>,
}

impl UnifiedSpace {
    /// `slots` yields (first block, blocks) in slot order. A slot at block 0 is not mapped. Where slots
    /// overlap the earlier slot wins, as in the kernel's linear search; keeping the ranges disjoint makes a
    /// lookup logarithmic whatever the table says.
    pub(crate) fn new(slots: impl Iterator<Item = (u64, u64)>) -> Self {
        // A sweep over all starts and ends; the lowest slot that is open owns the piece up to the next one.
        let mut edges = Vec::new();
        let mut firsts = BTreeMap::new();
        for (device, (first, blocks)) in (1_u16..=u16::MAX).zip(slots) {
            if first != 0 && blocks != 0 {
                edges.push((first, true, device));
                edges.push((first.saturating_add(blocks), false, device));
                firsts.insert(device, first);
            }
        }
        edges.sort_unstable();
        let mut ranges = BTreeMap::new();
        let mut open = BTreeSet::new();
        for (index, (at, opens, device)) in edges.iter().enumerate() {
            match opens {
                true => open.insert(*device),
                false => open.remove(device),
            };
            let Some((next, ..)) = edges.get(index + 1).filter(|(next, ..)| next > at) else {
                continue;
            };
            if let Some(owner) = open.first() {
                ranges.insert(*at, (*next, *owner, at - firsts[owner]));
            }
        }
        Self { ranges }
    }

    /// The device and its block for a unified address; `None`: the primary, same block.
    pub(crate) fn resolve(&self, block: u64) -> Option<(u16, u64)> {
        let (start, (end, device, origin)) = self.ranges.range(..=block).next_back()?;
        (block < *end).then(|| (*device, origin + (block - start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_slot_wins_where_slots_overlap() {
        let space = UnifiedSpace::new([(10, 5), (0, 100), (8, 20), (12, 40)].into_iter());
        let linear = |block: u64| {
            [(1, 10, 5), (3, 8, 20), (4, 12, 40)]
                .into_iter()
                .find(|(_, first, blocks)| (*first..first + blocks).contains(&block))
                .map(|(device, first, _)| (device, block - first))
        };
        for block in 0..70 {
            assert_eq!(space.resolve(block), linear(block), "block {block}");
        }
    }
}
