//! Where things are: the repository and its target directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::program;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for `cargo run`; the compiled-in value serves a binary started by itself.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Cargo's target directory, absolute.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// When the sources last changed, as far as git knows, in a format of git's: `%ct`, `%cs`.
pub(crate) fn last_change(format: &str) -> Result<String> {
    let mut log = Command::new("git");
    log.args(["log", "-1", &format!("--format={format}")]).current_dir(root());
    let text = program::output(&mut log)?.trim().to_owned();
    ensure!(!text.is_empty(), "git knows no commit");
    Ok(text)
}
