//! Where an archive's files are: in a directory, or at known offsets of a tar.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use erofs::ReadAt as _;

use super::headers::{Entry, EntryKind};
use crate::error::{Error, ErrorKind, Result};

/// Most links that are followed from one name to its data.
const MAX_LINKS: usize = 16;
/// Most entries that an image archive may have.
pub(super) const MAX_ENTRIES: usize = 200_000;

#[derive(Debug)]
pub(super) enum Storage {
    Directory {
        root: PathBuf,
        /// What messages call it.
        shown: PathBuf,
    },
    Tar(TarIndex),
}

impl Storage {
    /// The place of a file, or `None` if there is no regular file of that name.
    pub(super) fn find(&self, name: &str) -> Result<Option<Location>> {
        match self {
            Self::Directory { root, shown } => {
                let Some(key) = normal(name.as_bytes()) else {
                    return Ok(None);
                };
                let key = String::from_utf8_lossy(&key);
                let path = root.join(key.as_ref());
                let shown = shown.join(key.as_ref());
                match std::fs::metadata(&path) {
                    Ok(metadata) if metadata.is_file() => {
                        Ok(Some(Location::Path { path, shown, size: metadata.len() }))
                    }
                    Ok(_) => Ok(None),
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                        ) =>
                    {
                        Ok(None)
                    }
                    Err(error) => Err(Error::io(format!("looking at {}", shown.display()), error)),
                }
            }
            Self::Tar(index) => Ok(index.find(name.as_bytes())),
        }
    }

    /// All bytes of a small file.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(location) = self.find(name)? else {
            return Ok(None);
        };
        let size = location.size().unwrap_or(u64::MAX);
        if size > limit {
            let message = format!("{name} has {size} bytes; more than {limit} are not read");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let mut bytes = Vec::new();
        location
            .open()?
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(format!("reading {name}"), error))?;
        Ok(Some(bytes))
    }
}

/// The members of a tar by name; of equal names the last counts, as it would be left after extraction.
#[derive(Debug)]
pub(super) struct TarIndex {
    file: Arc<File>,
    members: BTreeMap<Vec<u8>, Member>,
}

#[derive(Debug)]
enum Member {
    Data { offset: u64, size: u64 },
    Link(Vec<u8>),
    Other,
}

impl TarIndex {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file, members: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn insert(&mut self, entry: &Entry) {
        let Some(name) = normal(&entry.name) else {
            return;
        };
        let member = match &entry.kind {
            EntryKind::File => Member::Data { offset: entry.offset, size: entry.size },
            EntryKind::HardLink(target) => Member::Link(target.clone()),
            EntryKind::Symlink(target) if target.starts_with(b"/") => Member::Link(target.clone()),
            EntryKind::Symlink(target) => {
                let parent = entry.name.iter().rposition(|byte| *byte == b'/');
                let parent = parent.map_or(&b""[..], |slash| &entry.name[..slash]);
                Member::Link([parent, b"/", target].concat())
            }
            EntryKind::Directory | EntryKind::Other => Member::Other,
        };
        self.members.insert(name, member);
    }

    pub(super) fn has_directory(&self, name: &[u8]) -> bool {
        let mut inside = name.to_vec();
        inside.push(b'/');
        self.members.range(inside.clone()..).next().is_some_and(|(key, _)| key.starts_with(&inside))
    }

    pub(super) fn has_suffix(&self, suffix: &[u8]) -> bool {
        self.members.keys().any(|name| name.ends_with(suffix))
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<Location> {
        let mut name = normal(name)?;
        for _ in 0..MAX_LINKS {
            match self.members.get(&name)? {
                Member::Data { offset, size } => {
                    let file = Arc::clone(&self.file);
                    return Some(Location::Range { file, offset: *offset, size: *size });
                }
                Member::Link(target) => name = normal(target)?,
                Member::Other => return None,
            }
        }
        None
    }
}

/// A name without `.`, empty components and leading slashes, `..` resolved as text; `None` if it leaves the
/// archive.
fn normal(name: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

pub(super) type Stream = Box<dyn Read + Send>;

/// Where the bytes of one blob are.
#[derive(Clone)]
pub(super) enum Location {
    Path {
        path: PathBuf,
        shown: PathBuf,
        size: u64,
    },
    Range {
        file: Arc<File>,
        offset: u64,
        size: u64,
    },
    /// Read once, by whoever comes first.
    Stream(Arc<Mutex<Option<Stream>>>),
    /// Not in the archive, for this reason.
    Missing(ErrorKind, String),
}

impl Location {
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Path { size, .. } | Self::Range { size, .. } => Some(*size),
            Self::Stream(_) | Self::Missing(..) => None,
        }
    }

    pub(super) fn open(&self) -> Result<LayerReader> {
        let reader = match self {
            Self::Path { path, shown, .. } => {
                let file = File::open(path)
                    .map_err(|error| Error::io(format!("opening {}", shown.display()), error))?;
                Reader::File(file)
            }
            Self::Range { file, offset, size } => Reader::Range {
                file: Arc::clone(file),
                position: *offset,
                end: offset.saturating_add(*size),
            },
            Self::Stream(stream) => {
                let taken = stream.lock().ok().and_then(|mut stream| stream.take());
                Reader::Stream(taken.ok_or_else(|| {
                    Error::invalid("a layer that comes through a pipe can be read only once")
                })?)
            }
            Self::Missing(kind, reason) => return Err(Error::new(*kind, reason.clone())),
        };
        Ok(LayerReader(reader))
    }
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path { path, .. } => write!(f, "Path({})", path.display()),
            Self::Range { offset, size, .. } => write!(f, "Range({offset} + {size})"),
            Self::Stream(_) => f.write_str("Stream"),
            Self::Missing(_, reason) => write!(f, "Missing({reason})"),
        }
    }
}

/// The bytes of a layer's blob as they are in the archive. Several can read one archive at a time: none moves a
/// shared file position.
pub struct LayerReader(Reader);

enum Reader {
    File(File),
    Range { file: Arc<File>, position: u64, end: u64 },
    Stream(Stream),
}

impl Read for LayerReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Reader::File(file) => file.read(buf),
            Reader::Range { file, position, end } => {
                let left = usize::try_from(*end - *position).unwrap_or(usize::MAX).min(buf.len());
                let count = file.read_at(&mut buf[..left], *position)?;
                *position += count as u64;
                Ok(count)
            }
            Reader::Stream(stream) => stream.read(buf),
        }
    }
}

impl std::fmt::Debug for LayerReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LayerReader")
    }
}

/// Whether the directory has a file of this name.
pub(super) fn is_file(root: &Path, name: &str) -> bool {
    root.join(name).is_file()
}
