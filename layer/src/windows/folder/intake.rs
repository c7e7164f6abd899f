//! Takes the entries of a tar into a folder: names and records are checked first, data goes straight through.

use std::io::{BufRead, Read};
use std::sync::mpsc::Receiver;

use cimfs::{ImagePath, Name};

use super::{FolderBasics, FolderEntry, LayerFolder};
use crate::error::{Error, ErrorKind, Result};
use crate::layer_image::{LayerBlob, LayerOptions};
use crate::pipeline::{self, Chunk, ChunkReader, check_size};
use crate::progress::{Cancel, Progress};
use crate::tar::{End, Entry, EntryKind, Reader};
use crate::windows::attributes::REPARSE_POINT;
use crate::windows::backup_stream::{self, ALTERNATE_DATA, DATA, EAS, REPARSE, SECURITY};
use crate::windows::description::{self, AbsentTimes};
use crate::windows::path::{TarName, link_target};
use crate::windows::seen::{Said, Seen};
use crate::windows::usual::{self, AbsentSecurity};

/// The three trees of a layer.
const ROOTS: [&str; 3] = ["Files", "Hives", "UtilityVM"];

/// Unpacks the blob of a Windows layer into `folder`, in one pass and in the tar's order. Every object gets a backup
/// stream with security descriptor, extended attributes, reparse point, data and alternate streams, in this order.
///
/// Files without a security descriptor get that of [`AbsentSecurity`]; so do directories of a base layer
/// (`is_base`), while those of others keep what the layers below gave them. A base layer deletes nothing and has no
/// `Hives`; what is needed above a path has to be in the same layer, and nothing is written through a link.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a tar that is no layer, as in [`write_windows_layer`](crate::write_windows_layer); those of
/// `folder`; [`ErrorKind::DigestMismatch`], [`ErrorKind::Corrupt`], [`ErrorKind::Cancelled`].
pub fn unpack_windows_layer(
    source: impl Read + Send,
    folder: &mut dyn LayerFolder,
    is_base: bool,
    options: &LayerOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<LayerBlob> {
    let intake = Intake {
        folder,
        is_base,
        options,
        cancel,
        seen: Seen::default(),
        closed: Seen::default(),
        open: None,
        any_files: false,
    };
    let take = |chunks| take_tar(chunks, intake);
    let (blob, end) = pipeline::run(source, options, progress, cancel, take)?;
    blob.check_end(end, options)?;
    Ok(blob)
}

fn take_tar(chunks: Receiver<Chunk>, mut intake: Intake<'_>) -> Result<Option<End>> {
    let mut tar = Reader::of_windows(ChunkReader::new(chunks));
    while let Some(entry) = tar.next_entry()? {
        intake.cancel.check()?;
        let (offset, path) = (entry.offset, entry.path.clone());
        intake.take(&mut tar, &entry).map_err(|error| error.path(&path).at(offset))?;
    }
    intake.close()?;
    if !intake.any_files {
        return Err(Error::invalid(
            "no layer for Windows: it has no directory Files, which layers for Linux have not either",
        ));
    }
    let end = tar.end();
    tar.into_inner().drain();
    Ok(end)
}

struct Intake<'o> {
    folder: &'o mut dyn LayerFolder,
    is_base: bool,
    options: &'o LayerOptions,
    cancel: &'o Cancel,
    seen: Seen,
    /// Directories that lead elsewhere: nothing goes below them.
    closed: Seen,
    /// What was begun, and may get streams.
    open: Option<ImagePath>,
    any_files: bool,
}

impl Intake<'_> {
    /// Ends what was begun.
    fn close(&mut self) -> Result<()> {
        match self.open.take() {
            Some(_) => self.folder.end(),
            None => Ok(()),
        }
    }

    fn take<R: BufRead>(&mut self, tar: &mut Reader<R>, entry: &Entry) -> Result<()> {
        let path = match TarName::read(&entry.path)? {
            // The root of the tar is no part of a layer.
            TarName::Path(path) if path == ImagePath::ROOT => return Ok(()),
            TarName::Path(path) => path,
            TarName::Whiteout(path) => return self.whiteout(&path),
            TarName::Stream(path, stream) => return self.stream(tar, entry, &path, &stream),
        };
        self.close()?;
        self.check_place(&path)?;
        if let EntryKind::HardLink(target) = &entry.kind {
            self.refuse_second(&path)?;
            let target = link_target(target)?;
            self.folder.link(&path, &target)?;
            self.seen.add(&path, Said::File);
            return Ok(());
        }
        let (directory, is_reparse) = self.object(tar, entry, &path)?;
        self.seen.add(&path, if directory { Said::Directory } else { Said::File });
        if is_reparse {
            self.closed.add(&path, Said::File);
        }
        self.any_files |= path.names().len() == 1 && is_named(&path.names()[0], "Files");
        Ok(())
    }

    /// Below one of the trees, and behind its directory.
    fn check_place(&self, path: &ImagePath) -> Result<()> {
        let names = path.names();
        if !ROOTS.iter().any(|root| is_named(&names[0], root)) {
            return Err(Error::invalid("a layer has nothing but Files, Hives and UtilityVM"));
        }
        if self.is_base && is_named(&names[0], "Hives") {
            return Err(Error::invalid("a base layer has no Hives; its registry is in Files"));
        }
        let Some((_, above)) = names.split_last().filter(|(_, above)| !above.is_empty()) else {
            return Ok(());
        };
        let above = ImagePath::from_names(above.to_vec());
        if self.closed.before(&above) == Some(Said::File) {
            return Err(Error::invalid("below a link, which leads elsewhere"));
        }
        match self.seen.before(&above) {
            Some(Said::Directory) => Ok(()),
            _ => Err(Error::invalid(format!("the layer has no directory {above} before it"))),
        }
    }

    fn refuse_second(&self, path: &ImagePath) -> Result<()> {
        match self.seen.before(path) {
            None => Ok(()),
            Some(_) => Err(Error::invalid(
                "the layer has this path twice, or another that differs by the case of letters only",
            )),
        }
    }

    /// Whether it is a directory, and whether it leads elsewhere.
    fn object<R: BufRead>(
        &mut self,
        tar: &mut Reader<R>,
        entry: &Entry,
        path: &ImagePath,
    ) -> Result<(bool, bool)> {
        let described =
            description::read(tar.kept(), &entry.kind, entry.mtime, AbsentTimes::default())?;
        let directory = described.is_directory;
        let metadata = described.metadata;
        match &entry.kind {
            EntryKind::Regular { size: 1.., .. } if directory => {
                return Err(Error::corrupt("a directory by its attributes, but with data"));
            }
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } | EntryKind::Fifo => {
                let what = "devices and pipes do not exist on Windows";
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
            _ => {}
        }
        let again = directory && self.seen.before(path) == Some(Said::Directory);
        if !again {
            self.refuse_second(path)?;
        } else if metadata.security.is_empty() && metadata.reparse.is_empty() {
            // Some builders say a directory twice.
            return Ok((true, false));
        } else {
            return Err(Error::invalid("the layer says this directory twice"));
        }
        let security = match metadata.security.is_empty() && (self.is_base || !directory) {
            true => usual::security(AbsentSecurity::default(), directory),
            false => metadata.security,
        };
        let is_reparse = !metadata.reparse.is_empty();
        let basics = FolderBasics {
            attributes: described.attributes | if is_reparse { REPARSE_POINT } else { 0 },
            creation_time: metadata.creation_time,
            last_access_time: metadata.last_access_time,
            last_write_time: metadata.last_write_time,
            change_time: metadata.change_time,
        };
        self.folder.begin(&FolderEntry { path, directory, basics })?;
        self.open = Some(path.clone());
        for (id, bytes) in
            [(SECURITY, &security), (EAS, &metadata.eas), (REPARSE, &metadata.reparse)]
        {
            if !bytes.is_empty() {
                self.folder.write(&backup_stream::header(id, bytes.len() as u64, &[]))?;
                self.folder.write(bytes)?;
            }
        }
        if let (EntryKind::Regular { size, segments }, false) = (&entry.kind, directory) {
            check_size(*size, self.options.max_size)?;
            self.folder.write(&backup_stream::header(DATA, *size, &[]))?;
            self.payload(tar, *size, segments.as_deref())?;
        }
        Ok((directory, is_reparse))
    }

    fn whiteout(&mut self, path: &ImagePath) -> Result<()> {
        self.close()?;
        if self.is_base {
            return Err(Error::invalid("a base layer cannot delete anything"));
        }
        let names = path.names();
        let in_vm =
            names.len() > 2 && is_named(&names[0], "UtilityVM") && is_named(&names[1], "Files");
        if !(names.len() > 1 && is_named(&names[0], "Files") || in_vm) {
            return Err(Error::invalid("deletes something outside of Files and UtilityVM/Files"));
        }
        if self.seen.before(path).is_some() {
            // Windows deletes the new file; elsewhere a whiteout is about the layers below.
            return Err(Error::invalid("deletes what the layer added before"));
        }
        self.folder.whiteout(path)?;
        // What comes under this name later would be deleted by Windows.
        self.seen.add(path, Said::File);
        Ok(())
    }

    fn stream<R: BufRead>(
        &mut self,
        tar: &mut Reader<R>,
        entry: &Entry,
        path: &ImagePath,
        stream: &Name,
    ) -> Result<()> {
        let EntryKind::Regular { size, segments } = &entry.kind else {
            return Err(Error::invalid("an alternate stream that is no file"));
        };
        if self.open.as_ref() != Some(path) {
            let what =
                "an alternate stream has to follow its file, which is no hard link, directly";
            return Err(Error::invalid(what));
        }
        check_size(*size, self.options.max_size)?;
        let colon = [u16::from(b':')];
        let kind: Vec<u16> = ":$DATA".encode_utf16().collect();
        let name = [&colon[..], stream.units(), &kind].concat();
        self.folder.write(&backup_stream::header(ALTERNATE_DATA, *size, &name))?;
        self.payload(tar, *size, segments.as_deref())
    }

    /// Holes are written as the zeros that they are read as.
    fn payload<R: BufRead>(
        &mut self,
        tar: &mut Reader<R>,
        size: u64,
        segments: Option<&[(u64, u64)]>,
    ) -> Result<()> {
        let mut position = 0;
        for (offset, length) in segments.unwrap_or(&[(0, size)]) {
            self.zeros(offset - position)?;
            let mut left = *length;
            while left > 0 {
                self.cancel.check()?;
                let piece = tar.payload()?;
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                self.folder.write(&piece[..taken])?;
                tar.consume(taken);
                left -= taken as u64;
            }
            position = offset + length;
        }
        self.zeros(size - position)
    }

    fn zeros(&mut self, mut left: u64) -> Result<()> {
        const ZEROS: &[u8] = &[0; 64 << 10];
        while left > 0 {
            self.cancel.check()?;
            let piece = &ZEROS[..usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len())];
            self.folder.write(piece)?;
            left -= piece.len() as u64;
        }
        Ok(())
    }
}

fn is_named(name: &Name, text: &str) -> bool {
    name.to_text().is_some_and(|name| name.eq_ignore_ascii_case(text))
}
