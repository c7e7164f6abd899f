//! `create`, `add`, `rm`: images are written once; to change one is to fork it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use cimfs::{DirectorySet, Guid, ImagePath, ImageWriter, Summary, WritableSet as _, WriterOptions};
use layer::Cancel;
use serde_json::json;

use super::path::shown;
use super::source::Source;
use super::wim::{self, Unpacked};
use super::{existing, lifecycle, place, transfer};
use crate::Session;
use crate::cli::{CimAddArgs, CimCreateArgs, CimRemoveArgs};
use crate::exit::{Exit, Failure};
use crate::interrupt::cancel_on_signal;
use crate::output;

type Writer = ImageWriter<DirectorySet>;

pub(crate) fn create(session: &mut Session, args: &CimCreateArgs) -> Result<()> {
    let mut options = WriterOptions { version: args.image_version, ..WriterOptions::default() };
    if let Some(limit) = args.large_data_from {
        options.large_data_from = limit;
    }
    let (set, name) = new(&args.output)?;
    let cancel = cancel_on_signal()?;
    let doing = || format!("cannot make an image of {}", args.from.display());
    if !args.from.is_dir() && !wim::is_wim(&args.from)? {
        return transfer::create(session, args, options, &cancel);
    }
    let mut writer = match &args.parent {
        Some(parent) => {
            let (_, parent) = beside(parent, &args.output)?;
            ImageWriter::fork(set, parent, name, provisional(name), options)
        }
        None => ImageWriter::create(set, name, provisional(name), options),
    }
    .with_context(doing)?;
    let unpacked = match args.from.is_dir() {
        true => None,
        false => Some(Unpacked::new(&args.from, &args.wim_image, &args.output, &cancel)?),
    };
    let from = unpacked.as_ref().map_or(&*args.from, Unpacked::path);
    let added =
        Source::new(&mut writer, &cancel).tree(from, &ImagePath::ROOT).with_context(doing)?;
    let summary = finish(writer, &cancel).with_context(doing)?;
    report(session, &args.output, &summary, &format!("{added} names"))
}

pub(crate) fn add(session: &mut Session, args: &CimAddArgs) -> Result<()> {
    let path: ImagePath = args.path.as_str().into();
    let cancel = cancel_on_signal()?;
    let doing = || format!("cannot add {}", args.source.display());
    let edit = Edit::begin(&args.file, args.output.as_deref())?;
    let mut added = 0;
    let summary = edit.perform(&cancel, |writer| {
        let source = Source::new(writer, &cancel);
        added = match args.source.is_dir() {
            true => source.tree(&args.source, &path),
            false => source.file(&args.source, &path),
        }
        .with_context(doing)?;
        Ok(())
    })?;
    let written = args.output.as_deref().unwrap_or(&args.file);
    report(session, written, &summary, &format!("{added} names added"))
}

pub(crate) fn rm(session: &mut Session, args: &CimRemoveArgs) -> Result<()> {
    let cancel = cancel_on_signal()?;
    let edit = Edit::begin(&args.file, args.output.as_deref())?;
    let summary = edit.perform(&cancel, |writer| {
        for path in &args.paths {
            let path: ImagePath = path.as_str().into();
            writer.remove(&path).with_context(|| format!("cannot remove {}", shown(&path)))?;
        }
        Ok(())
    })?;
    let written = args.output.as_deref().unwrap_or(&args.file);
    report(session, written, &summary, &format!("{} paths removed", args.paths.len()))
}

/// A fork that takes the place of its parent, or another name.
struct Edit<'a> {
    set: DirectorySet,
    parent: &'a str,
    output: Option<&'a str>,
}

impl<'a> Edit<'a> {
    fn begin(file: &'a Path, output: Option<&'a Path>) -> Result<Self> {
        let (set, parent) = existing(file)?;
        let output = match output {
            Some(output) => {
                new(output)?;
                Some(beside(output, file)?.1)
            }
            None => None,
        };
        lifecycle::check_openable(&set, parent)?;
        Ok(Self { set, parent, output })
    }

    fn perform(
        self,
        cancel: &Cancel,
        change: impl FnOnce(&mut Writer) -> Result<()>,
    ) -> Result<Summary> {
        // In place: whatever is cut before the last rename is an orphan by its name.
        let temporary = format!("{}.edit.cimtmp", self.parent);
        let name = self.output.unwrap_or(&temporary);
        let doing = || format!("cannot change {}", self.parent);
        let set = self.set.clone();
        let options = WriterOptions::default();
        let mut writer = ImageWriter::fork(set, self.parent, name, provisional(name), options)
            .with_context(doing)?;
        change(&mut writer)?;
        let summary = finish(writer, cancel).with_context(doing)?;
        if self.output.is_none() {
            self.set
                .rename(name, self.parent)
                .and_then(|()| self.set.sync())
                .with_context(|| format!("cannot give {} its new content", self.parent))?;
        }
        Ok(summary)
    }
}

/// A GUID for temporary names: nobody else writes an image of this name.
fn provisional(name: &str) -> Guid {
    Guid::for_content(format!("plywood cim {name}").as_bytes())
}

fn finish(writer: Writer, cancel: &Cancel) -> Result<Summary> {
    cancel.check()?;
    Ok(writer.commit_by_content()?)
}

/// The place of an image that does not exist yet.
pub(super) fn new(path: &Path) -> Result<(DirectorySet, &str)> {
    if fs::symlink_metadata(path).is_ok() {
        anyhow::bail!(
            Failure::new(Exit::Exists, format!("{} exists already", path.display()))
                .hint("choose another name, or destroy it first with `plywood cim destroy`")
        );
    }
    place(path)
}

/// The place of an image that must lie in the same directory as another.
pub(super) fn beside<'a>(path: &'a Path, other: &Path) -> Result<(DirectorySet, &'a str)> {
    let (set, name) = place(path)?;
    let (theirs, _) = place(other)?;
    let real = |set: &DirectorySet| {
        fs::canonicalize(set.path())
            .with_context(|| format!("cannot examine {}", set.path().display()))
    };
    if real(&set)? != real(&theirs)? {
        let what = format!("{} and {} lie in two directories", path.display(), other.display());
        anyhow::bail!(
            Failure::new(Exit::Usage, what)
                .hint("a fork needs its parent's region files beside it")
        );
    }
    Ok((set, name))
}

fn report(session: &mut Session, path: &Path, summary: &Summary, what: &str) -> Result<()> {
    let written: u64 = summary.regions.iter().sum();
    if session.output.is_json() {
        return session.output.json(&json!({
            "image": path,
            "guid": summary.guid.to_string(),
            "entries": summary.entries,
            "regions": summary.regions,
        }));
    }
    session.output.line(format!(
        "{what}, {} entries and {} written, {}",
        summary.entries,
        output::size(written),
        summary.guid
    ))
}
