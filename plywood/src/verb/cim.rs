//! `plywood cim …`: Windows' images as files, without mounting them.

mod check;
mod edit;
mod extract;
mod lifecycle;
mod path;
mod reparse;
mod safe_name;
mod show;
mod source;
mod stat;
mod transfer;
mod wim;

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use cimfs::{DirectorySet, Image};

use crate::Session;
use crate::cli::CimVerb;
use crate::exit::{Exit, Failure};

pub(crate) fn cim(session: &mut Session, verb: &CimVerb) -> Result<ExitCode> {
    match verb {
        CimVerb::Create(args) => edit::create(session, args)?,
        CimVerb::Info(args) => show::info(session, args)?,
        CimVerb::Ls(args) => show::ls(session, args)?,
        CimVerb::Tree(args) => show::tree(session, args)?,
        CimVerb::Cat(args) => show::cat(session, args)?,
        CimVerb::Stat(args) => stat::stat(session, args)?,
        CimVerb::Dump(args) => check::dump(session, args)?,
        CimVerb::Extract(args) => extract::extract(session, args)?,
        CimVerb::Check(args) => return check::check(session, args),
        CimVerb::Diff(args) => check::diff(session, args)?,
        CimVerb::Usage(args) => lifecycle::usage(session, args)?,
        CimVerb::Add(args) => edit::add(session, args)?,
        CimVerb::Rm(args) => edit::rm(session, args)?,
        CimVerb::Import(args) => transfer::import(session, args)?,
        CimVerb::Export(args) => transfer::export(session, args)?,
        CimVerb::Destroy(args) => lifecycle::destroy(session, args)?,
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

fn open(path: &Path) -> Result<Image<File>> {
    let (set, name) = existing(path)?;
    Image::open(&set, name).with_context(|| format!("cannot read {}", path.display()))
}
