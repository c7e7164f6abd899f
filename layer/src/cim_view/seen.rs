//! Which inode a file of the image has become.

use cimfs::FileId;
use erofs::InodeId;

/// Files of one page.
const PAGE: usize = 64;
const NONE: u32 = u32::MAX;

/// A table over the numbers of files, in pages that are made when they are needed. Numbers begin at 1 and are dense in
/// honest images; in others they are below the image's length, since every file was found in a
/// table.
#[derive(Debug, Default)]
pub(super) struct Seen(Vec<Option<Box<[u32; PAGE]>>>);

impl Seen {
    pub(super) fn get(&self, file: FileId) -> Option<InodeId> {
        let (page, slot) = place(file);
        let inode = self.0.get(page)?.as_ref()?[slot];
        (inode != NONE).then_some(InodeId(inode))
    }

    /// Remembers a file that is in the image.
    pub(super) fn insert(&mut self, file: FileId, inode: InodeId) {
        let (page, slot) = place(file);
        if self.0.len() <= page {
            self.0.resize(page + 1, None);
        }
        self.0[page].get_or_insert_with(|| Box::new([NONE; PAGE]))[slot] = inode.0;
    }
}

fn place(file: FileId) -> (usize, usize) {
    let number = file.0 as usize;
    (number / PAGE, number % PAGE)
}
