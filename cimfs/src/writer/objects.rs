//! Which objects exist already: in this image, and in its parents by their object-ID files.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::format::{
    CommonHeader, FILE_TYPE_OBJECT_ID, MAGIC, ObjectIdEntry, ObjectIdHeader, RegionOffset,
};
use crate::reader::{Regions, object_id_name, read_up_to};
use crate::writer::region::Class;
use crate::{FileSet, Guid, ReadAt};

/// What identifies an object's bytes: the beginning of their SHA-256, and their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ObjectId {
    digest: [u8; 24],
    length: u64,
}

impl ObjectId {
    pub(super) fn new(hash: Sha256, length: u64) -> Self {
        let full = hash.finalize();
        let mut digest = [0; 24];
        digest.copy_from_slice(&full[..24]);
        Self { digest, length }
    }

    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::new(Sha256::new_with_prefix(bytes), bytes.len() as u64)
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

/// The objects of one class of this image: where they are.
#[derive(Debug, Default)]
pub(super) struct Objects(HashMap<ObjectId, u64>);

impl Objects {
    pub(super) fn get(&self, id: &ObjectId) -> Option<u64> {
        self.0.get(id).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn insert(&mut self, id: ObjectId, byte: u64) {
        self.0.insert(id, byte);
    }

    /// The object-ID file's bytes; without a list if it is not wanted.
    pub(super) fn file(&self, common: CommonHeader, index: u16, kind: u8, list: bool) -> Vec<u8> {
        let mut entries: Vec<_> = self.0.iter().filter(|_| list).collect();
        entries.sort_unstable();
        // The list is a help for writers; a prefix of it is as good as any.
        entries.truncate(u32::MAX as usize);
        let header = ObjectIdHeader {
            common: CommonHeader {
                file_type: FILE_TYPE_OBJECT_ID,
                header_length: header_length(),
                ..common
            },
            index: index.into(),
            kind,
            reserved1: 0,
            reserved2: 0.into(),
            table_offset: header_length(),
            count: u32::try_from(entries.len()).expect("it was truncated").into(),
        };
        let mut bytes = header.as_bytes().to_vec();
        for (id, byte) in entries {
            let length = id.length.into();
            let entry = ObjectIdEntry { length, digest: id.digest, offset: (*byte).into() };
            bytes.extend_from_slice(entry.as_bytes());
        }
        bytes
    }
}

fn header_length() -> zerocopy::little_endian::U32 {
    u32::try_from(size_of::<ObjectIdHeader>()).expect("48").into()
}

/// The object-ID files of an image's parents, as far as there are any. They are taken as hints: who finds an
/// object here compares its bytes.
#[derive(Debug)]
pub(super) struct ParentObjects<R>(Vec<ParentTable<R>>);

#[derive(Debug)]
struct ParentTable<R> {
    file: R,
    region: u16,
    kind: u8,
    table: u64,
    count: u32,
}

impl<R: ReadAt> ParentObjects<R> {
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// `sets`: identifier and number of regions, in the order of the regions.
    pub(super) fn open<S: FileSet<File = R>>(set: &S, sets: &[(Guid, u16)]) -> Self {
        let files = sets.iter().flat_map(|(id, count)| (0..*count).map(move |index| (*id, index)));
        let tables = (0..=u16::MAX).zip(files).filter_map(|(region, (id, index))| {
            let file = set.open(&object_id_name(id, index)).ok()?;
            let mut header = ObjectIdHeader::new_zeroed();
            let got = read_up_to(&file, header.as_mut_bytes(), 0).ok()?;
            let sound = got == size_of::<ObjectIdHeader>() && header.common.magic == MAGIC;
            let (table, count) = (header.table_offset.get().into(), header.count.get());
            sound.then_some(ParentTable { file, region, kind: header.kind, table, count })
        });
        Self(tables.collect())
    }

    /// Where parents may have the object, the youngest first. Tables that are not in our order, such as Windows' own
    /// may be, find nothing.
    pub(super) fn candidates(
        &self,
        id: ObjectId,
        class: Class,
    ) -> impl Iterator<Item = RegionOffset> + '_ {
        let tables = self.0.iter().rev();
        let wanted = move |table: &&ParentTable<R>| {
            (table.kind == Class::Metadata.kind()) == (class == Class::Metadata)
        };
        tables.filter(wanted).filter_map(move |table| {
            let byte = table.find(id)?;
            let offset = RegionOffset::new(table.region, byte)?;
            byte.is_multiple_of(class.alignment()).then_some(offset)
        })
    }
}

impl<R: ReadAt> ParentTable<R> {
    fn find(&self, id: ObjectId) -> Option<u64> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry(middle)?;
            let found = ObjectId { digest: entry.digest, length: entry.length.get() };
            match found.cmp(&id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(entry.offset.get()),
            }
        }
        None
    }

    fn entry(&self, index: u32) -> Option<ObjectIdEntry> {
        let mut entry = ObjectIdEntry::new_zeroed();
        let at = self.table + u64::from(index) * size_of::<ObjectIdEntry>() as u64;
        let got = read_up_to(&self.file, entry.as_mut_bytes(), at).ok()?;
        (got == size_of::<ObjectIdEntry>()).then_some(entry)
    }
}

/// Whether `length` bytes of a parent's region are those of a file from `byte` on.
pub(super) fn same_bytes<R: ReadAt, W: ReadAt>(
    parents: &Regions<R>,
    offset: RegionOffset,
    file: &W,
    byte: u64,
    length: u64,
) -> bool {
    const PIECE: usize = 256 << 10;
    let (mut theirs, mut ours) = (vec![0; PIECE], vec![0; PIECE]);
    let mut done = 0;
    while done < length {
        let piece = usize::try_from(length - done).map_or(PIECE, |rest| rest.min(PIECE));
        let (theirs, ours) = (&mut theirs[..piece], &mut ours[..piece]);
        let Some(at) = offset.checked_add(done) else { return false };
        let read = parents.read_exact(theirs, at).is_ok()
            && read_up_to(file, ours, byte + done).is_ok_and(|got| got == piece);
        if !read || theirs != ours {
            return false;
        }
        done += piece as u64;
    }
    true
}
