//! An image as text: a line for the image, one a parent, one a file or directory, one an alternate stream, in the
//! order of a walk.
//!
//! ```text
//! cim version=2.0 guid=… regions=3 own=3 file-tables=1
//! / directory id=1 attributes=- created=0.0000000 written=… changed=… accessed=… security=0100048000…
//! /a file id=2 attributes=archive created=… security=… size=5 data=0+5@1:0x28 reparse=030000a0…
//! /a:Zone.Identifier stream size=14 data=0+14@1:0x30
//! /b hard-link to=/a
//! ```
//!
//! The same image always gives the same text. Characters of names that are not printable ASCII, and spaces, `/`, `:` and
//! `\`, are written `\u{…}`. What cannot be read gets a line that says so, and the rest follows.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io;

use crate::format::{FileFlags, PATH_MAX};
use crate::trail::Trail;
use crate::{
    Eas, Entries, Error, FileId, FileTime, FileView, Image, ImagePath, Name, ReadAt, Result, Stream,
};

/// Segments written out for one stream; a stream with more gets `...` at the end.
const MAX_SEGMENTS: usize = 8;
/// See [`Walk`](crate::Walk).
const SHARING: u64 = 4;

/// Writes an image as text, by which two images can be told apart and one recognised: names, numbers, flags, times,
/// security descriptors, EAs, reparse buffers, and where data lies, but not the data. See the head of the source for
/// the form.
///
/// # Errors
/// Only of `out`, as [`ErrorKind::Io`](crate::ErrorKind::Io): what the image has wrong is part of the text.
pub fn dump<R: ReadAt>(image: &Image<R>, out: &mut dyn io::Write) -> Result<()> {
    Dump { image, out, first_names: HashMap::new() }
        .image()
        .map_err(|e| Error::io("writing the dump", e))
}

struct Dump<'a, R> {
    image: &'a Image<R>,
    out: &'a mut dyn io::Write,
    first_names: HashMap<FileId, Trail>,
}

impl<R: ReadAt> Dump<'_, R> {
    fn image(mut self) -> io::Result<()> {
        let image = self.image;
        let (major, minor) = image.version();
        writeln!(
            self.out,
            "cim version={major}.{minor} guid={} regions={} own={} file-tables={}",
            image.guid(),
            image.region_count(),
            image.region_count() - image.own_regions_start(),
            image.filesystem().file_table_count,
        )?;
        for parent in image.parent_guids() {
            writeln!(self.out, "parent guid={parent}")?;
        }
        let mut directories = HashSet::new();
        let mut left = image.regions().total_length().saturating_mul(SHARING);
        let mut stack: Vec<(Trail, Entries<'_, R>)> = Vec::new();
        let mut next = Some((image.root(), Trail::root()));
        loop {
            if let Some((id, trail)) = next.take()
                && let Some(file) = self.object(id, &trail)?
            {
                let size = file.size();
                if !directories.insert(id) {
                    self.unreadable(&trail, "the directory has another name")?;
                } else if trail.length() > PATH_MAX {
                    self.unreadable(&trail, "the path is too long")?;
                } else if size > left {
                    self.unreadable(&trail, "directories are larger than the image")?;
                } else {
                    left -= size;
                    match image.entries(&file) {
                        Ok(entries) => stack.push((trail, entries)),
                        Err(error) => self.unreadable(&trail, &one_line(&error))?,
                    }
                }
            }
            let Some((trail, entries)) = stack.last_mut() else { return Ok(()) };
            match entries.next() {
                Some(Ok(entry)) => next = Some((entry.id, trail.child(entry.name))),
                Some(Err(error)) => {
                    let trail = trail.clone();
                    self.unreadable(&trail, &one_line(&error))?;
                }
                None => drop(stack.pop()),
            }
        }
    }

    fn unreadable(&mut self, trail: &Trail, why: &str) -> io::Result<()> {
        writeln!(self.out, "{} unreadable: {why}", path(&trail.path()))
    }

    /// Writes the lines of a file; a directory is returned, to go on in it.
    fn object(&mut self, id: FileId, trail: &Trail) -> io::Result<Option<FileView>> {
        let file = match self.image.file(id) {
            Ok(file) => file,
            Err(error) => {
                self.unreadable(trail, &one_line(&error))?;
                return Ok(None);
            }
        };
        let shown = path(&trail.path());
        if !file.is_dir() {
            if let Some(first) = self.first_names.get(&id) {
                writeln!(self.out, "{shown} hard-link to={}", path(&first.path()))?;
                return Ok(None);
            }
            self.first_names.insert(id, trail.clone());
        }
        let kind = if file.is_dir() { "directory" } else { "file" };
        write!(
            self.out,
            "{shown} {kind} id={id} attributes={} created={} written={} changed={} accessed={}",
            flags(file.flags()),
            time(file.creation_time()),
            time(file.last_write_time()),
            time(file.change_time()),
            time(file.last_access_time()),
        )?;
        match self.image.security_descriptor(&file) {
            Ok(Some(descriptor)) => write!(self.out, " security={}", hex(&descriptor))?,
            Ok(None) => write!(self.out, " security=none")?,
            Err(error) => write!(self.out, " security=({})", one_line(&error))?,
        }
        if !file.is_dir() {
            self.data(&file.data())?;
        }
        match self.image.reparse_buffer(&file) {
            Ok(Some(buffer)) => write!(self.out, " reparse={}", hex(&buffer))?,
            Ok(None) => {}
            Err(error) => write!(self.out, " reparse=({})", one_line(&error))?,
        }
        self.eas(&file)?;
        writeln!(self.out)?;
        self.streams(&file, &shown)?;
        Ok(file.is_dir().then_some(file))
    }

    fn data(&mut self, stream: &Stream) -> io::Result<()> {
        write!(self.out, " size={}", stream.length())?;
        let segments = match self.image.segments(stream) {
            Ok(segments) => segments,
            Err(error) => return write!(self.out, " data=({})", one_line(&error)),
        };
        for (index, segment) in segments.iter().enumerate() {
            write!(self.out, "{}", if index == 0 { " data=" } else { "," })?;
            if index == MAX_SEGMENTS {
                return write!(self.out, "...");
            }
            write!(self.out, "{}+{}@", segment.offset, segment.length)?;
            match segment.source {
                Some(source) => write!(self.out, "{source:?}")?,
                None => write!(self.out, "zeros")?,
            }
        }
        Ok(())
    }

    fn eas(&mut self, file: &FileView) -> io::Result<()> {
        let buffer = match self.image.ea_buffer(file) {
            Ok(buffer) => buffer,
            Err(error) => return write!(self.out, " eas=({})", one_line(&error)),
        };
        for ea in Eas::new(&buffer) {
            match ea {
                Ok(ea) => {
                    let name: Vec<u16> = ea.name.iter().copied().map(u16::from).collect();
                    let needed = if ea.flags & 0x80 == 0 { "" } else { "!" };
                    write!(self.out, " ea:{}{needed}={}", escaped(&name), hex(ea.value))?;
                }
                Err(error) => write!(self.out, " eas=({})", one_line(&error))?,
            }
        }
        Ok(())
    }

    fn streams(&mut self, file: &FileView, shown: &str) -> io::Result<()> {
        let streams = match self.image.alternate_streams(file) {
            Ok(streams) => streams,
            Err(error) => return writeln!(self.out, "{shown}: unreadable: {}", one_line(&error)),
        };
        for stream in streams {
            match stream {
                Ok(stream) => {
                    write!(self.out, "{shown}:{} stream", escaped(stream.name.units()))?;
                    self.data(&stream.stream)?;
                    writeln!(self.out)?;
                }
                Err(error) => writeln!(self.out, "{shown}: unreadable: {}", one_line(&error))?,
            }
        }
        Ok(())
    }
}

fn one_line(error: &Error) -> String {
    // A cause below us (of reading) is worth its words; escaping keeps the line a line.
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default()).escape_debug().to_string()
}

fn path(path: &ImagePath) -> String {
    if path.names().is_empty() {
        return "/".into();
    }
    path.names().iter().map(Name::units).map(|units| format!("/{}", escaped(units))).collect()
}

/// A name with everything escaped that would break a line, a field or a path.
fn escaped(units: &[u16]) -> String {
    let mut text = String::with_capacity(units.len());
    for character in char::decode_utf16(units.iter().copied()) {
        let (plain, code) = match character {
            Ok(c) => (Some(c), u32::from(c)),
            Err(unpaired) => (None, u32::from(unpaired.unpaired_surrogate())),
        };
        match plain.filter(|c| c.is_ascii_graphic() && !"/:\\".contains(*c)) {
            Some(c) => text.push(c),
            None => write!(text, "\\u{{{code:x}}}").expect("a String takes any text"),
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `-`, or names with commas between them; what is not known in hexadecimal.
pub(crate) fn flags(flags: FileFlags) -> String {
    if flags.is_empty() {
        return "-".into();
    }
    let mut names: Vec<String> = Vec::new();
    for (flag, name) in [
        (FileFlags::READ_ONLY, "read-only"),
        (FileFlags::HIDDEN, "hidden"),
        (FileFlags::SYSTEM, "system"),
        (FileFlags::ARCHIVE, "archive"),
        (FileFlags::SPARSE, "sparse"),
    ] {
        if flags.contains(flag) {
            names.push(name.into());
        }
    }
    let unknown = flags.bits() & !0x1F;
    if unknown != 0 {
        names.push(format!("{unknown:#x}"));
    }
    names.join(",")
}

/// Seconds since 1970 with seven digits behind the point.
pub(crate) fn time(time: FileTime) -> String {
    let (seconds, nanoseconds) = time.to_unix();
    let ticks = i128::from(seconds) * 10_000_000 + i128::from(nanoseconds / 100);
    let sign = if ticks < 0 { "-" } else { "" };
    let ticks = ticks.unsigned_abs();
    format!("{sign}{}.{:07}", ticks / 10_000_000, ticks % 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal_numbers() {
        for (ticks, shown) in [
            (116_444_736_000_000_000, "0.0000000"),
            (116_444_736_000_000_001, "0.0000001"),
            (116_444_735_999_999_999, "-0.0000001"),
            (0, "-11644473600.0000000"),
        ] {
            assert_eq!(time(FileTime(ticks)), shown);
        }
    }

    #[test]
    fn escapes_keep_names_and_fields_apart() {
        let units: Vec<u16> = "a b/c:d\\e\n\u{fc}\u{1f600}".encode_utf16().collect();
        let expected = "a\\u{20}b\\u{2f}c\\u{3a}d\\u{5c}e\\u{a}\\u{fc}\\u{1f600}";
        assert_eq!(escaped(&units), expected);
        assert_eq!(escaped(&[0xD800]), "\\u{d800}");
    }

    #[test]
    fn flags_have_names() {
        assert_eq!(flags(FileFlags::empty()), "-");
        let some = FileFlags::READ_ONLY | FileFlags::from_bits_retain(0x8000);
        assert_eq!(flags(some), "read-only,0x8000");
    }
}
