//! Reads a tree as a program that starts in it would: names, then every file from beginning to end.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};

/// Reads every regular file below `directory` and prints the number of files and bytes.
pub(crate) fn read_tree(directory: &Path) -> Result<()> {
    let mut buffer = vec![0; 128 << 10];
    let (mut files, mut bytes) = (0_u64, 0_u64);
    for_each_file(directory, &mut |mut file| {
        files += 1;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                read => bytes += read as u64,
            }
        }
    })?;
    println!("{files} {bytes}");
    Ok(())
}

/// Prints how many bytes of the regular files below `directory` are not in the page cache; touches none of them.
pub(crate) fn not_cached(directory: &Path) -> Result<()> {
    let mut missing = 0_u64;
    for_each_file(directory, &mut |file| {
        let residency = sys::page_residency(&file)?;
        missing += (residency.total - residency.resident) * residency.page_size;
        Ok(())
    })?;
    println!("{missing}");
    Ok(())
}

fn for_each_file(directory: &Path, visit: &mut dyn FnMut(File) -> Result<()>) -> Result<()> {
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let doing = || format!("cannot read {}", directory.display());
        for entry in std::fs::read_dir(&directory).with_context(doing)? {
            let entry = entry.with_context(doing)?;
            let kind = entry.file_type().with_context(doing)?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                File::open(entry.path())
                    .map_err(anyhow::Error::from)
                    .and_then(&mut *visit)
                    .with_context(|| format!("cannot read {}", entry.path().display()))?;
            }
        }
    }
    Ok(())
}
