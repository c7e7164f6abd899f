//! What an importer makes of a layer beside its entries: the registry's bases and the file `layout`.
//!
//! Windows keeps the registry of a container as a base and changes. A base layer carries whole hives,
//! `Files\Windows\System32\config\SYSTEM` and so on, and the image gets hard links to them, `Hives\SYSTEM_BASE`;
//! any other layer carries changes, `Hives\System_Delta`, and the image gets new bases: those of the layer below with
//! the changes in them. Layers without changes have the bases of the layers below; hcsshim insists on changes in every
//! layer below one that has some.

use cimfs::{Case, FileView, Image, ImagePath, Metadata, ReadAt, WritableSet};

use super::intake::Intake;
use crate::error::{Error, ErrorKind, Result};
use crate::hive::{self, Hive};

/// Whether a tar is a layer or just a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Processing {
    /// A layer: it must have what Windows requires of one, and the image gets the registry's bases and `layout`.
    #[default]
    Layer,
    /// Any tree: the image has what the tar has, and nothing else.
    None,
}

/// Hives: the name of the base layer's file, and of the image's base and the layer's changes without `_BASE` and `_DELTA`.
pub(super) const HIVES: [(&str, &str); 5] = [
    ("SYSTEM", "SYSTEM"),
    ("SOFTWARE", "SOFTWARE"),
    ("SAM", "SAM"),
    ("SECURITY", "SECURITY"),
    ("DEFAULT", "DEFAULTUSER"),
];

/// Content of `layout`, which says that the layer has bases of hives.
pub(super) const LAYOUT: &[u8] = b"vhd-with-hives\n";
pub(super) const LAYOUT_NAME: &str = "layout";

pub(super) fn config_path(name: &str) -> ImagePath {
    format!(r"Files\Windows\System32\config\{name}").as_str().into()
}

pub(super) fn base_path(name: &str) -> ImagePath {
    format!(r"Hives\{name}_BASE").as_str().into()
}

pub(super) fn delta_path(name: &str) -> ImagePath {
    format!(r"Hives\{name}_DELTA").as_str().into()
}

/// Most bytes of a hive that are kept in memory; the format itself ends at 2 GiB.
const HIVE_MAX: u64 = 512 << 20;

/// The changes of hives in a layer, kept aside while they go into the image.
#[derive(Debug, Default)]
pub(super) struct Hives {
    deltas: Vec<(usize, Vec<u8>)>,
    open: bool,
}

impl Hives {
    /// A file begins; what follows is kept if it is a hive's changes.
    pub(super) fn begin(&mut self, path: &ImagePath, size: u64) -> Result<()> {
        let [directory, name] = path.names() else { return Ok(()) };
        let is = |name: &cimfs::Name, text: &str| {
            name.to_text().is_some_and(|name| name.eq_ignore_ascii_case(text))
        };
        let delta = |(_, hive): &(&str, &str)| is(name, &format!("{hive}_DELTA"));
        let hive = HIVES.iter().position(delta).filter(|_| is(directory, "Hives"));
        if let Some(hive) = hive {
            check_hive(size)?;
            self.deltas.push((hive, Vec::new()));
            self.open = true;
        }
        Ok(())
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        if self.open
            && let Some((_, delta)) = self.deltas.last_mut()
        {
            delta.extend_from_slice(bytes);
        }
    }

    pub(super) fn end(&mut self) {
        self.open = false;
    }
}

fn check_hive(size: u64) -> Result<()> {
    match size > HIVE_MAX {
        true => {
            let what = format!("a hive of {size} bytes, more than {HIVE_MAX}");
            Err(Error::new(ErrorKind::TooLarge, what))
        }
        false => Ok(()),
    }
}

fn storing(error: cimfs::Error) -> Error {
    Error::cimfs("cannot write the image", error)
}

impl<S: WritableSet> Intake<'_, S> {
    /// Does what is left when all entries are in.
    pub(super) fn process(&mut self) -> Result<()> {
        if self.counts.entries > 0 && !self.counts.any_files {
            return Err(Error::invalid(
                "no layer for Windows: it has nothing in a directory Files, as layers for Linux do",
            ));
        }
        match self.parent.is_some() {
            true => self.merge_hives(),
            false => self.make_bases(),
        }
    }

    fn exists(&mut self, path: &ImagePath) -> Result<bool> {
        Ok(self.writer.is_directory(path).map_err(storing)?.is_some())
    }

    fn make_bases(&mut self) -> Result<()> {
        let hives: ImagePath = "Hives".into();
        if !self.exists(&hives)? {
            self.writer.add_directory(&hives, &Metadata::default()).map_err(storing)?;
        }
        for (file, hive) in HIVES {
            let (file, base) = (config_path(file), base_path(hive));
            if self.exists(&base)? {
                continue;
            }
            if self.writer.is_directory(&file).map_err(storing)? != Some(false) {
                let what =
                    format!("a base layer has all hives of the registry, but this one no {file}");
                return Err(Error::invalid(what));
            }
            self.writer.add_link(&base, &file).map_err(storing)?;
        }
        let layout = LAYOUT_NAME.into();
        if !self.exists(&layout)? {
            self.writer.add_file(&layout, &Metadata::default(), LAYOUT).map_err(storing)?;
        }
        Ok(())
    }

    fn merge_hives(&mut self) -> Result<()> {
        for (hive, delta) in std::mem::take(&mut self.hives.deltas) {
            let (config, name) = HIVES[hive];
            let path = base_path(name);
            if self.has_said(&path) {
                continue;
            }
            let parent = self.parent.as_ref().expect("only layers with a parent have changes");
            let (metadata, base) = base_of(parent, &path)?;
            let base = closed(parent, config, base)?;
            let (merged, warnings) = merge(&base, &delta)
                .map_err(|error| error.path(delta_path(name).to_string().as_bytes()))?;
            self.writer.add_file(&path, &metadata, &merged).map_err(storing)?;
            self.counts.merged_hives += 1;
            self.counts.hive_warnings += warnings;
        }
        Ok(())
    }
}

/// The base that the nearest layer below has, with its metadata.
fn base_of<R: ReadAt>(parent: &Image<R>, path: &ImagePath) -> Result<(Metadata, Vec<u8>)> {
    let reading = |error: cimfs::Error| match error.kind() {
        cimfs::ErrorKind::NotFound => {
            let what = format!("the layer has changes for {path}, which no layer below has");
            Error::new(ErrorKind::MissingParent, what)
        }
        _ => Error::cimfs(READING, error),
    };
    let file = parent.resolve(path, Case::Ignored).map_err(reading)?;
    let bytes = content(parent, &file)?;
    // As hcsshim: no times, no attributes. Who may read the registry stays as it is.
    let security = parent.security_descriptor(&file).map_err(reading)?.unwrap_or_default();
    Ok((Metadata { security, ..Metadata::default() }, bytes))
}

const READING: &str = "reading the parent's registry";

fn content<R: ReadAt>(image: &Image<R>, file: &FileView) -> Result<Vec<u8>> {
    check_hive(file.size())?;
    let mut stream =
        image.open_stream(&file.data()).map_err(|error| Error::cimfs(READING, error))?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut bytes)
        .map_err(|error| Error::io(READING, error))?;
    Ok(bytes)
}

/// A hive with what its logs add, if it was not closed properly and has some. A base is a base layer's file by another
/// name, so its logs are beside that file.
fn closed<R: ReadAt>(image: &Image<R>, config: &str, base: Vec<u8>) -> Result<Vec<u8>> {
    if hive::recover(&base, &[]).is_ok() {
        return Ok(base);
    }
    let mut logs = Vec::new();
    for extension in ["LOG1", "LOG2", "LOG"] {
        let path = config_path(&format!("{config}.{extension}"));
        match image.resolve(&path, Case::Ignored) {
            Ok(file) => logs.push(content(image, &file)?),
            Err(error) if error.kind() == cimfs::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::cimfs(READING, error)),
        }
    }
    let slices: Vec<&[u8]> = logs.iter().map(Vec::as_slice).collect();
    // Without a log that helps, the hive itself says what is wrong.
    Ok(match hive::recover(&base, &slices) {
        Ok(recovered) => recovered.bytes.into_owned(),
        Err(_) => base,
    })
}

/// Whether a child's base of a hive is what an importer makes of its parent's base and the child's changes.
pub(super) fn is_merged<P: ReadAt, R: ReadAt>(
    parent: &Image<P>,
    child: &Image<R>,
    name: &str,
) -> Result<bool> {
    let path = base_path(name);
    let Ok((expected, below)) = base_of(parent, &path) else { return Ok(false) };
    let config = HIVES.iter().find(|(_, hive)| *hive == name).map_or(name, |(config, _)| config);
    let below = closed(parent, config, below)?;
    let (found, merged) = base_of(child, &path)?;
    let (_, delta) = base_of(child, &delta_path(name))?;
    let file = child.resolve(&path, Case::Ignored);
    let file = file.map_err(|error| Error::cimfs("cannot read the image", error))?;
    let times =
        [file.creation_time(), file.last_write_time(), file.change_time(), file.last_access_time()];
    let is_plain = times == [cimfs::FileTime(0); 4]
        && file.entry.flags.get() == 0
        && file.entry.ea_length.get() == 0
        && !file.is_reparse_point()
        && file.entry.streams.is_null();
    Ok(is_plain && expected == found && merge(&below, &delta).is_ok_and(|(made, _)| made == merged))
}

/// The merged hive, and how many warnings there were.
fn merge(base: &[u8], delta: &[u8]) -> Result<(Vec<u8>, u64)> {
    let read = |bytes, what| {
        Hive::read(bytes).map_err(|error| Error::new(error.kind(), what).because(error))
    };
    let base = read(base, "the hive of the layers below cannot be read")?;
    let merged = hive::merge(&base, &read(delta, "the hive with the changes cannot be read")?)?;
    let warnings = merged.hive.warnings().len() + merged.hive.omitted_warnings();
    Ok((merged.hive.write()?, warnings as u64))
}
