//! `erofs extract`: an image's tree into a directory, and nothing anywhere else.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};

use anyhow::{Context as _, Result};
use erofs::format::FileType;
use erofs::{DirEntry, ExtentSource, Image, InodeView, Nid};
use layer::Cancel;
use sys::directory::{Directory, Node};

use super::open;
use crate::cli::ExtractArgs;
use crate::escape;
use crate::exit::{Exit, Failure};
use crate::interrupt::cancel_on_signal;
use crate::verb::unpack_target::{link_to, make_target, remove_unpacked};

pub(crate) fn extract(args: &ExtractArgs) -> Result<()> {
    let image = open(&args.file, &args.devices)?;
    let cancel = cancel_on_signal()?;
    let made = make_target(&args.dir)?;
    let top = Directory::open(&args.dir).context("cannot open the directory to unpack into")?;
    let mut extraction = Extraction {
        image: &image,
        args,
        cancel: &cancel,
        first_names: HashMap::new(),
        seen: HashSet::new(),
        buffer: vec![0; 1 << 20],
    };
    let result = extraction.all(top);
    if let Err(error) = result {
        remove_unpacked(&args.dir, made);
        return Err(hinted(error, args));
    }
    Ok(())
}

fn hinted(error: anyhow::Error, args: &ExtractArgs) -> anyhow::Error {
    let root = rustix::process::geteuid().is_root();
    if root || crate::exit::code(&error) != Exit::NotPermitted {
        return error;
    }
    let missing: Vec<&str> = [
        (args.no_owner, "--no-owner"),
        (args.no_xattrs, "--no-xattrs"),
        (args.no_nodes, "--no-nodes"),
    ]
    .into_iter()
    .filter_map(|(given, name)| (!given).then_some(name))
    .collect();
    if missing.is_empty() {
        return error;
    }
    Failure::new(Exit::NotPermitted, "cannot unpack everything without being root")
        .hint(format!("run it as root, or leave things out: {}", missing.join(" ")))
        .because(error)
        .into()
}

/// A directory that is being filled.
struct Open {
    name: Box<[u8]>,
    directory: Directory,
    inode: InodeView,
    /// What is still to be made in it, last first.
    entries: Vec<DirEntry>,
}

struct Extraction<'a> {
    image: &'a Image<File>,
    args: &'a ExtractArgs,
    cancel: &'a Cancel,
    /// The first path of every inode that says it has several names.
    first_names: HashMap<Nid, Vec<Box<[u8]>>>,
    /// Directories; one that comes twice would never end.
    seen: HashSet<Nid>,
    buffer: Vec<u8>,
}

impl Extraction<'_> {
    fn all(&mut self, top: Directory) -> Result<()> {
        let root = self.image.inode(self.image.root()).context("cannot read the image's root")?;
        anyhow::ensure!(
            root.is_dir(),
            Failure::new(Exit::Corrupt, "the image's root is not a directory")
        );
        let mut open = vec![self.open(Box::default(), top, root).context("cannot read /")?];
        while let Some(last) = open.last_mut() {
            self.cancel.check()?;
            let Some(entry) = last.entries.pop() else {
                let shown = shown(&open, b"");
                if let Some(done) = open.pop() {
                    self.attributes(&done.directory, b"", &done.inode)
                        .with_context(|| format!("cannot finish {shown}"))?;
                }
                continue;
            };
            let child = self
                .entry(&open, &entry)
                .with_context(|| format!("cannot unpack {}", shown(&open, &entry.name)))?;
            open.extend(child);
        }
        Ok(())
    }

    fn open(&mut self, name: Box<[u8]>, directory: Directory, inode: InodeView) -> Result<Open> {
        if !self.seen.insert(inode.nid) {
            anyhow::bail!(Failure::new(Exit::Corrupt, "a directory that has two names"));
        }
        let mut entries = self.image.read_dir(&inode)?;
        entries.sort_unstable_by(|a, b| b.name.cmp(&a.name));
        Ok(Open { name, directory, inode, entries })
    }

    /// Makes one entry in the innermost directory. A directory is returned, to be filled.
    fn entry(&mut self, open: &[Open], entry: &DirEntry) -> Result<Option<Open>> {
        let (Some(top), Some(Open { directory, .. })) = (open.first(), open.last()) else {
            return Ok(None);
        };
        let name = &*entry.name;
        let inode = self.image.inode(entry.nid)?;
        if inode.is_dir() {
            let made = directory.make_directory(name)?;
            return self.open(name.into(), made, inode).map(Some);
        }
        if let Some(first) = self.first_names.get(&inode.nid) {
            link_to(&top.directory, first, directory, name)?;
            return Ok(None);
        }
        match inode.file_type {
            FileType::Regular => self.file(directory, name, &inode)?,
            FileType::Symlink => {
                directory.make_symlink(name, &self.image.read_link(&inode)?)?;
            }
            FileType::Fifo => directory.make_node(name, Node::Fifo)?,
            FileType::Socket => directory.make_node(name, Node::Socket)?,
            FileType::CharDevice | FileType::BlockDevice if self.args.no_nodes => return Ok(None),
            FileType::CharDevice => {
                let number = inode.device_number;
                directory.make_node(name, Node::CharDevice(number.major, number.minor))?;
            }
            FileType::BlockDevice => {
                let number = inode.device_number;
                directory.make_node(name, Node::BlockDevice(number.major, number.minor))?;
            }
            FileType::Directory | FileType::Unknown => {
                anyhow::bail!(Failure::new(Exit::Corrupt, "an inode of no known type"));
            }
        }
        self.attributes(directory, name, &inode)?;
        if inode.nlink > 1 {
            let path = open.iter().skip(1).map(|dir| dir.name.clone()).chain([name.into()]);
            self.first_names.insert(inode.nid, path.collect());
        }
        Ok(None)
    }

    fn file(&mut self, directory: &Directory, name: &[u8], inode: &InodeView) -> Result<()> {
        let mut file = directory.make_file(name)?;
        for extent in self.image.extents(inode) {
            let extent = extent?;
            if matches!(extent.source, ExtentSource::Hole) {
                continue;
            }
            file.seek(SeekFrom::Start(extent.offset)).context("cannot seek")?;
            let mut offset = extent.offset;
            while offset < extent.end() {
                self.cancel.check()?;
                let wanted = (extent.end() - offset).min(self.buffer.len() as u64);
                let buffer = &mut self.buffer[..usize::try_from(wanted)?];
                let count = self.image.read_at(inode, buffer, offset)?;
                anyhow::ensure!(count > 0, Failure::new(Exit::Corrupt, "data that ends early"));
                file.write_all(&buffer[..count]).context("cannot write")?;
                offset += count as u64;
            }
        }
        // Holes at the end.
        file.set_len(inode.size).context("cannot set the file's length")?;
        Ok(())
    }

    /// Owner before mode, because changing the owner clears setuid and file capabilities; the time last.
    fn attributes(&self, directory: &Directory, name: &[u8], inode: &InodeView) -> Result<()> {
        let symlink = inode.file_type == FileType::Symlink;
        if !self.args.no_owner {
            directory.set_owner(name, inode.uid, inode.gid)?;
        }
        if !symlink {
            let kept = if self.args.no_owner { 0o1777 } else { 0o7777 };
            directory.set_permissions(name, inode.permissions & kept)?;
        }
        if !self.args.no_xattrs {
            for xattr in self.image.xattrs(inode)? {
                directory.set_xattr(name, &xattr.name, &xattr.value)?;
            }
        }
        directory.set_mtime(name, inode.mtime.seconds, inode.mtime.nanoseconds)?;
        Ok(())
    }
}

fn shown(open: &[Open], name: &[u8]) -> String {
    let mut path = Vec::new();
    for part in open.iter().skip(1).map(|dir| &*dir.name).chain([name]) {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    escape::name(&path)
}
