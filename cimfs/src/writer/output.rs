//! The files of an image that is being written: under temporary names, removed again unless it is finished.

use std::io;

use sha2::{Digest as _, Sha256};

use zerocopy::IntoBytes as _;

use crate::format::{CommonHeader, FILE_TYPE_REGION, RegionHeader, RegionOffset};
use crate::reader::{Regions, object_id_name, region_name};
use crate::writer::objects::{ObjectId, Objects, ParentObjects, same_bytes};
use crate::writer::region::{Class, RegionOutput};
use crate::{Error, ErrorKind, Guid, Result, WritableFile as _, WritableSet};

/// What temporary names end with; see [`orphans`](crate::orphans).
pub(crate) const TEMPORARY: &str = ".cimtmp";

/// Where an object is: nowhere, in a parent, or in this image, whose regions get their indexes at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Parent(RegionOffset),
    Own(Class, u64),
}

impl Place {
    pub(super) const NULL: Self = Self::Parent(RegionOffset::NULL);
}

/// The files that were made so far; dropping removes them.
#[derive(Debug)]
struct Created<S: WritableSet> {
    set: S,
    names: Vec<String>,
}

impl<S: WritableSet> Created<S> {
    fn create(&mut self, name: String) -> Result<S::Writer> {
        self.create_by(name, S::create)
    }

    fn create_long(&mut self, name: String) -> Result<S::Writer> {
        self.create_by(name, S::create_long)
    }

    fn create_by(
        &mut self,
        name: String,
        create: impl FnOnce(&S, &str) -> io::Result<S::Writer>,
    ) -> Result<S::Writer> {
        let file = create(&self.set, &name).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => {
                let what = format!("{name} exists: the image is being written, or that was cut");
                Error::new(ErrorKind::Exists, what)
            }
            _ => Error::io(format!("making {name}"), e),
        })?;
        self.names.push(name);
        Ok(file)
    }

    fn expect_free(&self, name: &str) -> Result<()> {
        match self.set.open(name) {
            Ok(_) => Err(Error::new(ErrorKind::Exists, format!("{name} exists already"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io(format!("looking for {name}"), e)),
        }
    }

    fn discard(&mut self, name: &str) -> Result<()> {
        self.set.remove(name).map_err(|e| Error::io(format!("removing {name}"), e))?;
        self.names.retain(|other| other != name);
        Ok(())
    }

    fn rename(&mut self, index: usize, to: String) -> Result<()> {
        let from = &self.names[index];
        self.set.rename(from, &to).map_err(|e| Error::io(format!("renaming {from} to {to}"), e))?;
        self.names[index] = to;
        Ok(())
    }
}

impl<S: WritableSet> Drop for Created<S> {
    fn drop(&mut self) {
        for name in self.names.drain(..) {
            // Nobody is left to tell. What stays is found as an orphan.
            let _ = self.set.remove(&name);
        }
    }
}

/// Regions and object lists.
#[derive(Debug)]
pub(super) struct Output<S: WritableSet> {
    // Before `created`, so that files are closed before they are removed, which Windows insists on.
    regions: [Option<RegionOutput<S::Writer>>; 3],
    image: S::Writer,
    created: Created<S>,
    name: String,
    guid: Guid,
    /// What temporary names are made of.
    temporary: Guid,
    objects: [Objects; 3],
    pub(super) parent_objects: ParentObjects<S::File>,
}

fn slot(class: Class) -> usize {
    match class {
        Class::Metadata => 0,
        Class::SmallData => 1,
        Class::Data => 2,
    }
}

fn failed(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::FileTooLarge => {
            Error::new(ErrorKind::TooLarge, "a region has room for 2^48 bytes")
        }
        _ => Error::io("writing a region", e),
    }
}

impl<S: WritableSet> Output<S> {
    pub(super) fn new(
        set: S,
        name: &str,
        guid: Guid,
        parent_objects: ParentObjects<S::File>,
    ) -> Result<Self> {
        let mut created = Created { set, names: Vec::new() };
        // The temporary name keeps other writers off the final one.
        let image = created.create(format!("{name}{TEMPORARY}"))?;
        created.expect_free(name)?;
        created.expect_free(&region_name(guid, 0))?;
        let objects = std::array::from_fn(|_| Objects::default());
        let regions = [const { None }; 3];
        let mut output = Self {
            regions,
            image,
            created,
            name: name.into(),
            guid,
            temporary: guid,
            objects,
            parent_objects,
        };
        output.region(Class::Metadata)?;
        Ok(output)
    }

    pub(super) fn set_guid(&mut self, guid: Guid) -> Result<()> {
        self.created.expect_free(&region_name(guid, 0))?;
        self.guid = guid;
        Ok(())
    }

    fn region(&mut self, class: Class) -> Result<&mut RegionOutput<S::Writer>> {
        let region = &mut self.regions[slot(class)];
        let region = match region.take() {
            Some(open) => region.insert(open),
            None => {
                let name = region_temporary(self.temporary, class);
                let file = match class {
                    Class::Data => self.created.create_long(name)?,
                    Class::Metadata | Class::SmallData => self.created.create(name)?,
                };
                region.insert(RegionOutput::new(file))
            }
        };
        Ok(region)
    }

    /// Starts an object whose bytes come in pieces, and returns where.
    pub(super) fn begin(&mut self, class: Class) -> Result<u64> {
        Ok(self.region(class)?.align(class.alignment()))
    }

    pub(super) fn append(&mut self, class: Class, bytes: &[u8]) -> Result<()> {
        self.region(class)?.append(bytes).map_err(failed)
    }

    pub(super) fn rewind(&mut self, class: Class, start: u64) -> Result<()> {
        self.region(class)?.rewind(start);
        Ok(())
    }

    /// Ends an object that began at `start`: if there is one of the same bytes, it goes again.
    pub(super) fn end(
        &mut self,
        class: Class,
        start: u64,
        hash: Sha256,
        length: u64,
        parents: Option<&Regions<S::File>>,
    ) -> Result<Place> {
        let id = ObjectId::new(hash, length);
        if let Some(byte) = self.objects[slot(class)].get(&id) {
            self.rewind(class, start)?;
            return Ok(Place::Own(class, byte));
        }
        if let Some(parents) = parents {
            let candidates: Vec<_> = self.parent_objects.candidates(id, class).collect();
            if !candidates.is_empty() {
                let file = self.region(class)?.flushed().map_err(failed)?;
                let length = id.length();
                let same = |at: &&RegionOffset| same_bytes(parents, **at, file, start, length);
                if let Some(found) = candidates.iter().find(same) {
                    let found = *found;
                    self.rewind(class, start)?;
                    return Ok(Place::Parent(found));
                }
            }
        }
        self.objects[slot(class)].insert(id, start);
        Ok(Place::Own(class, start))
    }

    /// Stores an object, unless there is one of the same bytes.
    pub(super) fn put(
        &mut self,
        class: Class,
        bytes: &[u8],
        parents: Option<&Regions<S::File>>,
    ) -> Result<Place> {
        let id = ObjectId::of(bytes);
        if let Some(byte) = self.objects[slot(class)].get(&id) {
            return Ok(Place::Own(class, byte));
        }
        let start = self.begin(class)?;
        self.append(class, bytes)?;
        self.end(class, start, Sha256::new_with_prefix(bytes), bytes.len() as u64, parents)
    }

    /// The classes that have a region, in the order of the regions' indexes. A region whose objects were all
    /// found elsewhere is none.
    pub(super) fn classes(&self) -> Vec<Class> {
        let used =
            |class: &Class| *class == Class::Metadata || !self.objects[slot(*class)].is_empty();
        Class::ALL.into_iter().filter(used).collect()
    }

    /// A GUID made of the image's name, all objects, where they are, and `more`.
    pub(super) fn identify(&self, common: CommonHeader, more: Vec<u8>) -> Guid {
        let mut hash = Sha256::new_with_prefix(self.name.as_bytes());
        hash.update([0]);
        hash.update(more);
        for (index, class) in (0_u16..).zip(self.classes()) {
            hash.update(self.objects[slot(class)].file(common, index, class.kind(), true));
        }
        Guid::for_content(&hash.finalize())
    }

    /// Makes everything durable and gives it its names, the filesystem file last of all. Returns the lengths of
    /// the regions.
    pub(super) fn finish(
        mut self,
        image: &[u8],
        common: CommonHeader,
        list_objects: bool,
    ) -> Result<Vec<u64>> {
        let mut renames = Vec::new();
        let mut lengths = Vec::new();
        let classes = self.classes();
        for (index, class) in (0_u16..).zip(classes.iter().copied()) {
            let header = region_header(common, index, class);
            let region = self.region(class)?;
            lengths.push(region.position());
            region.finish(header.as_bytes()).map_err(failed)?;
            let temporary = region_temporary(self.temporary, class);
            renames.push((temporary, region_name(self.guid, index)));

            let bytes = self.objects[slot(class)].file(common, index, class.kind(), list_objects);
            let temporary = format!("objectid_{}_{index}{TEMPORARY}", self.temporary);
            let mut file = self.created.create(temporary.clone())?;
            let written = file.write_all_at(&bytes, 0).and_then(|()| file.sync());
            written.map_err(|e| Error::io(format!("writing {temporary}"), e))?;
            renames.push((temporary, object_id_name(self.guid, index)));
        }
        let written = self.image.write_all_at(image, 0).and_then(|()| self.image.sync());
        written.map_err(|e| Error::io(format!("writing {}", self.name), e))?;

        // Windows renames no open file.
        let Self { regions, image, mut created, name, temporary, .. } = self;
        let unused = |class: &Class| regions[slot(*class)].is_some() && !classes.contains(class);
        let unused: Vec<_> = Class::ALL.into_iter().filter(unused).collect();
        drop((regions, image));
        for class in unused {
            created.discard(&region_temporary(temporary, class))?;
        }
        for (from, to) in renames {
            let index = created.names.iter().position(|name| *name == from);
            created.rename(index.expect("the file was made"), to)?;
        }
        let failed = |e| Error::io("making the names durable", e);
        created.set.sync().map_err(failed)?;
        created.rename(0, name)?;
        // From here on the image exists, whether or not its name is durable.
        created.names.clear();
        created.set.sync().map_err(failed)?;
        Ok(lengths)
    }
}

fn region_temporary(guid: Guid, class: Class) -> String {
    format!("region_{guid}_{}{TEMPORARY}", class.name())
}

fn region_header(common: CommonHeader, index: u16, class: Class) -> RegionHeader {
    let header_length = u32::try_from(size_of::<RegionHeader>()).expect("40").into();
    RegionHeader {
        common: CommonHeader { file_type: FILE_TYPE_REGION, header_length, ..common },
        index: index.into(),
        kind: class.kind(),
        reserved1: 0,
        reserved2: 0.into(),
    }
}
