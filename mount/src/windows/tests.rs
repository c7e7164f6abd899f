//! Sequences of calls against tables written from hcs-layers.md 1.3, 1.4 and 2.6 and containerd.md 10.

mod activations;
mod cims;
mod layers;

use std::path::PathBuf;

use super::*;

/// A run directory and folders of a Windows host, below a directory of this one.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("host")).unwrap();
        Self { directory }
    }

    fn run(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    fn folders(&self) -> Folders {
        Folders::below(self.directory.path().join("host"))
    }

    fn make(&self, path: &str) {
        self.folders().make(&path_of(path)).unwrap();
    }
}

fn path_of(text: &str) -> WindowsPath {
    WindowsPath::parse(text).unwrap()
}
