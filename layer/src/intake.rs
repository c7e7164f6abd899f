//! Takes a tar's entries in: data into the image, everything else into the tree.

use std::io::BufRead;

use erofs::{Content, FileData, ImageWriter, Sink};

use crate::acl;
use crate::error::{Error, Result};
use crate::layer_tree::{LayerTree, Metadata, Place};
use crate::layer_tree::{device_number, empty_file, owner, symlink};
use crate::overlay;
use crate::pipeline::check_size;
use crate::progress::Cancel;
use crate::tar::{Entry, EntryKind, Reader};

/// A layer on its way from a tar into an image.
#[derive(Debug)]
pub(crate) struct Intake<'w, S: Sink> {
    tree: LayerTree,
    writer: &'w mut ImageWriter<S>,
    max_size: Option<u64>,
}

impl<'w, S: Sink> Intake<'w, S> {
    pub(crate) fn new(writer: &'w mut ImageWriter<S>, max_size: Option<u64>) -> Self {
        Self { tree: LayerTree::default(), writer, max_size }
    }

    /// Takes all entries of a tar.
    pub(crate) fn take_all<R: BufRead>(
        &mut self,
        tar: &mut Reader<R>,
        cancel: &Cancel,
    ) -> Result<()> {
        while let Some(entry) = tar.next_entry()? {
            cancel.check()?;
            let (offset, path) = (entry.offset, entry.path.clone());
            self.take(tar, entry).map_err(|error| error.path(&path).at(offset))?;
        }
        Ok(())
    }

    /// The tree, without the data, which the writer has.
    pub(crate) fn into_tree(self) -> LayerTree {
        self.tree
    }

    fn take<R: BufRead>(&mut self, tar: &mut Reader<R>, entry: Entry) -> Result<()> {
        let Entry { path, kind, permissions, uid, gid, mtime, xattrs, .. } = entry;
        let place = self.tree.place(&path, mtime)?;
        match place {
            Place::Nowhere => return Ok(()),
            Place::Opaque(dir) => {
                self.tree.set_opaque(dir);
                return Ok(());
            }
            Place::Whiteout(dir, name) => {
                self.tree.set_whiteout(dir, name);
                return Ok(());
            }
            Place::Root | Place::Name(..) => {}
        }
        if let EntryKind::HardLink(target) = kind {
            let Place::Name(dir, name) = place else { return Err(root_is_no_directory()) };
            return self.tree.add_hard_link(dir, name, &path, &target);
        }
        let mut xattrs = overlay::kept_xattrs(xattrs)?;
        acl::conform(&mut xattrs, permissions)?;
        let metadata = Metadata {
            permissions,
            uid: owner("owner", uid)?,
            gid: owner("group", gid)?,
            mtime,
            xattrs,
        };
        let content = match kind {
            EntryKind::Directory => {
                self.tree.add_directory(place, metadata);
                return Ok(());
            }
            EntryKind::Regular { size, segments } => {
                Content::Regular(self.take_data(tar, size, segments)?)
            }
            EntryKind::Symlink(target) => symlink(target)?,
            EntryKind::CharDevice { major, minor } => {
                Content::CharDevice(device_number(major, minor)?)
            }
            EntryKind::BlockDevice { major, minor } => {
                Content::BlockDevice(device_number(major, minor)?)
            }
            EntryKind::Fifo => Content::Fifo,
            EntryKind::HardLink(_) => unreachable!("hard links have been handled"),
        };
        let Place::Name(dir, name) = place else { return Err(root_is_no_directory()) };
        self.tree.add(dir, name, metadata, content);
        Ok(())
    }

    fn take_data<R: BufRead>(
        &mut self,
        tar: &mut Reader<R>,
        size: u64,
        segments: Option<Vec<(u64, u64)>>,
    ) -> Result<FileData> {
        check_size(size, self.max_size)?;
        if size == 0 {
            return Ok(empty_file());
        }
        let writing = |error| Error::erofs("cannot write a file's data", error);
        match segments {
            Some(segments) => self.writer.begin_sparse_file(size, &segments),
            None => self.writer.begin_file(size),
        }
        .map_err(writing)?;
        loop {
            let bytes = tar.payload()?;
            if bytes.is_empty() {
                break;
            }
            self.writer.write_data(bytes).map_err(writing)?;
            let length = bytes.len();
            tar.consume(length);
        }
        self.writer.end_file().map_err(writing)
    }
}

fn root_is_no_directory() -> Error {
    Error::invalid("the root of a layer can only be a directory")
}
