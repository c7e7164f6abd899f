//! Any bytes as a layer: refused, or an image that is sound, and whose own tar is stable.

#![no_main]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use erofs::Image;
use layer::{Cancel, LayerOptions, write_layer_image, write_layer_tar};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    run(bytes);
    run(&sealed(bytes));
});

fn run(bytes: &[u8]) {
    let Some(image) = convert(bytes, 1 << 20) else { return };
    let tar = export(&image);
    let again = convert(&tar, 1 << 30).expect("an exported tar is a layer");
    assert!(export(&again) == tar, "the tar of an exported tar is the same");
}

/// The image of a layer, or nothing if it is refused.
fn convert(bytes: &[u8], max_size: u64) -> Option<Vec<u8>> {
    let mut file: File = tempfile::tempfile().expect("a temporary file");
    let options = LayerOptions { max_size: Some(max_size), ..LayerOptions::default() };
    write_layer_image(bytes, &file, &options, None, &(), &Cancel::new()).ok()?;
    let mut image = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("a file seeks");
    file.read_to_end(&mut image).expect("a file reads");
    let opened = Image::open(image.as_slice()).expect("what was written opens");
    let report = erofs::check(&opened);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    Some(image)
}

fn export(image: &[u8]) -> Vec<u8> {
    let image = Image::open(image).expect("what was written opens");
    let mut tar = Vec::new();
    write_layer_tar(&image, &mut tar, &Cancel::new()).expect("what was written is exported");
    tar
}

/// Makes the checksums of all headers right, which no fuzzer finds.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
    bytes
}
