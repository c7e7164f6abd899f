//! Layers on others: a directory in the form that `ImportLayer` takes, and what is left to do after it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use cimfs::ImagePath;
use layer::windows::{FolderEntry, LayerFolder};
use sys::windows::{BasicInfo, HResult, Host, LayerDescriptor, RestoredFile};

use super::{DIRECTORY_SUFFIX, basic_info, failed, is_in, place, told, unsupported};

/// The directory that is being filled.
pub(super) struct LegacyFolder<'h> {
    host: &'h dyn Host,
    root: &'h Path,
    open: Option<Open>,
    /// Paths of this layer.
    added: BTreeSet<String>,
    directories: Vec<(ImagePath, BasicInfo)>,
    links: Vec<(ImagePath, ImagePath)>,
    gone: Vec<ImagePath>,
}

enum Open {
    /// Attributes and the backup stream, as content.
    Plain { path: PathBuf, file: File, basic: BasicInfo },
    /// The file itself.
    Native { path: PathBuf, file: Box<dyn RestoredFile> },
}

impl<'h> LegacyFolder<'h> {
    pub(super) fn new(host: &'h dyn Host, root: &'h Path) -> Self {
        Self {
            host,
            root,
            open: None,
            added: BTreeSet::new(),
            directories: Vec::new(),
            links: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Has Windows make the layer, and does what is left: deletions, then hard links, then times of directories.
    pub(super) fn process(
        &mut self,
        folder: &Path,
        parents: &[LayerDescriptor],
    ) -> layer::Result<()> {
        let host = self.host;
        host.import_layer(folder, self.root, parents)
            .map_err(|error| told("import the layer", folder, error))?;
        for gone in &self.gone {
            self.remove(&place(folder, gone)?)?;
        }
        for (path, target) in &self.links {
            let target = self.target(folder, target, parents)?;
            let path = place(folder, path)?;
            self.remove(&path)?;
            let linked = host.hard_link(&target, &path);
            linked.map_err(|error| told("make the hard link", &path, error))?;
        }
        for (path, basic) in self.directories.iter().rev() {
            let path = place(folder, path)?;
            let set = host.set_basic_info(&path, basic);
            set.map_err(|error| told("set the times of", &path, error))?;
        }
        Ok(())
    }

    /// Removes what may be there: one file, or one directory of which nothing is left.
    fn remove(&self, path: &Path) -> layer::Result<()> {
        match self.host.remove_entry(path) {
            Err(error)
                if !matches!(error.code(), HResult::FILE_NOT_FOUND | HResult::PATH_NOT_FOUND) =>
            {
                Err(told("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    /// The file that a hard link is to: this layer's, or that of the nearest layer below.
    fn target(
        &self,
        folder: &Path,
        target: &ImagePath,
        parents: &[LayerDescriptor],
    ) -> layer::Result<PathBuf> {
        if self.added.contains(&target.to_string()) {
            return place(folder, target);
        }
        for parent in parents {
            let path = place(&parent.path, target)?;
            if fs::symlink_metadata(&path).is_ok() {
                return Ok(path);
            }
        }
        let what = format!("a hard link to {target}");
        let why = "neither this layer nor those below have it";
        Err(layer::Error::outside(layer::ErrorKind::MissingParent, what, why))
    }
}

impl LayerFolder for LegacyFolder<'_> {
    fn begin(&mut self, entry: &FolderEntry<'_>) -> layer::Result<()> {
        if is_in(entry.path, "UtilityVM") {
            let what = "a layer that changes its utility virtual machine";
            return Err(unsupported(what, "it is made of the one below by Windows' own tools"));
        }
        let path = place(self.root, entry.path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.to_ascii_lowercase().ends_with(DIRECTORY_SUFFIX) {
            let what = format!("{}", entry.path);
            return Err(unsupported(&what, "Windows keeps such names for itself"));
        }
        let basic = basic_info(&entry.basics);
        self.added.insert(entry.path.to_string());
        if is_in(entry.path, "Hives") && entry.path.names().len() > 1 && !entry.directory {
            let file = self.host.restore(&path, false, &basic, false);
            let file = file.map_err(|error| told("make", &path, error))?;
            self.open = Some(Open::Native { path, file });
            return Ok(());
        }
        let path = match entry.directory {
            true => {
                fs::create_dir(&path).map_err(|error| failed("make", &path, error))?;
                if is_in(entry.path, "Files") {
                    self.directories.push((entry.path.clone(), basic));
                }
                let mut name = path.into_os_string();
                name.push(DIRECTORY_SUFFIX);
                PathBuf::from(name)
            }
            false => path,
        };
        let making = |error| failed("make", &path, error);
        let mut file = File::create_new(&path).map_err(making)?;
        file.write_all(&basic.attributes.to_le_bytes()).map_err(making)?;
        self.open = Some(Open::Plain { path, file, basic });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> layer::Result<()> {
        match &mut self.open {
            Some(Open::Plain { path, file, .. }) => {
                file.write_all(bytes).map_err(|error| failed("write", path, error))
            }
            Some(Open::Native { path, file }) => {
                file.write(bytes).map_err(|error| told("write", path, error))
            }
            None => Ok(()),
        }
    }

    fn end(&mut self) -> layer::Result<()> {
        match self.open.take() {
            Some(Open::Plain { path, file, basic }) => {
                drop(file);
                // Times are those of the file that has the stream; attributes are in it.
                let times = BasicInfo { attributes: 0, ..basic };
                let set = self.host.set_basic_info(&path, &times);
                set.map_err(|error| told("set the times of", &path, error))
            }
            Some(Open::Native { path, file }) => {
                file.finish().map_err(|error| told("write", &path, error))
            }
            None => Ok(()),
        }
    }

    fn link(&mut self, path: &ImagePath, target: &ImagePath) -> layer::Result<()> {
        if !is_in(path, "Files") || !is_in(target, "Files") {
            let what = format!("a hard link from {path} to {target}");
            return Err(unsupported(&what, "only files in Files are linked in such layers"));
        }
        self.added.insert(path.to_string());
        self.links.push((path.clone(), target.clone()));
        Ok(())
    }

    fn whiteout(&mut self, path: &ImagePath) -> layer::Result<()> {
        if is_in(path, "UtilityVM") {
            let what = "a layer that changes its utility virtual machine";
            return Err(unsupported(what, "it is made of the one below by Windows' own tools"));
        }
        self.gone.push(path.clone());
        Ok(())
    }
}
