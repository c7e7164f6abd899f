//! CIMs through the library: an image of many files, opening it, forking it.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use cimfs::{
    Case, DirectorySet, FileFlags, FileTime, Guid, Image, ImagePath, ImageWriter, Metadata,
    WriterOptions,
};
use serde_json::json;

/// Files of one directory.
const PER_DIRECTORY: usize = 100;

/// The path of a file by its number.
fn path_of(number: usize) -> ImagePath {
    let directory = number / PER_DIRECTORY;
    format!(
        "Files/Windows/WinSxS/amd64_component-{directory:05}_31bf3856ad364e35_10.0.20348.1_none/part-{number:06}.manifest"
    )
    .as_str()
    .into()
}

/// A file's text, no two the same, of 60 to 1,000 bytes.
fn text(number: usize, generation: u32) -> Vec<u8> {
    format!("generation {generation} of file {number}\r\n").repeat(2 + number % 37).into_bytes()
}

fn metadata(number: usize) -> Metadata {
    let time = FileTime(133_170_048_000_000_000 + 10_000_000 * number as u64);
    let owner = [0x20, 0x21, 0x22][number % 3];
    let mut security = vec![1, 0, 0, 0x80, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    security.extend([1, 2, 0, 0, 0, 0, 0, 5, 0x20, 0, 0, 0, owner, 2, 0, 0]);
    Metadata {
        flags: FileFlags::default(),
        creation_time: time,
        last_write_time: time,
        change_time: time,
        last_access_time: time,
        security,
        ..Metadata::default()
    }
}

pub(crate) fn many(directory: &Path, name: &str, count: usize) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let guid = Guid::for_content(format!("{count} files").as_bytes());
    let set = DirectorySet::new(directory);
    let mut writer = ImageWriter::create(set, name, guid, WriterOptions::default())?;
    for parent in ["Files", "Files/Windows", "Files/Windows/WinSxS"] {
        writer.add_directory(&parent.into(), &metadata(0))?;
    }
    for number in 0..count {
        let path = path_of(number);
        if number.is_multiple_of(PER_DIRECTORY) {
            let names = path.names();
            let parent = ImagePath::from_names(names[..names.len() - 1].to_vec());
            writer.add_directory(&parent, &metadata(number))?;
        }
        writer.add_file(&path, &metadata(number), &text(number, 0))?;
    }
    writer.commit()?;
    Ok(())
}

pub(crate) fn open(directory: &Path, name: &str, path: &str) -> Result<()> {
    let before = resident("VmRSS")?;
    let mut microseconds = [0.0; 2];
    for time in &mut microseconds {
        let start = Instant::now();
        let image = Image::open(&DirectorySet::new(directory), name)?;
        let file = image.resolve(&path.into(), Case::Ignored)?;
        image.security_descriptor(&file)?;
        *time = start.elapsed().as_secs_f64() * 1e6;
    }
    let [cold, warm] = microseconds;
    let grown = resident("VmHWM")?.saturating_sub(before);
    println!("{}", json!({ "cold": cold, "warm": warm, "grown": grown }));
    Ok(())
}

pub(crate) fn fork(directory: &Path, name: &str) -> Result<()> {
    let set = DirectorySet::new(directory);
    let guid = Guid::for_content(b"a fork that changes ten files");
    let (mut data, step) = (0, 49_999);
    let start = Instant::now();
    let mut writer =
        ImageWriter::fork(set.clone(), name, "fork.cim", guid, WriterOptions::default())?;
    for number in (0..10).map(|change| change * step) {
        let text = text(number, 1);
        data += text.len() as u64;
        writer.add_file(&path_of(number), &metadata(number), &text)?;
    }
    writer.commit()?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let usage = cimfs::usage(&set, "fork.cim")?;
    let image = Image::open(&set, "fork.cim")?;
    let changed = image.resolve(&path_of(step), Case::Ignored)?;
    anyhow::ensure!(changed.size() == text(step, 1).len() as u64, "the fork lacks a change");
    drop(image);
    cimfs::destroy(&set, "fork.cim")?;
    let beyond = usage.regions + usage.filesystem - data;
    println!("{}", json!({ "milliseconds": milliseconds, "beyond": beyond }));
    Ok(())
}

pub(crate) fn view(directory: &Path, name: &str, cache: &Path) -> Result<()> {
    let (image, cancel) = (directory.join(name), layer::Cancel::new());
    let timed = || -> Result<_> {
        let start = Instant::now();
        let view = layer::cim_view::view_of(&image, cache, &cancel)?;
        Ok((start.elapsed().as_secs_f64() * 1e3, view))
    };
    let (made, view) = timed()?;
    let summary = view.made.context("the view was there already")?;
    let (found, again) = timed()?;
    anyhow::ensure!(again.made.is_none() && again.path == view.path, "the view was made again");
    let size = std::fs::metadata(&view.path)?.len();
    println!(
        "{}",
        json!({
            "made": made,
            "found": found,
            "size": size,
            "pointed": summary.pointed,
            "copied": summary.copied,
            "path": view.path,
            "devices": view.devices,
        })
    );
    Ok(())
}

/// A line of `/proc/self/status` in KiB.
fn resident(field: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("/proc/self/status has no {field}"))
}
