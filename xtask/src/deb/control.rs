//! The package's control files.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::stage::{Installed, Stage};
use crate::{program, workspace};

/// Who is told of the package's faults.
pub(crate) const MAINTAINER: &str = "The Plywood developers <developers@plywood.example>";

/// What Plywood starts or talks to if it is there. e2fsprogs makes scratches of limited size.
const RECOMMENDS: &str = "e2fsprogs";
const SUGGESTS: &str = "containerd, runc | crun";

const DESCRIPTION: &str = "container layers as mountable images
 Plywood turns each layer of a container image, once and in one streaming
 pass, into one read-only EROFS file. Containers get their root filesystem by
 mounting these files under an overlay: no unpacking, and no second copy in
 the page cache.
 .
 The daemon is a snapshotter and differ for an unmodified containerd; the
 command line works with or without it.";

/// Writes everything below `DEBIAN/`; `files` are in their places already.
pub(crate) fn write(stage: &Stage, architecture: &str, files: &[Installed]) -> Result<()> {
    let scripts = workspace::root().join("packaging/debian");
    for script in ["postinst", "prerm", "postrm"] {
        let path = scripts.join(script);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        stage.write(&format!("DEBIAN/{script}"), &bytes, 0o755)?;
    }
    // What an administrator edits is asked about, not overwritten, by an upgrade.
    let conffiles: String = files
        .iter()
        .filter(|file| file.to.starts_with("etc/"))
        .map(|file| format!("/{}\n", file.to))
        .collect();
    stage.write("DEBIAN/conffiles", conffiles.as_bytes(), 0o644)?;
    stage.write("DEBIAN/md5sums", md5sums(stage)?.as_bytes(), 0o644)?;

    let control = format!(
        "Package: plywood\nVersion: {}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {}\nDepends: {}\nPre-Depends: init-system-helpers (>= 1.54~)\n\
         Recommends: {RECOMMENDS}\nSuggests: {SUGGESTS}\nSection: admin\nPriority: optional\n\
         Description: {DESCRIPTION}\n",
        env!("CARGO_PKG_VERSION"),
        kibibytes(stage.root())?,
        shared_libraries(stage)?,
    );
    stage.write("DEBIAN/control", control.as_bytes(), 0o644)
}

/// The packages whose shared libraries the program needs, with the versions it was linked against.
fn shared_libraries(stage: &Stage) -> Result<String> {
    // dpkg-shlibdeps wants a source package's control file in its working directory.
    let directory = stage.root().with_file_name("shlibdeps");
    fs::create_dir_all(directory.join("debian"))
        .with_context(|| format!("cannot create {}", directory.display()))?;
    fs::write(
        directory.join("debian/control"),
        "Source: plywood\n\nPackage: plywood\nArchitecture: any\n",
    )
    .with_context(|| format!("cannot write below {}", directory.display()))?;
    let mut command = Command::new("dpkg-shlibdeps");
    command.args(["-O", "--warnings=0", "-e"]).arg(stage.root().join("usr/bin/plywood"));
    let text = program::output(command.current_dir(&directory))?;
    let depends = text.trim().strip_prefix("shlibs:Depends=");
    Ok(depends.with_context(|| format!("dpkg-shlibdeps said {text:?}"))?.to_owned())
}

fn md5sums(stage: &Stage) -> Result<String> {
    let script = "find usr lib -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum";
    program::output(Command::new("sh").args(["-c", script]).current_dir(stage.root()))
}

/// Disk space of what is installed, as dpkg counts it: files by their size, directories as 1 KiB.
fn kibibytes(directory: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .filter_map(Result::ok)
    {
        let metadata = entry.metadata()?;
        total += if entry.file_name() == "DEBIAN" {
            0
        } else if metadata.is_dir() {
            1 + kibibytes(&entry.path())?
        } else {
            metadata.size().div_ceil(1024)
        };
    }
    Ok(total)
}
