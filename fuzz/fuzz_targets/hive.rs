//! Any bytes as registry hives, one merged onto the other, and as a log: refused, or written so that it reads the same.

#![no_main]

use layer::ErrorKind;
use layer::hive::{Hive, merge, recover};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 4096;
const BIN_HEADER: usize = 32;
const LOG_ENTRY: usize = 40;

fuzz_target!(|bytes: &[u8]| {
    // The first byte says how many blocks the base has; what follows is the delta, and a log.
    let Some((blocks, bytes)) = bytes.split_first() else { return };
    let at = (1 + usize::from(*blocks)) * BLOCK;
    let (base, delta) = bytes.split_at(at.min(bytes.len()));
    run(base, delta);
    run(&sealed(base), &sealed(delta));
    let mut dirty = sealed(base);
    if dirty.len() >= BLOCK {
        dirty[8] ^= 1;
        seal_base(&mut dirty);
    }
    for log in [delta.to_vec(), sealed_log(delta)] {
        for primary in [base, &dirty] {
            if let Ok(recovered) = recover(primary, &[&log, base]) {
                // What it grows by comes from the log.
                assert!(recovered.bytes.len() <= BLOCK + primary.len() + log.len());
                round_trip(&recovered.bytes);
            }
        }
    }
});

fn run(base: &[u8], delta: &[u8]) {
    let base = round_trip(base);
    let delta = round_trip(delta);
    let Some(base) = base.or_else(|| delta.clone()) else { return };
    for delta in [Some(&base), delta.as_ref()].into_iter().flatten() {
        let Ok(merged) = merge(&base, delta) else { continue };
        let merged = merged.hive;
        assert!(!merged.is_layered());
        let written = merged.write().expect("what was merged can be written");
        assert!(Hive::read(&written).expect("what was written is read") == merged);
        let again = merge(&merged, delta).expect("what was merged can be merged again");
        assert!(again.hive == merged, "the same changes once more change nothing");
    }
}

/// Reads a hive, closed properly or not; what is written of it reads the same.
fn round_trip(bytes: &[u8]) -> Option<Hive<'_>> {
    let hive = Hive::read_without_log(bytes).ok()?;
    match hive.write() {
        Ok(written) => {
            let again = Hive::read(&written).expect("what was written is read");
            assert!(again == hive);
            assert!(again.write().expect("it was written before") == written);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    }
    Some(hive)
}

fn put(bytes: &mut [u8], at: usize, word: usize) {
    bytes[at..at + 4].copy_from_slice(&(word as u32).to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Makes the checksum of a base block right.
fn seal_base(bytes: &mut [u8]) {
    let sum = (0..127).fold(0, |sum, place| sum ^ word(bytes, place * 4));
    let sum = match sum {
        0 => 1,
        u32::MAX => u32::MAX - 1,
        sum => sum,
    };
    put(bytes, 508, sum as usize);
}

/// Makes base block, bins and cells such that they are walked, which no fuzzer finds.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK).max(2 * BLOCK), 0);
    bytes[..4].copy_from_slice(b"regf");
    bytes.copy_within(4..8, 8);
    put(&mut bytes, 20, 1);
    let minor = 3 + word(&bytes, 24) % 4;
    put(&mut bytes, 24, minor as usize);
    put(&mut bytes, 28, 0);
    put(&mut bytes, 32, 1);
    let bins = bytes.len() - BLOCK;
    put(&mut bytes, 40, bins);
    let mut start = BLOCK;
    while start < bytes.len() {
        let left = bytes.len() - start;
        let size = (word(&bytes, start + 8) as usize / BLOCK * BLOCK).clamp(BLOCK, left);
        bytes[start..start + 4].copy_from_slice(b"hbin");
        put(&mut bytes, start + 4, start - BLOCK);
        put(&mut bytes, start + 8, size);
        let end = start + size;
        let mut cell = start + BIN_HEADER;
        while cell < end {
            let stored = word(&bytes, cell).cast_signed();
            let length = (stored.unsigned_abs() as usize / 8 * 8).clamp(8, end - cell);
            let length = length as i32 * if stored < 0 { -1 } else { 1 };
            put(&mut bytes, cell, length.cast_unsigned() as usize);
            cell += length.unsigned_abs() as usize;
        }
        start = end;
    }
    seal_base(&mut bytes);
    bytes
}

/// Makes the hashes of a log's entries right.
fn sealed_log(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512).max(1024), 0);
    bytes[..4].copy_from_slice(b"regf");
    put(&mut bytes, 20, 1);
    if bytes[28] > 2 {
        put(&mut bytes, 28, 6);
    }
    seal_base(&mut bytes);
    let sequence = word(&bytes, 4);
    let mut at = 512;
    while at < bytes.len() && bytes[28] == 6 {
        let left = bytes.len() - at;
        let size = (word(&bytes, at + 4) as usize / 512 * 512).clamp(512, left);
        let entry = &mut bytes[at..at + size];
        entry[..4].copy_from_slice(b"HvLE");
        put(entry, 4, size);
        put(entry, 12, (sequence as usize).wrapping_add(at / 512 - 1));
        let hash = marvin32(&entry[LOG_ENTRY..]);
        entry[24..32].copy_from_slice(&hash.to_le_bytes());
        let hash = marvin32(&entry[..32]);
        entry[32..40].copy_from_slice(&hash.to_le_bytes());
        at += size;
    }
    bytes
}

fn marvin32(bytes: &[u8]) -> u64 {
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
