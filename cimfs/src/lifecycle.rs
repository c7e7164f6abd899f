//! Which files an image consists of: how many bytes they take, how they are removed, and which belong to none.

use std::collections::HashSet;
use std::io;

use crate::format::{MAGIC, RegionSet};
use crate::reader::{FilesystemFile, object_id_name, read_up_to, region_name};
use crate::writer::TEMPORARY;
use crate::{Error, ErrorKind, FileSet, Guid, ReadAt, Result, WritableSet};

/// Bytes that an image takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// The image's own region and object-ID files, which is what hcsshim counts.
    pub regions: u64,
    /// The filesystem file, which hcsshim leaves out.
    pub filesystem: u64,
    /// Region and object-ID files of the parents, which other images may share.
    pub parents: u64,
    /// Files that should be there and are not; hcsshim passes over them too.
    pub missing: u64,
}

/// Counts the bytes of an image's files. Their content is not looked at, so images of unknown kind inside can be
/// counted too.
///
/// # Errors
/// As [`Image::open`](crate::Image::open) for the filesystem file; [`ErrorKind::Io`].
pub fn usage<S: FileSet>(set: &S, name: &str) -> Result<Usage> {
    let file = FilesystemFile::read(set, name)?;
    let mut usage = Usage { filesystem: file.length, ..Usage::default() };
    let mut seen = HashSet::new();
    for (own, regions) in file.sets() {
        if !seen.insert(regions.id) {
            continue;
        }
        for name in files_of(regions) {
            match set.open(&name).and_then(|file| file.size()) {
                Ok(length) if own => usage.regions += length,
                Ok(length) => usage.parents += length,
                Err(e) if e.kind() == io::ErrorKind::NotFound => usage.missing += 1,
                Err(e) => return Err(Error::io(format!("asking for the length of {name}"), e)),
            }
        }
    }
    Ok(usage)
}

/// The other images of the set that were forked from this one, or from a fork of it, and cannot be without it.
///
/// # Errors
/// As [`Image::open`](crate::Image::open) for the filesystem file; [`ErrorKind::Io`].
pub fn forks<S: FileSet>(set: &S, name: &str) -> Result<Vec<String>> {
    let own = FilesystemFile::read(set, name)?.header.regions.id;
    let mut forks = Vec::new();
    for other in images(set)? {
        if other != name
            && FilesystemFile::read(set, &other)?.parents.iter().any(|parent| parent.id == own)
        {
            forks.push(other);
        }
    }
    forks.sort_unstable();
    Ok(forks)
}

/// Removes an image as hcsshim does: its own region files, then the object-ID files, then the filesystem file, so
/// that what was cut can be done again. Goes on after errors and returns the first. Parents stay.
///
/// # Errors
/// [`ErrorKind::Invalid`], before anything is removed, if the set has forks of the image; as
/// [`Image::open`](crate::Image::open) for the filesystem file; [`ErrorKind::Io`].
pub fn destroy<S: WritableSet>(set: &S, name: &str) -> Result<()> {
    let file = FilesystemFile::read(set, name)?;
    if let Some(fork) = forks(set, name)?.first() {
        let what = format!("{name} has forks that need it, such as {fork}");
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    let mut first = Ok(());
    let mut remove = |name: &str| match set.remove(name) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            let error = Error::io(format!("removing {name}"), e);
            first = std::mem::replace(&mut first, Ok(())).and(Err(error));
        }
        _ => {}
    };
    files_of(&file.header.regions).for_each(|name| remove(&name));
    remove(name);
    first?;
    set.sync().map_err(|e| Error::io("making the removal durable", e))
}

/// Names of the files that [`destroy`] removes: the image's own regions and object-ID files as far as they are there, and
/// last the filesystem file.
///
/// # Errors
/// As [`Image::open`](crate::Image::open) for the filesystem file; [`ErrorKind::Io`].
pub fn files<S: FileSet>(set: &S, name: &str) -> Result<Vec<String>> {
    let file = FilesystemFile::read(set, name)?;
    let present: HashSet<String> = names(set)?.into_iter().collect();
    let mut files: Vec<_> = files_of(&file.header.regions).collect();
    files.retain(|file| present.contains(file));
    files.push(name.into());
    Ok(files)
}

/// Names of files that look like parts of images and belong to none: temporary ones, and regions and object
/// lists that no filesystem file mentions. Killed writers leave such, and so do removals that were cut
/// elsewhere, and images that took the place of their parents. While an image is being written, its files are among them.
///
/// # Errors
/// [`ErrorKind::Io`]; also if a filesystem file is of no known version, because then nobody knows what is its.
pub fn orphans<S: FileSet>(set: &S) -> Result<Vec<String>> {
    unneeded(set, None)
}

/// What [`orphans`] would find if an image were not there; its own files are among them.
///
/// # Errors
/// As [`orphans`].
pub fn orphans_without<S: FileSet>(set: &S, image: &str) -> Result<Vec<String>> {
    unneeded(set, Some(image))
}

fn unneeded<S: FileSet>(set: &S, without: Option<&str>) -> Result<Vec<String>> {
    let mut needed = HashSet::new();
    for name in images(set)?.into_iter().filter(|name| Some(&**name) != without) {
        let file = FilesystemFile::read(set, &name)?;
        needed.extend(file.sets().map(|(_, regions)| Guid::from_disk(regions.id)));
    }
    let belongs = |name: &str| match part_of(name) {
        Some(id) => needed.contains(&id) && !name.ends_with(TEMPORARY),
        None => !name.ends_with(TEMPORARY),
    };
    let mut names = names(set)?;
    names.retain(|name| !belongs(name));
    names.sort_unstable();
    Ok(names)
}

impl FilesystemFile {
    /// All region sets, with whether it is the image's own.
    fn sets(&self) -> impl Iterator<Item = (bool, &RegionSet)> {
        let parents = self.parents.iter().map(|set| (false, set));
        [(true, &self.header.regions)].into_iter().chain(parents)
    }
}

fn files_of(set: &RegionSet) -> impl Iterator<Item = String> + use<> {
    let (id, count) = (Guid::from_disk(set.id), set.count.get());
    let regions = (0..count).map(move |index| region_name(id, index));
    regions.chain((0..count).map(move |index| object_id_name(id, index)))
}

fn names<S: FileSet>(set: &S) -> Result<Vec<String>> {
    set.names().map_err(|e| Error::io("listing the files", e))
}

/// The region set that a region or object-ID file is named after.
fn part_of(name: &str) -> Option<Guid> {
    let rest = name.strip_prefix("region_").or_else(|| name.strip_prefix("objectid_"))?;
    rest.rsplit_once('_')?.0.parse().ok()
}

/// Files that begin as filesystem files do, whatever they are called.
fn images<S: FileSet>(set: &S) -> Result<Vec<String>> {
    let mut images = Vec::new();
    for name in names(set)? {
        if part_of(&name).is_some() || name.ends_with(TEMPORARY) {
            continue;
        }
        let mut head = [0; 13];
        let failed = |e| Error::io(format!("reading {name}"), e);
        match set.open(&name).and_then(|file| read_up_to(&file, &mut head, 0)) {
            Ok(_) if head[..8] == MAGIC && head[12] == crate::format::FILE_TYPE_IMAGE => {
                images.push(name);
            }
            Ok(_) => {}
            // Directories and what vanished meanwhile.
            Err(e) if is_no_file(&e) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(images)
}

fn is_no_file(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotFound};
    [IsADirectory, NotFound].contains(&error.kind())
}
