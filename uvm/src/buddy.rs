//! Where on a packed pmem device a file lies: a buddy allocator of seven classes, 1 MiB to 4 GiB, each four times the
//! one below (reference: hcsshim's classes, so that offsets agree).

/// The smallest piece.
const SMALLEST: u64 = 1 << 20;
/// Classes of pieces, each four times the size of the one below.
const CLASSES: usize = 7;
/// Buddies that make one piece of the next class.
const BUDDIES: u64 = 4;

/// One device's free and used space. It starts as one free piece of the largest class that fits in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Buddy {
    /// Offsets of free pieces by class, sorted, so that the same requests give the same offsets.
    free: [Vec<u64>; CLASSES],
    used: Vec<(u64, usize)>,
}

fn size_of(class: usize) -> u64 {
    let mut size = SMALLEST;
    for _ in 0..class {
        size *= BUDDIES;
    }
    size
}

/// The smallest class that holds so many bytes.
fn class_of(size: u64) -> Option<usize> {
    (0..CLASSES).find(|class| size_of(*class) >= size)
}

impl Buddy {
    /// Of a device of `size` bytes; what is beyond the last whole smallest piece is not used.
    pub(crate) fn new(size: u64) -> Self {
        let mut buddy = Self { free: Default::default(), used: Vec::new() };
        let (mut offset, mut left) = (0, size);
        for class in (0..CLASSES).rev() {
            while left >= size_of(class) {
                buddy.free[class].push(offset);
                offset += size_of(class);
                left -= size_of(class);
            }
        }
        buddy
    }

    /// A piece for so many bytes: its offset; `None` if there is none.
    pub(crate) fn allocate(&mut self, size: u64) -> Option<u64> {
        let class = class_of(size)?;
        let from = (class..CLASSES).find(|class| !self.free[*class].is_empty())?;
        let offset = self.free[from].remove(0);
        for split in (class..from).rev() {
            for buddy in (1..BUDDIES).rev() {
                insert(&mut self.free[split], offset + buddy * size_of(split));
            }
        }
        self.used.push((offset, class));
        Some(offset)
    }

    /// Gives a piece back. False if there is none at that offset.
    pub(crate) fn release(&mut self, offset: u64) -> bool {
        let Some(at) = self.used.iter().position(|(used, _)| *used == offset) else { return false };
        let (mut offset, mut class) = self.used.swap_remove(at);
        insert(&mut self.free[class], offset);
        while class + 1 < CLASSES {
            let size = size_of(class);
            let parent = offset - offset % (size * BUDDIES);
            let family: Vec<u64> = (0..BUDDIES).map(|buddy| parent + buddy * size).collect();
            if !family.iter().all(|buddy| self.free[class].binary_search(buddy).is_ok()) {
                break;
            }
            self.free[class].retain(|free| !family.contains(free));
            (offset, class) = (parent, class + 1);
            insert(&mut self.free[class], offset);
        }
        true
    }
}

fn insert(sorted: &mut Vec<u64>, offset: u64) {
    let at = sorted.partition_point(|other| *other < offset);
    sorted.insert(at, offset);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn pieces_are_of_the_next_class_and_found_again() {
        let mut buddy = Buddy::new(4 << 30);
        assert_eq!(buddy.allocate(1), Some(0));
        assert_eq!(buddy.allocate(MIB), Some(MIB));
        assert_eq!(buddy.allocate(MIB + 1), Some(4 * MIB));
        assert!(buddy.release(0) && !buddy.release(0));
        assert_eq!(buddy.allocate(MIB), Some(0));
        assert_eq!(buddy.allocate((4 << 30) + 1), None);
        assert_eq!(buddy.allocate(4 << 30), None, "it is in pieces");
    }

    #[test]
    fn a_full_device_says_so() {
        let mut buddy = Buddy::new(16 * MIB);
        for _ in 0..16 {
            assert!(buddy.allocate(MIB).is_some());
        }
        assert_eq!(buddy.allocate(1), None);
    }

    proptest! {
        #[test]
        fn pieces_never_overlap_and_everything_comes_back(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..40 * MIB, any::<prop::sample::Index>()), 1..200),
            size in MIB..2 * (1_u64 << 30),
        ) {
            let fresh = Buddy::new(size);
            let mut buddy = fresh.clone();
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (take, bytes, which) in steps {
                if take {
                    if let Some(offset) = buddy.allocate(bytes) {
                        prop_assert!(offset + bytes <= size);
                        let end = offset + bytes.max(1);
                        prop_assert!(held.iter().all(|(from, to)| end <= *from || *to <= offset));
                        held.push((offset, end));
                    }
                } else if !held.is_empty() {
                    let (offset, _) = held.swap_remove(which.index(held.len()));
                    prop_assert!(buddy.release(offset));
                }
            }
            for (offset, _) in held {
                prop_assert!(buddy.release(offset));
            }
            prop_assert!(buddy.used.is_empty());
            prop_assert_eq!(buddy, fresh);
        }
    }
}
