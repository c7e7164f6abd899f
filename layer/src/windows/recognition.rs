//! Telling layers for Windows from others where nobody says what they are.

use std::io::Read;

use crate::compression::Compression;

/// As much of a blob as is certain to hold the first entry's PAX records.
pub const RECOGNITION_LENGTH: usize = 64 << 10;

/// Bytes of the tar that are looked at.
const LOOKED_AT: usize = 16 << 10;

/// The key that every entry of Microsoft's exporter has, whiteouts and streams excepted.
const MARK: &[u8] = b"MSWINDOWS.fileattr=";

/// Whether a layer's blob that begins with these bytes is one for Windows: its first entries carry file attributes.
/// Layers made by hand may have none and cannot be told from others.
pub fn is_windows_layer(beginning: &[u8]) -> bool {
    let mut tar = Vec::new();
    // What is cut off ends in an error, after which what came before it is there.
    _ = match Compression::sniff(beginning) {
        Compression::None => beginning.take(LOOKED_AT as u64).read_to_end(&mut tar),
        Compression::Gzip => read(flate2::read::MultiGzDecoder::new(beginning), &mut tar),
        Compression::Zstd => match zstd::stream::read::Decoder::new(beginning) {
            Ok(decoder) => read(decoder, &mut tar),
            Err(_) => return false,
        },
    };
    tar.windows(MARK.len()).any(|window| window == MARK)
}

fn read(decoder: impl Read, tar: &mut Vec<u8>) -> std::io::Result<usize> {
    decoder.take(LOOKED_AT as u64).read_to_end(tar)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::Compressor;

    #[test]
    fn layers_are_told_apart_however_they_are_compressed_and_cut() {
        let noise: Vec<u8> =
            (0..1_u32 << 20).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            for (record, is_windows) in
                [("26 MSWINDOWS.fileattr=16\n", true), ("26 LIBARCHIVE.fileattr=16\n", false)]
            {
                let mut compressor = Compressor::new(Vec::new(), compression).unwrap();
                compressor.write_all(&[0; 600]).unwrap();
                compressor.write_all(record.as_bytes()).unwrap();
                compressor.write_all(&noise).unwrap();
                let blob = compressor.finish().unwrap();
                assert!(blob.len() > RECOGNITION_LENGTH);
                assert_eq!(is_windows_layer(&blob[..RECOGNITION_LENGTH]), is_windows);
                assert!(!is_windows_layer(&blob[..10]));
            }
        }
        assert!(!is_windows_layer(b""));
    }
}
