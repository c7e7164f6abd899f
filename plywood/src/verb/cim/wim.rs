//! A Windows imaging file, unpacked by wimlib.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use layer::Cancel;

use crate::exit::{Exit, Failure};

const MAGIC: [u8; 8] = *b"MSWIM\0\0\0";

/// Whether a file, if it is one, begins as a WIM does.
pub(super) fn is_wim(path: &Path) -> Result<bool> {
    if path.as_os_str() == "-" {
        return Ok(false);
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut head))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(head == MAGIC)
}

/// The files of a WIM in a directory that is removed again.
pub(super) struct Unpacked(PathBuf);

impl Unpacked {
    /// Unpacks one image of a WIM beside the output.
    pub(super) fn new(wim: &Path, image: &str, output: &Path, cancel: &Cancel) -> Result<Self> {
        let mut name = OsString::from(".");
        name.push(output.file_name().unwrap_or_default());
        name.push(".wim.");
        name.push(sys::file::random_name(6)?);
        let unpacked = Self(output.with_file_name(name));
        sys::file::create_directory(&unpacked.0, 0o700)?;
        let mut command = Command::new("wimlib-imagex");
        command.arg("apply").arg(wim).arg(image).arg(&unpacked.0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(Exit::SetUp, "wimlib-imagex is not installed")
                .hint("install it, for example with apt install wimtools"),
            _ => Failure::new(Exit::Failed, "cannot start wimlib-imagex").because(error),
        })?;
        let stderr = child.stderr.take();
        let said = thread::spawn(move || {
            let mut text = String::new();
            // What does not decode is not worth failing for.
            let _ = stderr.map(|mut stderr| stderr.read_to_string(&mut text));
            text
        });
        let status = loop {
            if let Some(status) = child.try_wait().context("cannot wait for wimlib-imagex")? {
                break status;
            }
            if cancel.is_cancelled() {
                let _ = child.kill();
            }
            thread::sleep(Duration::from_millis(20));
        };
        cancel.check()?;
        let said = said.join().unwrap_or_default();
        if !status.success() {
            let lines = said.lines().filter(|line| line.contains("ERROR"));
            let why: Vec<&str> = lines.collect();
            let what = format!("wimlib-imagex cannot unpack {}: {}", wim.display(), why.join("; "));
            anyhow::bail!(Failure::new(Exit::Corrupt, what));
        }
        Ok(unpacked)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // What cannot be removed stays: the result is what matters.
        let _ = sys::file::remove_tree(&self.0).or_else(|_| fs::remove_dir(&self.0));
    }
}
