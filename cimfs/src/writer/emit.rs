//! The end of an image: numbers for new files, then link tables, file tables and headers.

use std::collections::{BTreeMap, HashMap};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::format::{
    CommonHeader, FILE_TYPE_IMAGE, FILES_PER_TABLE, FileEntry, FileTable, Filesystem, ImageHeader,
    LENGTH_LIMIT, LinkTableHeader, MAGIC, REGIONS_MAX, RegionOffset, RegionSet, StreamDescriptor,
    StreamKind,
};
use crate::writer::output::Place;
use crate::writer::region::Class;
use crate::writer::tree::{Body, Data, Node, NodeIndex, Streams, Target, Tree};
use crate::writer::{ImageWriter, Summary};
use crate::{Error, ErrorKind, FileId, Guid, Name, Result, StreamFraming, WritableSet};

pub(super) struct Emission<S: WritableSet> {
    writer: ImageWriter<S>,
    /// Entries to be written, by number.
    numbered: BTreeMap<FileId, NodeIndex>,
    numbers: HashMap<NodeIndex, FileId>,
    /// The directory that each new file was found in first.
    directories: HashMap<NodeIndex, FileId>,
    /// As the parent has them, then as they will be.
    tables: Vec<FileTable>,
    /// Region index of each class.
    regions: [u16; 3],
}

fn too_large(what: &str) -> Error {
    Error::new(ErrorKind::TooLarge, what)
}

impl<S: WritableSet> Emission<S> {
    pub(super) fn new(writer: ImageWriter<S>) -> Result<Self> {
        let mut tables = Vec::new();
        let mut inherited = 0;
        if let Some(parent) = &writer.parent {
            let filesystem = parent.image.filesystem();
            let count = u64::from(filesystem.file_table_count.get());
            let length = count * size_of::<FileTable>() as u64;
            let bytes = match count {
                0 => Vec::new(),
                _ => parent.image.regions().read_bytes(filesystem.file_tables, length)?,
            };
            let chunks = bytes.chunks_exact(size_of::<FileTable>());
            tables = chunks
                .map(|table| FileTable::read_from_bytes(table).expect("a chunk has its length"))
                .collect();
            inherited = parent.image.region_count();
        }
        let classes = writer.output.classes();
        if inherited + classes.len() > REGIONS_MAX {
            return Err(too_large("an image has at most 65536 regions with its parents'"));
        }
        let mut regions = [0; 3];
        for (index, class) in (inherited..).zip(classes) {
            let index = u16::try_from(index).expect("the number of regions was checked");
            regions[place_of(class)] = index;
        }
        Ok(Self {
            writer,
            numbered: BTreeMap::new(),
            numbers: HashMap::new(),
            directories: HashMap::new(),
            tables,
            regions,
        })
    }

    pub(super) fn write(mut self) -> Result<Summary> {
        self.number()?;
        let entries = self.entries()?;
        let written = entries.len() as u64;
        self.file_tables(&entries)?;
        let list: Vec<u8> =
            self.tables.iter().flat_map(|table| table.as_bytes().to_vec()).collect();
        let file_tables = self.put(&list)?;
        let file_table_count =
            u32::try_from(self.tables.len()).map_err(|_| too_large("too many files"))?;
        let root = self.numbers[&Tree::ROOT];
        let upcase = match &self.writer.parent {
            Some(parent) => parent.image.filesystem().upcase,
            // The first object behind the header.
            None => self.resolve(Place::Own(Class::Metadata, 40))?,
        };
        let filesystem = Filesystem {
            upcase,
            file_tables,
            file_table_count: file_table_count.into(),
            root: root.0.into(),
        };
        let filesystem = self.put(filesystem.as_bytes())?;
        self.finish(filesystem, written)
    }

    fn finish(self, filesystem: RegionOffset, entries: u64) -> Result<Summary> {
        let Self { mut writer, .. } = self;
        let parents: Vec<RegionSet> = match &writer.parent {
            Some(parent) => {
                let image = &parent.image;
                image.parents().iter().chain([&image.header().regions]).copied().collect()
            }
            None => Vec::new(),
        };
        let set = |id: Guid, count: u16| RegionSet {
            id: id.to_disk(),
            count: count.into(),
            reserved1: 0.into(),
            reserved2: 0.into(),
        };
        let own = u16::try_from(writer.output.classes().len()).expect("at most three");
        let parent_count = u16::try_from(parents.len()).expect("checked when the fork began");
        let length = size_of::<ImageHeader>() + parents.len() * size_of::<RegionSet>();
        let common = CommonHeader {
            magic: MAGIC,
            header_length: u32::try_from(length).expect("24 times 2^16 fits").into(),
            file_type: FILE_TYPE_IMAGE,
            reserved1: 0,
            reserved2: 0.into(),
            major: writer.options.version.into(),
            minor: 0.into(),
            reserved3: 0.into(),
        };
        if writer.by_content {
            let mut identity = filesystem.as_bytes().to_vec();
            identity.extend(parents.iter().flat_map(|parent| parent.id));
            writer.set_guid(writer.output.identify(common, identity))?;
        }
        let header = ImageHeader {
            common,
            regions: set(writer.guid, own),
            filesystem,
            reserved1: 0.into(),
            reserved2: 0.into(),
            parent_count: parent_count.into(),
        };
        let mut bytes = header.as_bytes().to_vec();
        for parent in &parents {
            let id = Guid::from_disk(parent.id);
            bytes.extend_from_slice(set(id, parent.count.get()).as_bytes());
        }
        let ImageWriter { output, options, guid, parent, .. } = writer;
        drop(parent);
        let regions = output.finish(&bytes, common, options.object_ids)?;
        Ok(Summary { guid, entries, regions })
    }

    /// Finds what must be written and gives new files their numbers: first the directories, each before what is in it,
    /// then the files, both in the order of names.
    ///
    /// A fork writes the entries of directories again whose names changed, and with each the whole table of 1024 that
    /// it is in: together they are in few tables.
    fn number(&mut self) -> Result<()> {
        let mut next = self.first_free()?;
        let mut take = move || {
            let id = next.ok_or_else(|| too_large("more than 2^32 - 1 files"))?;
            next = id.0.checked_add(1).map(FileId);
            Ok(id)
        };
        let mut files = Vec::new();
        let mut visited = vec![false; self.writer.tree.len()];
        // A parent's file that lost the name by which it was changed may have others.
        let changed = (0..self.writer.tree.len()).rev().map(NodeIndex).filter(|index| {
            let node = &self.writer.tree[*index];
            node.dirty && node.origin.is_some() && !node.is_dir()
        });
        let mut stack: Vec<(NodeIndex, Option<NodeIndex>)> =
            changed.map(|index| (index, None)).collect();
        stack.push((Tree::ROOT, None));
        while let Some((index, above)) = stack.pop() {
            if std::mem::replace(&mut visited[index.0], true) {
                continue;
            }
            let node = &self.writer.tree[index];
            if let Some(above) = above {
                self.directories.insert(index, self.numbers[&above]);
            }
            let id = match node.origin {
                Some(id) => id,
                None if node.is_dir() => take()?,
                None => {
                    files.push(index);
                    continue;
                }
            };
            self.numbers.insert(index, id);
            if node.dirty {
                self.numbered.insert(id, index);
            }
            if let Body::Directory(directory) = &node.body
                && let Some(children) = &directory.children
            {
                let nodes = children.values().rev();
                let nodes = nodes.filter_map(|child| self.writer.tree.known(child.target));
                stack.extend(nodes.map(|child| (child, Some(index))));
            }
        }
        for index in files {
            let id = take()?;
            self.numbers.insert(index, id);
            self.numbered.insert(id, index);
        }
        Ok(())
    }

    /// The first number behind the parent's; all its tables but the last are full.
    fn first_free(&self) -> Result<Option<FileId>> {
        let Some((last, before)) = self.tables.split_last() else { return Ok(Some(FileId(1))) };
        let full = |table: &FileTable| u32::from(table.count.get()) == FILES_PER_TABLE;
        if !before.iter().all(full) || u32::from(last.count.get()) > FILES_PER_TABLE {
            // Numbers in a table that is not full may be free or not; a new table is safe.
            return Ok(number_in(before.len() + 1, 0));
        }
        Ok(number_in(before.len(), last.count.get().into()))
    }

    fn entries(&mut self) -> Result<BTreeMap<FileId, FileEntry>> {
        let numbered = std::mem::take(&mut self.numbered);
        let mut entries = BTreeMap::new();
        for (id, index) in numbered {
            entries.insert(id, self.entry(index)?);
        }
        Ok(entries)
    }

    fn entry(&mut self, index: NodeIndex) -> Result<FileEntry> {
        let default_stream = self.default_stream(index)?;
        let streams = self.streams(index)?;
        let node: &Node = &self.writer.tree[index];
        let parent = match (node.origin, self.directories.get(&index)) {
            (None, Some(directory)) => directory.0.into(),
            _ => node.entry.parent,
        };
        Ok(FileEntry {
            default_stream,
            security: self.resolve(node.security)?,
            eas: self.resolve(node.eas)?,
            reparse: self.resolve(node.reparse)?,
            streams,
            parent,
            ..node.entry
        })
    }

    fn default_stream(&mut self, index: NodeIndex) -> Result<StreamDescriptor> {
        let directory = match &self.writer.tree[index].body {
            Body::File(data) => return self.descriptor(*data),
            Body::Directory(directory) if !directory.changed => {
                return self.descriptor(directory.kept);
            }
            Body::Directory(directory) => directory,
        };
        let children = directory.children.iter().flat_map(BTreeMap::values);
        let links = children.map(|child| (&child.name, U32::new(self.id_of(child.target).0)));
        let table = link_table(links.collect::<Vec<_>>().into_iter())?;
        let offset = match table.is_empty() {
            true => RegionOffset::NULL,
            false => self.put(&table)?,
        };
        let length = table.len() as u64;
        let stream = StreamDescriptor::new(offset, length, StreamKind::Directory, false);
        Ok(stream.expect("a link table is below 2^32 bytes"))
    }

    fn streams(&mut self, index: NodeIndex) -> Result<RegionOffset> {
        let streams = match &self.writer.tree[index].streams {
            Streams::Kept(place) => return self.resolve(*place),
            Streams::Changed(streams) => streams,
        };
        let mut links = Vec::new();
        for (name, data) in streams.values() {
            links.push((name, self.descriptor(*data)?));
        }
        let mut table = link_table(links.into_iter())?;
        if table.is_empty() {
            return Ok(RegionOffset::NULL);
        }
        if self.writer.options.stream_framing == StreamFraming::Counted {
            let length = u32::try_from(table.len()).expect("a link table is below 2^32 bytes");
            table.splice(0..0, length.to_le_bytes());
        }
        self.put(&table)
    }

    /// Writes every table that has a new or changed entry, and makes tables for new files.
    fn file_tables(&mut self, entries: &BTreeMap<FileId, FileEntry>) -> Result<()> {
        let mut rest = entries.iter().peekable();
        while let Some((id, _)) = rest.peek() {
            let (index, _) = id.place().expect("numbers begin with 1");
            let place = usize::try_from(index).map_err(|_| too_large("too many files"))?;
            let (mut bytes, size) = self.table_bytes(place)?;
            while let Some((id, entry)) =
                rest.next_if(|(id, _)| id.place().is_some_and(|(other, _)| other == index))
            {
                let slot = id.place().map_or(0, |(_, slot)| slot);
                let start = usize::try_from(slot).expect("below 1024") * size;
                if bytes.len() < start + size {
                    bytes.resize(start + size, 0);
                }
                let known = size.min(size_of::<FileEntry>());
                bytes[start..start + known].copy_from_slice(&entry.as_bytes()[..known]);
            }
            let count = u16::try_from(bytes.len() / size).expect("at most 1024");
            let table = FileTable {
                offset: self.put(&bytes)?,
                count: count.into(),
                entry_size: u16::try_from(size).expect("it came from 16 bits").into(),
                reserved: 0.into(),
            };
            match self.tables.get_mut(place) {
                Some(old) => *old = table,
                None => self.tables.push(table),
            }
        }
        Ok(())
    }

    /// The bytes of a parent's table, none for a new one, and the length of an entry.
    fn table_bytes(&self, index: usize) -> Result<(Vec<u8>, usize)> {
        let parent = self.writer.parent.as_ref();
        let Some((table, parent)) = self.tables.get(index).zip(parent) else {
            return Ok((Vec::new(), self.writer.options.entry_size().into()));
        };
        let size = table.entry_size.get();
        if size < crate::format::ENTRY_SIZE_V1 {
            let what = format!("file table {index} has entries of {size} bytes");
            return Err(Error::corrupt(table.offset, what));
        }
        let count = u64::from(table.count.get()).min(FILES_PER_TABLE.into());
        let bytes = match count {
            0 => Vec::new(),
            _ => parent.image.regions().read_bytes(table.offset, count * u64::from(size))?,
        };
        Ok((bytes, size.into()))
    }

    fn id_of(&self, target: Target) -> FileId {
        match (target, self.writer.tree.known(target)) {
            (_, Some(index)) => self.numbers[&index],
            (Target::Parent(id), None) => id,
            (Target::Node(_), None) => unreachable!("a node is known"),
        }
    }

    fn descriptor(&self, data: Data) -> Result<StreamDescriptor> {
        Ok(StreamDescriptor { offset: self.resolve(data.place)?, ..data.descriptor })
    }

    fn resolve(&self, place: Place) -> Result<RegionOffset> {
        match place {
            Place::Parent(offset) => Ok(offset),
            Place::Own(class, byte) => RegionOffset::new(self.regions[place_of(class)], byte)
                .ok_or_else(|| too_large("a region has room for 2^48 bytes")),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<RegionOffset> {
        debug_assert!((bytes.len() as u64) < LENGTH_LIMIT);
        let parents = self.writer.parent.as_ref().map(|parent| parent.image.regions());
        let place = self.writer.output.put(Class::Metadata, bytes, parents)?;
        self.resolve(place)
    }
}

fn place_of(class: Class) -> usize {
    match class {
        Class::Metadata => 0,
        Class::SmallData => 1,
        Class::Data => 2,
    }
}

fn number_in(table: usize, slot: u32) -> Option<FileId> {
    let table = u32::try_from(table).ok()?;
    table.checked_mul(FILES_PER_TABLE)?.checked_add(slot)?.checked_add(1).map(FileId)
}

/// A link table; no bytes without links.
fn link_table<'a, V: zerocopy::IntoBytes + zerocopy::Immutable + 'a>(
    links: impl ExactSizeIterator<Item = (&'a Name, V)> + Clone,
) -> Result<Vec<u8>> {
    let count = links.len();
    if count == 0 {
        return Ok(Vec::new());
    }
    let names_start = size_of::<LinkTableHeader>() + count * (size_of::<V>() + 4);
    let lengths = links.clone().map(|(name, _)| 2 + 2 * name.units().len());
    let length = names_start + lengths.sum::<usize>();
    let big = |_| too_large("a directory or list of streams needs 2^32 bytes or more");
    let header = LinkTableHeader {
        length: u32::try_from(length).map_err(big)?.into(),
        count: u32::try_from(count).map_err(big)?.into(),
    };
    let mut table = Vec::with_capacity(length);
    table.extend_from_slice(header.as_bytes());
    for (_, value) in links.clone() {
        table.extend_from_slice(value.as_bytes());
    }
    let mut offset = names_start;
    for (name, _) in links.clone() {
        table.extend_from_slice(&u32::try_from(offset).map_err(big)?.to_le_bytes());
        offset += 2 + 2 * name.units().len();
    }
    for (name, _) in links {
        let units = u16::try_from(name.units().len()).expect("names were checked");
        table.extend_from_slice(&units.to_le_bytes());
        table.extend(name.units().iter().flat_map(|unit| unit.to_le_bytes()));
    }
    Ok(table)
}
