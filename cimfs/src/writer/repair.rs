//! Object-ID files made again from what an image has.

use std::collections::BTreeSet;
use std::io;

use sha2::{Digest as _, Sha256};

use crate::check::object_id_file;
use crate::format::{
    CommonHeader, FileTable, Filesystem, PeImage, PeMapping, RegionOffset, StreamKind,
    UPCASE_LENGTH,
};
use crate::reader::object_id_name;
use crate::writer::TEMPORARY;
use crate::writer::objects::{ObjectId, Objects};
use crate::{
    Error, ErrorKind, FileView, Image, ReadAt, Result, Stream, StreamFraming, WritableFile as _,
    WritableSet,
};

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// See [`Walk`](crate::Walk).
const SHARING: u64 = 4;

/// An object-ID file that [`repair`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebuilt {
    /// Its name.
    pub name: String,
    /// What was wrong with the one before, in words.
    pub fault: String,
    /// Objects that it lists now.
    pub objects: u64,
}

/// Writes those of an image's object-ID files again that are missing or do not fit their regions, which
/// [`check`](crate::check()) tells as [`Code::ObjectIds`](crate::Code::ObjectIds). Nothing else is changed, and
/// nothing at all if something that a name leads to cannot be read. Each file is durable before it takes the place
/// of the old one.
///
/// Objects that no name leads to any more are not listed again. For an image of ours without such the files are
/// those that the writer wrote.
///
/// # Errors
/// As [`Image::open`]; [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt),
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), [`ErrorKind::Io`](crate::ErrorKind::Io).
pub fn repair<S: WritableSet>(set: &S, name: &str) -> Result<Vec<Rebuilt>> {
    let image = Image::open(set, name)?;
    let own = image.own_regions_start();
    let mut faults = Vec::new();
    for (index, region) in (0_u16..).zip(image.regions().iter().skip(own)) {
        let file = object_id_name(image.guid(), index);
        let (kind, length) = (region.header().kind, region.length());
        if let Err(fault) = object_id_file(set, &file, index, kind, length) {
            faults.push((index, kind, file, fault));
        }
    }
    if faults.is_empty() {
        return Ok(Vec::new());
    }
    let found = found_objects(&image)?;
    // Honest objects do not overlap, and hostile ones must not be read for ever.
    let lengths = found.iter().fold(0_u64, |sum, (.., length)| sum.saturating_add(*length));
    if lengths > image.regions().total_length().saturating_mul(SHARING) {
        let what = "the objects are together larger than the image";
        return Err(Error::new(ErrorKind::Corrupt, what));
    }
    let mut lists = Vec::new();
    for (index, kind, name, fault) in faults {
        let mut objects = Objects::default();
        let global = u16::try_from(own + usize::from(index)).expect("at most 65536 regions");
        let range = (global, 0, 0)..=(global, u64::MAX, u64::MAX);
        for (region, byte, length) in found.range(range).copied() {
            let offset = RegionOffset::new(region, byte).expect("it was one");
            let id = identify(&image, offset, length)?;
            if objects.get(&id).is_none() {
                objects.insert(id, byte);
            }
        }
        let (major, minor) = image.version();
        let common = CommonHeader {
            reserved1: 0,
            reserved2: 0.into(),
            major: major.into(),
            minor: minor.into(),
            reserved3: 0.into(),
            ..image.header().common
        };
        let bytes = objects.file(common, index, kind, true);
        lists.push((Rebuilt { name, fault, objects: objects.count() }, bytes));
    }
    lists.into_iter().map(|(rebuilt, bytes)| replace(set, rebuilt, &bytes)).collect()
}

/// Writes a file in the place of one of that name.
fn replace<S: WritableSet>(set: &S, rebuilt: Rebuilt, bytes: &[u8]) -> Result<Rebuilt> {
    let name = &rebuilt.name;
    let temporary = format!("{name}{TEMPORARY}");
    let remove = |name: &str| match set.remove(name) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {name}"), e))
        }
        _ => Ok(()),
    };
    // The image has its name, so nobody writes its files: this one is of a repair that was cut.
    remove(&temporary)?;
    let written = set.create(&temporary).and_then(|mut file| {
        file.write_all_at(bytes, 0)?;
        file.sync()
    });
    if let Err(e) = written {
        let _ = remove(&temporary);
        return Err(Error::io(format!("writing {temporary}"), e));
    }
    // Windows renames to free names only, and without the file nothing is worse than before.
    remove(name)?;
    set.rename(&temporary, name)
        .and_then(|()| set.sync())
        .map_err(|e| Error::io(format!("renaming {temporary} to {name}"), e))?;
    Ok(rebuilt)
}

fn identify<R: ReadAt>(image: &Image<R>, offset: RegionOffset, length: u64) -> Result<ObjectId> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; PIECE];
    let mut done = 0;
    while done < length {
        let piece = usize::try_from(length - done).map_or(PIECE, |rest| rest.min(PIECE));
        let at = offset.checked_add(done).expect("objects were found to lie in their regions");
        image.regions().read_exact(&mut buf[..piece], at)?;
        hash.update(&buf[..piece]);
        done += piece as u64;
    }
    Ok(ObjectId::new(hash, length))
}

/// Region, first byte and length of every object, the parents' too.
fn found_objects<R: ReadAt>(image: &Image<R>) -> Result<BTreeSet<(u16, u64, u64)>> {
    let mut found = Found { image, objects: BTreeSet::new() };
    let filesystem = image.filesystem();
    found.object(image.header().filesystem, size_of::<Filesystem>() as u64)?;
    found.object(filesystem.upcase, UPCASE_LENGTH)?;
    let count = filesystem.file_table_count.get();
    found.object(filesystem.file_tables, u64::from(count) * size_of::<FileTable>() as u64)?;
    for index in 0..count {
        let table = image.file_table(index)?;
        let length = u64::from(table.count.get()) * u64::from(table.entry_size.get());
        found.object(table.offset, length)?;
    }
    for entry in image.walk() {
        found.file(&entry?.file)?;
    }
    Ok(found.objects)
}

struct Found<'a, R> {
    image: &'a Image<R>,
    objects: BTreeSet<(u16, u64, u64)>,
}

impl<R: ReadAt> Found<'_, R> {
    fn object(&mut self, offset: RegionOffset, length: u64) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        self.image.regions().locate(offset, length)?;
        self.objects.insert((offset.region(), offset.byte(), length));
        Ok(())
    }

    fn file(&mut self, file: &FileView) -> Result<()> {
        if let Some(descriptor) = self.image.security_descriptor(file)? {
            self.object(file.entry.security, 2 + descriptor.len() as u64)?;
        }
        if let Some(buffer) = self.image.reparse_buffer(file)? {
            self.object(file.entry.reparse, 2 + buffer.len() as u64)?;
        }
        self.object(file.entry.eas, file.entry.ea_length.get().into())?;
        if let Some((table, framing)) = self.image.stream_table(file)? {
            let count = if framing == StreamFraming::Counted { 4 } else { 0 };
            self.object(file.entry.streams, table.length() + count)?;
        }
        for stream in self.image.alternate_streams(file)? {
            self.data(&stream?.stream)?;
        }
        if !file.is_dir() {
            return self.data(&file.data());
        }
        match self.image.directory_table(file)? {
            Some(table) => self.object(file.entry.default_stream.offset, table.length()),
            None => Ok(()),
        }
    }

    fn data(&mut self, stream: &Stream) -> Result<()> {
        // Finds out whether it can be read at all.
        let segments = self.image.segments(stream)?;
        let offset = stream.descriptor().offset;
        if stream.kind() == StreamKind::Pe && !segments.is_empty() && !stream.is_sparse() {
            let (pe, mappings) = self.image.pe_image(offset)?;
            let length = size_of::<PeImage>() + mappings.len() * size_of::<PeMapping>();
            self.object(offset, length as u64)?;
            return self.object(pe.data, pe.image_length.get().into());
        }
        match segments.first().and_then(|segment| segment.source) {
            Some(offset) => self.object(offset, stream.length()),
            None => Ok(()),
        }
    }
}
