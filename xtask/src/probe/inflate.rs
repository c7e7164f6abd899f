//! The inflater alone, as the layer crate uses it.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};

/// Inflates all members of `path` and prints how many bytes came out.
pub(crate) fn inflate(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut inflater =
        flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(256 << 10, file));
    let mut buffer = vec![0; 256 << 10];
    let mut length = 0_u64;
    loop {
        match inflater
            .read(&mut buffer)
            .with_context(|| format!("cannot inflate {}", path.display()))?
        {
            0 => break,
            read => length += read as u64,
        }
    }
    println!("{length}");
    Ok(())
}
