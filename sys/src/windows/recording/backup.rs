//! Files by way of backup streams: the double keeps each stream as the content of a plain file, so that links and
//! removals are real.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::super::{
    BackedUpFile, BackupApi, BasicInfo, Error, FileFacts, HResult, RestoredFile, Result,
};
use super::Recorder;

/// `FILE_ATTRIBUTE_DIRECTORY`.
const DIRECTORY: u32 = 0x10;

/// What the double knows of a path beside what is on the disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) basic: BasicInfo,
    /// A directory's stream.
    pub(super) stream: Vec<u8>,
    pub(super) linked: Option<u128>,
}

struct Restored {
    recorder: Recorder,
    path: PathBuf,
    file: Option<File>,
    stream: Vec<u8>,
    basic: BasicInfo,
}

fn failed(function: &'static str, path: &Path, error: &std::io::Error) -> Error {
    let code = match error.kind() {
        ErrorKind::NotFound => HResult::PATH_NOT_FOUND,
        ErrorKind::AlreadyExists => HResult::ALREADY_EXISTS,
        _ => HResult::UNSPECIFIED,
    };
    Error::new(function, path.to_string_lossy(), code)
}

impl RestoredFile for Restored {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.file {
            Some(file) => {
                file.write_all(bytes).map_err(|error| failed("BackupWrite", &self.path, &error))
            }
            None => {
                self.stream.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Self { recorder, path, stream, basic, .. } = *self;
        let mut state = recorder.call("BackupWrite", path.display(), &[])?;
        state.files.insert(path, Known { basic, stream, linked: None });
        Ok(())
    }
}

struct BackedUp {
    path: PathBuf,
    rest: Box<dyn std::io::Read + Send>,
}

impl BackedUpFile for BackedUp {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.rest.read(buffer).map_err(|error| failed("BackupRead", &self.path, &error))
    }
}

impl BackupApi for Recorder {
    fn restore(
        &self,
        path: &Path,
        directory: bool,
        basic: &BasicInfo,
        security: bool,
    ) -> Result<Box<dyn RestoredFile>> {
        let what = if directory { "directory" } else { "file" };
        let others =
            [what.to_owned(), format!("{:#x}", basic.attributes), format!("security {security}")];
        drop(self.call("CreateFileW", path.display(), &others)?);
        let made = match directory {
            true => fs::create_dir(path).map(|()| None),
            false => File::create_new(path).map(Some),
        };
        let file = made.map_err(|error| failed("CreateFileW", path, &error))?;
        let (recorder, stream) = (self.clone(), Vec::new());
        Ok(Box::new(Restored { recorder, path: path.to_owned(), file, stream, basic: *basic }))
    }

    fn back_up(&self, path: &Path, security: bool) -> Result<Box<dyn BackedUpFile>> {
        let others = [format!("security {security}")];
        let state = self.call("BackupRead", path.display(), &others)?;
        let rest: Box<dyn std::io::Read + Send> = match path.is_dir() {
            true => {
                let known = state.files.get(path).map(|known| known.stream.clone());
                Box::new(std::io::Cursor::new(known.unwrap_or_default()))
            }
            false => {
                Box::new(File::open(path).map_err(|error| failed("BackupRead", path, &error))?)
            }
        };
        Ok(Box::new(BackedUp { path: path.to_owned(), rest }))
    }

    fn file_facts(&self, path: &Path) -> Result<FileFacts> {
        let found = fs::symlink_metadata(path);
        let found = found.map_err(|error| failed("GetFileInformationByHandleEx", path, &error))?;
        let state = self.state();
        let known = state.files.get(path).cloned().unwrap_or_default();
        let mut basic = known.basic;
        if found.is_dir() {
            basic.attributes |= DIRECTORY;
        }
        Ok(FileFacts { basic, linked: known.linked })
    }

    fn set_basic_info(&self, path: &Path, basic: &BasicInfo) -> Result<()> {
        let others = [format!("{:#x}", basic.attributes), basic.last_write_time.to_string()];
        let mut state = self.call("SetFileInformationByHandle", path.display(), &others)?;
        state.files.entry(path.to_owned()).or_default().basic = *basic;
        Ok(())
    }

    fn hard_link(&self, file: &Path, link: &Path) -> Result<()> {
        let others = [file.display().to_string()];
        let mut state = self.call("CreateHardLinkW", link.display(), &others)?;
        fs::hard_link(file, link).map_err(|error| failed("CreateHardLinkW", link, &error))?;
        let mut known = state.files.get(file).cloned().unwrap_or_default();
        let number = known.linked.unwrap_or(state.lines.len() as u128);
        known.linked = Some(number);
        state.files.insert(file.to_owned(), known.clone());
        state.files.insert(link.to_owned(), known);
        Ok(())
    }

    fn remove_entry(&self, path: &Path) -> Result<()> {
        let mut state = self.call("DeleteFileW", path.display(), &[])?;
        let failed = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => {
                Error::new("DeleteFileW", path.to_string_lossy(), HResult::FILE_NOT_FOUND)
            }
            _ => failed("DeleteFileW", path, &error),
        };
        let is_directory = fs::symlink_metadata(path).map_err(failed)?.is_dir();
        let removed = if is_directory { fs::remove_dir(path) } else { fs::remove_file(path) };
        removed.map_err(failed)?;
        state.files.remove(path);
        Ok(())
    }
}

impl Recorder {
    /// What is in the directory of an import is in the layer then; metadata beside directories is not.
    pub(super) fn become_layer(&self, source: &Path, layer: &Path) {
        let Ok(entries) = fs::read_dir(source) else { return };
        for entry in entries.flatten() {
            let (from, to) = (entry.path(), layer.join(entry.file_name()));
            if from.is_dir() {
                let _ = fs::create_dir(&to);
                self.become_layer(&from, &to);
            } else if !entry.file_name().to_string_lossy().ends_with(".$wcidirs$") {
                let _ = fs::copy(&from, &to);
            }
        }
    }
}
