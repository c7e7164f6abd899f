//! A real tree of Windows executables: what Debian's Wine packages hold, for 64 and for 32 bits. They are unpacked
//! and never run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::private_apt::PrivateApt;
use crate::program;

/// Debian 12's: the versions of the packages decide the data's digest.
const SUITE: &str = "bookworm";

/// Files of the packages, by the directory of Windows that they belong to.
pub(super) struct Wine {
    /// 64-bit libraries, programs and drivers: (name, path), sorted.
    pub(super) system32: Vec<(String, PathBuf)>,
    /// The same for 32 bits.
    pub(super) syswow64: Vec<(String, PathBuf)>,
    /// Code page tables.
    pub(super) nls: Vec<(String, PathBuf)>,
}

/// Downloads and unpacks below `directory`, unless that is done.
pub(super) fn unpacked(directory: &Path) -> Result<Wine> {
    let tree = directory.join("wine");
    if !tree.is_dir() {
        let apt = PrivateApt::new(&directory.join("apt"), "deb", SUITE, &["amd64", "i386"])?;
        let packages = apt.download(&["libwine:amd64", "libwine:i386"])?;
        let part = directory.join("wine.part");
        for package in packages {
            let mut unpack = Command::new("dpkg-deb");
            program::run(unpack.arg("--extract").arg(&package).arg(&part))?;
            std::fs::remove_file(&package)
                .with_context(|| format!("cannot remove {}", package.display()))?;
        }
        std::fs::rename(&part, &tree)
            .with_context(|| format!("cannot create {}", tree.display()))?;
    }
    let files = |path: &str| files(&tree.join(path));
    Ok(Wine {
        system32: files("usr/lib/x86_64-linux-gnu/wine/x86_64-windows")?,
        syswow64: files("usr/lib/i386-linux-gnu/wine/i386-windows")?,
        nls: files("usr/share/wine/nls")?,
    })
}

fn files(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let doing = || format!("cannot list {}", directory.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(doing)? {
        let path = entry.with_context(doing)?.path();
        if path.is_file() && !path.is_symlink() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, path));
        }
    }
    ensure!(!files.is_empty(), "{} is empty", directory.display());
    files.sort();
    Ok(files)
}
