//! Files that have several names: found by numbers alone, before any name is read.

use std::collections::HashSet;

use crate::{FileId, FileView, Image, ReadAt};

/// Directories are read up to this many times the image's length in all; see [`Walk`](crate::Walk).
const SHARING: u64 = 4;

pub(super) fn directories_limit<R: ReadAt>(image: &Image<R>) -> u64 {
    image.regions().total_length().saturating_mul(SHARING)
}

/// Files that several names lead to. What cannot be read is left out: who compares finds it too.
pub(super) fn linked<R: ReadAt>(image: &Image<R>) -> HashSet<FileId> {
    let mut left = directories_limit(image);
    let mut once = HashSet::from([image.root()]);
    let mut linked = HashSet::new();
    let mut directories: Vec<FileView> = image.file(image.root()).into_iter().collect();
    while let Some(directory) = directories.pop() {
        let Some(rest) = left.checked_sub(directory.size()) else { break };
        left = rest;
        let Ok(Some(table)) = image.directory_table(&directory) else { continue };
        for index in 0..table.count() {
            let Ok(id) = table.value(image.regions(), index) else { break };
            let id = FileId(id.get());
            if !once.insert(id) {
                linked.insert(id);
                continue;
            }
            directories.extend(image.file(id).ok().filter(FileView::is_dir));
        }
    }
    linked
}
