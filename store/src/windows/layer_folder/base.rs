//! Base layers: every file is made where it stays.

use std::path::{Path, PathBuf};

use cimfs::ImagePath;
use layer::Cancel;
use layer::windows::{FolderEntry, FolderTar, LayerFolder};
use sys::windows::{BasicInfo, Host, RestoredFile};

use super::{
    DIRECTORY, REPARSE_POINT, Stream, basic_info, basics, is_in, is_recycle_bin, names, place, told,
};

const UTILITY_VM: &str = "UtilityVM";

/// A base layer's folder that is being filled.
pub(super) struct BaseFolder<'h> {
    host: &'h dyn Host,
    root: &'h Path,
    open: Option<(PathBuf, Box<dyn RestoredFile>)>,
    /// What is made in a directory changes its times, so these are set again in the end.
    directories: Vec<(PathBuf, BasicInfo)>,
    has_vm: bool,
}

impl<'h> BaseFolder<'h> {
    pub(super) fn new(host: &'h dyn Host, root: &'h Path) -> Self {
        Self { host, root, open: None, directories: Vec::new(), has_vm: false }
    }

    /// What Windows does with a base layer's files.
    pub(super) fn process(&mut self) -> layer::Result<()> {
        for (path, basic) in self.directories.iter().rev() {
            let set = self.host.set_basic_info(path, basic);
            set.map_err(|error| told("set the times of", path, error))?;
        }
        let processed = self.host.process_base_layer(self.root);
        processed.map_err(|error| told("process the base layer", self.root, error))?;
        if self.has_vm {
            let directory = self.root.join(UTILITY_VM);
            let processed = self.host.process_utility_vm_image(&directory);
            processed.map_err(|error| told("process the virtual machine", &directory, error))?;
        }
        Ok(())
    }
}

impl LayerFolder for BaseFolder<'_> {
    fn begin(&mut self, entry: &FolderEntry<'_>) -> layer::Result<()> {
        let path = place(self.root, entry.path)?;
        let basic = basic_info(&entry.basics);
        let restored = self.host.restore(&path, entry.directory, &basic, true);
        let restored = restored.map_err(|error| told("make", &path, error))?;
        if entry.directory {
            self.directories.push((path.clone(), basic));
            let names = entry.path.names();
            let second = names.get(1).and_then(|name| name.to_text());
            self.has_vm |= names.len() == 2
                && is_in(entry.path, UTILITY_VM)
                && second.is_some_and(|name| name.eq_ignore_ascii_case("Files"));
        }
        self.open = Some((path, restored));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> layer::Result<()> {
        let Some((path, file)) = &mut self.open else { return Ok(()) };
        file.write(bytes).map_err(|error| told("write", path, error))
    }

    fn end(&mut self) -> layer::Result<()> {
        let Some((path, file)) = self.open.take() else { return Ok(()) };
        file.finish().map_err(|error| told("write", &path, error))
    }

    fn link(&mut self, path: &ImagePath, target: &ImagePath) -> layer::Result<()> {
        let (path, target) = (place(self.root, path)?, place(self.root, target)?);
        let linked = self.host.hard_link(&target, &path);
        linked.map_err(|error| told("make the hard link", &path, error))
    }

    fn whiteout(&mut self, path: &ImagePath) -> layer::Result<()> {
        let what = format!("{path} is deleted");
        let why = "a base layer cannot delete anything";
        Err(layer::Error::outside(layer::ErrorKind::Invalid, what, why))
    }
}

/// Writes `Files`, and the virtual machine's if there are some.
pub(super) fn export<W: std::io::Write>(
    host: &dyn Host,
    folder: &Path,
    tar: &mut FolderTar<W>,
    cancel: &Cancel,
) -> layer::Result<()> {
    tree(host, folder, "Files", tar, cancel)?;
    let vm = folder.join(UTILITY_VM);
    if vm.join("Files").is_dir() {
        add(host, &vm, UTILITY_VM, tar)?;
        tree(host, folder, "UtilityVM/Files", tar, cancel)?;
    }
    Ok(())
}

/// Everything at and below a path, each directory before what is in it.
fn tree<W: std::io::Write>(
    host: &dyn Host,
    folder: &Path,
    top: &str,
    tar: &mut FolderTar<W>,
    cancel: &Cancel,
) -> layer::Result<()> {
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        cancel.check()?;
        if is_recycle_bin(&path) {
            continue;
        }
        let place = folder.join(&path);
        let attributes = add(host, &place, &path, tar)?;
        if attributes & DIRECTORY != 0 && attributes & REPARSE_POINT == 0 {
            left.extend(names(&place)?.iter().rev().map(|name| format!("{path}/{name}")));
        }
    }
    Ok(())
}

/// Adds what is there; its attributes.
fn add<W: std::io::Write>(
    host: &dyn Host,
    place: &Path,
    path: &str,
    tar: &mut FolderTar<W>,
) -> layer::Result<u32> {
    let facts = host.file_facts(place).map_err(|error| told("look at", place, error))?;
    let mut open = || {
        let opened = host.back_up(place, true).map(Stream);
        opened.map_err(|error| told("read", place, error))
    };
    tar.add(path, &basics(&facts.basic), facts.linked, &mut open)?;
    Ok(facts.basic.attributes)
}
