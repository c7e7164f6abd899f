//! `plywood cim …`: Windows' images as files, without mounting them.

mod check;
#[cfg(target_os = "linux")]
mod edit;
#[cfg(target_os = "linux")]
mod extract;
mod lifecycle;
#[cfg(target_os = "linux")]
mod linux;
mod path;
mod reparse;
#[cfg(target_os = "linux")]
mod safe_name;
mod show;
#[cfg(target_os = "linux")]
mod source;
mod stat;
#[cfg(target_os = "linux")]
mod transfer;
#[cfg(target_os = "linux")]
mod wim;
#[cfg(windows)]
mod windows;

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use cimfs::{DirectorySet, Image};

use crate::Session;
use crate::cli::CimVerb;
use crate::exit::{Exit, Failure};

#[cfg(target_os = "linux")]
pub(super) use self::transfer::import;
#[cfg(target_os = "linux")]
use linux as imp;
#[cfg(windows)]
use windows as imp;

pub(crate) fn cim(session: &mut Session, verb: &CimVerb) -> Result<ExitCode> {
    match verb {
        CimVerb::Info(args) => show::info(session, args)?,
        CimVerb::Ls(args) => show::ls(session, args)?,
        CimVerb::Tree(args) => show::tree(session, args)?,
        CimVerb::Cat(args) => show::cat(session, args)?,
        CimVerb::Stat(args) => stat::stat(session, args)?,
        CimVerb::Dump(args) => check::dump(session, args)?,
        CimVerb::Check(args) => return check::check(session, args),
        CimVerb::Diff(args) => check::diff(session, args)?,
        CimVerb::Usage(args) => lifecycle::usage(session, args)?,
        CimVerb::Destroy(args) => lifecycle::destroy(session, args)?,
        other => imp::cim(session, other)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The directory that an image lies in, and the name of its filesystem file there.
fn place(path: &Path) -> Result<(DirectorySet, &str)> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("{} is no file name in Unicode", path.display()))
    })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((DirectorySet::new(parent.unwrap_or(Path::new("."))), name))
}

/// The same of an image that exists.
fn existing(path: &Path) -> Result<(DirectorySet, &str)> {
    let kind = fs::metadata(path).with_context(|| format!("cannot open {}", path.display()))?;
    if kind.is_dir() {
        anyhow::bail!(Failure::new(Exit::Usage, format!("{} is a directory", path.display())));
    }
    place(path)
}

/// An image that exists, and its parent in the same directory.
#[cfg(target_os = "linux")]
pub(super) fn with_parent<'p>(
    path: &'p Path,
    parent: Option<&'p Path>,
) -> Result<(DirectorySet, &'p str, Option<&'p str>)> {
    let (set, name) = existing(path)?;
    let parent = parent.map(|parent| edit::beside(parent, path)).transpose()?;
    Ok((set, name, parent.map(|(_, name)| name)))
}

fn open(path: &Path) -> Result<Image<File>> {
    let (set, name) = existing(path)?;
    Image::open(&set, name).with_context(|| format!("cannot read {}", path.display()))
}
