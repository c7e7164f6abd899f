//! `extract`: an image's tree into a directory, and nothing anywhere else.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};

use anyhow::{Context as _, Result};
use cimfs::{FileFlags, FileId, FileView, Image, ImagePath, Name, Stream};
use layer::Cancel;
use serde_json::json;
use sys::directory::Directory;

use super::open;
use super::path::{JsonImagePath, shown, shown_name};
use super::reparse::Target;
use super::safe_name::SafeNames;
use crate::Session;
use crate::cli::CimExtractArgs;
use crate::exit::{self, Exit, Failure};
use crate::interrupt::cancel_on_signal;
use crate::verb::unpack_target::{link_to, make_target, remove_unpacked};

pub(crate) fn extract(session: &mut Session, args: &CimExtractArgs) -> Result<()> {
    let image = open(&args.file)?;
    image.upcase().context("cannot read the upcase table")?;
    let cancel = cancel_on_signal()?;
    let made = make_target(&args.dir)?;
    let top = Directory::open(&args.dir).context("cannot open the directory to unpack into")?;
    let mut extraction = Extraction {
        session,
        image: &image,
        args,
        cancel: &cancel,
        first_names: HashMap::new(),
        seen: HashSet::new(),
        buffer: vec![0; 1 << 20],
    };
    let result = extraction.all(top);
    if result.is_err() {
        remove_unpacked(&args.dir, made);
    }
    result
}

/// A directory that is being filled.
struct Open {
    path: ImagePath,
    /// Its name on this system.
    name: String,
    directory: Directory,
    file: FileView,
    /// What is still to be made in it, last first.
    entries: Vec<(Name, FileId)>,
    given: SafeNames,
}

struct Extraction<'a> {
    session: &'a mut Session,
    image: &'a Image<File>,
    args: &'a CimExtractArgs,
    cancel: &'a Cancel,
    /// The first path on this system of every file, relative to the top, to find further names of it.
    first_names: HashMap<FileId, Vec<String>>,
    /// Directories; one that comes twice would never end.
    seen: HashSet<FileId>,
    buffer: Vec<u8>,
}

impl Extraction<'_> {
    fn all(&mut self, top: Directory) -> Result<()> {
        let root = self.image.file(self.image.root()).context("cannot read the image's root")?;
        anyhow::ensure!(
            root.is_dir(),
            Failure::new(Exit::Corrupt, "the image's root is not a directory")
        );
        let first = self.open(ImagePath::ROOT, String::new(), top, root);
        let mut open = vec![first.context("cannot read /")?];
        while let Some(last) = open.last_mut() {
            self.cancel.check()?;
            let Some((name, id)) = last.entries.pop() else {
                if let Some(done) = open.pop() {
                    self.attributes(&done.directory, "", &done.file)
                        .with_context(|| format!("cannot finish {}", shown(&done.path)))?;
                }
                continue;
            };
            let path = last.path.join(name.clone());
            let given = match self.image.upcase() {
                Ok(upcase) => last.given.give(upcase, &name),
                Err(error) => return Err(error.into()),
            };
            if let Some(why) = given.why {
                self.tell(&path, &given.name, why)?;
            }
            let doing = || format!("cannot unpack {}", shown(&path));
            let child = self.entry(&open, &path, given.name, id).with_context(doing)?;
            open.extend(child);
        }
        Ok(())
    }

    /// Reports a name that is not the image's own.
    fn tell(&mut self, path: &ImagePath, name: &str, why: &str) -> Result<()> {
        exit::warn(&format!("{} {why}: unpacked as {name}", shown(path)));
        if self.session.output.is_json() {
            let mut value = json!(JsonImagePath::new(path));
            value["unpacked_as"] = json!(name);
            value["reason"] = json!(why);
            self.session.output.json(&value)?;
        }
        Ok(())
    }

    fn open(
        &mut self,
        path: ImagePath,
        name: String,
        directory: Directory,
        file: FileView,
    ) -> Result<Open> {
        if !self.seen.insert(file.id) {
            anyhow::bail!(Failure::new(Exit::Corrupt, "a directory that has two names"));
        }
        let entries = self.image.entries(&file)?;
        let entries: cimfs::Result<Vec<_>> =
            entries.map(|entry| entry.map(|entry| (entry.name, entry.id))).collect();
        let mut entries = entries?;
        entries.reverse();
        self.streams(&directory, "", &path, &file)?;
        Ok(Open { path, name, directory, file, entries, given: SafeNames::default() })
    }

    /// Makes one entry in the innermost directory. A directory is returned, to be filled.
    fn entry(
        &mut self,
        open: &[Open],
        path: &ImagePath,
        name: String,
        id: FileId,
    ) -> Result<Option<Open>> {
        let (Some(top), Some(Open { directory, .. })) = (open.first(), open.last()) else {
            return Ok(None);
        };
        let file = self.image.file(id)?;
        let target = match self.args.metadata {
            // The reparse buffer is kept as it is instead.
            true => None,
            // A link has nothing in it.
            false if file.is_dir() && file.size() > 0 => None,
            false => self.image.reparse_buffer(&file)?.as_deref().and_then(Target::of),
        };
        if let Some(first) = self.first_names.get(&id) {
            link_to(&top.directory, first, directory, name.as_bytes())?;
            return Ok(None);
        }
        if let Some(target) = target {
            directory.make_symlink(name.as_bytes(), target.path().as_bytes())?;
            let (seconds, nanoseconds) = file.last_write_time().to_unix();
            directory.set_mtime(name.as_bytes(), seconds, nanoseconds)?;
            if file.is_dir() {
                return Ok(None);
            }
        } else if file.is_dir() {
            let made = directory.make_directory(name.as_bytes())?;
            return self.open(path.clone(), name, made, file).map(Some);
        } else {
            let made = directory.make_file(name.as_bytes())?;
            self.data(made, &file.data())?;
            self.streams(directory, &name, path, &file)?;
            self.attributes(directory, &name, &file)?;
        }
        let above = open.iter().skip(1).map(|open| open.name.clone());
        self.first_names.insert(id, above.chain([name]).collect());
        Ok(None)
    }

    fn data(&mut self, mut file: File, stream: &Stream) -> Result<()> {
        let reader = self.image.open_stream(stream)?;
        for segment in self.image.segments(stream)?.iter() {
            if segment.source.is_none() {
                continue;
            }
            file.seek(SeekFrom::Start(segment.offset)).context("cannot seek")?;
            let (mut offset, end) = (segment.offset, segment.offset + segment.length);
            while offset < end {
                self.cancel.check()?;
                let wanted = (end - offset).min(self.buffer.len() as u64);
                let count = reader.read_at(&mut self.buffer[..usize::try_from(wanted)?], offset)?;
                anyhow::ensure!(count > 0, Failure::new(Exit::Corrupt, "data that ends early"));
                file.write_all(&self.buffer[..count]).context("cannot write")?;
                offset += count as u64;
            }
        }
        // Zeros at the end.
        file.set_len(stream.length()).context("cannot set the file's length")
    }

    /// Alternate streams as files beside their own, or in the directory that they are of.
    fn streams(
        &mut self,
        directory: &Directory,
        name: &str,
        path: &ImagePath,
        file: &FileView,
    ) -> Result<()> {
        let streams: Vec<_> = self.image.alternate_streams(file)?.collect::<cimfs::Result<_>>()?;
        if streams.is_empty() {
            return Ok(());
        }
        if !self.args.streams || name.is_empty() {
            let what = if name.is_empty() { "of a directory " } else { "" };
            let names: Vec<_> = streams.iter().map(|stream| shown_name(&stream.name)).collect();
            let (path, names) = (shown(path), names.join(", "));
            exit::warn(&format!("{path}: alternate streams {what}are left out: {names}"));
            return Ok(());
        }
        let mut given = SafeNames::default();
        for stream in streams {
            let safe = given.give(self.image.upcase()?, &stream.name);
            let full = format!("{name}:{}", safe.name);
            if let Some(why) = safe.why {
                let why = format!("has a stream {} that {why}", shown_name(&stream.name));
                self.tell(path, &full, &why)?;
            }
            let made = directory.make_file(full.as_bytes())?;
            self.data(made, &stream.stream)?;
        }
        Ok(())
    }

    /// Permissions and time, and Windows' metadata if that is wanted. An empty name is the directory itself.
    fn attributes(&self, directory: &Directory, name: &str, file: &FileView) -> Result<()> {
        let name = name.as_bytes();
        if self.args.metadata {
            let times = [
                file.creation_time(),
                file.last_write_time(),
                file.last_access_time(),
                file.change_time(),
            ];
            let times: Vec<u8> = times.iter().flat_map(|time| time.0.to_le_bytes()).collect();
            let mut attributes: Vec<(&[u8], Vec<u8>)> = vec![
                (b"user.ntfs_attrib", file.attributes().to_le_bytes().to_vec()),
                (b"user.ntfs_times", times),
            ];
            let security = self.image.security_descriptor(file)?.unwrap_or_default();
            let reparse = self.image.reparse_buffer(file)?.unwrap_or_default();
            for (attribute, value) in [
                (&b"user.ntfs_acl"[..], security),
                (b"user.ntfs_ea", self.image.ea_buffer(file)?),
                (b"user.ntfs_reparse_data", reparse),
            ] {
                if !value.is_empty() {
                    attributes.push((attribute, value));
                }
            }
            for (attribute, value) in attributes {
                directory.set_xattr(name, attribute, &value)?;
            }
        }
        // For directories the flag means something else.
        let permissions = match file.flags().contains(FileFlags::READ_ONLY) {
            _ if file.is_dir() => 0o755,
            true => 0o444,
            false => 0o644,
        };
        directory.set_permissions(name, permissions)?;
        let (seconds, nanoseconds) = file.last_write_time().to_unix();
        Ok(directory.set_mtime(name, seconds, nanoseconds)?)
    }
}
