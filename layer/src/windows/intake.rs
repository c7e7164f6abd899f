//! Takes the entries of a tar into an image: data goes straight through, names and records are checked first.

use std::io::BufRead;

use cimfs::{Case, Image, ImagePath, ImageWriter, Metadata, Name, WritableSet};

use super::convert::WindowsOptions;
use super::description::{self, Description};
use super::path::{TarName, link_target};
use super::processing::{Hives, Processing};
use super::seen::{Said, Seen};
use super::usual;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::check_size;
use crate::progress::Cancel;
use crate::tar::{Entry, EntryKind, Reader};

/// Longest file that is written out with its holes, unless the caller sets a limit.
const WITH_HOLES_MAX: u64 = 64 << 30;

/// A layer on its way into an image.
pub(super) struct Intake<'o, S: WritableSet> {
    pub(super) writer: ImageWriter<S>,
    pub(super) parent: Option<Image<S::File>>,
    options: &'o WindowsOptions,
    cancel: &'o Cancel,
    seen: Seen,
    /// What streams may follow now.
    last: Option<ImagePath>,
    pub(super) hives: Hives,
    pub(super) counts: Counts,
}

/// What the caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) entries: u64,
    pub(super) streams: u64,
    pub(super) whiteouts: u64,
    pub(super) lost_attributes: u64,
    pub(super) without_security: u64,
    pub(super) merged_hives: u64,
    pub(super) hive_warnings: u64,
    /// Whether there was anything below `Files` or `UtilityVM`, or one of the two.
    pub(super) any_files: bool,
}

/// Where the bytes of a payload go.
enum Bytes<'b> {
    File(&'b Metadata),
    Stream(&'b Name),
}

impl<'o, S: WritableSet> Intake<'o, S> {
    pub(super) fn new(
        writer: ImageWriter<S>,
        parent: Option<Image<S::File>>,
        options: &'o WindowsOptions,
        cancel: &'o Cancel,
    ) -> Self {
        Self {
            writer,
            parent,
            options,
            cancel,
            seen: Seen::default(),
            last: None,
            hives: Hives::default(),
            counts: Counts::default(),
        }
    }

    /// Takes all entries of a tar.
    pub(super) fn take_all<R: BufRead>(&mut self, tar: &mut Reader<R>) -> Result<()> {
        while let Some(entry) = tar.next_entry()? {
            self.cancel.check()?;
            let (offset, path) = (entry.offset, entry.path.clone());
            self.take(tar, entry).map_err(|error| error.path(&path).at(offset))?;
            self.counts.entries += 1;
        }
        Ok(())
    }

    fn take<R: BufRead>(&mut self, tar: &mut Reader<R>, entry: Entry) -> Result<()> {
        let name = TarName::read(&entry.path)?;
        let last = self.last.take();
        let path = match name {
            // The root of the tar is no part of a layer.
            TarName::Path(path) if path == ImagePath::ROOT => return Ok(()),
            TarName::Path(path) => path,
            TarName::Whiteout(path) => return self.whiteout(&path),
            TarName::Stream(path, stream) => return self.stream(tar, &entry, last, path, &stream),
        };
        let top = path.names()[0].to_text().unwrap_or_default();
        self.counts.any_files |=
            ["files", "utilityvm"].contains(&top.to_ascii_lowercase().as_str());
        if let EntryKind::HardLink(target) = &entry.kind {
            self.refuse_second(&path, false)?;
            self.hard_link(&path, target)?;
            self.seen.add(&path, Said::File);
            return Ok(());
        }
        let described = self.describe(tar, &entry, &path)?;
        self.refuse_second(&path, described.is_directory)?;
        let said = if described.is_directory { Said::Directory } else { Said::File };
        match &entry.kind {
            EntryKind::Regular { size, segments } if !described.is_directory => {
                let holes = segments.as_deref();
                self.bytes(tar, &path, &Bytes::File(&described.metadata), *size, holes)?;
            }
            EntryKind::Regular { size: 1.., .. } => {
                return Err(Error::corrupt("a directory by its attributes, but with data"));
            }
            EntryKind::Regular { .. } | EntryKind::Directory | EntryKind::Symlink(_) => {
                match described.is_directory {
                    true => self.writer.add_directory(&path, &described.metadata),
                    false => self.writer.add_file(&path, &described.metadata, b""),
                }
                .map_err(|error| not_stored(&path, error))?;
            }
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } | EntryKind::Fifo => {
                let what = "devices and pipes do not exist on Windows";
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
            EntryKind::HardLink(_) => unreachable!("links were taken above"),
        }
        self.seen.add(&path, said);
        self.last = Some(path);
        Ok(())
    }

    fn describe<R>(
        &mut self,
        tar: &Reader<R>,
        entry: &Entry,
        path: &ImagePath,
    ) -> Result<Description>
    where
        R: BufRead,
    {
        let absent_times = self.options.absent_times;
        let mut described = description::read(tar.kept(), &entry.kind, entry.mtime, absent_times)?;
        self.counts.lost_attributes += u64::from(described.loses_attributes);
        if described.metadata.security.is_empty() {
            self.counts.without_security += 1;
            described.metadata.security = self.usual_security(path, described.is_directory)?;
        }
        Ok(described)
    }

    /// Whether the tar itself has something of this path.
    pub(super) fn has_said(&self, path: &ImagePath) -> bool {
        self.seen.before(path).is_some()
    }

    /// A directory that the layers below have keeps what it has there.
    fn usual_security(&self, path: &ImagePath, is_directory: bool) -> Result<Vec<u8>> {
        if is_directory && let Some(parent) = &self.parent {
            match parent.resolve(path, Case::Ignored) {
                Ok(file) if file.is_dir() => {
                    let security = parent.security_descriptor(&file);
                    let security = security.map_err(|e| Error::cimfs("reading the parent", e))?;
                    return Ok(security.unwrap_or_default());
                }
                Ok(_) => {}
                Err(error) if error.kind() == cimfs::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::cimfs("reading the parent", error)),
            }
        }
        Ok(usual::security(self.options.absent_security, is_directory))
    }

    /// A path is said once, but for directories, which some builders say twice.
    fn refuse_second(&self, path: &ImagePath, is_directory: bool) -> Result<()> {
        match (self.seen.before(path), is_directory) {
            (None, _) | (Some(Said::Directory | Said::Above), true) => Ok(()),
            _ => Err(Error::invalid(
                "the layer has this path twice, or another that differs by the case of letters only",
            )),
        }
    }

    fn hard_link(&mut self, path: &ImagePath, target: &[u8]) -> Result<()> {
        let target = link_target(target)?;
        let linked = self.writer.add_link(path, &target);
        linked.map_err(|error| match error.kind() {
            cimfs::ErrorKind::NotFound => {
                let what = format!("a hard link to {target}, which neither this layer nor those below have, or in a directory that was not there before");
                Error::new(ErrorKind::MissingParent, what)
            }
            _ => Error::cimfs("the hard link cannot be stored", error),
        })
    }

    fn whiteout(&mut self, path: &ImagePath) -> Result<()> {
        if self.parent.is_none() {
            return Err(Error::invalid("a base layer cannot delete anything"));
        }
        let names: Vec<_> =
            path.names().iter().take(2).map(|name| name.to_string().to_ascii_lowercase()).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let deletable = match names.as_slice() {
            ["files", _] => true,
            ["utilityvm", "files"] => path.names().len() > 2,
            _ => false,
        };
        if self.options.processing == Processing::Layer && !deletable {
            return Err(Error::invalid("deletes something outside of Files and UtilityVM/Files"));
        }
        if self.seen.before(path).is_some() {
            // Windows deletes the new file; elsewhere a whiteout is about the layers below.
            return Err(Error::invalid("deletes what the layer added before"));
        }
        self.counts.whiteouts += 1;
        match self.writer.remove(path) {
            Err(error) if error.kind() == cimfs::ErrorKind::NotFound => Ok(()),
            removed => {
                removed.map_err(|error| Error::cimfs("the whiteout cannot be stored", error))
            }
        }
    }

    fn stream<R: BufRead>(
        &mut self,
        tar: &mut Reader<R>,
        entry: &Entry,
        last: Option<ImagePath>,
        path: ImagePath,
        stream: &Name,
    ) -> Result<()> {
        let EntryKind::Regular { size, segments } = &entry.kind else {
            return Err(Error::invalid("an alternate stream that is no file"));
        };
        if last.as_ref() != Some(&path) {
            let what =
                "an alternate stream has to follow its file, which is no hard link, directly";
            return Err(Error::invalid(what));
        }
        self.bytes(tar, &path, &Bytes::Stream(stream), *size, segments.as_deref())?;
        self.counts.streams += 1;
        self.last = Some(path);
        Ok(())
    }

    /// Takes a payload in. `segments` as in [`EntryKind::Regular`].
    fn bytes<R: BufRead>(
        &mut self,
        tar: &mut Reader<R>,
        path: &ImagePath,
        what: &Bytes<'_>,
        size: u64,
        segments: Option<&[(u64, u64)]>,
    ) -> Result<()> {
        let max_size = self.options.blob.max_size;
        check_size(size, max_size)?;
        if size > 0 && segments.is_some_and(<[_]>::is_empty) {
            return match what {
                Bytes::File(metadata) => self.writer.add_sparse_file(path, metadata, size),
                Bytes::Stream(name) => self.writer.add_sparse_stream(path, name, size),
            }
            .map_err(|error| not_stored(path, error));
        }
        if segments.is_some() {
            check_size(size, Some(max_size.unwrap_or(WITH_HOLES_MAX)))?;
        }
        match what {
            Bytes::File(metadata) => self.writer.begin_file(path, metadata, size),
            Bytes::Stream(name) => self.writer.begin_stream(path, name, size),
        }
        .map_err(|error| not_stored(path, error))?;
        if self.options.processing == Processing::Layer && matches!(what, Bytes::File(_)) {
            self.hives.begin(path, size)?;
        }
        let mut position = 0;
        for (offset, length) in segments.unwrap_or(&[(0, size)]) {
            self.zeros(offset - position)?;
            self.payload(tar, *length)?;
            position = offset + length;
        }
        self.zeros(size - position)?;
        self.hives.end();
        self.writer.end().map_err(|error| not_stored(path, error))
    }

    fn payload<R: BufRead>(&mut self, tar: &mut Reader<R>, mut left: u64) -> Result<()> {
        while left > 0 {
            self.cancel.check()?;
            let piece = tar.payload()?;
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            let piece = &piece[..length];
            self.hives.take(piece);
            self.writer.write_data(piece).map_err(storing)?;
            tar.consume(length);
            left -= length as u64;
        }
        Ok(())
    }

    fn zeros(&mut self, mut left: u64) -> Result<()> {
        const ZEROS: &[u8] = &[0; 64 << 10];
        while left > 0 {
            self.cancel.check()?;
            let piece = &ZEROS[..usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len())];
            self.hives.take(piece);
            self.writer.write_data(piece).map_err(storing)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }
}

fn storing(error: cimfs::Error) -> Error {
    Error::cimfs("cannot write the image", error)
}

fn not_stored(path: &ImagePath, error: cimfs::Error) -> Error {
    match error.kind() {
        cimfs::ErrorKind::NotFound => {
            let mut above = path.names().to_vec();
            above.pop();
            let above = ImagePath::from_names(above);
            let what = format!("neither the layer so far nor those below have a directory {above}");
            Error::invalid(what)
        }
        _ => Error::cimfs("the file cannot be stored", error),
    }
}
