//! Bins and the cells in them: what an offset may point at.

use zerocopy::FromBytes;

use super::format::{BIN_HEADER, BLOCK, BinHeader, NIL};

/// What is wrong with a record; the key it belongs to is added later.
#[derive(Debug)]
pub(super) struct Damage(pub(super) String);

impl Damage {
    pub(super) fn at(cell: u32, what: impl std::fmt::Display) -> Self {
        Self(format!("{what} (cell {cell:#x})"))
    }
}

/// The cells of all bins.
#[derive(Debug)]
pub(super) struct Cells<'a> {
    bins: &'a [u8],
    /// Starts of allocated cells.
    allocated: Bitmap,
    /// Cells that a record was read from. Nothing but security descriptors is ever shared.
    claimed: Bitmap,
}

impl<'a> Cells<'a> {
    /// Walks all bins and all cells. `bins` is a multiple of [`BLOCK`] and not longer than offsets reach.
    pub(super) fn new(bins: &'a [u8]) -> Result<Self, Damage> {
        let mut allocated = Bitmap::new(bins.len());
        let mut start = 0;
        while start < bins.len() {
            let damage = |what: &str| Damage(format!("the bin at {start:#x} {what}"));
            let (header, _) = BinHeader::ref_from_prefix(&bins[start..])
                .map_err(|_| damage("has no room for its header"))?;
            if header.signature != BinHeader::SIGNATURE {
                return Err(damage("has no signature"));
            }
            if header.offset.get() as usize != start {
                return Err(damage("says that it is somewhere else"));
            }
            let size = header.size.get() as usize;
            if size == 0 || !size.is_multiple_of(BLOCK) || size > bins.len() - start {
                return Err(damage("has an impossible size"));
            }
            let end = start + size;
            let mut cell = start + BIN_HEADER;
            while cell < end {
                let size = size_at(bins, cell);
                let length = size.unsigned_abs() as usize;
                if length < 8 || !length.is_multiple_of(8) || length > end - cell {
                    return Err(Damage(format!("the cell at {cell:#x} has an impossible size")));
                }
                if size < 0 {
                    allocated.set(cell);
                }
                cell += length;
            }
            start = end;
        }
        Ok(Self { bins, claimed: Bitmap::new(bins.len()), allocated })
    }

    /// The content of a cell, which nothing else has read.
    pub(super) fn claim(&mut self, cell: u32, what: &str) -> Result<&'a [u8], Damage> {
        if cell == NIL {
            return Err(Damage(format!("it has no {what}")));
        }
        let start = cell as usize;
        if !self.allocated.get(start) {
            return Err(Damage::at(cell, format_args!("its {what} is in no allocated cell")));
        }
        if self.claimed.get(start) {
            return Err(Damage::at(cell, format_args!("its {what} is used by another record too")));
        }
        self.claimed.set(start);
        let end = start + size_at(self.bins, start).unsigned_abs() as usize;
        Ok(&self.bins[start + 4..end])
    }
}

/// The size field of a cell that begins inside of the bins: they end 8-aligned, as cells do.
fn size_at(bins: &[u8], cell: usize) -> i32 {
    bins[cell..].first_chunk().copied().map_or(0, i32::from_le_bytes)
}

/// One bit for every place where a cell can begin.
#[derive(Debug)]
struct Bitmap(Vec<u64>);

impl Bitmap {
    const STEP: usize = 8;

    fn new(bytes: usize) -> Self {
        Self(vec![0; bytes.div_ceil(Self::STEP * 64)])
    }

    fn set(&mut self, at: usize) {
        let bit = at / Self::STEP;
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    fn get(&self, at: usize) -> bool {
        let bit = at / Self::STEP;
        at.is_multiple_of(Self::STEP)
            && self.0.get(bit / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }
}
