//! The walk over all directories.

use super::{Checker, Code, Links, Place};
use crate::format::{FileType, Incompat};
use crate::reader::{entry_type, parse_block};
use crate::trail::Trail;
use crate::{ErrorKind, ExtentSource, InodeView, Nid, ReadAt};

/// A directory whose names are still to be checked.
struct Pending {
    view: InodeView,
    parent: Nid,
    trail: Trail,
}

/// What one directory's blocks have shown so far.
struct Progress {
    last_name: Option<Vec<u8>>,
    dot: Option<Nid>,
    dot_dot: Option<Nid>,
}

impl<R: ReadAt> Checker<'_, R> {
    /// Takes bytes of metadata from what the image can hold; `false` (after a finding) when it is used up.
    pub(super) fn take(&mut self, bytes: u64, place: Place<'_>) -> bool {
        match self.metadata_left.checked_sub(bytes) {
            Some(left) => {
                self.metadata_left = left;
                true
            }
            None => {
                let message = "directories and tables are together larger than the image";
                self.find(Code::Limit, place, message);
                false
            }
        }
    }

    pub(super) fn walk(&mut self) {
        let root = self.image.root();
        let view = match self.image.inode(root) {
            Ok(view) if view.is_dir() => view,
            Ok(view) => {
                let place = Place { offset: Some(view.position), nid: Some(root), trail: None };
                return self.find(Code::Root, place, "the root is no directory");
            }
            Err(error) => {
                let place = Place { offset: error.offset(), nid: Some(root), trail: None };
                return self.fail(Code::Root, place, &error);
            }
        };
        let trail = Trail::root();
        let place = Place { offset: Some(view.position), nid: Some(root), trail: Some(&trail) };
        self.inode(&view, place);
        let links = Links { stored: view.nlink, found: 2, directory: true, trail: trail.clone() };
        self.links.insert(root, links);
        let mut pending = vec![Pending { view, parent: root, trail }];
        while let Some(directory) = pending.pop() {
            self.directory(&directory, &mut pending);
        }
        self.link_counts();
        self.packed_inode();

        let stored = self.image.superblock().inos.get();
        let found = self.report.counts.inodes;
        if stored != found {
            let message = format!("the superblock counts {stored} inodes, found are {found}");
            self.find(Code::InodeCount, Place::default(), message);
        }
    }

    /// The packed inode has no name. One with compressed data holds compressed files only, which are not checked either.
    fn packed_inode(&mut self) {
        let nid = Nid(self.image.superblock().packed_nid.get());
        if nid.0 == 0 || !self.image.incompat().contains(Incompat::FRAGMENTS) {
            return;
        }
        match self.image.packed_inode() {
            Ok(view) => {
                let place = Place { offset: Some(view.position), nid: Some(nid), trail: None };
                self.inode(&view, place);
            }
            Err(error) => {
                let place = Place { offset: error.offset(), nid: Some(nid), trail: None };
                self.fail(Code::Inode, place, &error);
            }
        }
    }

    fn link_counts(&mut self) {
        let mut wrong: Vec<(Nid, Links)> = std::mem::take(&mut self.links)
            .into_iter()
            .filter(|(_, links)| {
                // "1" is the convention for a directory with more links than the short inode can count.
                let unknown = links.directory && links.stored == 1 && links.found > 65_535;
                u64::from(links.stored) != links.found && !unknown
            })
            .collect();
        wrong.sort_by_key(|(nid, _)| *nid);
        for (nid, links) in wrong {
            let place = Place { offset: None, nid: Some(nid), trail: Some(&links.trail) };
            let message = format!("link count {}, found {}", links.stored, links.found);
            self.find(Code::LinkCount, place, message);
        }
    }

    fn directory(&mut self, directory: &Pending, pending: &mut Vec<Pending>) {
        let Pending { view, parent, trail } = directory;
        let place = Place { offset: Some(view.position), nid: Some(view.nid), trail: Some(trail) };
        let blocks = match self.image.directory_blocks(view) {
            Ok(blocks) => blocks,
            Err(error) => return self.fail(Code::Directory, place, &error),
        };
        if !self.take(view.size, place) {
            return;
        }
        let mut progress = Progress { last_name: None, dot: None, dot_dot: None };
        let mut block = Vec::new();
        for index in 0..blocks {
            // A block without a place has been reported as data already.
            if let Err(error) = self.image.directory_block(view, index, &mut block) {
                if error.kind() == ErrorKind::Io {
                    self.fail(Code::Io, place, &error);
                }
                return;
            }
            if !self.directory_block(directory, index, &block, &mut progress, pending) {
                return;
            }
        }
        let dot_is_stored = !view.bit4;
        let expected = [(".", progress.dot, view.nid), ("..", progress.dot_dot, *parent)];
        for (name, found, expected) in expected {
            match found {
                Some(found) if found == expected => {}
                None if name == "." && !dot_is_stored => {}
                None => self.find(Code::DirectoryDots, place, format!("\"{name}\" is missing")),
                Some(found) => {
                    let message = format!("\"{name}\" leads to inode {found}, not {expected}");
                    self.find(Code::DirectoryDots, place, message);
                }
            }
        }
    }

    /// Checks one block; `false` if the rest of the directory makes no sense.
    fn directory_block(
        &mut self,
        directory: &Pending,
        index: u64,
        block: &[u8],
        progress: &mut Progress,
        pending: &mut Vec<Pending>,
    ) -> bool {
        let Pending { view, trail, .. } = directory;
        let place = Place { offset: Some(view.position), nid: Some(view.nid), trail: Some(trail) };
        let entries = match parse_block(block) {
            Ok(entries) => entries,
            Err(message) => {
                self.find(Code::Directory, place, format!("block {index}: {message}"));
                return false;
            }
        };
        let Some(last) = entries.last() else { return false };
        let names_end = last.name.as_ptr_range().end.addr() - block.as_ptr().addr();
        self.fill(view, index, &block[names_end..], place);
        for entry in &entries {
            let shown = entry.name.escape_ascii();
            if progress.last_name.as_deref().is_some_and(|previous| previous >= entry.name) {
                let message = format!("\"{shown}\" is not behind the name before it");
                self.find(Code::DirectoryOrder, place, message);
            }
            progress.last_name = Some(entry.name.to_vec());
            if entry.reserved != 0 {
                self.find(Code::Reserved, place, format!("the entry \"{shown}\""));
            }
            if entry.name == b"." || entry.name == b".." {
                if entry.file_type != FileType::Directory as u8 {
                    let message = format!("\"{shown}\" has type {}", entry.file_type);
                    self.find(Code::EntryType, place, message);
                }
                let dot =
                    if entry.name == b"." { &mut progress.dot } else { &mut progress.dot_dot };
                dot.get_or_insert(entry.nid);
                continue;
            }
            if entry.name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                self.find(Code::DirectoryName, place, format!("the name \"{shown}\""));
                continue;
            }
            self.report.counts.names += 1;
            self.entry(directory, entry.name, entry.nid, entry.file_type, pending);
        }
        true
    }

    /// Behind the last name there must be zeros, up to the end of the block where a whole block is stored:
    /// lookups compare up to there.
    fn fill(&mut self, view: &InodeView, index: u64, rest: &[u8], place: Place<'_>) {
        let block_size = self.image.block_size();
        let mut junk = rest.iter().any(|byte| *byte != 0);
        let end = ((index + 1) * block_size).min(view.size);
        let behind = end.next_multiple_of(block_size) - end;
        if behind > 0
            && let Ok(Some(extent)) = self.image.extent_at(view, end - 1, 1)
            && let ExtentSource::Blocks { device, position } = extent.source
            && let Some(source) = self.image.source(device)
            && let Ok(bytes) = source.read_bytes(position + 1, behind)
        {
            junk |= bytes.iter().any(|byte| *byte != 0);
        }
        if junk {
            let message = format!("block {index}: bytes behind the last name are not zero");
            self.find(Code::DirectoryFill, place, message);
        }
    }

    fn entry(
        &mut self,
        directory: &Pending,
        name: &[u8],
        nid: Nid,
        stored_type: u8,
        pending: &mut Vec<Pending>,
    ) {
        let trail = directory.trail.child(name);
        let place = Place { offset: None, nid: Some(nid), trail: Some(&trail) };
        if nid.0 == 0 {
            self.find(Code::NidZero, place, "the name is hidden by libc");
        }
        let view = match self.image.inode(nid) {
            Ok(view) => view,
            Err(error) => {
                let place = Place { offset: error.offset(), ..place };
                return self.fail(Code::Inode, place, &error);
            }
        };
        let place = Place { offset: Some(view.position), ..place };
        if entry_type(stored_type) != view.file_type {
            let message = format!("the entry says {stored_type}, the inode {:?}", view.file_type);
            self.find(Code::EntryType, place, message);
        }
        if view.is_dir()
            && let Some(links) = self.links.get_mut(&directory.view.nid)
        {
            links.found += 1;
        }
        if let Some(links) = self.links.get_mut(&nid) {
            if !view.is_dir() {
                links.found += 1;
                return;
            }
            return self.find(Code::DirectoryTwice, place, "a second name for a directory");
        }
        self.inode(&view, place);
        let found = if view.is_dir() { 2 } else { 1 };
        let links =
            Links { stored: view.nlink, found, directory: view.is_dir(), trail: trail.clone() };
        self.links.insert(nid, links);
        if view.is_dir() {
            pending.push(Pending { view, parent: directory.view.nid, trail });
        }
    }
}
