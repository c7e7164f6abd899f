//! Everything that a name leads to.

use super::{Checker, Code, Place};
use crate::format::{FileFlags, NULL_DACL, PAGE, REGION_DATA, StreamKind};
use crate::{Eas, ErrorKind, FileView, ImagePath, ReadAt, Stream, StreamFraming};

impl<R: ReadAt> Checker<'_, R> {
    pub(super) fn files(&mut self) {
        let image = self.image;
        match image.file(image.root()) {
            Ok(root) if root.is_dir() => {}
            Ok(_) => self.find(Code::Root, Place::default(), "the root is no directory"),
            Err(error) => return self.fail(Code::Root, Place::default(), &error),
        }
        let mut first = true;
        for entry in image.walk() {
            self.report.counts.names += u64::from(!std::mem::replace(&mut first, false));
            match entry {
                Ok(entry) if !self.seen.contains_key(&entry.file.id) => {
                    self.seen.insert(entry.file.id, entry.file.parent());
                    self.file(&entry.file, &entry.path());
                }
                Ok(_) => {}
                Err(error) => {
                    let code = match error.kind() {
                        ErrorKind::Unsupported => Code::Merged,
                        _ => Code::File,
                    };
                    self.fail(code, Place::default(), &error);
                }
            }
        }
        self.parents();
        self.unreachable();
    }

    fn file(&mut self, file: &FileView, path: &ImagePath) {
        let place = Place { offset: Some(file.position), path: Some(path) };
        let known = FileFlags::READ_ONLY
            | FileFlags::HIDDEN
            | FileFlags::SYSTEM
            | FileFlags::ARCHIVE
            | FileFlags::SPARSE;
        if !known.contains(file.flags()) || file.entry.reserved.get() != 0 {
            let what = format!("flags {:#x}, reserved {}", file.entry.flags, file.entry.reserved);
            self.find(Code::Flags, place, what);
        }
        self.security(file, place);
        match self.image.ea_buffer(file) {
            Err(error) => self.fail(Code::Eas, place, &error),
            Ok(eas) if eas.is_empty() => {}
            Ok(eas) => {
                self.metadata(file.entry.eas, eas.len() as u64);
                if Eas::new(&eas).any(|ea| ea.is_err()) {
                    self.find(Code::Eas, place, "the extended attributes are malformed");
                }
            }
        }
        match self.image.reparse_buffer(file) {
            Err(error) => self.fail(Code::Reparse, place, &error),
            Ok(buffer) => {
                let buffer = buffer.unwrap_or_default();
                if !buffer.is_empty() {
                    self.metadata(file.entry.reparse, 2 + buffer.len() as u64);
                }
                let tag = buffer.first_chunk().map_or(0, |tag| u32::from_le_bytes(*tag));
                if tag != file.reparse_tag() || (file.is_reparse_point() && buffer.len() < 8) {
                    let what = format!("tag {:#x}, the buffer's is {tag:#x}", file.reparse_tag());
                    self.find(Code::Reparse, place, what);
                }
            }
        }
        self.streams(file, place);
        if file.is_dir() {
            self.report.counts.directories += 1;
            self.directory(file, place);
        } else {
            self.report.counts.files += 1;
            self.data(&file.data(), place);
        }
    }

    fn security(&mut self, file: &FileView, place: Place<'_>) {
        match self.image.security_descriptor(file) {
            Err(error) => self.fail(Code::Security, place, &error),
            Ok(None) => self.find(Code::SecurityMissing, place, "no security descriptor"),
            Ok(Some(descriptor)) => {
                self.metadata(file.entry.security, 2 + descriptor.len() as u64);
                if descriptor.len() < NULL_DACL.len() || descriptor[0] != 1 {
                    let what = "the security descriptor is none of revision 1";
                    self.find(Code::Security, place, what);
                }
            }
        }
    }

    fn streams(&mut self, file: &FileView, place: Place<'_>) {
        match self.image.stream_table(file) {
            Err(error) => return self.fail(Code::Streams, place, &error),
            Ok(None) => return,
            Ok(Some((table, framing))) => {
                let count = if framing == StreamFraming::Counted { 4 } else { 0 };
                self.metadata(file.entry.streams, table.length() + count);
            }
        }
        let streams = match self.image.alternate_streams(file) {
            Ok(streams) => streams,
            Err(error) => return self.fail(Code::Streams, place, &error),
        };
        for stream in streams {
            self.report.counts.streams += 1;
            match stream {
                Err(error) => self.fail(Code::Streams, place, &error),
                Ok(stream) => {
                    if let Some(fault) = stream.name.fault() {
                        let what = format!("the stream's name {:?} {fault}", stream.name);
                        self.find(Code::Name, place, what);
                    }
                    self.data(&stream.stream, place);
                }
            }
        }
    }

    fn data(&mut self, stream: &Stream, place: Place<'_>) {
        let image = self.image;
        self.report.counts.data_bytes =
            self.report.counts.data_bytes.saturating_add(stream.length());
        let segments = match image.segments(stream) {
            Ok(segments) => segments,
            Err(error) => {
                let code = match error.kind() {
                    ErrorKind::Unsupported => Code::StreamKind,
                    _ => Code::Data,
                };
                return self.fail(code, place, &error);
            }
        };
        let mut first = segments.first().and_then(|segment| segment.source);
        if stream.kind() == StreamKind::Pe && !segments.is_empty() {
            match image.pe_image(stream.descriptor().offset) {
                Err(error) => return self.fail(Code::Data, place, &error),
                Ok((pe, mappings)) => {
                    let length = 24 + 8 * mappings.len() as u64;
                    self.metadata(stream.descriptor().offset, length);
                    let end = pe.data.byte() + u64::from(pe.image_length.get());
                    let last = segments.iter().filter_map(|s| Some(s.source?.byte() + s.length));
                    if last.max().is_some_and(|last| last > end) {
                        let what =
                            format!("data beyond the {} bytes of its image", pe.image_length);
                        self.find(Code::Data, place, what);
                    }
                    first = Some(pe.data);
                }
            }
        }
        for segment in segments.iter() {
            if let Some(source) = segment.source {
                self.extents.data(source, segment.length);
            }
        }
        if let Some(first) = first {
            let paged = image
                .regions()
                .get(first.region())
                .is_some_and(|region| region.header().kind == REGION_DATA);
            let alignment = if paged { PAGE } else { 8 };
            if !first.byte().is_multiple_of(alignment) {
                let place = Place { offset: Some(first), ..place };
                self.find(Code::Alignment, place, format!("data not at a multiple of {alignment}"));
            }
        }
    }

    fn directory(&mut self, file: &FileView, place: Place<'_>) {
        let image = self.image;
        match image.directory_table(file) {
            Ok(Some(table)) => self.metadata(file.entry.default_stream.offset, table.length()),
            Ok(None) => return,
            Err(error) => return self.fail(Code::File, place, &error),
        }
        let (Ok(upcase), Ok(entries)) = (image.upcase(), image.entries(file)) else { return };
        let mut before: Option<crate::Name> = None;
        let mut by_unit = true;
        let mut by_character = true;
        for entry in entries {
            // The walk tells what cannot be read.
            let Ok(entry) = entry else { continue };
            if let Some(fault) = entry.name.fault() {
                self.find(Code::Name, place, format!("the name {:?} {fault}", entry.name));
            } else if entry.name.is_odd() {
                let what = format!("Win32 programs cannot use the name {:?}", entry.name);
                self.find(Code::NameOdd, place, what);
            }
            if let Some(before) = before {
                let (left, right) = (before.units(), entry.name.units());
                by_unit &= upcase.compare(left, right).is_le();
                by_character &= upcase.compare_by_character(left, right).is_le();
                if upcase.compare(left, right).is_eq() {
                    let what = format!("{before:?} and {:?} are one name", entry.name);
                    self.find(Code::NameTwice, place, what);
                }
            }
            if image.file(entry.id).is_ok_and(|child| child.parent() == Some(file.id)) {
                self.at_home.insert(entry.id);
            }
            before = Some(entry.name);
        }
        if !by_unit && !by_character {
            self.find(Code::LinkOrder, place, "the names are not in the order of the upcase table");
        }
    }

    fn parents(&mut self) {
        let mut lost: Vec<_> =
            self.seen.iter().filter_map(|(id, parent)| Some((*id, (*parent)?))).collect();
        lost.retain(|(id, _)| !self.at_home.contains(id));
        lost.sort_unstable();
        for (id, parent) in lost {
            let what = format!("file {id} says that it is in directory {parent} and is not");
            self.find(Code::Parent, Place::default(), what);
        }
    }

    /// Forks keep entries of what they removed, so only images without parents are asked.
    fn unreachable(&mut self) {
        if !self.image.parents().is_empty() {
            return;
        }
        let tables = 0..self.image.filesystem().file_table_count.get();
        let counts = tables.map_while(|index| self.image.file_table(index).ok());
        let entries: u64 = counts.map(|table| u64::from(table.count.get())).sum();
        let reached = self.seen.len() as u64;
        if entries > reached {
            let what = format!("no name leads to {} of {entries} entries", entries - reached);
            self.find(Code::Unreachable, Place::default(), what);
        }
    }
}
