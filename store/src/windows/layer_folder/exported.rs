//! What `ExportLayer` writes, into a tar (windows-layer-tar.md 4.6, 8, 11.2).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use layer::Cancel;
use layer::windows::FolderTar;
use sys::windows::Host;

use super::{
    DIRECTORY, DIRECTORY_SUFFIX, Stream, TOMBSTONES, basics, corrupt, failed, is_recycle_bin,
    names, told,
};

/// Longest list of deletions in bytes.
const TOMBSTONES_MAX: u64 = 64 << 20;

/// Writes an exported directory.
pub(super) fn write<W: std::io::Write>(
    host: &dyn Host,
    root: &Path,
    tar: &mut FolderTar<W>,
    cancel: &Cancel,
) -> layer::Result<()> {
    let mut gone = tombstones(&root.join(TOMBSTONES))?;
    if !root.join("Files").is_dir() {
        return Err(corrupt("it has no directory Files"));
    }
    let mut left: Vec<String> = names(root)?.into_iter().rev().collect();
    left.retain(|name| name != TOMBSTONES);
    while let Some(path) = left.pop() {
        cancel.check()?;
        if path.ends_with(DIRECTORY_SUFFIX) || is_recycle_bin(&path) {
            continue;
        }
        let place = root.join(&path);
        let found =
            fs::symlink_metadata(&place).map_err(|error| failed("look at", &place, error))?;
        match path.starts_with("Files/") {
            true => stored(host, &place, &path, found.is_dir(), tar)?,
            false => native(host, &place, &path, tar)?,
        }
        if found.is_dir() {
            for name in gone.remove(&path.to_ascii_lowercase()).unwrap_or_default() {
                tar.whiteout(&format!("{path}/{name}"))?;
            }
            left.extend(names(&place)?.iter().rev().map(|name| format!("{path}/{name}")));
        }
    }
    match gone.into_keys().next() {
        None => Ok(()),
        Some(directory) => {
            Err(corrupt(format!("it deletes something in {directory}, which it does not have")))
        }
    }
}

/// Adds a file whose content is attributes and a backup stream; a directory's are in the file beside it.
fn stored<W: std::io::Write>(
    host: &dyn Host,
    place: &Path,
    path: &str,
    is_directory: bool,
    tar: &mut FolderTar<W>,
) -> layer::Result<()> {
    let mut stored = place.as_os_str().to_owned();
    if is_directory {
        stored.push(DIRECTORY_SUFFIX);
    }
    let stored = PathBuf::from(stored);
    let reading = |error| failed("read", &stored, error);
    let open = || {
        let mut file = File::open(&stored).map_err(reading)?;
        let mut attributes = [0; 4];
        file.read_exact(&mut attributes).map_err(reading)?;
        Ok((u32::from_le_bytes(attributes), file))
    };
    let (attributes, _) = open()?;
    if (attributes & DIRECTORY != 0) != is_directory {
        return Err(corrupt(format!("{path} is a directory, or is none")));
    }
    let facts = host.file_facts(&stored).map_err(|error| told("look at", &stored, error))?;
    let mut basics = basics(&facts.basic);
    basics.attributes = attributes;
    tar.add(path, &basics, None, &mut || open().map(|(_, file)| file))
}

/// Adds a file as it is, without its security descriptor; of its times only the last write's counts.
fn native<W: std::io::Write>(
    host: &dyn Host,
    place: &Path,
    path: &str,
    tar: &mut FolderTar<W>,
) -> layer::Result<()> {
    let facts = host.file_facts(place).map_err(|error| told("look at", place, error))?;
    let mut basics = basics(&facts.basic);
    basics.creation_time = basics.last_write_time;
    basics.last_access_time = basics.last_write_time;
    let mut open = || {
        let opened = host.back_up(place, false).map(Stream);
        opened.map_err(|error| told("read", place, error))
    };
    tar.add(path, &basics, None, &mut open)
}

/// What is deleted: names by their directory, as a path in the tar in lower case. A byte order mark, a line with the
/// version, and a line for each path below `Files`, with a backslash before it.
fn tombstones(path: &Path) -> layer::Result<BTreeMap<String, Vec<String>>> {
    let reading = |error| failed("read", path, error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(reading(error)),
    };
    let mut text = String::new();
    let read = file.take(TOMBSTONES_MAX + 1).read_to_string(&mut text).map_err(reading)?;
    if read as u64 > TOMBSTONES_MAX {
        return Err(corrupt("a list of deletions without end"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut lines = text.lines();
    if lines.next() != Some("Version 1.0") {
        return Err(corrupt("a list of deletions of another version than 1.0"));
    }
    let mut gone: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let wrong = || corrupt(format!("the deletion of {line:?}"));
        let path = line.strip_prefix('\\').ok_or_else(wrong)?.replace('\\', "/");
        if path.split('/').any(|name| matches!(name, "" | "." | "..")) {
            return Err(wrong());
        }
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let slash = if directory.is_empty() { "" } else { "/" };
        let directory = format!("Files{slash}{directory}").to_ascii_lowercase();
        gone.entry(directory).or_default().push(name.to_owned());
    }
    for names in gone.values_mut() {
        names.sort();
        names.dedup();
    }
    Ok(gone)
}
