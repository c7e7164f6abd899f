//! Times a Windows layer's way into an image: `windows_layer BLOB DIRECTORY [ROUNDS]`.
#![allow(clippy::print_stdout)]

use std::fs::{self, File};
use std::time::Instant;

use layer::{Cancel, WindowsOptions, write_windows_layer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let blob = arguments.next().ok_or("which blob?")?;
    let directory = arguments.next().ok_or("which directory?")?;
    let rounds: u32 = arguments.next().map_or(Ok(1), |rounds| rounds.parse())?;
    for _ in 0..rounds {
        fs::create_dir_all(&directory)?;
        let set = cimfs::DirectorySet::new(&directory);
        let start = Instant::now();
        let layer = write_windows_layer(
            File::open(&blob)?,
            &set,
            "layer.cim",
            None,
            &WindowsOptions::default(),
            &(),
            &Cancel::new(),
        )?;
        println!(
            "durable {:6.3} s   {} bytes of {}, {} entries",
            start.elapsed().as_secs_f64(),
            layer.image_size,
            layer.blob.tar_size,
            layer.entries
        );
        cimfs::destroy(&set, "layer.cim")?;
    }
    Ok(())
}
