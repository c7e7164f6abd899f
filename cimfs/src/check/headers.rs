//! Headers of all files, object-ID files, and the tables of files.

use std::collections::HashSet;

use zerocopy::{FromZeros as _, IntoBytes as _};

use super::{Checker, Code, Place};
use crate::format::{
    CommonHeader, ENTRY_SIZE_V1, FILE_TYPE_OBJECT_ID, FILE_TYPE_REGION, FILES_PER_TABLE, FileTable,
    Filesystem, ImageHeader, MAGIC, ObjectIdEntry, ObjectIdHeader, REGION_SMALL_DATA, RegionHeader,
    RegionSet, UPCASE_LENGTH,
};
use crate::reader::{object_id_name, read_up_to};
use crate::{FileSet, Guid, ReadAt};

impl<R: ReadAt> Checker<'_, R> {
    fn common(&mut self, name: &str, header: &CommonHeader, length: usize) {
        let reserved =
            header.reserved1 != 0 || header.reserved2.get() != 0 || header.reserved3.get() != 0;
        let mut find = |what: String| self.find(Code::Header, Place::default(), what);
        if u64::from(header.header_length.get()) != length as u64 {
            let stored = header.header_length;
            find(format!("{name} has a header of {length} bytes and says {stored}"));
        }
        if header.minor.get() != 0 {
            find(format!("{name} has minor version {}", header.minor));
        }
        if reserved {
            find(format!("{name} has reserved bytes that are not zero"));
        }
    }

    pub(super) fn headers(&mut self) {
        let image = self.image;
        let header = image.header();
        let length = size_of::<ImageHeader>() + std::mem::size_of_val(image.parents());
        self.common("the filesystem file", &header.common, length);
        if image.length() != length as u64 {
            let what = format!("the filesystem file has {} bytes for {length}", image.length());
            self.find(Code::Header, Place::default(), what);
        }
        let sets = || image.parents().iter().chain([&header.regions]);
        let odd = |set: &RegionSet| set.reserved1.get() != 0 || set.reserved2.get() != 0;
        if header.reserved1.get() != 0 || header.reserved2.get() != 0 || sets().any(odd) {
            let what = "the filesystem file has reserved fields that are not zero";
            self.find(Code::Header, Place::default(), what);
        }
        let mut known = HashSet::new();
        for set in sets() {
            if !known.insert(set.id) {
                let what = format!("the region set {} is listed twice", Guid::from_disk(set.id));
                self.find(Code::RegionSetTwice, Place::default(), what);
            }
        }
        let indexes: Vec<u16> = sets().flat_map(|set| 0..set.count.get()).collect();
        for (global, (region, index)) in image.regions().iter().zip(indexes).enumerate() {
            let header = region.header();
            self.common(region.name(), &header.common, size_of::<RegionHeader>());
            if header.common.file_type != FILE_TYPE_REGION {
                let what = format!("{} has file type {}", region.name(), header.common.file_type);
                self.find(Code::RegionHeader, Place::default(), what);
            }
            // Which of the two it should be in a fork is not known.
            let stored = usize::from(header.index.get());
            if stored != usize::from(index) && stored != global {
                let what = format!("{} says that it is region {stored}", region.name());
                self.find(Code::RegionHeader, Place::default(), what);
            }
            if header.kind > REGION_SMALL_DATA
                || header.reserved1 != 0
                || header.reserved2.get() != 0
            {
                let what = format!("{} has an unknown type or reserved bytes", region.name());
                self.find(Code::Header, Place::default(), what);
            }
        }
    }

    pub(super) fn object_ids<S: FileSet>(&mut self, set: &S) {
        let id = self.image.guid();
        let own = self.image.own_regions_start();
        let image = self.image;
        for (index, region) in (0_u16..).zip(image.regions().iter().skip(own)) {
            let name = object_id_name(id, index);
            let (length, kind) = (region.length(), region.header().kind);
            if let Err(what) = object_id_file(set, &name, index, kind, length) {
                self.find(Code::ObjectIds, Place::default(), format!("{name} {what}"));
            }
        }
    }

    pub(super) fn tables(&mut self) {
        let image = self.image;
        let filesystem = image.filesystem();
        self.metadata(image.header().filesystem, size_of::<Filesystem>() as u64);
        match image.upcase() {
            Ok(upcase) => {
                self.metadata(filesystem.upcase, UPCASE_LENGTH);
                let twice = |unit: &u16| upcase.fold(upcase.fold(*unit)) != upcase.fold(*unit);
                if let Some(unit) = (0..=u16::MAX).find(twice) {
                    let what = format!("the upcase form of U+{unit:04X} has another one");
                    self.find(Code::UpcaseTwice, Place::default(), what);
                }
            }
            Err(error) => self.fail(Code::Upcase, Place::default(), &error),
        }
        let count = filesystem.file_table_count.get();
        let length = u64::from(count) * size_of::<FileTable>() as u64;
        if let Err(error) = image.regions().locate(filesystem.file_tables, length) {
            return self.fail(Code::FileTable, Place::default(), &error);
        }
        self.metadata(filesystem.file_tables, length);
        for index in 0..count {
            match image.file_table(index) {
                Ok(table) => self.table(index, &table, index + 1 == count),
                Err(error) => self.fail(Code::FileTable, Place::default(), &error),
            }
        }
    }

    fn table(&mut self, index: u32, table: &FileTable, last: bool) {
        let (count, size) = (u32::from(table.count.get()), table.entry_size.get());
        let place = Place { offset: Some(table.offset), path: None };
        if count > FILES_PER_TABLE || size < ENTRY_SIZE_V1 {
            let what = format!("file table {index} has {count} entries of {size} bytes");
            return self.find(Code::FileTable, place, what);
        }
        if count < FILES_PER_TABLE && !last {
            let what = format!("file table {index} of several has {count} entries");
            self.find(Code::FileTableShort, place, what);
        }
        if count == 0 {
            return;
        }
        let length = u64::from(count) * u64::from(size);
        match self.image.regions().locate(table.offset, length) {
            Ok(_) => self.metadata(table.offset, length),
            Err(error) => self.fail(Code::FileTable, place, &error),
        }
    }
}

/// What is wrong with an object-ID file, if anything.
pub(crate) fn object_id_file<S: FileSet>(
    set: &S,
    name: &str,
    index: u16,
    kind: u8,
    region_length: u64,
) -> Result<(), String> {
    let file = set.open(name).map_err(|e| format!("cannot be opened: {e}"))?;
    let failed = |e| format!("cannot be read: {e}");
    let mut header = ObjectIdHeader::new_zeroed();
    let got = read_up_to(&file, header.as_mut_bytes(), 0).map_err(failed)?;
    let is_one = got == size_of::<ObjectIdHeader>()
        && header.common.magic == MAGIC
        && header.common.file_type == FILE_TYPE_OBJECT_ID;
    if !is_one {
        return Err("is not an object-ID file".into());
    }
    if header.index.get() != index || header.kind != kind {
        return Err(format!("says that it is of region {} of type {}", header.index, header.kind));
    }
    let (mut at, count) = (u64::from(header.table_offset.get()), header.count.get());
    for number in 0..count {
        let mut entry = ObjectIdEntry::new_zeroed();
        let got = read_up_to(&file, entry.as_mut_bytes(), at).map_err(failed)?;
        if got < size_of::<ObjectIdEntry>() {
            return Err(format!("ends before entry {number} of {count}"));
        }
        let end = entry.offset.get().checked_add(entry.length.get());
        if entry.offset.get() < size_of::<RegionHeader>() as u64
            || end.is_none_or(|end| end > region_length)
        {
            let (offset, length) = (entry.offset, entry.length);
            return Err(format!("lists {length} bytes at {offset}, outside the region"));
        }
        at += size_of::<ObjectIdEntry>() as u64;
    }
    Ok(())
}
