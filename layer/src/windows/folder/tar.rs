//! Files that Windows' functions gave back, into the tar of a layer.

use std::collections::HashMap;
use std::io::{Read, Write};

use super::FolderBasics;
use crate::error::{Error, ErrorKind, Result};
use crate::export::{Measuring, check_name};
use crate::tar::PaxWriter;
use crate::windows::WindowsLayerTar;
use crate::windows::attributes::DIRECTORY;
use crate::windows::backup_stream::{
    ALTERNATE_DATA, DATA, EAS, REPARSE, Record, Records, SECURITY, SPARSE_BLOCK,
};
use crate::windows::description::{self, Blobs};
use crate::windows::tar_header::{Object, hard_link};

/// Most bytes of a security descriptor, of extended attributes, or of a reparse point.
const METADATA_MAX: u64 = 1 << 20;
/// Most alternate streams of one file.
const STREAMS_MAX: usize = 4096;

/// Writes a layer's tar, entry by entry, as Microsoft's exporter does; its entries come in the caller's order, a
/// directory's whiteouts behind it.
///
/// Unlike that one, this keeps extended attributes of files of base layers, streams of directories and of empty files,
/// and reparse points of any kind: each stream is read twice.
#[derive(Debug)]
pub struct FolderTar<W: Write> {
    tar: PaxWriter<Measuring<W>>,
    /// First names of files that have several.
    names: HashMap<u128, Vec<u8>>,
    entries: u64,
    whiteouts: u64,
}

/// What the first reading of a backup stream finds.
#[derive(Debug, Default)]
struct Found {
    blobs: Blobs,
    /// Length of the data, holes included; `None` without data.
    size: Option<u64>,
    /// Alternate streams with their lengths.
    streams: Vec<(Vec<u16>, u64)>,
}

impl<W: Write> FolderTar<W> {
    /// A tar to `output`.
    pub fn new(output: W) -> Self {
        Self {
            tar: PaxWriter::new(Measuring::new(output)),
            names: HashMap::new(),
            entries: 0,
            whiteouts: 0,
        }
    }

    /// Adds what is at `path`, with slashes from the layer's root on. `linked` is the file's number, if it has several
    /// names; `open` opens its backup stream, any number of times.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for a backup stream that is none, [`ErrorKind::Invalid`] for a name that means something
    /// else in a tar, those of `open` and of writing.
    pub fn add<R: Read>(
        &mut self,
        path: &str,
        basics: &FolderBasics,
        linked: Option<u128>,
        open: &mut dyn FnMut() -> Result<R>,
    ) -> Result<()> {
        let bytes = path.as_bytes();
        self.object(bytes, basics, linked, open).map_err(|error| error.path(bytes))
    }

    fn object<R: Read>(
        &mut self,
        path: &[u8],
        basics: &FolderBasics,
        linked: Option<u128>,
        open: &mut dyn FnMut() -> Result<R>,
    ) -> Result<()> {
        for name in path.split(|byte| *byte == b'/') {
            check_name(name)?;
        }
        self.entries += 1;
        let times = [
            basics.creation_time,
            basics.last_access_time,
            basics.change_time,
            basics.last_write_time,
        ];
        let mut records = description::Records::new();
        let mtime = description::basic_records(basics.attributes, times, &mut records);
        if let Some(number) = linked {
            if let Some(first) = self.names.get(&number) {
                return self.tar.entry(hard_link(path, first, mtime, records));
            }
            self.names.insert(number, path.to_vec());
        }
        let found = look(open()?)?;
        let directory = basics.attributes & DIRECTORY != 0;
        let size = found.size.filter(|_| !directory);
        let link = found.blobs.link(size.unwrap_or(0));
        found.blobs.write(link.as_ref(), &mut records)?;
        let target = link.map(|(target, _)| target);
        let object = Object { directory, target, size, hole: false };
        self.tar.entry(object.header(path, mtime, records))?;
        if object.has_data() {
            self.data(open()?, size.unwrap_or(0))?;
        }
        for (number, (name, size)) in found.streams.iter().enumerate() {
            let mut records = description::Records::new();
            let mtime = description::time_records(times, &mut records);
            let (name, size) = (name.iter().copied(), *size);
            self.tar.entry(object.stream_header(path, name, size, mtime, records))?;
            self.entries += 1;
            let mut stream = Records::new(open()?);
            let mut before = 0;
            while let Some(record) = stream.next()? {
                if record.id == ALTERNATE_DATA {
                    if before == number {
                        self.copy(&mut stream, size)?;
                        break;
                    }
                    before += 1;
                }
            }
        }
        Ok(())
    }

    /// Copies the data of the second reading, with its holes as zeros.
    fn data<R: Read>(&mut self, source: R, size: u64) -> Result<()> {
        let mut stream = Records::new(source);
        let mut position = 0;
        while let Some(record) = stream.next()? {
            let (offset, length) = match record.id {
                DATA => (0, record.size),
                SPARSE_BLOCK => {
                    let offset = stream.offset()?;
                    (offset, record.size - 8)
                }
                _ => continue,
            };
            if length == 0 {
                continue;
            }
            if offset < position || offset.checked_add(length).is_none_or(|end| end > size) {
                return Err(changed());
            }
            self.zeros(offset - position)?;
            self.copy(&mut stream, length)?;
            position = offset + length;
        }
        self.zeros(size - position)
    }

    fn copy<R: Read>(&mut self, stream: &mut Records<R>, size: u64) -> Result<()> {
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(256 << 10)];
        let mut left = size;
        while left > 0 {
            let read = stream.read(&mut buffer)?;
            if read == 0 || read as u64 > left {
                return Err(changed());
            }
            self.tar.data(&buffer[..read])?;
            left -= read as u64;
        }
        Ok(())
    }

    fn zeros(&mut self, mut left: u64) -> Result<()> {
        const ZEROS: &[u8] = &[0; 64 << 10];
        while left > 0 {
            let piece = &ZEROS[..usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len())];
            self.tar.data(piece)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }

    /// Adds the mark that what the layers below have at `path` is gone.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] of no path, those of writing.
    pub fn whiteout(&mut self, path: &str) -> Result<()> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() {
            return Err(Error::invalid("a whiteout of nothing").path(path.as_bytes()));
        }
        check_name(name.as_bytes()).map_err(|error| error.path(path.as_bytes()))?;
        let slash = if directory.is_empty() { "" } else { "/" };
        self.tar.mark(format!("{directory}{slash}.wh.{name}").as_bytes())?;
        self.entries += 1;
        self.whiteouts += 1;
        Ok(())
    }

    /// Ends the tar.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(self) -> Result<WindowsLayerTar> {
        let Measuring { digester, size, .. } = self.tar.finish()?;
        let Self { entries, whiteouts, .. } = self;
        Ok(WindowsLayerTar { diff_id: digester.finish(), size, entries, whiteouts })
    }
}

fn changed() -> Error {
    Error::new(ErrorKind::Corrupt, "a file that changed while it was exported")
}

/// What there is in a backup stream.
fn look<R: Read>(source: R) -> Result<Found> {
    let mut stream = Records::new(source);
    let mut found = Found::default();
    while let Some(Record { id, size, name }) = stream.next()? {
        match id {
            SECURITY => found.blobs.security = stream.all(METADATA_MAX)?,
            EAS => found.blobs.eas = stream.all(METADATA_MAX)?,
            REPARSE => found.blobs.reparse = stream.all(METADATA_MAX)?,
            DATA => found.size = Some(found.size.unwrap_or(0).max(size)),
            // Each says where it is, and the last where the file ends.
            SPARSE_BLOCK => {
                let offset = stream.offset()?;
                let end = offset.checked_add(size - 8).ok_or_else(changed)?;
                found.size = Some(found.size.unwrap_or(0).max(end));
            }
            ALTERNATE_DATA if found.streams.len() < STREAMS_MAX => {
                found.streams.push((bare(&name)?, size));
            }
            ALTERNATE_DATA => return Err(Error::corrupt("too many alternate streams")),
            // Links, object ids and the like are Windows' own.
            _ => {}
        }
    }
    Ok(found)
}

/// `s` of `:s:$DATA`.
fn bare(name: &[u16]) -> Result<Vec<u16>> {
    let colon = u16::from(b':');
    let bare = name.strip_prefix(&[colon][..]).and_then(|rest| {
        let end = rest.iter().position(|unit| *unit == colon)?;
        let kind = String::from_utf16_lossy(&rest[end..]);
        kind.eq_ignore_ascii_case(":$DATA").then(|| rest[..end].to_vec())
    });
    bare.filter(|bare| !bare.is_empty()).ok_or_else(|| {
        let name = String::from_utf16_lossy(name);
        Error::corrupt(format!("no alternate stream is called {name:?}"))
    })
}
