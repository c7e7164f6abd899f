//! `plywood erofs …`: looking at image files without mounting them.

mod check;
#[cfg(target_os = "linux")]
mod extract;
#[cfg(target_os = "linux")]
mod linux;
mod show;
#[cfg(windows)]
mod windows;
#[cfg(target_os = "linux")]
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use erofs::Image;

use crate::Session;
use crate::cli::ErofsVerb;
use crate::exit::{Exit, Failure};

#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(windows)]
use windows as imp;

pub(crate) fn erofs(session: &mut Session, verb: &ErofsVerb) -> Result<ExitCode> {
    match verb {
        ErofsVerb::Info(args) => show::info(session, args)?,
        ErofsVerb::Ls(args) => show::ls(session, args)?,
        ErofsVerb::Cat(args) => show::cat(session, args)?,
        ErofsVerb::Stat(args) => show::stat(session, args)?,
        ErofsVerb::Dump(args) => check::dump(session, args)?,
        ErofsVerb::Check(args) => return check::check(session, args),
        ErofsVerb::Diff(args) => check::diff(session, args)?,
        other => imp::erofs(session, other)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Finds out whether an image and its devices fit together.
pub(super) fn check_openable(path: &Path, devices: &[PathBuf]) -> Result<()> {
    let image = open(path, devices)?;
    let slots = image.devices().len();
    if slots != devices.len() {
        anyhow::bail!(
            Failure::new(
                Exit::Usage,
                format!("{} needs {slots} devices, {} are given", path.display(), devices.len())
            )
            .hint("give them with --device, in the order of `plywood erofs info`")
        );
    }
    Ok(())
}

/// Opens an image with its devices.
fn open(path: &Path, devices: &[PathBuf]) -> Result<Image<File>> {
    let image = open_file(path)?;
    let devices: Vec<File> = devices.iter().map(|path| open_file(path)).collect::<Result<_>>()?;
    Image::open_with_devices(image, devices)
        .with_context(|| format!("cannot read {}", path.display()))
}

fn open_file(path: &Path) -> Result<File> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let kind = file.metadata().with_context(|| format!("cannot examine {}", path.display()))?;
    if kind.is_dir() {
        anyhow::bail!(Failure::new(Exit::Usage, format!("{} is a directory", path.display())));
    }
    Ok(file)
}
