//! Images back to the tars of Windows layers.
//!
//! Headers are those of Microsoft's exporter: PAX for every entry, `fileattr`, `rawsd`, EAs and times as it writes
//! them, directories without a slash, whiteouts right behind their directory, hard links behind the first name, names in
//! the order of their bytes. Where it loses something, this does not: all streams are written, also those of directories
//! and empty files; reparse points of any kind and the flags of extended attributes have records of their own; sparse
//! files stay sparse; every `FILETIME` comes back; links without a print name have their target; the recycle bin is a
//! directory like others; what is above `Files` has its security descriptor as well. What is not in such a tar:
//! metadata of the root directory, and what an importer makes anew ([`Processing::Layer`](super::Processing)).

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use cimfs::{FileFlags, FileId, FileSet, FileView, Image, ImagePath, ReadAt};

use super::description::{Blobs, Records, write_basics, write_times};
use super::difference;
use super::name::encode_wtf8;
use super::processing::{HIVES, LAYOUT, LAYOUT_NAME, base_path, config_path};
use super::tar_header::{Object, hard_link};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::export::{Measuring, check_name};
use crate::progress::Cancel;
use crate::tar::{PaxEntry, PaxWriter};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowsLayerTar {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Length of the tar in bytes.
    pub size: u64,
    /// Number of entries, alternate streams included.
    pub entries: u64,
    /// Whiteouts among them.
    pub whiteouts: u64,
}

/// Writes an image as the tar of a Windows layer: all of it as a base layer, or what it has other than `parent`. From
/// the tar, and on the parent, [`write_windows_layer`](super::write_windows_layer) makes an image that is equal to this
/// one.
///
/// A difference has the directories above what changed, and `Files` and `Hives` in any case, which Windows insists on.
/// New bases of the registry's hives are left out where their changes are there, since the importer merges them again.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for a damaged image, [`ErrorKind::Invalid`] for names that no tar of a layer can have,
/// [`ErrorKind::Unsupported`] for a directory whose name changed in the case of letters only,
/// [`ErrorKind::Cancelled`], [`ErrorKind::NoSpace`], [`ErrorKind::Io`].
pub fn write_windows_layer_tar<S: FileSet>(
    set: &S,
    name: &str,
    parent: Option<&str>,
    output: impl Write,
    cancel: &Cancel,
) -> Result<WindowsLayerTar> {
    let open = |name: &str| {
        let what = || format!("cannot open the image {name}");
        Image::open(set, name).map_err(|error| Error::cimfs(what(), error))
    };
    let image = open(name)?;
    let plan = match parent {
        None => whole(&image, cancel)?,
        Some(parent) => difference::plan(&open(parent)?, &image, cancel)?,
    };
    Exporter {
        image: &image,
        cancel,
        anchors: plan.anchors,
        linked: plan.linked,
        entries: 0,
        whiteouts: 0,
    }
    .write(&plan.items, output)
}

pub(super) fn reading(error: cimfs::Error) -> Error {
    Error::cimfs("cannot read the image", error)
}

/// What goes into a tar.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// By path with NULs for separators, which sorts each directory's names by their bytes and behind the directory.
    pub(super) items: BTreeMap<Vec<u8>, Item>,
    /// Files with several names.
    pub(super) linked: HashMap<FileId, u32>,
    /// Of these, the ones that have a name already, as a path in a tar.
    pub(super) anchors: HashMap<FileId, Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    File(FileId),
    Whiteout,
}

/// The sorting form of a path.
///
/// # Errors
/// [`ErrorKind::Invalid`] for names that mean something else in a tar.
pub(super) fn key(path: &ImagePath) -> Result<Vec<u8>> {
    let mut key = Vec::new();
    for name in path.names() {
        if !key.is_empty() {
            key.push(0);
        }
        let bytes = encode_wtf8(name.units().iter().copied());
        if let Some(fault) = name.fault() {
            return Err(Error::corrupt(format!("{path}: the name {name:?} {fault}")));
        }
        check_name(&bytes).map_err(|error| error.path(path.to_string().as_bytes()))?;
        key.extend_from_slice(&bytes);
    }
    Ok(key)
}

/// The key of the mark that a path of a directory is gone: before all that is in the directory.
pub(super) fn whiteout_key(path: &ImagePath) -> Result<Vec<u8>> {
    let mut key = key(path)?;
    let start = key.iter().rposition(|byte| *byte == 0).map_or(0, |separator| separator + 1);
    key.insert(start, 0);
    Ok(key)
}

pub(super) fn tar_path(key: &[u8]) -> Vec<u8> {
    key.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect()
}

/// All of an image but what an importer makes.
fn whole<R: ReadAt>(image: &Image<R>, cancel: &Cancel) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut names: HashMap<FileId, u32> = HashMap::new();
    for entry in image.walk() {
        cancel.check()?;
        let entry = entry.map_err(reading)?;
        let path = entry.path();
        if path == ImagePath::ROOT {
            continue;
        }
        if !entry.file.is_dir() {
            *names.entry(entry.file.id).or_default() += 1;
        }
        plan.items.insert(key(&path)?, Item::File(entry.file.id));
    }
    drop_made(image, &mut plan, &mut names)?;
    names.retain(|_, count| *count > 1);
    plan.linked = names;
    Ok(plan)
}

/// Leaves out what the importer of a base layer makes: links to hives, their directory, `layout`.
fn drop_made<R: ReadAt>(
    image: &Image<R>,
    plan: &mut Plan,
    names: &mut HashMap<FileId, u32>,
) -> Result<()> {
    let mut found = Vec::new();
    for (file, hive) in HIVES {
        let file = plan.items.get(&key(&config_path(file))?).copied();
        let base = key(&base_path(hive))?;
        match (file, plan.items.get(&base)) {
            (Some(file), Some(link)) if file == *link => found.push((base, file)),
            _ => {}
        }
    }
    // Without all of them it is none that an importer made.
    if found.len() < HIVES.len() {
        return Ok(());
    }
    for (base, file) in found {
        plan.items.remove(&base);
        if let Item::File(id) = file {
            names.entry(id).and_modify(|count| *count -= 1);
        }
    }
    let hives = b"Hives".to_vec();
    let below = [&hives, &b"\0"[..]].concat();
    if let Some(Item::File(id)) = plan.items.get(&hives).copied()
        && !plan.items.range(below.clone()..).next().is_some_and(|(key, _)| key.starts_with(&below))
        && is_made(image, &image.file(id).map_err(reading)?)?
    {
        plan.items.remove(&hives);
    }
    if let Some(Item::File(id)) = plan.items.get(LAYOUT_NAME.as_bytes()).copied() {
        let file = image.file(id).map_err(reading)?;
        let layout = !file.is_dir() && file.size() == LAYOUT.len() as u64;
        if layout && is_made(image, &file)? && bytes(image, &file)? == LAYOUT {
            plan.items.remove(LAYOUT_NAME.as_bytes());
        }
    }
    Ok(())
}

/// Whether the metadata is that of what an importer makes.
fn is_made<R: ReadAt>(image: &Image<R>, file: &FileView) -> Result<bool> {
    let times =
        [file.creation_time(), file.last_write_time(), file.change_time(), file.last_access_time()];
    let made = Blobs { security: cimfs::format::NULL_DACL.to_vec(), ..Blobs::default() };
    Ok(times == [cimfs::FileTime(0); 4]
        && file.flags() == FileFlags::empty()
        && image.alternate_streams(file).map_err(reading)?.next().is_none()
        && blobs(image, file)? == made)
}

fn bytes<R: ReadAt>(image: &Image<R>, file: &FileView) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut stream = image.open_stream(&file.data()).map_err(reading)?;
    std::io::Read::read_to_end(&mut stream, &mut bytes)
        .map_err(|error| Error::io("cannot read the image", error))?;
    Ok(bytes)
}

fn blobs<R: ReadAt>(image: &Image<R>, file: &FileView) -> Result<Blobs> {
    let security = image.security_descriptor(file).map_err(reading)?;
    Ok(Blobs {
        // Without one everyone may do everything, and so says the shortest.
        security: security.unwrap_or_else(|| cimfs::format::NULL_DACL.to_vec()),
        eas: image.ea_buffer(file).map_err(reading)?,
        reparse: image.reparse_buffer(file).map_err(reading)?.unwrap_or_default(),
    })
}

struct Exporter<'i, R> {
    image: &'i Image<R>,
    cancel: &'i Cancel,
    linked: HashMap<FileId, u32>,
    anchors: HashMap<FileId, Vec<u8>>,
    entries: u64,
    whiteouts: u64,
}

impl<R: ReadAt> Exporter<'_, R> {
    fn write(
        mut self,
        items: &BTreeMap<Vec<u8>, Item>,
        output: impl Write,
    ) -> Result<WindowsLayerTar> {
        let mut tar = PaxWriter::new(Measuring::new(output));
        for (key, item) in items {
            self.cancel.check()?;
            match item {
                Item::File(id) => {
                    let path = tar_path(key);
                    self.file(&mut tar, &path, *id).map_err(|error| error.path(&path))?;
                }
                Item::Whiteout => {
                    let name = key.iter().rposition(|byte| *byte == 0).unwrap_or(0) + 1;
                    // Two NULs lie in front of the name, but one at the root.
                    let directory = tar_path(&key[..name.saturating_sub(2)]);
                    let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
                    tar.mark(&[&directory, slash, b".wh.", &key[name..]].concat())?;
                    self.whiteouts += 1;
                    self.entries += 1;
                }
            }
        }
        let Measuring { digester, size, .. } = tar.finish()?;
        let Self { entries, whiteouts, .. } = self;
        Ok(WindowsLayerTar { diff_id: digester.finish(), size, entries, whiteouts })
    }

    fn file<W: Write>(&mut self, tar: &mut PaxWriter<W>, path: &[u8], id: FileId) -> Result<()> {
        let file = self.image.file(id).map_err(reading)?;
        let mut records = Records::new();
        let mtime = write_basics(&file, &mut records);
        self.entries += 1;
        if self.linked.contains_key(&id) {
            if let Some(first) = self.anchors.get(&id) {
                return tar.entry(hard_link(path, first, mtime, records));
            }
            self.anchors.insert(id, path.to_vec());
        }
        let blobs = blobs(self.image, &file)?;
        let size = if file.is_dir() { 0 } else { file.size() };
        let link = blobs.link(size);
        blobs.write(link.as_ref(), &mut records)?;
        let object = Object {
            directory: file.is_dir(),
            target: link.map(|(target, _)| target),
            // An image does not tell an empty stream from none.
            size: (size > 0).then_some(size),
            hole: size > 0 && file.data().is_sparse(),
        };
        tar.entry(object.header(path, mtime, records))?;
        if object.has_data() {
            self.data(tar, &file.data(), size)?;
        }
        for stream in self.image.alternate_streams(&file).map_err(reading)? {
            let stream = stream.map_err(reading)?;
            if let Some(fault) = stream.name.fault() {
                return Err(Error::corrupt(format!("the name of a stream {fault}")));
            }
            let mut records = Records::new();
            let mtime = write_times(&file, &mut records);
            let (name, size) = (stream.name.units().iter().copied(), stream.stream.length());
            let hole = size > 0 && stream.stream.is_sparse();
            let header = object.stream_header(path, name, size, mtime, records);
            tar.entry(PaxEntry { hole, ..header })?;
            if !hole {
                self.data(tar, &stream.stream, size)?;
            }
            self.entries += 1;
        }
        Ok(())
    }

    fn data<W: Write>(
        &self,
        tar: &mut PaxWriter<W>,
        stream: &cimfs::Stream,
        size: u64,
    ) -> Result<()> {
        let reader = self.image.open_stream(stream).map_err(reading)?;
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(256 << 10)];
        let mut position = 0;
        while position < size {
            self.cancel.check()?;
            let piece = usize::try_from(size - position).unwrap_or(usize::MAX).min(buffer.len());
            let read = reader.read_at(&mut buffer[..piece], position).map_err(reading)?;
            if read == 0 {
                return Err(Error::new(ErrorKind::Corrupt, "a file ends before its length"));
            }
            tar.data(&buffer[..read])?;
            position += read as u64;
        }
        Ok(())
    }
}
