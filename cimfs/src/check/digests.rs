//! Whether objects are what the object-ID files say.

use sha2::{Digest as _, Sha256};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::{Checker, Code, Place};
use crate::format::{ObjectIdEntry, ObjectIdHeader, RegionOffset};
use crate::reader::{object_id_name, read_up_to};
use crate::{Error, FileSet, ReadAt, Result};

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;
/// See [`Walk`](crate::Walk).
const SHARING: u64 = 4;

/// How many objects of a region there are, and how many are not what their digests say.
#[derive(Default)]
struct Tally {
    objects: u64,
    wrong: u64,
    first: Option<RegionOffset>,
}

impl<R: ReadAt> Checker<'_, R> {
    /// Reads all objects that are listed. If not one fits, the digests are of another writer, whose algorithm is not
    /// known, or all regions are another image's.
    pub(super) fn digests<S: FileSet>(&mut self, set: &S) -> Result<()> {
        let image = self.image;
        let own = image.own_regions_start();
        let mut left = image.regions().total_length().saturating_mul(SHARING);
        let mut tallies = Vec::new();
        for (index, region) in (0_u16..).zip(image.regions().iter().skip(own)) {
            let name = object_id_name(image.guid(), index);
            let (kind, length) = (region.header().kind, region.length());
            // What is wrong with the file itself was told.
            if super::object_id_file(set, &name, index, kind, length).is_err() {
                continue;
            }
            let global = u16::try_from(own + usize::from(index)).expect("at most 65536 regions");
            let tally = tally(self, set, &name, global, &mut left)?;
            tallies.push((region.name(), tally));
        }
        let wrong: u64 = tallies.iter().map(|(_, tally)| tally.wrong).sum();
        let objects: u64 = tallies.iter().map(|(_, tally)| tally.objects).sum();
        if wrong == objects && wrong > 0 {
            let what = format!(
                "none of {objects} objects is what its digest says: another program wrote them, or these are not \
                 the image's regions"
            );
            self.find(Code::Digests, Place::default(), what);
            return Ok(());
        }
        for (name, Tally { objects, wrong, first }) in tallies {
            if wrong > 0 {
                let what = format!(
                    "{wrong} of {objects} objects of {name} are not what their digests say: they were changed, or \
                     the region is another image's"
                );
                self.find(Code::Digest, Place { offset: first, path: None }, what);
            }
        }
        Ok(())
    }
}

fn tally<R: ReadAt, S: FileSet>(
    checker: &Checker<'_, R>,
    set: &S,
    name: &str,
    region: u16,
    left: &mut u64,
) -> Result<Tally> {
    let failed = |e| Error::io(format!("reading {name}"), e);
    let file = set.open(name).map_err(failed)?;
    let mut header = ObjectIdHeader::new_zeroed();
    read_up_to(&file, header.as_mut_bytes(), 0).map_err(failed)?;
    let mut at = u64::from(header.table_offset.get());
    let mut tally = Tally::default();
    let mut buf = vec![0; PIECE];
    for _ in 0..header.count.get() {
        let mut entry = ObjectIdEntry::new_zeroed();
        read_up_to(&file, entry.as_mut_bytes(), at).map_err(failed)?;
        at += size_of::<ObjectIdEntry>() as u64;
        let (mut byte, mut rest) = (entry.offset.get(), entry.length.get());
        // Honest objects do not overlap, and hostile ones must not be read for ever.
        let Some(less) = left.checked_sub(rest) else { break };
        *left = less;
        let mut hash = Sha256::new();
        while rest > 0 {
            let piece = usize::try_from(rest).map_or(PIECE, |rest| rest.min(PIECE));
            let Some(offset) = RegionOffset::new(region, byte) else { break };
            checker.image.regions().read_exact(&mut buf[..piece], offset)?;
            hash.update(&buf[..piece]);
            byte += piece as u64;
            rest -= piece as u64;
        }
        tally.objects += 1;
        if hash.finalize()[..24] != entry.digest {
            tally.wrong += 1;
            tally.first = tally.first.or_else(|| RegionOffset::new(region, entry.offset.get()));
        }
    }
    Ok(tally)
}
