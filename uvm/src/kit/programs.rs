//! Programs of the host for the guest, each with the shared libraries that it loads.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, ErrorKind, Result};

/// Where programs are looked for on the host, whatever the caller's PATH is.
const PATH: &[&str] =
    &["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];

/// A program of that name.
pub(super) fn find(name: &str) -> Result<PathBuf> {
    let found =
        PATH.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        Error::new(ErrorKind::ToolMissing, format!("{name} is not installed; the guest needs it"))
    })
}

/// The shared libraries that `program` loads, and its loader, as absolute paths of the host.
pub(super) fn libraries(program: &Path, all: &mut BTreeSet<PathBuf>) -> Result<()> {
    let output = Command::new("ldd").arg(program).output().map_err(|error| {
        Error::caused(ErrorKind::ToolMissing, "cannot start ldd (package libc-bin)", error)
    })?;
    // A static program is an error for it, which is fine: it needs nothing.
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines() {
        if line.contains("not found") {
            let message = format!("a library of {} is missing: {}", program.display(), line.trim());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let path = line.split("=>").last().and_then(|rest| rest.split_whitespace().next());
        all.extend(path.filter(|path| path.starts_with('/')).map(PathBuf::from));
    }
    Ok(())
}
