//! Times a layer's way into an image beside only inflating it: `layer_image BLOB OUT.erofs [ROUNDS]`.
#![allow(clippy::print_stdout)]

use std::fs::File;
use std::io::{self, Read};
use std::time::Instant;

use layer::{Cancel, Compression, LayerOptions, write_layer_image};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let blob = arguments.next().ok_or("which blob?")?;
    let output = arguments.next().ok_or("which output?")?;
    let rounds: u32 = arguments.next().map_or(Ok(1), |rounds| rounds.parse())?;
    for _ in 0..rounds {
        let start = Instant::now();
        let bytes = inflate(File::open(&blob)?)?;
        println!("inflate  {:6.3} s   {bytes} bytes", start.elapsed().as_secs_f64());

        let start = Instant::now();
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&output)?;
        let image = write_layer_image(
            File::open(&blob)?,
            &file,
            &LayerOptions::default(),
            None,
            &(),
            &Cancel::new(),
        )?;
        let written = start.elapsed();
        file.sync_all()?;
        println!(
            "import   {:6.3} s, durable {:6.3} s   {} bytes, {} entries, {}",
            written.as_secs_f64(),
            start.elapsed().as_secs_f64(),
            image.image_size,
            image.entries,
            image.checksum
        );
    }
    Ok(())
}

fn inflate(mut blob: File) -> Result<u64, Failure> {
    let mut first = [0; 4];
    blob.read_exact(&mut first)?;
    let blob = io::BufReader::with_capacity(256 << 10, first.chain(blob));
    let mut tar: Box<dyn Read> = match Compression::sniff(&first) {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(blob)?),
    };
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match tar.read(&mut buffer)? {
            0 => return Ok(total),
            length => total += length as u64,
        }
    }
}
