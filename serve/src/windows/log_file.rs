//! The log: a file under ProgramData, since a service has no standard error.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::logging::Logging;

/// A log of more bytes is put aside at the start; the one before it goes.
const LONGEST: u64 = 16 << 20;

/// Where the log is: `logs\plywood.log` beside the store's directory.
fn place(config: &Config) -> PathBuf {
    config.root.parent().unwrap_or(&config.root).join("logs").join("plywood.log")
}

pub(super) fn start(config: &Config) -> Result<Logging> {
    let path = place(config);
    let file = open(&path)
        .map_err(|error| Error::io(format!("cannot open the log {}", path.display()), error))?;
    Ok(Logging::start_in(config, file))
}

fn open(path: &Path) -> std::io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LONGEST) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}
