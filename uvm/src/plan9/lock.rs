//! Byte-range locks between connections.
//!
//! Among the processes of one guest the guest's kernel decides, before it asks the server. So locks of one connection never
//! refuse each other; those of another one do. Programs on the host do not see these locks.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::message::lock;

/// A range of a file, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) exclusive: bool,
    /// First byte and the one after the last.
    pub(super) bytes: (u64, u64),
    pub(super) connection: u64,
    /// The fid it was taken by.
    pub(super) fid: u32,
    pub(super) process: u32,
    pub(super) client: Vec<u8>,
}

impl Range {
    /// From what a message says; a length of 0 reaches to the end of all files.
    pub(super) fn bytes(start: u64, length: u64) -> (u64, u64) {
        let end = if length == 0 { u64::MAX } else { start.saturating_add(length) };
        (start, end)
    }

    fn overlaps(&self, (start, end): (u64, u64)) -> bool {
        self.bytes.0 < end && start < self.bytes.1
    }

    fn is_of_owner_of(&self, other: &Self) -> bool {
        (self.connection, self.process) == (other.connection, other.process)
            && self.client == other.client
    }

    fn refuses(&self, other: &Self) -> bool {
        self.connection != other.connection
            && (self.exclusive || other.exclusive)
            && self.overlaps(other.bytes)
    }
}

/// Most ranges that all files together may have locked.
const RANGES: usize = 65_536;

/// The locked ranges of files, by their identity on the host.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<(u64, u64), Vec<Range>>>);

impl Locks {
    fn files(&self) -> std::sync::MutexGuard<'_, HashMap<(u64, u64), Vec<Range>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks or unlocks; the status of `Rlock`.
    pub(super) fn set(&self, file: (u64, u64), kind: u8, range: Range) -> Result<u8, Errno> {
        if !matches!(kind, lock::READ | lock::WRITE | lock::UNLOCK) || range.client.len() > 256 {
            return Err(Errno::INVAL);
        }
        let mut files = self.files();
        if kind != lock::UNLOCK {
            let locked: usize = files.values().map(Vec::len).sum();
            // The range itself, and another when the owner's old one is cut in two.
            if locked + 2 > RANGES {
                return Err(Errno::NOLCK);
            }
        }
        let ranges = files.entry(file).or_default();
        let refused = kind != lock::UNLOCK && ranges.iter().any(|held| held.refuses(&range));
        if !refused {
            cut(ranges, &range);
            if kind != lock::UNLOCK {
                ranges.push(range);
            }
        }
        if ranges.is_empty() {
            files.remove(&file);
        }
        Ok(if refused { lock::BLOCKED } else { lock::SUCCESS })
    }

    /// The range that would refuse this one.
    pub(super) fn refusing(&self, file: (u64, u64), range: &Range) -> Option<Range> {
        self.files().get(&file)?.iter().find(|held| held.refuses(range)).cloned()
    }

    /// Gives up what a connection has locked by one of its fids, or by all.
    pub(super) fn release(&self, connection: u64, fid: Option<u32>) {
        self.files().retain(|_, ranges| {
            ranges.retain(|held| {
                held.connection != connection || fid.is_some_and(|fid| held.fid != fid)
            });
            !ranges.is_empty()
        });
    }

    /// Whether nothing at all is locked, so that releasing can be left out.
    pub(super) fn is_empty(&self) -> bool {
        self.files().is_empty()
    }
}

/// Takes a range out of what its owner has locked.
fn cut(ranges: &mut Vec<Range>, out: &Range) {
    let (start, end) = out.bytes;
    let mut kept = Vec::with_capacity(ranges.len() + 1);
    for held in ranges.drain(..) {
        if !held.is_of_owner_of(out) || !held.overlaps(out.bytes) {
            kept.push(held);
            continue;
        }
        if held.bytes.0 < start {
            kept.push(Range { bytes: (held.bytes.0, start), ..held.clone() });
        }
        if end < held.bytes.1 {
            kept.push(Range { bytes: (end, held.bytes.1), ..held });
        }
    }
    *ranges = kept;
}
