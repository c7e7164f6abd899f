//! What a file of a CIM is on Linux: its kind, mode, time and extended attributes. Views and the FUSE driver agree
//! because both ask here.

use std::collections::HashMap;
use std::sync::Arc;

use cimfs::{FileFlags, FileView, Image, ReadAt, RegionOffset, Stream};
use erofs::{Timestamp, Xattr};

use super::reparse::link_target;
use super::{MAXIMAL_STREAM, Result, cim_error};
use crate::windows::encode_wtf8;

/// What a file is on Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file; reparse points that are no links are such too.
    Regular,
    /// A symbolic link with its target: a symbolic link or a mount point of Windows.
    Symlink(Vec<u8>),
}

/// What a file is. A directory that is a mount point or symbolic link and yet holds something stays a directory.
///
/// # Errors
/// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt), [`ErrorKind::Io`](crate::ErrorKind::Io).
pub fn file_kind<R: ReadAt>(image: &Image<R>, file: &FileView) -> Result<FileKind> {
    if file.is_reparse_point()
        && let Some(buffer) = image.reparse_buffer(file).map_err(reading)?
        && let Some(target) = link_target(&buffer)
        && !(file.is_dir() && image.entries(file).map_err(reading)?.next().is_some())
    {
        return Ok(FileKind::Symlink(target));
    }
    Ok(if file.is_dir() { FileKind::Directory } else { FileKind::Regular })
}

/// Permissions: 0755 for directories, 0777 for symbolic links, 0644 for files, or 0444 if they are read-only. Security
/// descriptors have no part in it.
pub fn permissions(file: &FileView, kind: &FileKind) -> u16 {
    match kind {
        FileKind::Directory => 0o755,
        FileKind::Symlink(_) => 0o777,
        FileKind::Regular if file.flags().contains(FileFlags::READ_ONLY) => 0o444,
        FileKind::Regular => 0o644,
    }
}

/// The time of the last write; a time of 0, which Windows takes for none, is the year 1601.
pub fn modified(file: &FileView) -> Timestamp {
    let (seconds, nanoseconds) = file.last_write_time().to_unix();
    Timestamp { seconds, nanoseconds }
}

/// Makes extended attributes. Names are held once for all files, and what several files have in common in a CIM
/// is in memory once.
#[derive(Debug)]
pub struct Attributes {
    names: Names,
    links: Names,
    blobs: HashMap<BlobKey, Arc<[u8]>>,
    /// What was taken of `blobs` last, by the low bits of its offset: most files have the descriptor of another one
    /// nearby.
    last: Vec<Option<(BlobKey, Arc<[u8]>)>>,
    flags: Option<(u32, Arc<[u8]>)>,
    /// Times that were made last, by a few of their bits: files that were unpacked together have the same.
    times: Vec<Option<Arc<[u8]>>>,
    /// Bytes taken for values.
    taken: u64,
}

/// Where a value is in the image, and its length where that is not stored with it.
type BlobKey = (RegionOffset, u16);

#[derive(Debug)]
struct Names {
    attributes: Arc<[u8]>,
    security: Arc<[u8]>,
    times: Arc<[u8]>,
    reparse: Arc<[u8]>,
    eas: Arc<[u8]>,
    streams: Arc<[u8]>,
}

impl Names {
    /// Names as ntfs-3g has them in its own namespace, `system.`, in one that files of EROFS can have.
    fn new(namespace: &str) -> Self {
        let name = |name: &str| -> Arc<[u8]> { format!("{namespace}.{name}").into_bytes().into() };
        Self {
            attributes: name("ntfs_attrib"),
            security: name("ntfs_acl"),
            times: name("ntfs_times"),
            reparse: name("ntfs_reparse_data"),
            eas: name("ntfs_ea"),
            streams: name("ntfs.streams.list"),
        }
    }
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            names: Names::new("user"),
            // Linux shows no attributes of the namespace `user` on symbolic links.
            links: Names::new("trusted"),
            blobs: HashMap::new(),
            last: vec![None; LAST],
            flags: None,
            times: vec![None; TIMES],
            taken: 0,
        }
    }
}

/// Places of what was taken last.
const LAST: usize = 256;
/// Places of times.
const TIMES: usize = 4096;
/// Longest name of an extended attribute.
const NAME_MAX: usize = 255;
/// Longest value of an extended attribute.
const VALUE_MAX: usize = 65_535;

impl Attributes {
    /// Bytes of memory that the values have taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// All extended attributes of a file: those of Windows' metadata, and alternate streams that are small.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt), [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn of<R: ReadAt>(
        &mut self,
        image: &Image<R>,
        file: &FileView,
        kind: &FileKind,
    ) -> Result<Vec<Xattr>> {
        let link = matches!(kind, FileKind::Symlink(_));
        let mut found = Vec::with_capacity(3);
        let entry = &file.entry;
        let attributes = file.attributes();
        let value = match &self.flags {
            Some((last, value)) if *last == attributes => value.clone(),
            _ => {
                let value: Arc<[u8]> = attributes.to_le_bytes().into();
                self.flags.insert((attributes, value)).1.clone()
            }
        };
        let names = |this: &Self, get: fn(&Names) -> &Arc<[u8]>| {
            get(if link { &this.links } else { &this.names }).clone()
        };
        found.push(Xattr { name: names(self, |n| &n.attributes), value });
        if let Some(value) = self.blob(entry.security, 0, || image.security_descriptor(file))? {
            found.push(Xattr { name: names(self, |n| &n.security), value });
        }
        let value = self.times(file);
        found.push(Xattr { name: names(self, |n| &n.times), value });
        if let Some(value) = self.blob(entry.reparse, 0, || image.reparse_buffer(file))? {
            found.push(Xattr { name: names(self, |n| &n.reparse), value });
        }
        let length = entry.ea_length.get();
        if length > 0 {
            let read = || image.ea_buffer(file).map(Some);
            if let Some(value) = self.blob(entry.eas, length, read)? {
                found.push(Xattr { name: names(self, |n| &n.eas), value });
            }
        }
        if !entry.streams.is_null() {
            let list = names(self, |n| &n.streams);
            self.streams(image, file, link, list, &mut found)?;
        }
        // As they are stored, which spares the writer the work.
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn times(&mut self, file: &FileView) -> Arc<[u8]> {
        let bytes = times(file);
        let (words, _) = bytes.as_chunks::<8>();
        let mixed = words.iter().fold(0_u64, |mixed, word| {
            (mixed ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
        });
        let place = &mut self.times[usize::try_from(mixed % TIMES as u64).unwrap_or(0)];
        match place {
            Some(known) if **known == bytes => known.clone(),
            _ => {
                self.taken += 64;
                let value: Arc<[u8]> = bytes.into();
                // A value that stays here alone costs the writer nothing.
                place.insert(value.clone()).clone()
            }
        }
    }

    fn blob(
        &mut self,
        offset: RegionOffset,
        length: u16,
        read: impl FnOnce() -> cimfs::Result<Option<Vec<u8>>>,
    ) -> Result<Option<Arc<[u8]>>> {
        if offset.is_null() {
            return Ok(None);
        }
        let key = (offset, length);
        // Objects begin at multiples of 8.
        let place = usize::try_from(offset.byte() / 8 % LAST as u64).unwrap_or(0);
        if let Some((_, known)) = self.last[place].as_ref().filter(|(last, _)| *last == key) {
            return Ok(Some(known.clone()));
        }
        let bytes = match self.blobs.get(&key) {
            Some(known) => known.clone(),
            None => {
                let Some(bytes) = read().map_err(reading)? else { return Ok(None) };
                let bytes: Arc<[u8]> = bytes.into();
                self.taken += bytes.len() as u64;
                self.blobs.insert(key, bytes.clone());
                bytes
            }
        };
        self.last[place] = Some((key, bytes.clone()));
        Ok(Some(bytes))
    }

    fn streams<R: ReadAt>(
        &mut self,
        image: &Image<R>,
        file: &FileView,
        link: bool,
        list: Arc<[u8]>,
        found: &mut Vec<Xattr>,
    ) -> Result<()> {
        let mut names = Vec::new();
        for stream in image.alternate_streams(file).map_err(reading)? {
            let stream = stream.map_err(reading)?;
            let name = encode_wtf8(stream.name.units().iter().copied());
            if name.is_empty() || name.contains(&0) {
                continue;
            }
            if !names.is_empty() {
                names.push(0);
            }
            names.extend_from_slice(&name);
            let name = [if link { &b"trusted."[..] } else { b"user." }, &name].concat();
            let new = !found.iter().any(|xattr| *xattr.name == *name);
            if new && name.len() <= NAME_MAX && stream.stream.length() <= MAXIMAL_STREAM {
                let value = small_stream(image, &stream.stream)?;
                self.taken += (name.len() + value.len()) as u64;
                found.push(Xattr { name: name.into(), value: value.into() });
            }
        }
        if !names.is_empty() && names.len() <= VALUE_MAX {
            self.taken += names.len() as u64;
            found.push(Xattr { name: list, value: names.into() });
        }
        Ok(())
    }
}

/// The four times of a file in ntfs-3g's order: made, written, read, changed.
fn times(file: &FileView) -> [u8; 32] {
    let mut bytes = [0; 32];
    let times =
        [file.creation_time(), file.last_write_time(), file.last_access_time(), file.change_time()];
    for (place, time) in bytes.chunks_exact_mut(8).zip(times) {
        place.copy_from_slice(&time.0.to_le_bytes());
    }
    bytes
}

fn small_stream<R: ReadAt>(image: &Image<R>, stream: &Stream) -> Result<Vec<u8>> {
    let reader = image.open_stream(stream).map_err(reading)?;
    let mut bytes = vec![0; usize::try_from(stream.length()).unwrap_or(VALUE_MAX)];
    let mut filled = 0;
    while filled < bytes.len() {
        match reader.read_at(&mut bytes[filled..], filled as u64).map_err(reading)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(bytes)
}

fn reading(error: cimfs::Error) -> crate::Error {
    cim_error("cannot read the image", error)
}
