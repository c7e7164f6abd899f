//! Hives that were not closed properly, and the logs beside them.
//!
//! The kernel writes changes to one of two logs first, and to the primary file when it gets to it. Logs of Windows
//! 8.1 and later hold entries with whole pages and hashes; older ones hold one set of pages of 512 bytes. Both are in
//! the specification of M. Suhanov, whose samples are recovered as Windows 10 and 7 do.

use std::borrow::Cow;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::format::{self, BIN_HEADER, BLOCK, BaseBlock, BinHeader};
use crate::{Error, Result};

/// Size of the base block in a log, of sectors, and of the pages of old logs.
const SECTOR: usize = 512;
/// The start of the only page set in an old log.
const OLD_SIGNATURE: [u8; 4] = *b"DIRT";

/// A hive's bytes with everything that its logs add.
#[derive(Debug, Clone)]
pub struct Recovered<'a> {
    /// A primary file that was closed properly.
    pub bytes: Cow<'a, [u8]>,
    /// Pages that were taken from logs: none if the hive needed nothing.
    pub pages: usize,
}

/// Applies the logs of a hive, in any order, if it needs them: `X.LOG1` and `X.LOG2`, or `X.LOG`.
///
/// A hive that was closed properly is complete, and its logs are old. One that was not is corrupt when no log can be
/// applied; so is what [`Hive::read`](super::Hive::read) refuses in the result.
pub fn recover<'a>(primary: &'a [u8], logs: &[&[u8]]) -> Result<Recovered<'a>> {
    if primary.len() > format::MAX_FILE {
        let kind = crate::ErrorKind::TooLarge;
        return Err(Error::new(kind, "registry hive: larger than 512 MiB"));
    }
    let base = BaseBlock::read_from_prefix(primary).ok().map(|(base, _)| base);
    let base = base.filter(is_sound);
    if base.as_ref().is_some_and(|base| base.sequence == base.second_sequence) {
        return Ok(Recovered { bytes: Cow::Borrowed(primary), pages: 0 });
    }
    let logs: Vec<(BaseBlock, &[u8])> = logs
        .iter()
        .filter_map(|log| Some((BaseBlock::read_from_prefix(log).ok()?.0, *log)))
        .filter(|(base, _)| is_sound(base))
        .collect();
    let entries = logs.iter().any(|(base, _)| base.file_type.get() == format::LOG_WITH_ENTRIES);
    let recovered =
        if entries { from_entries(primary, base, logs) } else { from_old_log(primary, base, logs) };
    recovered.ok_or_else(|| {
        Error::corrupt(
            "registry hive: it was not closed properly, and there is no log of its changes",
        )
    })
}

fn is_sound(base: &BaseBlock) -> bool {
    base.signature == BaseBlock::SIGNATURE && base.major.get() == 1 && base.checksum_is_right()
}

/// The file as it becomes.
struct Image {
    bytes: Vec<u8>,
    base: BaseBlock,
    pages: usize,
}

impl Image {
    fn new(primary: &[u8], base: BaseBlock) -> Self {
        Self { bytes: primary.to_vec(), base, pages: 0 }
    }

    fn end(&self) -> usize {
        BLOCK + self.base.bins_size.get() as usize
    }

    fn put(&mut self, offset: usize, page: &[u8]) {
        let start = BLOCK + offset;
        let end = start + page.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(page);
        self.pages += 1;
    }

    fn finish<'a>(mut self, sequence: u32) -> Option<Recovered<'a>> {
        // Growing pages are all in the log: see `entry`.
        if self.pages == 0 || self.bytes.len() < self.end() {
            return None;
        }
        self.base.file_type.set(format::PRIMARY);
        self.base.sequence.set(sequence);
        self.base.second_sequence.set(sequence);
        self.base.checksum.set(self.base.computed_checksum());
        self.bytes[..SECTOR].copy_from_slice(self.base.as_bytes());
        Some(Recovered { bytes: self.bytes.into(), pages: self.pages })
    }
}

/// The head of an entry of a log.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct LogEntry {
    pub(super) signature: [u8; 4],
    pub(super) size: U32,
    /// The lowest bit becomes that of the hive's flags.
    pub(super) flags: U32,
    pub(super) sequence: U32,
    pub(super) bins_size: U32,
    pub(super) pages: U32,
    /// Of everything behind this head.
    pub(super) content_hash: U64,
    /// Of this head up to here.
    pub(super) head_hash: U64,
}

const _: () = assert!(size_of::<LogEntry>() == 40);

impl LogEntry {
    pub(super) const SIGNATURE: [u8; 4] = *b"HvLE";
    /// Bytes that `head_hash` covers.
    pub(super) const HASHED: usize = 32;
}

/// Where a page of an entry goes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct PageReference {
    pub(super) offset: U32,
    pub(super) size: U32,
}

fn from_entries<'a>(
    primary: &[u8],
    base: Option<BaseBlock>,
    mut logs: Vec<(BaseBlock, &[u8])>,
) -> Option<Recovered<'a>> {
    logs.retain(|(base, _)| base.file_type.get() == format::LOG_WITH_ENTRIES);
    logs.sort_by_key(|(base, _)| base.sequence.get());
    let mut image = if let Some(base) = base {
        // Older logs are of a state that the hive has left behind.
        logs.retain(|(log, _)| log.sequence.get() >= base.second_sequence.get());
        Image::new(primary, base)
    } else {
        let newest = logs.pop()?;
        let base = newest.0.clone();
        logs = vec![newest];
        Image::new(primary, base)
    };
    if image.bytes.len() < BLOCK {
        image.bytes.resize(BLOCK, 0);
    }
    let mut last: Option<u32> = None;
    for (log, bytes) in logs {
        let mut rest = bytes.get(SECTOR..).unwrap_or_default();
        loop {
            let expected = match last {
                Some(last) => last.wrapping_add(1),
                None => log.sequence.get(),
            };
            // Behind the last entry may be those of an earlier use of the log.
            let Some(size) = entry(&mut image, rest, expected) else { break };
            last = Some(expected);
            rest = &rest[size..];
        }
    }
    image.finish(last?.wrapping_add(1))
}

/// Applies the entry at the start of `bytes` and returns its size, or does nothing if it is not whole or not the next.
fn entry(image: &mut Image, bytes: &[u8], sequence: u32) -> Option<usize> {
    let (head, _) = LogEntry::ref_from_prefix(bytes).ok()?;
    let size = head.size.get() as usize;
    let bytes = bytes.get(..size).filter(|_| size.is_multiple_of(SECTOR))?;
    let content = bytes.get(size_of::<LogEntry>()..)?;
    if head.signature != LogEntry::SIGNATURE
        || head.sequence.get() != sequence
        || head.content_hash.get() != marvin32(content)
        || head.head_hash.get() != marvin32(&bytes[..LogEntry::HASHED])
    {
        return None;
    }
    let number = head.pages.get() as usize;
    let (pages, mut data) = <[PageReference]>::ref_from_prefix_with_elems(content, number).ok()?;
    let bins = head.bins_size.get() as usize;
    let mut parts = Vec::with_capacity(pages.len());
    for page in pages {
        let (part, rest) = data.split_at_checked(page.size.get() as usize)?;
        parts.push((page.offset.get() as usize, part));
        data = rest;
    }
    // A new bin is dirty from end to end, so what a hive grows by is in the entry: no size is taken on trust.
    let ends = parts.iter().map(|(offset, part)| offset + part.len());
    let known = ends.max().unwrap_or(0).max(image.bytes.len() - BLOCK);
    let fits = |(offset, part): &(usize, &[u8])| *offset <= bins && part.len() <= bins - *offset;
    if !bins.is_multiple_of(BLOCK)
        || bins > known
        || bins > format::MAX_FILE
        || !parts.iter().all(fits)
    {
        return None;
    }
    for (offset, part) in parts {
        image.put(offset, part);
    }
    image.base.bins_size.set(head.bins_size.get());
    image.base.flags.set(image.base.flags.get() & !1 | head.flags.get() & 1);
    Some(size)
}

/// The first usable one of old logs.
fn from_old_log<'a>(
    primary: &[u8],
    base: Option<BaseBlock>,
    logs: Vec<(BaseBlock, &[u8])>,
) -> Option<Recovered<'a>> {
    let written = match &base {
        Some(base) => base.written.get(),
        // Without a base block of its own, a hive tells its time in the first bin.
        None => {
            let bin = primary.get(BLOCK..BLOCK + BIN_HEADER)?;
            BinHeader::read_from_bytes(bin).ok()?.written.get()
        }
    };
    let usable = |log: &BaseBlock| {
        matches!(log.file_type.get(), 1 | 2)
            && log.sequence == log.second_sequence
            && log.written.get() == written
    };
    logs.into_iter().filter(|(log, _)| usable(log)).find_map(|(log, bytes)| {
        let bins = log.bins_size.get() as usize;
        let bitmap = bytes.get(SECTOR..)?.strip_prefix(&OLD_SIGNATURE)?;
        let bitmap = bitmap.get(..bins / SECTOR / 8).filter(|_| bins.is_multiple_of(BLOCK))?;
        let start = (SECTOR + OLD_SIGNATURE.len() + bitmap.len()).next_multiple_of(SECTOR);
        let mut pages = bytes.get(start..)?.chunks_exact(SECTOR);
        let mut image = Image::new(primary, base.clone().unwrap_or_else(|| log.clone()));
        image.base.bins_size.set(log.bins_size.get());
        let bit = |page: &usize| bitmap[page / 8] & (1 << (page % 8)) != 0;
        for page in (0..bins / SECTOR).filter(bit) {
            image.put(page * SECTOR, pages.next()?);
        }
        image.finish(log.sequence.get())
    })
}

/// Marvin32 with the seed of registry logs, of bytes whose number is a multiple of four (S).
pub(super) fn marvin32(bytes: &[u8]) -> u64 {
    let (mut low, mut high) = (0x7A4E_55C5_u32, 0x82EF_4D88_u32);
    let words = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
    for word in words.chain([0x80, 0]) {
        low = low.wrapping_add(word);
        high ^= low;
        low = low.rotate_left(20).wrapping_add(high);
        high = high.rotate_left(9) ^ low;
        low = low.rotate_left(27).wrapping_add(high);
        high = high.rotate_left(19);
    }
    u64::from(high) << 32 | u64::from(low)
}
