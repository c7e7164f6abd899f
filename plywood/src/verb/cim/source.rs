//! Files of this system into an image.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use cimfs::{DirectorySet, FileFlags, FileTime, ImagePath, ImageWriter, Metadata, Name, Upcase};
use layer::Cancel;
use sys::directory::{Directory, FileStatus, data_segments};

use super::path::shown;
use super::reparse::Target;
use crate::escape;
use crate::exit::{self, Exit, Failure};

const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// A directory that is being added.
struct Open {
    directory: Directory,
    path: ImagePath,
    /// Last first.
    names: Vec<CString>,
    /// In upper case: what differs only in case would replace each other.
    taken: HashSet<Box<[u16]>>,
}

pub(super) struct Source<'a> {
    writer: &'a mut ImageWriter<DirectorySet>,
    cancel: &'a Cancel,
    /// The first path of every file with several names.
    links: HashMap<(u64, u64), ImagePath>,
    buffer: Vec<u8>,
    added: u64,
}

impl<'a> Source<'a> {
    pub(super) fn new(writer: &'a mut ImageWriter<DirectorySet>, cancel: &'a Cancel) -> Self {
        Self { writer, cancel, links: HashMap::new(), buffer: vec![0; 1 << 20], added: 0 }
    }

    /// Adds a directory and everything below it at a path of the image. Returns how many names that were.
    pub(super) fn tree(mut self, from: &Path, path: &ImagePath) -> Result<u64> {
        let top = Directory::open(from).context("cannot open the directory")?;
        let status = top.status(b"")?;
        let metadata = metadata(&top, b"", &status)?;
        self.writer.add_directory(path, &metadata)?;
        self.added += u64::from(!path.names().is_empty());
        let mut open = vec![Self::open(top, path.clone())?];
        while let Some(last) = open.last_mut() {
            self.cancel.check()?;
            let Some(name) = last.names.pop() else {
                open.pop();
                continue;
            };
            let within = || format!("{}/{}", shown(&last.path), escape::name(name.as_bytes()));
            let shown = within();
            let child =
                self.entry(last, name.as_bytes()).with_context(|| format!("cannot add {shown}"))?;
            open.extend(child);
        }
        Ok(self.added)
    }

    /// Adds one file at a path of the image.
    pub(super) fn file(mut self, from: &Path, path: &ImagePath) -> Result<u64> {
        let (parent, name) = (from.parent().unwrap_or(Path::new("")), from.file_name());
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let directory = Directory::open(parent).context("cannot open its directory")?;
        let name = name.unwrap_or(OsStr::new(".")).as_bytes();
        let status = directory.status(name)?;
        self.object(&directory, name, path, &status)?;
        Ok(self.added)
    }

    fn open(directory: Directory, path: ImagePath) -> Result<Open> {
        let mut names = directory.names()?;
        names.reverse();
        Ok(Open { directory, path, names, taken: HashSet::new() })
    }

    fn entry(&mut self, open: &mut Open, name: &[u8]) -> Result<Option<Open>> {
        let invalid = |what: String| Failure::new(Exit::Usage, what);
        let text = std::str::from_utf8(name)
            .map_err(|_| invalid("a name that is not Unicode cannot be stored".into()))?;
        let status = open.directory.status(name)?;
        // What `extract --streams` leaves; its file comes before it, because its name is shorter.
        if let Some((file, stream)) = text.split_once(':')
            && open.taken.contains(&folded(file))
        {
            self.stream(&open.directory, name, &open.path.join(file), stream, &status)?;
            return Ok(None);
        }
        if !open.taken.insert(folded(text)) {
            anyhow::bail!(invalid("another name differs from it only in case".into()));
        }
        let path = open.path.join(text);
        if status.mode & TYPE == DIRECTORY {
            let metadata = metadata(&open.directory, name, &status)?;
            self.writer.add_directory(&path, &metadata)?;
            self.added += 1;
            let directory = open.directory.open_directory(name)?;
            return Self::open(directory, path).map(Some);
        }
        self.object(&open.directory, name, &path, &status)?;
        Ok(None)
    }

    fn object(
        &mut self,
        directory: &Directory,
        name: &[u8],
        path: &ImagePath,
        status: &FileStatus,
    ) -> Result<()> {
        if status.links > 1
            && let Some(first) = self.links.get(&status.identity)
        {
            self.writer.add_link(path, first)?;
            self.added += 1;
            return Ok(());
        }
        let mut metadata = metadata(directory, name, status)?;
        match status.mode & TYPE {
            REGULAR => self.data(directory.open_file(name)?, path, &mut metadata, status.size)?,
            SYMLINK => {
                let target = directory.read_link(name)?;
                let text = target.to_str().ok().and_then(Target::symlink).ok_or_else(|| {
                    Failure::new(Exit::Usage, "the link's target cannot be stored")
                })?;
                metadata.reparse = text;
                self.writer.add_file(path, &metadata, b"")?;
            }
            _ => {
                exit::warn(&format!("{} is a device, pipe or socket, and left out", shown(path)));
                return Ok(());
            }
        }
        if status.links > 1 {
            self.links.insert(status.identity, path.clone());
        }
        self.added += 1;
        Ok(())
    }

    fn data(
        &mut self,
        mut file: File,
        path: &ImagePath,
        metadata: &mut Metadata,
        size: u64,
    ) -> Result<()> {
        if size > 0 && data_segments(&file, size)?.is_empty() {
            metadata.flags |= FileFlags::SPARSE;
            return Ok(self.writer.add_sparse_file(path, metadata, size)?);
        }
        // Looking for data moved it.
        file.rewind().context("cannot seek")?;
        self.writer.begin_file(path, metadata, size)?;
        self.copy(file, size)
    }

    fn stream(
        &mut self,
        directory: &Directory,
        name: &[u8],
        path: &ImagePath,
        stream: &str,
        status: &FileStatus,
    ) -> Result<()> {
        if status.mode & TYPE != REGULAR {
            let what = "an alternate stream is a regular file";
            anyhow::bail!(Failure::new(Exit::Usage, what));
        }
        self.writer.begin_stream(path, &Name::from(stream), status.size)?;
        self.copy(directory.open_file(name)?, status.size)
    }

    fn copy(&mut self, file: File, size: u64) -> Result<()> {
        let mut file = file.take(size);
        loop {
            self.cancel.check()?;
            match file.read(&mut self.buffer).context("cannot read")? {
                0 => return Ok(self.writer.end()?),
                count => self.writer.write_data(&self.buffer[..count])?,
            }
        }
    }
}

fn folded(text: &str) -> Box<[u16]> {
    let units: Vec<u16> = text.encode_utf16().collect();
    Upcase::standard().fold_units(&units)
}

/// What is kept of a file: its modification time and permission to write, or what `extract --metadata` left.
fn metadata(directory: &Directory, name: &[u8], status: &FileStatus) -> Result<Metadata> {
    let (seconds, nanoseconds) = status.mtime;
    let time = FileTime::from_unix(seconds, nanoseconds).unwrap_or_default();
    let link = status.mode & TYPE == SYMLINK;
    let mut metadata = Metadata {
        creation_time: time,
        last_write_time: time,
        change_time: time,
        last_access_time: time,
        ..Metadata::default()
    };
    if status.mode & 0o200 == 0 && status.mode & TYPE == REGULAR {
        metadata.flags |= FileFlags::READ_ONLY;
    }
    if link {
        return Ok(metadata);
    }
    for (attribute, value) in directory.xattrs(name)? {
        let Some(kind) = attribute.strip_prefix(b"user.ntfs_") else { continue };
        match kind {
            b"attrib" => {
                let bits = value.first_chunk().map_or(0, |bits| u32::from_le_bytes(*bits));
                metadata.flags = FileFlags::from_attributes(bits);
            }
            b"times" => {
                let times: Vec<_> =
                    value.as_chunks().0.iter().map(|time| u64::from_le_bytes(*time)).collect();
                if let [created, written, accessed, changed, ..] = times[..] {
                    metadata.creation_time = FileTime(created);
                    metadata.last_write_time = FileTime(written);
                    metadata.last_access_time = FileTime(accessed);
                    metadata.change_time = FileTime(changed);
                }
            }
            b"acl" => metadata.security = value,
            b"ea" => metadata.eas = value,
            b"reparse_data" => metadata.reparse = value,
            _ => {}
        }
    }
    Ok(metadata)
}
