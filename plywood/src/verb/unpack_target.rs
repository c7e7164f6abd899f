//! The directory that an image is unpacked into: new or empty before, and so again after a failure.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use sys::directory::Directory;

use crate::exit::{Exit, Failure};

/// Makes the directory, or finds it empty; whether it was made.
pub(super) fn make_target(dir: &Path) -> Result<bool> {
    match fs::create_dir(dir) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot make {}", dir.display()));
        }
    }
    let mut entries =
        fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    if entries.next().is_some() {
        anyhow::bail!(
            Failure::new(Exit::Exists, format!("{} is not empty", dir.display()))
                .hint("choose a new or empty directory")
        );
    }
    Ok(false)
}

/// After a failure the directory is as it was. What cannot be removed stays: the first error is what matters.
pub(super) fn remove_unpacked(dir: &Path, made: bool) {
    if made {
        let _ = sys::file::remove_tree(dir);
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let _ = sys::file::remove_tree(&entry.path());
    }
}

/// A hard link in `directory` to a path below `top` that was made before: walked to name by name.
pub(super) fn link_to(
    top: &Directory,
    existing: &[impl AsRef<[u8]>],
    directory: &Directory,
    name: &[u8],
) -> Result<()> {
    let Some((last, above)) = existing.split_last() else { return Ok(()) };
    let mut walked: Option<Directory> = None;
    for part in above {
        walked = Some(walked.as_ref().unwrap_or(top).open_directory(part.as_ref())?);
    }
    Ok(directory.make_link(name, walked.as_ref().unwrap_or(top), last.as_ref())?)
}
