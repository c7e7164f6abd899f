//! Files that a command writes.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, RenameFlags};

use crate::exit::{Exit, Failure};

/// A file that gets its name when it is complete and on the disk.
pub(crate) struct OutputFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    force: bool,
    published: bool,
}

impl OutputFile {
    pub(crate) fn new(path: &Path, force: bool) -> Result<Self> {
        let taken = fs::symlink_metadata(path);
        if let Some(what) = taken.as_ref().ok().and_then(|taken| irreplaceable(taken.file_type())) {
            anyhow::bail!(Failure::new(Exit::Exists, format!("{} is {what}", path.display())));
        }
        if taken.is_ok() && !force {
            anyhow::bail!(exists(path));
        }
        let Some(name) = path.file_name() else {
            anyhow::bail!(Failure::new(Exit::Usage, format!("{} is no file name", path.display())));
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(OsStr::new("."));
        hidden.push(sys::file::random_name(6)?);
        let temporary = path.with_file_name(hidden);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&temporary)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { file, temporary, path: path.to_owned(), force, published: false })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Syncs it and gives it its name.
    pub(crate) fn publish(mut self) -> Result<()> {
        let writing = || format!("cannot write {}", self.path.display());
        self.file.sync_all().with_context(writing)?;
        let flags = if self.force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(CWD, &self.temporary, CWD, &self.path, flags) {
            Err(rustix::io::Errno::EXIST) => anyhow::bail!(exists(&self.path)),
            other => other.with_context(writing)?,
        }
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        sys::file::sync_directory(parent.unwrap_or(Path::new(".")))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// What is never replaced, also not by force: a device would be lost to all programs of the host.
fn irreplaceable(kind: fs::FileType) -> Option<&'static str> {
    match (kind.is_dir(), kind.is_file() || kind.is_symlink()) {
        (true, _) => Some("a directory"),
        (_, false) => Some("a device, pipe or socket"),
        _ => None,
    }
}

fn exists(path: &Path) -> Failure {
    Failure::new(Exit::Exists, format!("{} exists already", path.display()))
        .hint("choose another name, or remove it first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let refused = |force| OutputFile::new(&path, force).err().map(|error| error.to_string());
        fs::write(&path, "old").unwrap();
        assert!(refused(false).unwrap().contains("exists already"));
        assert_eq!(refused(true), None);
        fs::remove_file(&path).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for force in [false, true] {
            assert!(refused(force).unwrap().contains("a device, pipe or socket"));
        }
        assert_eq!(directory.path().read_dir().unwrap().count(), 1, "nothing else is left");
    }
}
