//! The files of an image in one input, so that a fuzzer changes all of them.
//!
//! ```text
//! u8 number of files │ u16 length of each │ the files: filesystem file, then regions in the order of their indexes
//! ```
//!
//! Bit 15 of a length: the standard upcase table belongs behind the header of this region. Without it every input would
//! have 128 KiB in which nothing is to be found. What the lengths do not cover belongs to the last file.

use cimfs::format::UPCASE_LENGTH;
use cimfs::{FileSet, Guid, MemorySet, ReadAt, Upcase};

/// Bytes of the header of a region file.
const REGION_HEADER: usize = 40;
const ELIDED: u16 = 1 << 15;

/// The files of an input, without upcase tables.
#[derive(Clone, Default)]
pub(crate) struct Container {
    /// Content, and whether the upcase table is left out of it.
    pub(crate) files: Vec<(Vec<u8>, bool)>,
}

impl Container {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first()?;
        let count = usize::from(*count);
        if !(2..=8).contains(&count) || rest.len() < 2 * count {
            return None;
        }
        let (lengths, mut rest) = rest.split_at(2 * count);
        let mut files = Vec::new();
        for (index, length) in lengths.as_chunks().0.iter().enumerate() {
            let length = u16::from_le_bytes(*length);
            let wanted = usize::from(length & !ELIDED).min(rest.len());
            let wanted = if index + 1 == count { rest.len() } else { wanted };
            let (file, behind) = rest.split_at(wanted);
            files.push((file.to_vec(), length & ELIDED != 0));
            rest = behind;
        }
        Some(Self { files })
    }

    /// `None` if a file is too long.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![u8::try_from(self.files.len()).ok()?];
        for (file, elided) in &self.files {
            let length = u16::try_from(file.len()).ok().filter(|length| length & ELIDED == 0)?;
            bytes.extend((length | if *elided { ELIDED } else { 0 }).to_le_bytes());
        }
        bytes.extend(self.files.iter().flat_map(|(file, _)| file));
        Some(bytes)
    }

    /// The files under the names that the filesystem file gives them; `a.cim` is that.
    pub(crate) fn set(&self) -> MemorySet {
        let set = MemorySet::new();
        let Some(((cim, _), regions)) = self.files.split_first() else { return set };
        let mut names = names(cim).into_iter();
        for (file, elided) in regions {
            let Some(name) = names.next() else { break };
            let mut content = file.clone();
            if *elided && content.len() >= REGION_HEADER {
                content.splice(REGION_HEADER..REGION_HEADER, upcase());
            }
            set.insert(name, content);
        }
        set.insert("a.cim", cim.clone());
        set
    }

    /// What the writer wrote, as an input.
    #[allow(dead_code, reason = "only the seeds are made of images")]
    pub(crate) fn of(set: &MemorySet, name: &str) -> Self {
        let read = |name: &str| {
            let file = set.open(name).expect("the image's files are there");
            let mut bytes = vec![0; usize::try_from(file.size().expect("a length")).expect("fits")];
            file.read_at(&mut bytes, 0).expect("memory can be read");
            bytes
        };
        let cim = read(name);
        let table = upcase();
        let regions = names(&cim).into_iter().map(|name| {
            let mut file = read(&name);
            let has = file.get(REGION_HEADER..).is_some_and(|rest| rest.starts_with(&table));
            if has {
                file.drain(REGION_HEADER..REGION_HEADER + table.len());
            }
            (file, has)
        });
        let regions: Vec<_> = regions.collect();
        Self { files: [(cim, false)].into_iter().chain(regions).collect() }
    }

    /// Where the bytes that are left out belong in a file, as what to add to offsets of the input to get the image's.
    #[allow(dead_code, reason = "seeds are not mutated")]
    pub(crate) fn shift(&self, file: usize) -> u64 {
        self.files.get(file).filter(|(_, elided)| *elided).map_or(0, |_| UPCASE_LENGTH)
    }
}

fn upcase() -> Vec<u8> {
    Upcase::standard().units().iter().flat_map(|unit| unit.to_le_bytes()).collect()
}

/// Names of the region files that a filesystem file mentions, the parents' first.
fn names(cim: &[u8]) -> Vec<String> {
    let set = |at: usize| -> Option<(Guid, u16)> {
        let id: [u8; 16] = cim.get(at..at + 16)?.try_into().ok()?;
        let count: [u8; 2] = cim.get(at + 16..at + 18)?.try_into().ok()?;
        Some((Guid::from_disk(id), u16::from_le_bytes(count)))
    };
    let parents = (0..8).map_while(|index| set(72 + 24 * index));
    let sets: Vec<_> = parents.chain(set(0x20)).collect();
    let names = sets.iter().flat_map(|(id, count)| {
        (0..(*count).min(8)).map(move |index| format!("region_{id}_{index}"))
    });
    names.collect()
}
