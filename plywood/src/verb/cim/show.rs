//! `info`, `ls`, `tree`, `cat`

use std::collections::HashSet;
use std::fs::File;

use anyhow::{Context as _, Result};
use cimfs::{Case, FileId, FileView, Image, ImagePath, Name};
use serde::Serialize;
use serde_json::json;

use super::path::{JsonImagePath, shown, shown_name, with_stream};
use super::reparse::Target;
use super::{existing, open, stat};
use crate::Session;
use crate::cli::{CimCatArgs, CimFileArgs, CimListArgs, CimTreeArgs};
use crate::escape;
use crate::exit::{Exit, Failure};
use crate::output;

/// A file as listings show it in JSON.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    path: JsonImagePath,
    #[serde(flatten)]
    basics: stat::Basics,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

pub(crate) fn info(session: &mut Session, args: &CimFileArgs) -> Result<()> {
    let image = open(&args.file)?;
    let (set, name) = existing(&args.file)?;
    let (major, minor) = image.version();
    let parents: Vec<String> = image.parent_guids().map(|guid| guid.to_string()).collect();
    let forks = cimfs::forks(&set, name).context("cannot look for forks")?;
    let own = image.own_regions_start();
    let regions: Vec<(u16, &str, u64)> = (0..=u16::MAX)
        .map_while(|index| Some((index, image.region_name(index)?, image.region_length(index)?)))
        .collect();
    let tables = image.filesystem().file_table_count.get();
    let entries: u64 = (0..tables)
        .map(|index| Ok(u64::from(image.file_table(index)?.count.get())))
        .sum::<cimfs::Result<u64>>()
        .context("cannot read the list of file tables")?;
    if session.output.is_json() {
        let regions: Vec<_> = regions
            .iter()
            .map(|(index, name, length)| {
                json!({
                    "index": index, "name": name, "length": length, "own": usize::from(*index) >= own,
                })
            })
            .collect();
        return session.output.json(&json!({
            "guid": image.guid().to_string(),
            "version": format!("{major}.{minor}"),
            "length": image.length(),
            "parents": parents,
            "forks": forks,
            "root": image.root().0,
            "file_tables": tables,
            "entries": entries,
            "regions": regions,
        }));
    }
    let none = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(" ") };
    for (name, value) in [
        ("guid", image.guid().to_string()),
        ("version", format!("{major}.{minor}")),
        ("parents", none(&parents)),
        (
            "forks",
            none(&forks.iter().map(|name| shown_name(&name.as_str().into())).collect::<Vec<_>>()),
        ),
        ("root", image.root().to_string()),
        ("entries", format!("{entries} in {tables} tables")),
        ("regions", regions.len().to_string()),
    ] {
        session.output.line(format!("{name:<9} {value}").trim_end())?;
    }
    for (index, name, length) in regions {
        let whose = if usize::from(index) < own { "parent's" } else { "own" };
        let length = output::size(length);
        session.output.line(format!("  {index:<3} {length:>8}  {name}  {whose}"))?;
    }
    Ok(())
}

/// What is still to be shown of a directory, last first.
struct Open {
    path: ImagePath,
    entries: Vec<(Name, FileId)>,
}

/// A walk in the order of names, from any directory.
struct Descent<'a> {
    image: &'a Image<File>,
    open: Vec<Open>,
    /// A damaged image could hold a directory inside itself, and the listing would never end.
    seen: HashSet<FileId>,
}

impl<'a> Descent<'a> {
    fn new(image: &'a Image<File>) -> Self {
        Self { image, open: Vec::new(), seen: HashSet::new() }
    }

    fn enter(&mut self, path: ImagePath, directory: &FileView) -> Result<()> {
        if !self.seen.insert(directory.id) {
            let what = format!("{}: a directory that has two names", shown(&path));
            anyhow::bail!(Failure::new(Exit::Corrupt, what));
        }
        let entries = self.image.entries(directory)?;
        let entries: cimfs::Result<Vec<_>> =
            entries.map(|entry| entry.map(|entry| (entry.name, entry.id))).collect();
        let mut entries = entries.with_context(|| cannot_read(&path))?;
        entries.reverse();
        self.open.push(Open { path, entries });
        Ok(())
    }

    /// The next name, and how many more its directory has.
    fn next(&mut self) -> Option<(ImagePath, FileId, usize)> {
        loop {
            let open = self.open.last_mut()?;
            match open.entries.pop() {
                Some((name, id)) => return Some((open.path.join(name), id, open.entries.len())),
                None => drop(self.open.pop()),
            }
        }
    }
}

pub(crate) fn ls(session: &mut Session, args: &CimListArgs) -> Result<()> {
    let image = open(&args.file)?;
    let start: ImagePath = args.path.as_str().into();
    let file = image.resolve(&start, Case::Ignored).context("cannot list")?;
    if !file.is_dir() {
        return list(session, &image, &start, &shown(&start), &file, args.long);
    }
    let mut descent = Descent::new(&image);
    descent.enter(start, &file)?;
    while let Some((path, id, _)) = descent.next() {
        let file = image.file(id).with_context(|| cannot_read(&path))?;
        let name = match path.names().last() {
            Some(name) if !args.recursive => shown_name(name),
            _ => shown(&path),
        };
        list(session, &image, &path, &name, &file, args.long)?;
        if args.recursive && file.is_dir() {
            descent.enter(path, &file)?;
        }
    }
    Ok(())
}

fn list(
    session: &mut Session,
    image: &Image<File>,
    path: &ImagePath,
    name: &str,
    file: &FileView,
    long: bool,
) -> Result<()> {
    let json = session.output.is_json();
    if !json && !long {
        return session.output.line(name);
    }
    let buffer = image.reparse_buffer(file).with_context(|| cannot_read(path))?;
    let target = buffer.as_deref().and_then(Target::of).map(|target| target.text);
    if json {
        let listed =
            Listed { path: JsonImagePath::new(path), basics: stat::Basics::of(file), target };
        return session.output.json(&listed);
    }
    let arrow = target.map(|target| format!(" -> {}", escape::message(&target)));
    let size = if file.is_dir() { "-".to_owned() } else { file.size().to_string() };
    session.output.line(format!(
        "{} {size:>12} {} {name}{}",
        stat::letters(file.attributes()),
        stat::time(file.last_write_time()).unwrap_or_else(|| "-".to_owned()),
        arrow.unwrap_or_default(),
    ))
}

pub(crate) fn tree(session: &mut Session, args: &CimTreeArgs) -> Result<()> {
    let image = open(&args.file)?;
    let start: ImagePath = args.path.as_str().into();
    let top = image.resolve(&start, Case::Ignored).context("cannot list")?;
    if !session.output.is_json() {
        session.output.line(shown(&start))?;
    }
    let mut descent = Descent::new(&image);
    if top.is_dir() {
        descent.enter(start, &top)?;
    }
    let (mut directories, mut files) = (0_u64, 0_u64);
    while let Some((path, id, left)) = descent.next() {
        let depth = descent.open.len();
        let file = image.file(id).with_context(|| cannot_read(&path))?;
        *(if file.is_dir() { &mut directories } else { &mut files }) += 1;
        let Some(name) = path.names().last() else { continue };
        if session.output.is_json() {
            session.output.json(&Listed {
                path: JsonImagePath::new(&path),
                basics: stat::Basics::of(&file),
                target: None,
            })?;
        } else {
            let above = &descent.open[..depth - 1];
            let bars =
                above.iter().map(|open| if open.entries.is_empty() { "    " } else { "│   " });
            let bars: String = bars.collect();
            let branch = if left == 0 { "└── " } else { "├── " };
            session.output.line(format!("{bars}{branch}{}", shown_name(name)))?;
        }
        if file.is_dir() && args.depth.is_none_or(|limit| depth < limit) {
            descent.enter(path, &file)?;
        }
    }
    match session.output.is_json() {
        true => Ok(()),
        false => session.output.line(format!("{directories} directories, {files} files")),
    }
}

pub(crate) fn cat(session: &mut Session, args: &CimCatArgs) -> Result<()> {
    let image = open(&args.file)?;
    // Everything is looked up before anything is written, so that a wrong name writes nothing.
    let mut streams = Vec::new();
    for text in &args.paths {
        let (path, name) = with_stream(text);
        let file = image.resolve(&path, Case::Ignored).context("cannot read")?;
        let stream = match name {
            Some(name) => image
                .alternate_stream(&file, &name)
                .with_context(|| cannot_read(&path))?
                .ok_or_else(|| {
                    let what = format!("{} has no stream {}", shown(&path), shown_name(&name));
                    Failure::new(Exit::NotFound, what)
                })?,
            None if file.is_dir() => {
                let what = format!("{} is a directory, not a file", shown(&path));
                anyhow::bail!(Failure::new(Exit::Usage, what));
            }
            None => file.data(),
        };
        streams.push((path, stream));
    }
    let mut buffer = vec![0; 1 << 20];
    for (path, stream) in streams {
        let reader = image.open_stream(&stream).with_context(|| cannot_read(&path))?;
        let mut offset = 0;
        loop {
            let count = reader.read_at(&mut buffer, offset).with_context(|| cannot_read(&path))?;
            if count == 0 {
                break;
            }
            session.output.bytes(&buffer[..count])?;
            offset += count as u64;
        }
    }
    Ok(())
}

pub(super) fn cannot_read(path: &ImagePath) -> String {
    format!("cannot read {}", shown(path))
}
