//! The text of images.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use cimfs::{FileSet, Image, MemorySet, WriterOptions, dump};
use support::{open, sample};

fn text(set: &MemorySet, name: &str) -> String {
    let mut out = Vec::new();
    dump(&open(set, name), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_sample_has_every_kind_of_line() {
    insta::assert_snapshot!(text(&sample(WriterOptions::default()), "a.cim"));
}

/// A dump is never an error, whatever the image holds, and says of damage where it is.
#[test]
fn damage_is_part_of_the_text() {
    let set = sample(WriterOptions::default());
    let region = format!("region_{}_0", open(&set, "a.cim").guid());
    let whole = text(&set, "a.cim");
    let original = set.bytes(&region).unwrap();
    let mut told = 0;
    for at in (131_112..original.len()).step_by(3) {
        let mut bytes = original.clone();
        bytes[at] ^= 0xFF;
        set.insert(&region, bytes);
        if let Ok(image) = Image::open(&set, "a.cim") {
            let mut out = Vec::new();
            dump(&image, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            told += usize::from(text != whole);
        }
    }
    assert!(told > 500, "{told}");
    assert_eq!(set.names().unwrap().len(), 7);
}
