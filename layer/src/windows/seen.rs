//! What a layer's tar has said so far, to find entries that contradict each other.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use cimfs::{ImagePath, Upcase};

/// What the tar said of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// It is a file, link, or other end of a path.
    File,
    /// It is a directory.
    Directory,
    /// Something is below it.
    Above,
}

/// Paths by a hash of their folded form. Two that share one out of 2^64 would be an error that is none; nobody gains
/// by that.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<u64, Said>);

/// The hash of each directory on the way, and of the path itself.
fn hashes(path: &ImagePath) -> Vec<u64> {
    let upcase = Upcase::standard();
    let mut hasher = DefaultHasher::new();
    let hash = |name: &cimfs::Name| {
        name.units().iter().for_each(|unit| upcase.fold(*unit).hash(&mut hasher));
        // No name holds it.
        u16::from(b'\\').hash(&mut hasher);
        hasher.finish()
    };
    path.names().iter().map(hash).collect()
}

impl Seen {
    /// What was said of a path before; nothing for directories of which only what is in them was.
    pub(super) fn before(&self, path: &ImagePath) -> Option<Said> {
        hashes(path).last().and_then(|hash| self.0.get(hash)).copied()
    }

    pub(super) fn add(&mut self, path: &ImagePath, said: Said) {
        let hashes = hashes(path);
        let Some((last, above)) = hashes.split_last() else { return };
        self.0.insert(*last, said);
        for hash in above.iter().rev() {
            if self.0.contains_key(hash) {
                return;
            }
            self.0.insert(*hash, Said::Above);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_does_not_matter_and_directories_are_remembered() {
        let mut seen = Seen::default();
        seen.add(&"Files/A/b".into(), Said::File);
        assert_eq!(seen.before(&"files/a/B".into()), Some(Said::File));
        assert_eq!(seen.before(&"FILES/a".into()), Some(Said::Above));
        assert_eq!(seen.before(&"Files/Ab".into()), None);
        seen.add(&"Files".into(), Said::Directory);
        seen.add(&"Files/c".into(), Said::File);
        assert_eq!(seen.before(&"Files".into()), Some(Said::Directory));
    }
}
