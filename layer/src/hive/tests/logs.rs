//! Logs of both kinds, made by hand as the specification has them.

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::super::format::{BLOCK, BaseBlock};
use super::super::log::{LogEntry, PageReference, marvin32};
use super::super::*;
use super::{hive, key, with_base};
use crate::ErrorKind;

const SECTOR: usize = 512;

/// A hive before and after keys were added: the second one is a bin longer.
fn states() -> (Vec<u8>, Vec<u8>) {
    let mut hive = hive();
    let before = hive.write().unwrap();
    for number in 0..40 {
        hive.add_key(hive.root(), key(&format!("key {number}"))).unwrap();
    }
    let after = hive.write().unwrap();
    assert!(before.len() < after.len());
    (before, after)
}

fn dirty(mut bytes: Vec<u8>) -> Vec<u8> {
    with_base(&mut bytes, |base| {
        base.sequence.set(3);
        base.second_sequence.set(2);
    });
    bytes
}

/// The base block of a log.
fn log(of: &[u8], sequence: u32, file_type: u32) -> Vec<u8> {
    let mut bytes = of[..SECTOR].to_vec();
    with_base(&mut bytes, |base| {
        base.file_type.set(file_type);
        base.sequence.set(sequence);
        base.second_sequence.set(sequence);
    });
    bytes
}

/// An entry that writes these blocks of a hive's bins.
fn entry(sequence: u32, of: &[u8], blocks: &[usize]) -> Vec<u8> {
    let (base, _) = BaseBlock::ref_from_prefix(of).unwrap();
    let mut content = Vec::new();
    for block in blocks {
        let mut page = PageReference::new_zeroed();
        page.offset.set(u32::try_from(block * BLOCK).unwrap());
        page.size.set(u32::try_from(BLOCK).unwrap());
        content.extend_from_slice(page.as_bytes());
    }
    for block in blocks {
        content.extend_from_slice(&of[BLOCK + block * BLOCK..][..BLOCK]);
    }
    let size = (40 + content.len()).next_multiple_of(SECTOR);
    content.resize(size - 40, 0);
    let mut head = LogEntry::new_zeroed();
    head.signature = LogEntry::SIGNATURE;
    head.size.set(u32::try_from(size).unwrap());
    head.sequence.set(sequence);
    head.bins_size.set(base.bins_size.get());
    head.pages.set(u32::try_from(blocks.len()).unwrap());
    head.content_hash.set(marvin32(&content));
    head.head_hash.set(marvin32(&head.as_bytes()[..32]));
    [head.as_bytes(), &content].concat()
}

fn keys(recovered: &Recovered<'_>) -> usize {
    Hive::read(&recovered.bytes).unwrap().key_count()
}

#[test]
fn hashes() {
    assert_eq!(marvin32(&[]), 0xB39E_FCA4_0396_6E08);
    assert_eq!(marvin32(&[0, 1, 2, 3, 4, 5, 6, 7]), 0xCC43_505B_F8B5_31B9);
}

#[test]
fn a_closed_hive_needs_no_logs() {
    let (before, after) = states();
    let log = [log(&before, 9, 6), entry(9, &after, &[0, 1])].concat();
    let recovered = recover(&before, &[&log]).unwrap();
    assert_eq!((&*recovered.bytes, recovered.pages), (&*before, 0));
}

#[test]
fn entries_of_two_logs_in_a_row() {
    let (before, after) = states();
    let primary = dirty(before.clone());
    assert_eq!(recover(&primary, &[]).unwrap_err().kind(), ErrorKind::Corrupt);
    // The first log ends with an entry of its last use, which was a different one.
    let blocks: Vec<usize> = (1..after.len() / BLOCK - 1).collect();
    let first = [log(&before, 2, 6), entry(2, &after, &blocks), entry(1, &before, &[0])].concat();
    let second = [log(&before, 3, 6), entry(3, &before, &[0]), entry(4, &after, &[0])].concat();
    for logs in [[&first[..], &second[..]], [&second[..], &first[..]]] {
        let recovered = recover(&primary, &logs).unwrap();
        assert_eq!(recovered.pages, blocks.len() + 2);
        assert_eq!(keys(&recovered), 41);
        assert_eq!(recovered.bytes[BLOCK..], after[BLOCK..]);
        assert_eq!(recovered.bytes[4..12], [5, 0, 0, 0, 5, 0, 0, 0]);
        let (base, _) = BaseBlock::ref_from_prefix(&recovered.bytes).unwrap();
        assert!(base.checksum_is_right() && base.file_type.get() == 0);
    }
    // The base block is lost: that of the newest log, and only what that log has.
    let all: Vec<usize> = (0..after.len() / BLOCK - 1).collect();
    let mut lost = primary.clone();
    lost[..64].fill(0);
    let newest = [log(&before, 7, 6), entry(7, &after, &all)].concat();
    assert_eq!(keys(&recover(&lost, &[&newest, &first]).unwrap()), 41);
    // An older log than the hive is no log.
    let old = [log(&before, 1, 6), entry(1, &after, &all)].concat();
    assert!(recover(&primary, &[&old]).is_err());
}

#[test]
fn damaged_entries_are_not_applied() {
    let (before, after) = states();
    let primary = dirty(before.clone());
    let all: Vec<usize> = (0..after.len() / BLOCK - 1).collect();
    let good = [log(&before, 2, 6), entry(2, &after, &all)].concat();
    assert_eq!(keys(&recover(&primary, &[&good]).unwrap()), 41);
    for at in (0..SECTOR + 300).chain([good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(recover(&primary, &[&bad]).is_err(), "byte {at}");
    }
    for length in [0, 100, 512, 540, 600, good.len() - 1] {
        assert!(recover(&primary, &[&good[..length]]).is_err(), "{length} bytes");
    }
    // A size that no page is there for, although its hashes are right.
    let mut huge = after.clone();
    with_base(&mut huge, |base| base.bins_size.set(0x1000_0000));
    let huge = [log(&before, 2, 6), entry(2, &huge, &all)].concat();
    assert!(recover(&primary, &[&huge]).is_err());
    // Pages beyond the end that the entry names.
    let mut small = after;
    with_base(&mut small, |base| base.bins_size.set(0x1000));
    let small = [log(&before, 2, 6), entry(2, &small, &all)].concat();
    assert!(recover(&primary, &[&small]).is_err());
}

#[test]
fn logs_of_old_systems() {
    let (before, after) = states();
    let primary = dirty(before.clone());
    let bins = after.len() - BLOCK;
    let changed: Vec<usize> = (0..bins / SECTOR)
        .filter(|page| {
            let at = BLOCK + page * SECTOR;
            before.get(at..at + SECTOR) != after.get(at..at + SECTOR)
        })
        .collect();
    let mut bitmap = vec![0_u8; bins / SECTOR / 8];
    for page in &changed {
        bitmap[page / 8] |= 1 << (page % 8);
    }
    let mut body = [&b"DIRT"[..], &bitmap].concat();
    body.resize(body.len().next_multiple_of(SECTOR), 0);
    for page in &changed {
        body.extend_from_slice(&after[BLOCK + page * SECTOR..][..SECTOR]);
    }
    for file_type in [1, 2] {
        let log = [log(&after, 3, file_type), body.clone()].concat();
        let recovered = recover(&primary, &[b"no log", &log]).unwrap();
        assert_eq!((recovered.pages, keys(&recovered)), (changed.len(), 41));
        assert_eq!(recovered.bytes[BLOCK..], after[BLOCK..]);
        let mut lost = primary.clone();
        lost[40] ^= 1;
        assert_eq!(keys(&recover(&lost, &[&log]).unwrap()), 41);

        assert!(recover(&primary, &[&log[..log.len() - 1]]).is_err(), "a page is missing");
        let mut later = log.clone();
        with_base(&mut later, |base| base.written.set(1));
        assert!(recover(&primary, &[&later]).is_err(), "of another time");
        let mut torn = log;
        with_base(&mut torn, |base| base.sequence.set(4));
        assert!(recover(&primary, &[&torn]).is_err(), "itself not closed");
    }
}
